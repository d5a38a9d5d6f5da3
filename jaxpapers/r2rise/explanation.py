"""The whole method in one call, for a learner, a game and demonstrations of your own."""

import zlib
from typing import NamedTuple

import jax
import numpy as np

from jaxpapers.r2rise.demos import Demonstrations
from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.importance import ImportanceMap, importance_map
from jaxpapers.r2rise.learners import Learner, make_frames
from jaxpapers.r2rise.masks import check_chunk
from jaxpapers.r2rise.returns_log import ReturnsLog
from jaxpapers.r2rise.stage import Functions, MaskPlan, Numbers, Plan, map_and_curve
from jaxpapers.r2rise.summary import trained_masks


class Explanation(NamedTuple):
  """What `explain` found.

  Attributes:
    importance: value, error and freedom [E, C].
    masks: [N, E, C] float32 in [0, 1], those that were retrained.
    returns: [N] float64 mean returns.
    kept: [N] float32 summed weight of the kept frames; 0 is a mask without any, whose learner acted by chance.
    stopped: masks after which the map was reliable enough, 0 if it never was.
  """

  importance: ImportanceMap
  masks: np.ndarray
  returns: np.ndarray
  kept: np.ndarray
  stopped: int


def explain(
  learner: Learner,
  environment: Environment,
  demos: Demonstrations,
  key: jax.Array,
  *,
  masks: int = 256,
  chunk: int = 64,
  block: int = 1,
  keep: float = 0.5,
  antithetic: bool = False,
  smooth: bool = False,
  estimator: str = 'contrast',
  episodes: int = 16,
  epsilon: float = 0.0,
  batching: str = 'vmap',
  target: float = 0.0,
  min_masks: int = 64,
  log: str = '',
) -> Explanation:
  """Which cells of the demonstrations matter to the return of what `learner` learns from them.

  A learner of your own is three things: a name, `train(key, frames, weights) -> params` and
  `act(params, observations, key) -> actions`, both pure:

      def train(key, frames, weights):                     # weights [n] in [0, 1]: 0 is a dropped frame
        shown = jax.nn.one_hot(frames.actions, 4) * weights[:, None]
        return frames.observations.reshape(len(weights), -1).T @ shown   # votes per pixel and action

      def act(params, observations, key):
        return jnp.argmax(observations.reshape(len(observations), -1) @ params, axis=-1)

      found = explain(Learner('votes', train, act), game, demos, jax.random.key(0), masks=512)
      found.importance.value                               # [E, C]

  Args:
    learner: what is retrained, once for every mask.
    environment: the game in which the return is measured.
    demos: D.
    key: of masks, learners and episodes; the result depends on it and not on `chunk`.
    masks: N, a multiple of `chunk`.
    chunk: masks that are retrained at once; even.
    block: frames that share a cell.
    keep: probability that a cell is kept.
    antithetic: masks come with their complements.
    smooth: soft masks; every frame is a cell then.
    estimator: see `importance.finalise`.
    episodes: played per learner.
    epsilon: share of random actions in them.
    batching: see `train_masked`.
    target: stop when the split-half reliability reaches it; 0 never stops early.
    min_masks: but not before so many masks.
    log: a file that keeps every return; a call that was interrupted goes on from it.

  Raises:
    ValueError: naming the argument that cannot be, or the mask whose return is not finite.
  """
  plan_masks = MaskPlan(demos.episodes, demos.length, block, keep, antithetic, smooth).check()
  check_chunk(masks, chunk, antithetic)
  plan = Plan(plan_masks, masks, 1, chunk, (), 0, estimator, None, target, min_masks)
  frames = jax.tree.map(np.asarray, make_frames(demos))
  valid = demos.valid.reshape(-1).astype(np.float32)

  def functions(key: jax.Array) -> Functions:
    options = dict(episodes=episodes, epsilon=epsilon, batching=batching)
    return map_and_curve(learner, environment, frames, valid, plan, lambda: key, **options)

  record = None
  if log:
    content = zlib.crc32(b''.join(np.ascontiguousarray(x).tobytes() for x in (frames.observations, frames.actions)))
    options = {'block': block, 'keep': keep, 'antithetic': antithetic, 'smooth': smooth}
    about = {'learner': learner.name, 'environment': environment.name, 'demonstrations': content, **options}
    about |= {'key': jax.random.key_data(key).tolist(), 'episodes': episodes, 'epsilon': epsilon}
    record = ReturnsLog(log, about)
  numbers = Numbers(plan, record.known if record else None)
  # The key is an argument of the programs: another one needs no new compilation.
  step = jax.jit(lambda state, batch, key: functions(key).step(state, batch, key)[0])
  state = jax.jit(lambda: functions(key).init(key, None, {}))()
  for index in range(plan.map_steps):
    batch = numbers(index)
    state = step(state, batch, key)
    returns, kept, stopped = (np.asarray(x) for x in (state.returns, state.kept, state.stopped))
    done = trained_masks(returns, kept)
    if record is not None:
      part = batch['id'][done[batch['id']]]
      record.append(part, returns[part], kept[part], episodes)
    if stopped[0]:
      break
  drawn = np.asarray(jax.jit(plan_masks.sample_all, static_argnums=1)(key, masks))[done]
  returns = returns[done].astype(np.float64)
  return Explanation(importance_map(drawn, returns, estimator, keep), drawn, returns, kept[done], int(stopped[0]))
