"""Operating points, a user's own platform, the successor's levels, and the fit to measurements."""

import jax
import numpy as np
import pytest

from jaxpapers.predictive_exit import dvfs, platforms


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize('name', list(platforms.SOURCES))
def test_every_platform_is_a_processor(name):
  p = platforms.platform(name)
  assert platforms.check_platform(p) is p
  assert len(p.f) >= 6
  assert set(platforms.illustrative(name)) | set(platforms.SOURCES[name].published) == set(p._fields[2:])


def test_published_numbers():
  big = platforms.platform('rk3399_big')
  assert big.f[-1] == 1.8e9 and big.V[-1] == 1.2 and big.c_eff == 436e-12 and big.t_sw == 40e-6
  assert platforms.gm20b_millivolts() == [818.75] * 6 + [859, 901, 942, 984, 1026, 1068, 1110]
  np.testing.assert_allclose(platforms.platform('tegra_x1_gm20b').f, 76.8e6 * np.arange(1, 14))


def test_unknown_platform_lists_the_known():
  with pytest.raises(ValueError, match=r"'tx9' is not known; known: rk3399_big, rk3399_little"):
    platforms.platform('tx9')


def test_own_platform_from_a_file(tmp_path):
  file = tmp_path / 'board.csv'
  file.write_text('f_mhz, volt\n300, 0.7\n600, 0.8\n900, 1.0\n')
  p = platforms.read_platform(file, c_eff=1e-9, t_sw=1e-3)
  np.testing.assert_allclose(p.f, [3e8, 6e8, 9e8])
  np.testing.assert_allclose(p.V, [0.7, 0.8, 1.0])
  assert p.c_eff == 1e-9 and p.t_sw == 1e-3 and p.bw == platforms.platform('rk3399_big').bw


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'needs the header f_mhz,volt, not an empty file'),
    ('mhz,mv\n1,2\n', 'needs the header f_mhz,volt, not mhz,mv'),
    ('f_mhz,volt\n', 'holds no operating point'),
    ('f_mhz,volt\n300,0.7\n600,fast\n', 'line 3: two numbers'),
    ('f_mhz,volt\n300\n', 'line 2: two numbers'),
    ('f_mhz,volt\n600,0.8\n300,0.9\n', 'must ascend in frequency; 300 MHz follows 600'),
    ('f_mhz,volt\n300,0.9\n600,0.8\n', 'voltage falls from 0.9 to 0.8 V'),
    ('f_mhz,volt\n-300,0.9\n', 'f must be positive'),
    ('f_mhz,volt\n300,nan\n', 'V must be positive'),
  ],
)
def test_files_that_cannot_be_are_refused(tmp_path, text, message):
  file = tmp_path / 'board.csv'
  file.write_text(text)
  with pytest.raises(ValueError, match=message):
    platforms.read_platform(file)


def test_constants_that_cannot_be_are_refused(tmp_path):
  with pytest.raises(ValueError, match='no platform file'):
    platforms.read_platform(tmp_path / 'absent.csv')
  file = tmp_path / 'board.csv'
  file.write_text('f_mhz,volt\n300,0.7\n')
  with pytest.raises(ValueError, match="constant 'watts' is not known; known: c_eff, macs_per_cycle"):
    platforms.read_platform(file, watts=3)
  with pytest.raises(ValueError, match='bw must be positive'):
    platforms.read_platform(file, bw=0)
  with pytest.raises(ValueError, match='util and stall are shares'):
    platforms.read_platform(file, util=1.5)


def test_platform_by_name_or_file_with_constants(tmp_path):
  file = tmp_path / 'board.csv'
  file.write_text('f_mhz,volt\n300,0.7\n')
  assert platforms.load(str(file), 'c_eff=1e-9, stall=0.5').stall == 0.5
  assert platforms.load('rk3399_big', 't_sw=1').t_sw == 1 and platforms.load('rk3399_big').t_sw == 40e-6
  with pytest.raises(ValueError, match='constants look like'):
    platforms.load('rk3399_big', 't_sw')
  with pytest.raises(ValueError, match="'speed' is not known"):
    platforms.load('rk3399_big', 'speed=1')


def test_levels_are_the_nearest_by_a_loop():
  levels = platforms.TX2_GPU_HZ
  for exits in (20, 32):
    remain, jump = np.meshgrid(np.arange(1, exits + 1), np.arange(1, exits + 1), indexing='ij')
    got = dvfs.stretch_level(levels, remain, jump, 3.0)
    target = levels[-1] * np.minimum(jump * 3.0, remain) / remain
    want = np.argmin(np.abs(target[..., None] - levels), axis=-1)
    np.testing.assert_array_equal(got, want)
  assert dvfs.nearest_level(np.array([100.0, 200.0]), 150.0) == 0, 'the lower on ties'
  assert dvfs.nearest_level(np.array([100.0, 200.0]), 500.0) == 1


def test_latency_of_stretch_grows_with_every_forecast():
  assert dvfs.stretch_latency(20, 6, np.array([5])) == 1.0
  np.testing.assert_allclose(dvfs.stretch_latency(20, 6, np.array([5, 10])), 1 + 10 / 21)


def test_fit_recovers_constants():
  true = platforms.platform('exynos5422_a15')._replace(t_launch=0.0)
  start = true._replace(c_eff=1e-10, macs_per_cycle=1.0, i0=0.3, p_base=0.5)
  macs = np.full(len(true.f), 1e8)
  time = macs / (true.macs_per_cycle * true.util * true.f)
  power = true.c_eff * true.V**2 * true.f + true.V * true.i0 * np.exp((true.V - true.v0) / true.vs) + true.p_base
  fit = platforms.calibrate_platform(start, true.f, true.V, macs, time, power)
  for name in platforms.FITTED:
    np.testing.assert_allclose(getattr(fit, name), getattr(true, name), rtol=1e-6)
  with pytest.raises(ValueError, match='Measured time needs one number per run'):
    platforms.calibrate_platform(start, true.f, true.V, macs, time[1:], power)
  with pytest.raises(ValueError, match='power holds a number that is not positive'):
    platforms.calibrate_platform(start, true.f, true.V, macs, time, -power)
