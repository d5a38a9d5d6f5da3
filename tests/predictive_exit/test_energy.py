"""The cost model: formulas by hand, scaling laws, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.predictive_exit import energy, platforms
from jaxpapers.predictive_exit.tables import Costs


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


PLATFORM = platforms.platform('rk3399_big')
MACS, BYTES = np.array([2e6, 4e7, 1e4]), np.array([3e5, 7e5, 2e6])


def test_formulas_by_hand():
  p = PLATFORM
  for overlap in energy.OVERLAPS:
    time, computing = energy.unit_time(p, MACS, BYTES, overlap)
    parts = energy.unit_energy(p, MACS, BYTES, overlap)
    for i in range(3):
      for j in (0, 5):
        t_c, t_m = MACS[i] / (p.macs_per_cycle * p.util * p.f[j]), BYTES[i] / p.bw
        t = (max(t_c, t_m) if overlap == 'roofline' else t_c + t_m) + p.t_launch
        leak = p.V[j] * p.i0 * np.exp((p.V[j] - p.v0) / p.vs)
        spent = p.c_eff * p.V[j] ** 2 * p.f[j] * (t_c + p.stall * (t - t_c)) + (leak + p.p_base) * t
        np.testing.assert_allclose(time[i, j], t, rtol=1e-13)
        np.testing.assert_allclose(computing[i, j], t_c, rtol=1e-13)
        np.testing.assert_allclose(sum(parts)[i, j], spent + p.e_byte * BYTES[i], rtol=1e-13)
  with pytest.raises(ValueError, match='known: roofline, additive'):
    energy.unit_time(p, MACS, BYTES, 'perfect')


def test_scaling_laws():
  _, once = energy.unit_time(PLATFORM, MACS, BYTES)
  _, twice = energy.unit_time(PLATFORM, 2 * MACS, BYTES)
  np.testing.assert_allclose(twice, 2 * once, rtol=1e-13)
  waiting = energy.unit_time(PLATFORM, 0 * MACS, BYTES)[0]
  np.testing.assert_allclose(waiting, np.broadcast_to(waiting[:, :1], waiting.shape))
  flat = PLATFORM._replace(V=np.full(8, 1.0), t_launch=0.0)
  dynamic = energy.unit_energy(flat, MACS, 0 * BYTES).dynamic
  np.testing.assert_allclose(dynamic, np.broadcast_to(dynamic[:, :1], dynamic.shape), rtol=1e-12)


def test_switching():
  p = PLATFORM
  time, spent = energy.switching(p)
  assert np.all(np.diag(time) == 0) and np.all(np.diag(spent) == 0)
  assert np.all(time[~np.eye(8, dtype=bool)] == p.t_sw)
  leak = p.V[7] * p.i0 * np.exp((p.V[7] - p.v0) / p.vs)
  want = (leak + p.p_base) * p.t_sw + 0.5 * p.c_rail * abs(p.V[7] ** 2 - p.V[2] ** 2)
  np.testing.assert_allclose([spent[2, 7], spent[7, 2]], want, rtol=1e-13)


def costs():
  return Costs(MACS, BYTES, np.array([5e3, 5e3, 1e4]), np.array([2e4, 2e4, 3e4]))


def test_deadlines_and_idling():
  tables = energy.cost_tables(PLATFORM, costs())
  np.testing.assert_allclose(
    energy.plain_energy(tables), np.sum(tables.segment_energy, 0) + tables.head_energy[-1], rtol=1e-13
  )
  limit = float(energy.deadline(tables, 1.0))
  assert energy.check_deadline(PLATFORM, tables, limit) == limit
  with pytest.raises(ValueError, match=r'deadline 3.1 ms is shorter than the network at 1800 MHz, 12\.\d+ ms'):
    energy.check_deadline(PLATFORM, tables, 3.1e-3)
  with pytest.raises(ValueError, match='shorter than the network'):
    energy.check_deadline(PLATFORM, tables, np.nan)
  low = PLATFORM.V[0] * PLATFORM.i0 * np.exp((PLATFORM.V[0] - 1) / PLATFORM.vs) + PLATFORM.p_base
  np.testing.assert_allclose(energy.idle_energy(PLATFORM, np.array([0.5, 2.0]), 1.0), [0.5 * low, 0.0])
  np.testing.assert_allclose(energy.idle_energy(PLATFORM, np.array([0.5]), 1.0, 0.01), [0.005])


def test_energy_is_smooth_in_the_platform():
  def spent(c_eff, V):
    return jnp.sum(energy.plain_energy(energy.cost_tables(PLATFORM._replace(c_eff=c_eff, V=V), costs())))

  by_c, by_v = jax.grad(spent, (0, 1))(PLATFORM.c_eff, jnp.asarray(PLATFORM.V))
  # Energy is affine in the capacitance; the voltage's slope is that of a central difference.
  np.testing.assert_allclose(
    by_c * 1e-10, spent(PLATFORM.c_eff + 1e-10, PLATFORM.V) - spent(PLATFORM.c_eff, PLATFORM.V)
  )
  step = np.eye(8)[3] * 1e-5
  slope = (spent(PLATFORM.c_eff, PLATFORM.V + step) - spent(PLATFORM.c_eff, PLATFORM.V - step)) / 2e-5
  np.testing.assert_allclose(by_v[3], slope, rtol=1e-6)
