"""Demonstrations of one's own are read as they are, and what is wrong with them is named."""

import sys
import types

import numpy as np
import pytest

from jaxpapers.r2rise import breakout10, forks, problem, readers
from jaxpapers.r2rise.demos import stack_frames

RNG = np.random.default_rng(0)
OBSERVATIONS = RNG.normal(size=(3, 5, 2)).astype(np.float32)
ACTIONS = RNG.integers(0, 4, (3, 5))
GAME = forks.make_forks(forks=2, fillers=1)
SETTINGS = {
  'source': 'npz', 'path': '', 'episodes': 0, 'length': 0, 'noise': 0.1, 'plant': 'none', 'fraction': 0.4, 'cache': '',
  'expert_updates': 2,
}  # fmt: skip


def _save(path, **changes):
  arrays = {'observations': OBSERVATIONS, 'actions': ACTIONS} | changes
  np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
  return str(path)


def test_one_file_of_padded_trajectories_is_read(tmp_path):
  valid = np.arange(5) < np.array([[5], [3], [4]])
  broken = np.where(valid[..., None], OBSERVATIONS, np.nan)  # padding may hold anything
  demos = readers.read_npz(_save(tmp_path / 'a.npz', observations=broken, valid=valid, rewards=ACTIONS * 1.0), 4)
  np.testing.assert_array_equal(demos.valid, valid)
  np.testing.assert_array_equal(demos.actions[valid], ACTIONS[valid])
  cut = readers.take(demos, 2, 3)
  assert cut.observations.shape == (2, 3, 2) and cut.valid.all()
  with pytest.raises(ValueError, match='demos.episodes=4, but the demonstrations have 3'):
    readers.take(demos, 4)


def test_files_of_one_trajectory_each_may_differ_in_length(tmp_path):
  for index, length in enumerate((5, 2, 4)):
    _save(tmp_path / f'{index}.npz', observations=OBSERVATIONS[index, :length], actions=ACTIONS[index, : length - 1])
  demos = readers.read_npz(str(tmp_path), 4)
  assert demos.valid.sum(axis=1).tolist() == [4, 1, 3]
  np.testing.assert_array_equal(demos.last_observation, [OBSERVATIONS[0, 4], OBSERVATIONS[1, 1], OBSERVATIONS[2, 3]])


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'actions': ACTIONS + 1}, r'actions hold 4 at trajectory .*must lie in \[0, 4\)'),
    ({'actions': ACTIONS - 1}, 'actions hold -1'),
    ({'actions': ACTIONS[:, :4]}, 'one action per observation'),
    ({'actions': ACTIONS.astype(float)}, 'actions have dtype float64'),
    ({'actions': None}, 'lacks actions; it holds observations'),
    ({'actions': ACTIONS[:0], 'observations': OBSERVATIONS[:0]}, 'are empty'),
    ({'observations': np.where(OBSERVATIONS > 1, np.nan, OBSERVATIONS)}, 'NaN or infinity at trajectory'),
    ({'observations': (OBSERVATIONS * 9).astype(int)}, 'observations have dtype int64: bool, uint8'),
    ({'valid': np.arange(3)[:, None] * np.ones((3, 5)) > 0}, 'no frame of trajectory 0'),
    ({'valid': np.ones((3, 4))}, r'valid has shape \(3, 4\)'),
    ({'last_observation': OBSERVATIONS[:2, 0]}, 'last_observation has shape'),
    ({'observations': np.array([[{}]])}, 'holds Python objects'),
  ],
)
def test_wrong_files_are_named(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message) as caught:
    readers.read_npz(_save(tmp_path / 'own.npz', **changes), 4)
  assert 'own.npz' in str(caught.value)


def test_files_that_are_none_or_do_not_fit_together_are_named(tmp_path):
  with pytest.raises(ValueError, match='no demonstrations at .*none.npz'):
    readers.read_npz(str(tmp_path / 'none.npz'))
  (tmp_path / 'torn.npz').write_bytes(b'PK\x03\x04 torn')
  with pytest.raises(ValueError, match='torn.npz cannot be read'):
    readers.read_npz(str(tmp_path / 'torn.npz'))
  _save(tmp_path / 'b0.npz', observations=OBSERVATIONS[0], actions=ACTIONS[0])
  _save(tmp_path / 'b1.npz', observations=OBSERVATIONS[0, :, :1], actions=ACTIONS[0])
  with pytest.raises(ValueError, match='b1.npz holds observations of shape'):
    readers.read_npz(str(tmp_path / 'b*.npz'))


class _Episode(types.SimpleNamespace):
  pass


def test_minari_episodes_are_padded_and_their_last_observation_is_kept(monkeypatch):
  episodes = [_Episode(observations=OBSERVATIONS[i, : n + 1], actions=ACTIONS[i, :n]) for i, n in enumerate((4, 2))]

  class Source:
    total_episodes = 2

    def iterate_episodes(self, numbers):
      return [episodes[i] for i in (range(2) if numbers is None else numbers)]

  def load_dataset(name):
    if name != 'a/b-v0':
      raise FileNotFoundError('nowhere')
    return Source()

  monkeypatch.setitem(sys.modules, 'minari', types.SimpleNamespace(load_dataset=load_dataset))
  demos = readers.read_minari('a/b-v0', 4)
  assert demos.valid.sum(axis=1).tolist() == [4, 2]
  np.testing.assert_array_equal(demos.last_observation, [OBSERVATIONS[0, 4], OBSERVATIONS[1, 2]])
  assert readers.read_minari('a/b-v0', 4, limit=1).episodes == 1
  with pytest.raises(ValueError, match='minari download c/d-v0'):
    readers.read_minari('c/d-v0')
  episodes[0].observations = {'image': OBSERVATIONS[0]}
  with pytest.raises(ValueError, match='dict with keys image'):
    readers.read_minari('a/b-v0')
  monkeypatch.setitem(sys.modules, 'minari', None)
  with pytest.raises(ValueError, match='pip install'):
    readers.read_minari('a/b-v0')


def test_single_frames_are_stacked_for_games_that_show_stacks():
  pixels = RNG.integers(0, 255, (2, 4, 6, 5)).astype(np.uint8)
  demos = readers.make_demonstrations(pixels, ACTIONS[:2, :4], last_observation=pixels[:, 0])
  game = GAME._replace(observation_shape=(6, 5, 3), observe=lambda s: np.zeros((1, 6, 5, 3), np.uint8))
  fitted = readers.fit(demos, game)
  np.testing.assert_array_equal(fitted.observations, stack_frames(pixels, demos.first, 3))
  np.testing.assert_array_equal(fitted.last_observation[..., 2], pixels[:, 0])
  np.testing.assert_array_equal(fitted.last_observation[..., 1], pixels[:, 3])
  with pytest.raises(ValueError, match=r'shape \(6, 5\), but forks shows \(4,\)'):
    readers.fit(demos, GAME)
  with pytest.raises(ValueError, match='dtype uint8, but forks shows bool'):
    readers.fit(demos, GAME._replace(observation_shape=(6, 5)))


def test_a_problem_is_made_from_files_with_and_without_planted_truth(tmp_path):
  game, length = breakout10.make_breakout10(), 7
  path = _save(
    tmp_path / 'own.npz',
    observations=np.zeros((2, length, *game.observation_shape), bool),
    actions=np.ones((2, length), int),
  )
  make = dict(seed=0, block=2, max_steps=10, forks={})
  own = problem.make_problem('breakout10', demos=SETTINGS | {'path': path}, **make)
  assert own.truth is None and own.demos.length == length
  spoilt = problem.make_problem('breakout10', demos=SETTINGS | {'path': path, 'plant': 'corrupt'}, **make)
  wrong = (spoilt.demos.actions != 1).reshape(-1)
  np.testing.assert_array_equal(wrong, ~np.repeat(spoilt.truth, 2, axis=1)[:, :length].reshape(-1))
  for name, value in (('source', 'hdf'), ('plant', 'weeds')):
    with pytest.raises(ValueError, match=f"demos.{name}='{value}' is not known"):
      problem.make_problem('breakout10', demos=SETTINGS | {name: value}, **make)
  with pytest.raises(ValueError, match='block=8'):
    problem.make_problem('breakout10', demos=SETTINGS | {'path': path}, **make | {'block': 8})


def test_forks_know_their_truth():
  made = problem.make_problem(
    'forks',
    seed=0,
    block=2,
    max_steps=0,
    forks={'forks': 2, 'fillers': 2},
    demos=SETTINGS | {'source': 'expert', 'episodes': 2},
  )
  assert made.truth.tolist() == [[True, True, False]] * 2
