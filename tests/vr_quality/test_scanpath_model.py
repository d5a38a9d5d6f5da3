"""The scanpath predictor and its mixture, the walks it is compared with, and both analysis experiments end to end."""

import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scipy import stats

from jaxpapers.engine import UserError, default_config, loop
from jaxpapers.vr_quality import analysis_experiment, mixture, scanpath_data, scanpath_experiment, walks
from jaxpapers.vr_quality.scanpath_model import ScanpathPredictor, negative_log_likelihood, sample_path
from tests.vr_quality.test_database import make_tables, write_csv, write_database

MODEL = ScanpathPredictor(hidden=8, components=2, history=2)


def tiny_config(task, folder=''):
  config = default_config()
  config.method, config.variant, config.log_every = 'vr_quality', task, 2
  config.data.dir = str(folder)
  config.analysis = ml_collections.ConfigDict({'tables': 'auto', 'ratings': '', 'steps': 2, 'batch_size': 4})
  config.scanpath = ml_collections.ConfigDict(
    {
      'source': 'synthetic',
      'scenes': 4,
      'observers': 4,
      'points': 6,
      'seeing': False,
      'hidden': 8,
      'components': 2,
      'history': 3,
      'unit': 0.2,
      'batch_size': 8,
      'steps': 4,
      'learning_rate': 1e-2,
    }
  )
  return config


def test_mixture_density_integrates_to_one_and_fits_its_samples():
  outputs = jnp.asarray([0.3, 0.5, -0.2, 0.1, -0.3, 0.8, -0.4, -1.0, 1.0, 0.2, 0.0, -0.5])
  found = mixture.from_outputs(outputs, 2, 0.5)
  grid = np.linspace(-4, 4, 161)
  points = jnp.asarray(np.stack(np.meshgrid(grid, grid), axis=-1))

  @jax.jit
  def measure(points, keys):
    return mixture.log_density(found, points), jax.vmap(mixture.sample, in_axes=(0, None))(keys, found)

  density, draws = measure(points, jax.random.split(jax.random.key(0), 8000))
  assert abs(np.exp(np.asarray(density, np.float64)).sum() * (grid[1] - grid[0]) ** 2 - 1) < 1e-3
  one = [np.asarray(x[0]) for x in found[1:]]
  covariance = np.outer(np.exp(one[1]), np.exp(one[1])) * [[1, one[2]], [one[2], 1]]
  second = [np.asarray(x[1]) for x in found[1:]]
  other = np.outer(np.exp(second[1]), np.exp(second[1])) * [[1, second[2]], [second[2], 1]]
  weights = np.exp(np.asarray(found.log_weight))
  want = weights[0] * stats.multivariate_normal(one[0], covariance).pdf(points[40, 90])
  want += weights[1] * stats.multivariate_normal(second[0], other).pdf(points[40, 90])
  np.testing.assert_allclose(np.exp(density[40, 90]), want, rtol=1e-4)
  np.testing.assert_allclose(draws.mean(axis=0), weights @ np.asarray(found.mean), atol=0.03)


@pytest.fixture(scope='module')
def scenes():
  return scanpath_data.synthetic(0, 6, 8, 7)


def test_teacher_forcing_and_the_closed_loop_are_the_same_model(scenes):
  path = jnp.asarray(scenes[0].paths[:2])
  length = jnp.asarray([7, 3])
  moved = path.at[1, 3:].set(path[1, :4])

  @jax.jit
  def everything(path, moved, key):
    variables = MODEL.init(jax.random.key(0), path)
    whole = MODEL.apply(variables, path)

    def step(state, t):
      recent = path[1, jnp.maximum(t - jnp.arange(MODEL.history + 1), 0)]
      features = MODEL.apply(variables, recent, path[1, 0], t, method='features')
      return MODEL.apply(variables, state, features, method='step')

    stepwise = jax.lax.scan(step, jnp.zeros(MODEL.hidden), jnp.arange(path.shape[1] - 1))[1]
    nll = [negative_log_likelihood(whole, x, length) for x in (path, moved)]
    return stepwise, jax.tree.map(lambda x: x[1], whole), nll, sample_path(key, MODEL, variables, path[0, 0], 7)

  stepwise, whole, (nll, changed), first = everything(path, moved, jax.random.key(1))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), stepwise, whole)
  np.testing.assert_allclose(changed, nll, rtol=1e-6)
  again, other = (everything(path, moved, jax.random.key(k))[3] for k in (1, 2))
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, other)
  np.testing.assert_array_equal(first[0], path[0, 0])
  np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


def test_the_fitted_walk_recovers_its_coefficients_and_beats_stay_and_constant_velocity():
  truth = walks.Walk(jnp.asarray(0.6), jnp.asarray(0.15), jnp.asarray([[0.04, 0.01], [0.01, 0.02]]))
  starts = jnp.asarray(scanpath_data.equator_starts(0, 300))
  draw = jax.jit(jax.vmap(lambda key, start: walks.sample_path(key, truth, start, 20)))
  paths = draw(jax.random.split(jax.random.key(0), 300), starts)
  fitted = walks.fit(np.asarray(paths))
  np.testing.assert_allclose(fitted['random walk'].damping, 0.6, atol=0.03)
  np.testing.assert_allclose(fitted['random walk'].pull, 0.15, atol=0.02)
  np.testing.assert_allclose(fitted['random walk'].covariance, truth.covariance, atol=0.003)
  score = jax.jit(lambda walk: jnp.mean(jax.vmap(walks.log_likelihood, in_axes=(None, 0))(walk, paths)))
  values = {name: float(score(walk)) for name, walk in fitted.items()}
  assert values['random walk'] > max(values['stay'], values['constant velocity']) + 0.05


def test_synthetic_scenes_share_their_start_and_never_mix_between_parts(scenes):
  again = scanpath_data.synthetic(0, 6, 8, 7)
  np.testing.assert_array_equal(scenes[3].paths, again[3].paths)
  assert np.ptp(scenes[0].paths[:, 0], axis=0).max() == 0
  train, test = scanpath_data.split_scenes(scenes, 1)
  assert {s.name for s in train} | {s.name for s in test} == {s.name for s in scenes} and len(test) == 2
  with pytest.raises(UserError, match='two videos'):
    scanpath_data.split_scenes(scenes[:1], 0)

  @jax.jit
  def look(points):
    values = scanpath_data.scene_maps(scenes[:1])[0]
    return values, scanpath_data.look_at_map(values)(points)

  values, seen = look(jnp.asarray(scenes[0].attractors))
  assert np.asarray(seen)[:, 0].min() > np.median(values)


def test_scanpath_experiment_runs_on_recorded_ragged_paths(tmp_path):
  rows = [
    (f'v{v}.mp4', s, 5 * t - 10, 170 + 10 * t + s) for v in range(3) for s in range(3) for t in range(5 if s else 4)
  ]
  write_csv(tmp_path / 'scanpathA.csv', ('VideoName', 'subject', 'HM_pitch', 'HM_yaw'), rows)
  config = tiny_config('scanpath', tmp_path / 'scanpathA.csv')
  config.scanpath.update({'source': 'csv', 'batch_size': 4, 'steps': 2})
  final = loop.run(scanpath_experiment.experiment(config), config, str(tmp_path / 'run'))
  assert np.isfinite(final['scanpath']['test/nll']) and 'test/nll_random_walk' in final['scanpath']
  results = json.loads((tmp_path / 'run' / 'report' / 'results.json').read_text())
  assert set(results['set_comparison']) == {'people', 'model (scanpath)', 'random walk', 'chance'}
  assert (tmp_path / 'run' / 'report' / 'consistency.png').exists()


def test_scanpath_settings_that_cannot_be_are_refused():
  for change, message in (
    ({'source': 'tsv'}, "'tsv' is not known"),
    ({'batch_size': 99}, 'batch_size=99 exceeds the 12 training paths'),
  ):
    config = tiny_config('scanpath')
    config.scanpath.update(change)
    with pytest.raises(UserError, match=message):
      scanpath_experiment.experiment(config)


def test_analysis_experiment_reports_the_tables_of_a_folder(tmp_path):
  write_database(tmp_path, make_tables(60))
  ratings = [(s, v, 1 + (s * v + v) % 5) for s in range(5) for v in range(6)]
  write_csv(tmp_path / 'ratings.csv', ('subject', 'stimulus', 'score'), ratings)
  config = tiny_config('analysis', tmp_path)
  config.analysis.ratings = str(tmp_path / 'ratings.csv')
  final = loop.run(analysis_experiment.experiment(config), config, str(tmp_path / 'run'))
  metrics = final['bootstrap']
  assert metrics['tables/mos_7A'] == pytest.approx(make_tables(60).mos[:, 0].mean())
  assert metrics['tables/official_leak_video'] > 0.5 and metrics['tables/by_video_leak_video'] == 0
  results = json.loads((tmp_path / 'run' / 'report' / 'results.json').read_text())
  assert results['tables']['n_videos'] == 60 and set(results['lookups']) == {'official', 'by_video', 'by_source'}
  for name in ('crossover', 'mos_histogram', 'screening', 'lookups', 'saliency', 'scanpaths', 'start_angles'):
    assert (tmp_path / 'run' / 'report' / f'{name}.png').exists()
  config.analysis.ratings = str(tmp_path / 'none.csv')
  with pytest.raises(UserError, match='none.csv does not exist'):
    analysis_experiment.experiment(config)
  config.analysis.tables = 'parquet'
  with pytest.raises(UserError, match='parquet'):
    analysis_experiment.experiment(config)
