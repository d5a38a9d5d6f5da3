"""Processors with published operating points, a user's own, and a fit of the constants to measurements (extension).

Frequencies and voltages are published in device trees, drivers and vendor pages (SOURCES says where, and which constant
comes from there); every other constant is illustrative, an order of magnitude and no measurement.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from jaxpapers.predictive_exit.energy import Platform, leakage_power
from jaxpapers.predictive_exit.tables import Array

# Levels of a Jetson TX2, for the successor's rule: Hz.
TX2_GPU_HZ = np.array(
  [
    114750000,
    216750000,
    318750000,
    420750000,
    522750000,
    624750000,
    726750000,
    854250000,
    930750000,
    1032750000,
    1122000000,
    1236750000,
    1300500000,
  ],
  np.float64,
)
TX2_CPU_HZ = 1e3 * (345600.0 + 153600.0 * np.arange(12))

_CPU = dict(
  macs_per_cycle=4.0,
  util=0.5,
  t_launch=2e-6,
  stall=0.3,
  i0=0.05,
  v0=1.0,
  vs=0.25,
  p_base=0.1,
  e_byte=60e-12,
  c_rail=20e-6,
)
_RK3399 = {**_CPU, 'bw': 4e9, 't_sw': 40e-6}
_EXYNOS = {**_CPU, 'bw': 3e9, 't_sw': 140e-6, 'i0': 0.08}
_GPU = dict(
  c_eff=4e-9,
  macs_per_cycle=256.0,
  util=0.35,
  bw=20e9,
  t_launch=8e-6,
  stall=0.4,
  i0=0.5,
  v0=1.0,
  vs=0.25,
  p_base=0.8,
  e_byte=40e-12,
  t_sw=100e-6,
  c_rail=50e-6,
)


class Source(NamedTuple):
  """Where a platform's numbers come from.

  Attributes:
    what: the processor.
    points: MHz: mV.
    points_from: where the operating points are published.
    published: names of the constants that are published too.
    constants: the constants.
  """

  what: str
  points: Mapping[float, float]
  points_from: str
  published: tuple[str, ...]
  constants: Mapping[str, float]


def gm20b_millivolts(speedo: int = 2000, temperature: int = -10, least: int = 818750) -> list[float]:
  """Voltages of the Tegra X1's GPU by step, as its open driver computes them in whole microvolts.

  Args:
    speedo: of the die (2000 is assumed).
    temperature: the driver's T, 1/10 of its unit.
    least: microvolts that no step goes below.
  """
  c0 = (
    814294,
    856185,
    898077,
    939968,
    981860,
    1023751,
    1065642,
    1107534,
    1149425,
    1191317,
    1233208,
    1275100,
    1316991,
  )
  c1, c2, c3, c4, c5 = 8144, -940, 808, -21583, 226

  def divide(number: int, by: int) -> int:
    # Half away from zero, as kernel code rounds signed numbers.
    return int(math.copysign((abs(number) + by // 2) // by, number))

  volts = []
  for step in c0:
    by_speed = divide((divide(c2 * speedo, 100) + c1) * speedo, 100) + step
    by_heat = divide((divide(c3 * speedo, 100) + c4 + divide(c5 * temperature, 10)) * temperature, 10)
    volts.append(max(math.ceil((by_speed + by_heat) / 1000) * 1000, least) / 1000)
  return volts


SOURCES: dict[str, Source] = {
  'rk3399_big': Source(
    'Rockchip RK3399, 2x Cortex-A72',
    {408: 800, 600: 800, 816: 825, 1008: 875, 1200: 950, 1416: 1025, 1608: 1100, 1800: 1200},
    'vendor device tree rk3399-opp.dtsi, cluster1',
    ('c_eff', 't_sw'),
    {**_RK3399, 'c_eff': 436e-12},
  ),
  'rk3399_little': Source(
    'Rockchip RK3399, 4x Cortex-A53',
    {408: 800, 600: 800, 816: 850, 1008: 925, 1200: 1000, 1416: 1125},
    'vendor device tree rk3399-opp.dtsi, cluster0',
    ('t_sw',),
    {**_RK3399, 'c_eff': 100e-12},
  ),
  'rk3399_gpu': Source(
    'Rockchip RK3399, Mali-T860',
    {200: 800, 297: 800, 400: 825, 500: 875, 600: 925, 800: 1100},
    'vendor device tree rk3399-opp.dtsi, gpu_opp_table',
    (),
    {**_GPU, 'c_eff': 2e-9, 'macs_per_cycle': 64.0, 'bw': 8e9},
  ),
  'exynos5422_a15': Source(
    'Exynos 5422 (Odroid-XU3), Cortex-A15',
    {
      700: 912.5,
      800: 937.5,
      900: 962.5,
      1000: 987.5,
      1100: 1012.5,
      1200: 1037.5,
      1300: 1062.5,
      1400: 1112.5,
      1500: 1137.5,
      1600: 1175,
      1700: 1212.5,
      1800: 1250,
    },
    'exynos5420.dtsi cluster_a15_opp_table; 1400-1800 MHz from a gem5 script with the same table',
    ('c_eff', 't_sw'),
    {**_EXYNOS, 'c_eff': 310e-12},
  ),
  'exynos5422_a7': Source(
    'Exynos 5422 (Odroid-XU3), Cortex-A7',
    {800: 1025, 900: 1062.5, 1000: 1112.5, 1100: 1162.5, 1200: 1212.5, 1300: 1275},
    'exynos5420.dtsi, cluster of the A7',
    ('c_eff',),
    {**_EXYNOS, 'c_eff': 90e-12},
  ),
  'tegra_x1_gm20b': Source(
    'Tegra X1 (Jetson TX1, Nano), GPU GM20B',
    {76.8 * (i + 1): volt for i, volt in enumerate(gm20b_millivolts())},
    'computed as in nouveau volt/gm20b.c and gk20a.c, speedo 2000 assumed',
    (),
    _GPU,
  ),
  'parker_gp10b': Source(
    'Parker (Jetson TX2 class), GPU GP10B',
    {
      229: 511,
      255: 520,
      331: 529,
      408: 538,
      484: 547,
      561: 556,
      637: 565,
      714: 574,
      790: 583,
      841: 592,
      918: 601,
      994: 610,
      1045: 619,
      1122: 628,
      1173: 637,
      1249: 646,
      1300: 655,
    },
    "example look-up table of one die, vendor's page on voltage scaling (DRIVE 5.0); no measurement of a TX2",
    (),
    {**_GPU, 'c_eff': 8e-9},
  ),
}


def platform(name: str) -> Platform:
  """The platform called `name`; float64 arrays.

  Raises:
    ValueError: listing the known names.
  """
  if name not in SOURCES:
    raise ValueError(f'The platform {name!r} is not known; known: {", ".join(SOURCES)}.')
  source = SOURCES[name]
  f = np.array(list(source.points), np.float64) * 1e6
  V = np.array(list(source.points.values()), np.float64) / 1e3
  return check_platform(Platform(f, V, **source.constants), name)


def illustrative(name: str) -> tuple[str, ...]:
  """Constants of a platform that are not published."""
  return tuple(k for k in Platform._fields[2:] if k not in SOURCES[name].published)


def check_platform(p: Platform, name: str = 'platform') -> Platform:
  """The platform itself, if its numbers can be those of a processor.

  Raises:
    ValueError: naming the entry that is not positive, not ascending or out of range.
  """
  f, V = np.asarray(p.f), np.asarray(p.V)
  if f.ndim != 1 or not len(f) or f.shape != V.shape:
    raise ValueError(f'{name}: f and V need one entry per operating point, not shapes {f.shape} and {V.shape}.')
  for field, value in p._asdict().items():
    value = np.asarray(value)
    zero_allowed = field in ('t_launch', 'stall', 'i0', 'p_base', 'e_byte', 't_sw', 'c_rail', 'v0')
    if not np.all(np.isfinite(value)) or np.any(value < 0 if zero_allowed else value <= 0):
      raise ValueError(f'{name}: {field} must be {"at least 0" if zero_allowed else "positive"}, not {value}.')
  if np.any(np.diff(f) <= 0):
    at = int(np.argmax(np.diff(f) <= 0)) + 1
    raise ValueError(
      f'{name}: operating points must ascend in frequency; {f[at] / 1e6:g} MHz follows {f[at - 1] / 1e6:g}.'
    )
  if np.any(np.diff(V) < 0):
    at = int(np.argmax(np.diff(V) < 0)) + 1
    raise ValueError(f'{name}: the voltage falls from {V[at - 1]:g} to {V[at]:g} V while the frequency grows.')
  if p.util > 1 or p.stall > 1:
    raise ValueError(f'{name}: util and stall are shares, at most 1, not {p.util} and {p.stall}.')
  return p


def read_platform(path: str | Path, **constants: float) -> Platform:
  """A user's own platform: a CSV file with header `f_mhz,volt`, and constants.

  Args:
    path: of the file, one operating point a line, ascending.
    constants: fields of `Platform` (s, J, W, ...); the rest are those of `rk3399_big`.

  Raises:
    ValueError: naming file, line and what is wrong, or an unknown constant.
  """
  _check_constants(constants)
  path = Path(path)
  if not path.is_file():
    raise ValueError(f'There is no platform file {str(path)!r}.')
  with path.open(newline='') as file:
    reader = csv.DictReader(file, skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or ()]
    if header != ['f_mhz', 'volt']:
      raise ValueError(f'{path} needs the header f_mhz,volt, not {",".join(header) or "an empty file"}.')
    points = []
    for row in reader:
      try:
        points.append((float(row[reader.fieldnames[0]]), float(row[reader.fieldnames[1]])))
      except (TypeError, ValueError):
        raise ValueError(f'{path}, line {reader.line_num}: two numbers are needed, f_mhz,volt.') from None
  if not points:
    raise ValueError(f'{path} holds no operating point.')
  f, V = np.array(points, np.float64).T
  return check_platform(Platform(f * 1e6, V, **{**SOURCES['rk3399_big'].constants, **constants}), path.name)


def load(name: str, constants: str = '') -> Platform:
  """A platform by its name, or from a CSV file, with constants changed.

  Args:
    name: one of SOURCES, or a path that ends in .csv.
    constants: 'c_eff=4e-10,t_sw=1e-4'; fields of `Platform`.

  Raises:
    ValueError: for an unknown name, file or constant, or text that is no number.
  """
  values = {}
  for part in filter(None, (x.strip() for x in constants.split(','))):
    key, _, text = part.partition('=')
    try:
      values[key.strip()] = float(text)
    except ValueError:
      raise ValueError(f'Platform constants look like c_eff=4e-10,t_sw=1e-4, not {part!r}.') from None
  if name.endswith('.csv'):
    return read_platform(name, **values)
  p = platform(name)
  _check_constants(values)
  return check_platform(p._replace(**values), name)


def _check_constants(names: Iterable[str]) -> None:
  known = Platform._fields[2:]
  for name in names:
    if name not in known:
      raise ValueError(f'The platform constant {name!r} is not known; known: {", ".join(known)}.')


FITTED = ('c_eff', 'macs_per_cycle', 'i0', 'p_base')


def calibrate_platform(start: Platform, f: Array, V: Array, macs: Array, time: Array, power: Array) -> Platform:
  """Fits capacitance, throughput, leakage and base power to measured runs of compute-bound work. Source: our extension.

  Least squares of log(time) and log(power) in the logarithms of the constants (FITTED), so that all stay positive; the
  derivatives are those of the model. The other constants are those of `start`.

  Args:
    start: where the fit begins.
    f: [runs] Hz.
    V: [runs] V.
    macs: [runs] multiply-adds of a run.
    time: [runs] s.
    power: [runs] mean W.

  Raises:
    ValueError: if the columns differ in length or hold a number that is not positive.
  """
  columns = {'f': f, 'V': V, 'macs': macs, 'time': time, 'power': power}
  columns = {name: np.asarray(x, np.float64) for name, x in columns.items()}
  for name, value in columns.items():
    if value.ndim != 1 or value.shape != columns['f'].shape or not len(value):
      raise ValueError(f'Measured {name} needs one number per run, {columns["f"].shape}, not shape {value.shape}.')
    if not np.all(value > 0):
      raise ValueError(f'Measured {name} holds a number that is not positive.')

  @jax.jit
  def residuals(logs: jax.Array) -> jax.Array:
    data = {name: jnp.asarray(x) for name, x in columns.items()}
    p = start._replace(f=data['f'], V=data['V'], **dict(zip(FITTED, jnp.exp(logs), strict=True)))
    computing = data['macs'] / (p.macs_per_cycle * p.util * p.f)
    took = computing + p.t_launch
    busy = (computing + p.stall * p.t_launch) / took
    drawn = p.c_eff * p.V**2 * p.f * busy + leakage_power(p) + p.p_base
    return jnp.concatenate([jnp.log(took / data['time']), jnp.log(drawn / data['power'])])

  with jax.enable_x64(True):
    first = np.log([max(float(getattr(start, name)), 1e-12) for name in FITTED])
    slopes = jax.jit(jax.jacfwd(residuals))
    fit = scipy.optimize.least_squares(residuals, first, jac=slopes, x_scale='jac', xtol=1e-14, ftol=1e-14, gtol=1e-14)
  return start._replace(**dict(zip(FITTED, map(float, np.exp(fit.x)), strict=True)))
