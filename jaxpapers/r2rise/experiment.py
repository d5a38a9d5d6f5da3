"""Binds the settings of configs/r2rise.py to functions. The only file of the room that reads the config."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers.engine import Evaluation, Experiment, Stage, UserError, axis_name
from jaxpapers.r2rise import breakout10, forks, report
from jaxpapers.r2rise.bc import BcOptions, behaviour_cloning
from jaxpapers.r2rise.demos import corrupt, make_demonstrations
from jaxpapers.r2rise.importance import ESTIMATORS, Statistics, finalise, importance_init, importance_update
from jaxpapers.r2rise.learners import make_frames
from jaxpapers.r2rise.masks import cells_of, sample_cells
from jaxpapers.r2rise.model import Mlp, Table
from jaxpapers.r2rise.retrain import ORDERS, curve_cells, retrain

_MASKS, _LEARNERS, _ORDERS, _CURVE = range(4)  # branches of the run's key: no learner of the curve made the map


class MapState(NamedTuple):
  """Sums for the map, and every mask's mean return and number of kept frames [N] (0 until it was trained)."""

  stats: Statistics
  returns: jax.Array
  kept: jax.Array


class CurveState(NamedTuple):
  """The map [F] whose order is followed, and mean returns [points * learners]."""

  value: jax.Array
  returns: jax.Array


class Numbers:
  """Batch `step` is the next `size` numbers, modulo `total`; every host takes its part."""

  def __init__(self, size: int, total: int):
    """Numbers below `total`, `size` a step over all hosts."""
    hosts = jax.process_count()
    if size < 1 or size % hosts:
      raise ValueError(f'A chunk of {size} cannot be shared by {hosts} hosts.')
    self._size, self._total, self._local = size, total, size // hosts

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """{'id': [size / hosts] int32}."""
    start = step * self._size + jax.process_index() * self._local
    return {'id': ((start + np.arange(self._local)) % self._total).astype(np.int32)}


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """Stage `map` retrains one learner per mask, stage `curve` checks the map by retraining on its top and bottom."""
  try:
    return _experiment(config)
  except ValueError as error:
    raise UserError(str(error)) from error


def _problem(config):
  """(environment, demonstrations, truth [E, cells])."""
  episodes = config.demos.episodes
  if config.env == 'forks':
    options = config.forks.to_dict()
    game = {name: value for name, value in options.items() if name != 'filler_actions'}
    demos, truth = forks.forks_demonstrations(config.seed, episodes, **options)
    cells = cells_of(demos.length, config.block)
    padded = np.pad(truth, ((0, 0), (0, cells * config.block - demos.length)))
    return forks.make_forks(config.seed, **game), demos, padded.reshape(episodes, cells, -1).any(axis=2)
  if config.env == 'breakout10':
    environment = breakout10.make_breakout10(config.play.max_steps)
    length, noise = config.demos.length, config.demos.noise
    make = jax.jit(lambda key: breakout10.noisy_expert(environment, key, episodes, length, noise))
    observations, actions, _, first = jax.device_get(make(jax.random.key(config.seed)))
    demos = make_demonstrations(observations, actions, first=first, num_actions=environment.num_actions)
    cells_of(length, config.block)
    return environment, *corrupt(demos, config.seed, config.demos.corrupt, config.block, environment.num_actions)
  raise ValueError(f'config.env={config.env!r} is not known; known: forks, breakout10.')


def _learner(config, num_actions: int):
  options = config.learner
  networks = {'table': lambda: Table(num_actions), 'mlp': lambda: Mlp(tuple(options.hidden), num_actions)}
  optimizers = {'sgd': optax.sgd, 'adam': optax.adam}
  for name, known in (('network', networks), ('optimizer', optimizers)):
    if options[name] not in known:
      raise ValueError(f'config.learner.{name}={options[name]!r} is not known; known: {", ".join(known)}.')
  return behaviour_cloning(
    networks[options.network](),
    optimizers[options.optimizer](options.learning_rate),
    BcOptions(options.steps, options.batch, options.sampling),
  )


def _experiment(config) -> Experiment:
  if config.estimator not in ESTIMATORS:
    raise ValueError(f'config.estimator={config.estimator!r} is not known; known: {", ".join(ESTIMATORS)}.')
  if config.masks < 2 or config.masks % config.chunk:
    raise ValueError(f'config.masks={config.masks} must be at least 2 and a multiple of config.chunk={config.chunk}.')
  if config.antithetic and config.chunk % 2:
    raise ValueError(f'config.chunk={config.chunk} must be even: antithetic masks come in pairs.')
  if config.curve.learners < 2 or not config.curve.fractions:
    raise ValueError(f'config.curve needs at least 2 learners (not {config.curve.learners}) and one fraction.')
  environment, demos, truth = _problem(config)
  learner = _learner(config, environment.num_actions)
  # NumPy here, so that nothing is bound to a device before the engine compiles.
  frames = jax.tree.map(np.asarray, make_frames(demos))
  shape, axis = truth.shape, axis_name(config)
  expand = (np.arange(shape[0])[:, None] * shape[1] + np.arange(demos.length) // config.block).reshape(-1)
  valid = demos.valid.reshape(-1).astype(np.float32)

  def branch(number: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), number)

  def cells(ids):
    sampled = sample_cells(branch(_MASKS), ids, *shape, config.keep, config.antithetic)
    return sampled.reshape(len(ids), -1)

  jax.eval_shape(cells, jax.ShapeDtypeStruct((2,), jnp.int32))  # wrong settings end here, not inside a step

  def play(kept_cells, ids, number):
    keys = jax.vmap(lambda i: jax.random.fold_in(branch(number), i))(ids)
    result = retrain(
      learner,
      environment,
      jax.tree.map(jnp.asarray, frames),
      keys,
      kept_cells[:, expand] * valid,
      episodes=config.play.episodes,
      epsilon=config.play.epsilon,
      batching=config.learner.batching,
    )
    return result.returns.mean(axis=1), result.kept

  def gather(x):
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)

  def map_init(key, batch, earlier):
    del key, batch, earlier
    return MapState(importance_init(truth.size, gram=True, xp=jnp), jnp.zeros(config.masks), jnp.zeros(config.masks))

  def map_step(state, batch, key):
    del key
    masks = cells(batch['id'])
    ids, masks, returns, kept = jax.tree.map(gather, (batch['id'], masks, *play(masks, batch['id'], _LEARNERS)))
    new = MapState(
      importance_update(state.stats, masks, returns),
      state.returns.at[ids].set(returns),
      state.kept.at[ids].set(kept),
    )
    return new, {'return': returns.mean(), 'return_sd': returns.std(), 'empty_masks': jnp.sum(kept == 0) * 1.0}

  points = [(o, float(f)) for o in range(len(ORDERS)) for f in config.curve.fractions]
  order, fraction = (np.repeat(np.asarray(x), config.curve.learners) for x in zip(*points, strict=True))

  def curve_init(key, batch, earlier):
    del key, batch
    return CurveState(finalise(earlier['map'].stats, config.estimator, config.keep).value, jnp.zeros(len(order)))

  def curve_step(state, batch, key):
    del key
    ids = batch['id']
    share = jnp.asarray(fraction, jnp.float32)[ids]
    kept_cells = curve_cells(branch(_ORDERS), state.value, jnp.asarray(order)[ids], share, ids)
    ids, returns = jax.tree.map(gather, (ids, play(kept_cells, ids, _CURVE)[0]))
    return state._replace(returns=state.returns.at[ids].set(returns)), {'return': returns.mean()}

  def all_masks():
    ids = jnp.arange(config.masks)
    return np.asarray(jax.jit(cells)(ids)).reshape(-1, *shape)

  settings = report.Settings(
    demos,
    truth,
    config.block,
    config.estimator,
    config.keep,
    config.antithetic,
    config.permutations,
    tuple((ORDERS[o], f) for o, f in points),
    config.curve.learners,
    all_masks,
  )

  def once(size):
    return lambda: [{'valid': np.ones(size // jax.process_count(), bool)}]

  stages = [
    Stage(
      'map',
      config.masks // config.chunk,
      Numbers(config.chunk, config.masks),
      map_init,
      map_step,
      [
        Evaluation(
          'map',
          once(config.chunk),
          lambda state, batch: (state.returns, state.kept),
          lambda outputs: report.map_metrics(*list(outputs)[-1], settings),
        )
      ],
    ),
    Stage(
      'curve',
      -(-len(order) // config.curve.chunk),
      Numbers(config.curve.chunk, len(order)),
      curve_init,
      curve_step,
      [
        Evaluation(
          'curve',
          once(config.curve.chunk),
          lambda state, batch: state.returns,
          lambda outputs: report.curve_metrics(list(outputs)[-1], settings),
        )
      ],
    ),
  ]

  def draw(states: Mapping[str, Any], page: Any) -> None:
    report.draw(states, page, settings)

  return Experiment(stages, draw)
