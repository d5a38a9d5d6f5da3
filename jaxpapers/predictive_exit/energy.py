"""Time and energy of a network on a clocked processor: roofline times, CMOS power, leakage, transitions (extension).

    t = max(macs / (macs_per_cycle util f), bytes / bw) + t_launch
    E = c_eff V^2 f (t_c + stall (t - t_c)) + (V I_leak(V) + p_base) t + e_byte bytes

A platform is a pytree of numbers, smooth in f, V and the constants, so that everything here can be differentiated,
vmapped over platforms and fitted to measurements. Deadline comparisons are exact to 1e-12: run them with
`jax.enable_x64(True)`. Shapes: `exits` L, `points` J operating points in ascending frequency.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit.tables import Array, Costs

OVERLAPS = ('roofline', 'additive')


class Platform(NamedTuple):
  """A processor with operating points.

  Attributes:
    f: [points] clock, Hz, ascending.
    V: [points] supply, V, not falling.
    c_eff: effective switched capacitance, F.
    macs_per_cycle: multiply-adds a cycle at best.
    util: share of that reached, 0 < util <= 1.
    bw: memory bandwidth, B/s, not scaled by f.
    t_launch: s per segment, head or forecast.
    stall: activity while waiting for memory or launch, 0..1.
    i0: leakage current at v0, A.
    v0: V.
    vs: V per e-fold of the leakage current.
    p_base: power whenever it is on, W.
    e_byte: energy of a byte moved, J.
    t_sw: time of a change of operating point, s.
    c_rail: capacitance of the supply rail, F.
  """

  f: Array
  V: Array
  c_eff: Array | float
  macs_per_cycle: Array | float
  util: Array | float
  bw: Array | float
  t_launch: Array | float
  stall: Array | float
  i0: Array | float
  v0: Array | float
  vs: Array | float
  p_base: Array | float
  e_byte: Array | float
  t_sw: Array | float
  c_rail: Array | float


class Parts(NamedTuple):
  """Energy by where it goes, J: switching of transistors, leakage, base power, memory traffic."""

  dynamic: jax.Array
  leakage: jax.Array
  base: jax.Array
  memory: jax.Array


class CostTables(NamedTuple):
  """Times (s) and energies (J) of everything a policy can run, at every operating point.

  Attributes:
    segment_time: [exits, points].
    segment_energy: [exits, points].
    head_time: [exits, points].
    head_energy: [exits, points].
    engine_time: [points], one forecast.
    engine_energy: [points].
    switch_time: [points, points], from row to column.
    switch_energy: [points, points].
  """

  segment_time: jax.Array
  segment_energy: jax.Array
  head_time: jax.Array
  head_energy: jax.Array
  engine_time: jax.Array
  engine_energy: jax.Array
  switch_time: jax.Array
  switch_energy: jax.Array


def leakage_power(platform: Platform) -> jax.Array:
  """V i0 exp((V - v0) / vs); [points] W."""
  V = jnp.asarray(platform.V)
  return V * platform.i0 * jnp.exp((V - platform.v0) / platform.vs)


def unit_time(platform: Platform, macs: Array, nbytes: Array, overlap: str = 'roofline') -> tuple[jax.Array, jax.Array]:
  """(time, its computing part) of units of work; both [..., points] s.

  Source: roofline model (Williams et al., CACM 2009); an extension.

  Args:
    platform: the processor.
    macs: [...] multiply-adds of a unit (the layers of a segment are summed first).
    nbytes: [...] bytes of a unit.
    overlap: roofline (computation hides traffic or the reverse) or additive.

  Raises:
    ValueError: for another overlap.
  """
  if overlap not in OVERLAPS:
    raise ValueError(f'overlap={overlap!r} is not known; known: {", ".join(OVERLAPS)}.')
  computing = jnp.asarray(macs)[..., None] / (platform.macs_per_cycle * platform.util * jnp.asarray(platform.f))
  moving = jnp.broadcast_to(jnp.asarray(nbytes)[..., None] / platform.bw, computing.shape)
  busy = jnp.maximum(computing, moving) if overlap == 'roofline' else computing + moving
  return busy + platform.t_launch, computing


def unit_energy(platform: Platform, macs: Array, nbytes: Array, overlap: str = 'roofline') -> Parts:
  """Energy of units of work by part; each [..., points] J. Arguments as for `unit_time`.

  Source: our extension: dynamic and leakage power of CMOS.
  """
  time, computing = unit_time(platform, macs, nbytes, overlap)
  V = jnp.asarray(platform.V)
  active = computing + platform.stall * (time - computing)
  return Parts(
    platform.c_eff * V**2 * jnp.asarray(platform.f) * active,
    leakage_power(platform) * time,
    platform.p_base * time,
    jnp.broadcast_to(platform.e_byte * jnp.asarray(nbytes)[..., None], time.shape),
  )


def switching(platform: Platform) -> tuple[jax.Array, jax.Array]:
  """(time s, energy J) of changing the operating point, [points, points] from row to column; 0 on the diagonal."""
  V = jnp.asarray(platform.V)
  points = V.shape[0]
  changed = ~jnp.eye(points, dtype=bool)
  leaking = leakage_power(platform)
  # Leakage grows with the voltage: the larger of the two is that of the higher supply.
  power = jnp.maximum(leaking[:, None], leaking[None, :]) + platform.p_base
  rail = 0.5 * platform.c_rail * jnp.abs(V[:, None] ** 2 - V[None, :] ** 2)
  return jnp.where(changed, platform.t_sw, 0.0), jnp.where(changed, power * platform.t_sw + rail, 0.0)


def cost_tables(
  platform: Platform, costs: Costs, engine_macs: Array | float | None = None, overlap: str = 'roofline'
) -> CostTables:
  """Everything a policy can run, priced at every operating point. Source: our extension.

  Args:
    platform: the processor.
    costs: work of segments and heads.
    engine_macs: multiply-adds of one forecast, no bytes; None for one per exit.
    overlap: roofline or additive.
  """
  exits = jnp.shape(costs.segment_macs)[0]
  engine_macs = float(exits) if engine_macs is None else engine_macs

  def price(macs, nbytes):
    return unit_time(platform, macs, nbytes, overlap)[0], sum(unit_energy(platform, macs, nbytes, overlap))

  return CostTables(
    *price(costs.segment_macs, costs.segment_bytes),
    *price(costs.head_macs, costs.head_bytes),
    *price(engine_macs, 0.0),
    *switching(platform),
  )


def plain_time(tables: CostTables) -> jax.Array:
  """Time of the network without exits, all segments and the classifier; [points] s."""
  return jnp.sum(tables.segment_time, axis=0) + tables.head_time[-1]


def plain_energy(tables: CostTables) -> jax.Array:
  """Energy of the network without exits, all segments and the classifier; [points] J."""
  return jnp.sum(tables.segment_energy, axis=0) + tables.head_energy[-1]


def deadline(tables: CostTables, alpha: Array | float) -> jax.Array:
  """alpha times the time of the network without exits at the highest frequency, s. Source: our extension."""
  return alpha * plain_time(tables)[-1]


def check_deadline(platform: Platform, tables: CostTables, limit: float) -> float:
  """The deadline itself, if the network without exits can meet it at full speed.

  Raises:
    ValueError: naming both times.
  """
  fastest = float(plain_time(tables)[-1])
  if not limit >= fastest * (1 - 1e-12):
    megahertz = float(jnp.asarray(platform.f)[-1]) / 1e6
    raise ValueError(
      f'The deadline {1e3 * float(limit):.4g} ms is shorter than the network at {megahertz:.4g} MHz, '
      f'{1e3 * fastest:.4g} ms.'
    )
  return limit


def idle_energy(platform: Platform, time: Array, limit: Array, sleep_power: float | None = None) -> jax.Array:
  """Energy from the exit to the deadline, J: at the lowest operating point, or at a sleep power (W).

  Args:
    platform: the processor.
    time: [...] s at which inference ended.
    limit: deadline, s; nothing is charged after it.
    sleep_power: None for leakage at the lowest voltage plus base power.
  """
  power = leakage_power(platform)[0] + platform.p_base if sleep_power is None else sleep_power
  return power * jnp.maximum(limit - jnp.asarray(time), 0.0)
