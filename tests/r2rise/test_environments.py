"""Environments by name; the adapters of gymnax and ale-py against stand-ins, and against the real ones if installed."""

import sys
import types

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.r2rise import atari, games
from jaxpapers.r2rise.environments import restart
from jaxpapers.r2rise.learners import Learner
from jaxpapers.r2rise.official import score_rows
from jaxpapers.r2rise.rollouts import evaluate
from jaxpapers.r2rise.tracker import FIRE, LEFT, NOOP, RIGHT, breakout_expert

RANDOM = Learner(
  'random', None, lambda params, observations, key: jax.random.randint(key, observations.shape[:1], 0, 2)
)


@flax.struct.dataclass
class _Count:
  time: jax.Array
  value: jax.Array


class _Params:
  max_steps_in_episode = 6


class _Counter:
  """Counts up on action 1 and ends at 3; cut after 6 steps. As gymnax 1.0 has it: `step_env` returns five values."""

  def reset_env(self, key, params):
    state = _Count(0, 0)
    return jnp.zeros(2), state

  def step_env(self, key, state, action, params):
    new = _Count(state.time + 1, state.value + action)
    return jnp.array([new.time, new.value], float), new, action * 1.0, new.value >= 3, {}

  def is_truncated(self, state, params):
    return state.time >= params.max_steps_in_episode

  def action_space(self, params):
    return types.SimpleNamespace(n=2)


@pytest.fixture
def fake_gymnax(monkeypatch):
  module = types.SimpleNamespace(registered_envs=['Counter'], make=lambda name: (_Counter(), _Params()))
  monkeypatch.setitem(sys.modules, 'gymnax', module)


def test_gymnax_games_are_stepped_cut_and_restarted(fake_gymnax):
  game = games.make_game('gymnax/Counter', seed=0, max_steps=100)
  assert (game.num_actions, game.observation_shape, game.max_steps) == (2, (2,), 6)

  @jax.jit
  def play(keys, actions):
    def body(state, action):
      new, reward, done = game.step(state, action)
      return restart(game, keys, new, done), (game.observe(new), reward, done)

    return jax.lax.scan(body, game.reset(keys), actions)[1]

  # One copy counts and is done at 3, one idles and is cut at 6; both start afresh.
  actions = jnp.stack([jnp.ones(7, jnp.int32), jnp.zeros(7, jnp.int32)], axis=1)
  seen, rewards, done = play(jax.random.split(jax.random.key(0), 2), actions)
  assert np.flatnonzero(done[:, 0]).tolist() == [2, 5] and np.flatnonzero(done[:, 1]).tolist() == [5]
  assert seen[:, 0, 1].tolist() == [1, 2, 3, 1, 2, 3, 1] and seen[:, 1, 0].tolist() == [1, 2, 3, 4, 5, 6, 1]
  assert rewards.sum() == 7
  returns = jax.jit(lambda keys: evaluate(RANDOM, game, keys, jnp.zeros(2), 3, 0.0))(
    jax.random.split(jax.random.key(1))
  )
  assert returns.shape == (2, 3) and returns.max() <= 3


class _Emulator:
  """Frames that show the seed and the steps since a start; an episode lasts four steps."""

  def __init__(self, rom, copies, **options):
    self.options, self.single_action_space = options, types.SimpleNamespace(n=4)
    self.seed, self.time = np.zeros(copies, int), np.zeros(copies, int)

  def _frames(self):
    return np.broadcast_to((self.seed % 7 + self.time)[:, None, None, None], (len(self.time), 1, 84, 84)).astype(
      np.uint8
    )

  def reset(self, seed, options=None):
    mask = np.ones(len(self.time), bool) if options is None else options['reset_mask']
    self.seed[mask], self.time[mask] = seed, 0
    return self._frames(), {}

  def step(self, actions):
    self.time += 1
    done = self.time >= 4
    return self._frames(), actions, done, np.zeros_like(done), {}


@pytest.fixture
def fake_ale(monkeypatch):
  logger = types.SimpleNamespace(setLoggerMode=lambda mode: None)
  for name, module in {
    'ale_py': types.SimpleNamespace(LoggerMode=types.SimpleNamespace(Error=0)),
    'ale_py._ale_py': types.SimpleNamespace(ALEInterface=logger),
    'ale_py.vector_env': types.SimpleNamespace(AtariVectorEnv=_Emulator),
  }.items():
    monkeypatch.setitem(sys.modules, name, module)


def test_atari_frames_are_stacked_blanked_and_restarted_from_compiled_programs(fake_ale):
  game = atari.make_atari('beamrider', max_steps=9)
  assert (game.num_actions, game.observation_shape, game.pure) == (4, (84, 84, 4), False)

  @jax.jit
  def play(key):
    def body(state, step_key):
      new, reward, done = game.step(state, jnp.arange(2, dtype=jnp.int32))
      return restart(game, jax.random.split(step_key), new, done), (game.observe(state), reward, done)

    return jax.lax.scan(body, game.reset(jax.random.split(key)), jax.random.split(key, 6))[1]

  frames, rewards, done = jax.device_get(play(jax.random.key(0)))
  blank = score_rows('beamrider')
  assert not frames[:, :, blank].any()
  shown = frames[:, :, ~blank].astype(int)
  assert (np.ptp(shown, axis=(2, 3)) == 0).all()
  start = shown[0, :, 0, 0, 0]
  # The first frame is repeated; the newest comes last; after four steps both start with another seed.
  np.testing.assert_array_equal(
    shown[:4, :, 0, 0] - start[:, None],
    [[[0, 0, 0, 0]] * 2, [[0, 0, 0, 1]] * 2, [[0, 0, 1, 2]] * 2, [[0, 1, 2, 3]] * 2],
  )
  assert done.tolist() == [[False] * 2] * 3 + [[True] * 2] + [[False] * 2] * 2
  assert (np.ptp(shown[4], axis=-1) == 0).all() and rewards.sum(axis=0).tolist() == [0, 6]
  np.testing.assert_array_equal(frames, jax.device_get(play(jax.random.key(0)))[0])


def test_a_state_on_the_host_is_stepped_once(fake_ale):
  game = atari.make_atari('breakout', max_steps=9)
  state = game.reset(jax.random.split(jax.random.key(0)))
  actions = jnp.zeros(2, jnp.int32)
  new, _, _ = game.step(state, actions)
  game.step(new, actions)
  with pytest.raises(Exception, match='used twice'):
    jax.block_until_ready(game.step(state, actions))


def test_devices_play_side_by_side_with_emulators_of_their_own():
  host = atari._Host(lambda copies: _Emulator('', copies), limit=4)
  seeds = np.array([1, 2])
  ticket = {device: host.reset(seeds + device)[1] for device in (0, 1)}
  shown = {0: [], 1: []}
  for _ in range(6):  # device 0 restarts after every second step, while device 1 goes on
    for device in (0, 1):
      frames, ticket[device], _, _ = host.step(ticket[device], np.zeros(2))
      shown[device].append(frames[:, 0, 0].astype(int).tolist())
    if len(shown[0]) % 2 == 0:
      ticket[0] = host.reset(seeds)[1]
  assert shown[0] == [[2, 3], [3, 4]] * 3
  assert shown[1] == [[3 + k, 4 + k] for k in range(6)]


def test_the_breakout_player_serves_and_runs_to_where_the_ball_will_land():
  player = jax.jit(breakout_expert)

  def picture(balls, paddle):
    frames = np.zeros((1, 84, 84, 4), np.uint8)
    frames[..., 24:37, 5:79, :] = 140
    frames[0, 76, paddle - 4 : paddle + 4] = 140
    for index, ball in enumerate(balls):
      if ball:
        frames[0, ball[0] : ball[0] + 2, ball[1] : ball[1] + 2, 2 + index] = 110
    return int(player(jnp.asarray(frames))[0])

  assert picture([None, None], 40) == FIRE
  assert picture([(50, 30), (54, 34)], 40) == RIGHT  # lands at about 55
  assert picture([(50, 30), (54, 34)], 70) == LEFT
  assert picture([(50, 70), (58, 76)], 66) == NOOP  # off the right wall
  assert picture([(58, 40), (54, 36)], 60) == LEFT  # rises: stay below it


def test_unknown_games_and_missing_packages_are_named(monkeypatch):
  with pytest.raises(ValueError, match="env='chess' is not known; known: forks, breakout10, beamrider, breakout"):
    games.make_game('chess', 0, 10)
  for package, name in (('gymnax', 'gymnax/CartPole-v1'), ('ale_py', 'breakout')):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match='pip install'):
      games.make_game(name, 0, 10)


def test_unknown_gymnax_games_are_named(fake_gymnax):
  with pytest.raises(ValueError, match="no environment 'Chess'; known: Counter"):
    games.make_game('gymnax/Chess', 0, 10)


@pytest.mark.parametrize('name, actions', [('breakout', 4), ('beamrider', 9), ('spaceinvaders', 6)])
def test_the_real_emulator_plays_a_short_episode(name, actions):
  pytest.importorskip('ale_py', reason='the extra atari is not installed')
  game = games.make_game(name, 0, 12)
  assert game.num_actions == actions
  run = jax.jit(lambda keys: evaluate(RANDOM, game, keys, jnp.zeros(2), 2, 0.0))
  keys = jax.random.split(jax.random.key(0))
  np.testing.assert_array_equal(run(keys), run(keys))
  # A restarted copy goes on with its new game, and does not start a second time.
  host = game.restart(keys, game.reset(keys), jnp.array([True, False]))
  new, _, _ = game.step(host, jnp.array([0, 0], jnp.int32))
  assert not np.array_equal(new.observations[0], host.observations[0]) or name == 'breakout'
