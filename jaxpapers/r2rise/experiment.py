"""Binds the settings of configs/r2rise.py to functions. The only file of the room that reads the config."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from jaxpapers.engine import Evaluation, Experiment, Stage, UserError, axis_name
from jaxpapers.engine.parallel import make_mesh
from jaxpapers.r2rise import breakout10, forks, report, summary
from jaxpapers.r2rise.bc import BcOptions, Validation, behaviour_cloning
from jaxpapers.r2rise.bco import BcoOptions, bco
from jaxpapers.r2rise.demos import corrupt, make_demonstrations
from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.gail import GailNets, GailOptions, gail
from jaxpapers.r2rise.importance import ESTIMATORS
from jaxpapers.r2rise.learners import Learner, make_frames
from jaxpapers.r2rise.masks import cells_of
from jaxpapers.r2rise.model import Mlp, NatureCnn, Table
from jaxpapers.r2rise.results import Results
from jaxpapers.r2rise.retrain import ORDERS
from jaxpapers.r2rise.returns_log import ReturnsLog
from jaxpapers.r2rise.stage import Functions, MaskPlan, Numbers, Plan, map_and_curve

LEARNERS = ('bc', 'bco', 'gail')  # a learner's place here is its branch of the run's key


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """A stage per learner: it is retrained on every mask, and then on the top, bottom and random cells of its map."""
  try:
    return _experiment(config)
  except ValueError as error:
    raise UserError(str(error)) from error


def _problem(config):
  """(environment, demonstrations, truth [E, cells])."""
  episodes, block = config.demos.episodes, config.mask.block
  if config.environment == 'forks':
    options = config.forks.to_dict()
    game = {name: value for name, value in options.items() if name != 'filler_actions'}
    demos, truth = forks.forks_demonstrations(config.seed, episodes, **options)
    cells = cells_of(demos.length, block)
    padded = np.pad(truth, ((0, 0), (0, cells * block - demos.length)))
    return forks.make_forks(config.seed, **game), demos, padded.reshape(episodes, cells, -1).any(axis=2)
  if config.environment == 'breakout10':
    environment = breakout10.make_breakout10(config.play.max_steps)
    length, noise = config.demos.length, config.demos.noise
    make = jax.jit(lambda key: breakout10.noisy_expert(environment, key, episodes, length, noise))
    observations, actions, _, first = jax.device_get(make(jax.random.key(config.seed)))
    demos = make_demonstrations(observations, actions, first=first, num_actions=environment.num_actions)
    cells_of(length, block)
    return environment, *corrupt(demos, config.seed, config.demos.corrupt, block, environment.num_actions)
  raise ValueError(f'config.environment={config.environment!r} is not known; known: forks, breakout10.')


def _network(name: str, hidden: tuple[int, ...], outputs: int, field: str):
  networks = {
    'table': lambda: Table(outputs),
    'mlp': lambda: Mlp(tuple(hidden), outputs),
    'nature': lambda: NatureCnn(outputs),
  }
  return _choice(networks, name, field)()


def _choice(known: Mapping[str, Any], name: str, field: str) -> Any:
  if name not in known:
    raise ValueError(f'{field}={name!r} is not known; known: {", ".join(known)}.')
  return known[name]


def _bc(options, environment: Environment) -> Learner:
  optimizer = _choice({'sgd': optax.sgd, 'adam': optax.adam}, options.optimizer, 'config.bc.optimizer')
  optimizer = optimizer(options.learning_rate)
  if options.l2:
    optimizer = optax.chain(optax.add_decayed_weights(options.l2), optimizer)
  network = _network(options.network, options.hidden, environment.num_actions, 'config.bc.network')
  validation = Validation(**options.validation) if options.validation.fraction else None
  return behaviour_cloning(network, optimizer, BcOptions(options.steps, options.batch, options.sampling, validation))


def _bco(options, environment: Environment) -> Learner:
  settings = BcoOptions(**{name: options[name] for name in BcoOptions._fields})
  policy, inverse = (
    _network(options.network, options.hidden, environment.num_actions, 'config.bco.network') for _ in range(2)
  )
  return bco(policy, inverse, environment, optax.adam(options.learning_rate), settings)


def _gail(options, environment: Environment) -> Learner:
  own = [name for name in GailOptions._fields if name in options]
  settings = GailOptions(environment.num_actions, **{name: options[name] for name in own})
  nets = [
    _network(options.network, options.hidden, outputs, 'config.gail.network')
    for outputs in (environment.num_actions, 1, 1)
  ]
  return gail(GailNets(*nets), environment, settings, options.iterations, options.episodes, options.horizon)


def _learner(config, name: str, environment: Environment) -> Learner:
  return _choice({'bc': _bc, 'bco': _bco, 'gail': _gail}, name, 'config.learners')(config[name], environment)


def _check(config) -> None:
  if config.estimator not in ESTIMATORS:
    raise ValueError(f'config.estimator={config.estimator!r} is not known; known: {", ".join(ESTIMATORS)}.')
  if config.estimator == 'antithetic' and not config.mask.antithetic:
    raise ValueError("config.estimator='antithetic' needs config.mask.antithetic=True.")
  if not config.learners or len(set(config.learners)) < len(config.learners):
    raise ValueError(f'config.learners={config.learners} must name at least one learner, and none twice.')
  if config.seeds < 1:
    raise ValueError(f'config.seeds={config.seeds} must be at least 1.')
  if config.curve.learners < 2 or not config.curve.fractions:
    raise ValueError(f'config.curve needs at least 2 learners (not {config.curve.learners}) and one fraction.')
  bad = [f for f in config.curve.fractions if not 0.0 < f < 1.0]
  if bad:
    raise ValueError(f'config.curve.fractions holds {bad[0]}: a share of the cells lies in (0, 1).')
  if not 0.0 <= config.stop.target < 1.0:
    raise ValueError(f'config.stop.target={config.stop.target} must lie in [0, 1): it is a rank correlation.')
  if not 0.0 <= config.play.epsilon <= 1.0 or config.play.episodes < 1:
    raise ValueError(
      f'config.play.epsilon={config.play.epsilon} must lie in [0, 1] and episodes={config.play.episodes} be positive.'
    )


def _plan(config, name: str, masks: MaskPlan, truth: np.ndarray | None) -> Plan:
  """The plan of learner `name`."""
  options = config[name]
  parts = 4 if masks.antithetic else 2
  if options.chunk < parts or options.chunk % parts:
    raise ValueError(
      f'config.{name}.chunk={options.chunk} must be a multiple of {parts}: halves of a chunk make half maps.'
    )
  if options.masks < 4 or options.masks % options.chunk:
    raise ValueError(
      f'config.{name}.masks={options.masks} must be at least 4 and a multiple of config.{name}.chunk={options.chunk}.'
    )
  if masks.smooth and options.get('sampling') == 'permute':
    raise ValueError(f"config.{name}.sampling='permute' takes frames or leaves them: smooth masks need iid or full.")
  points = [(order, float(f)) for order in ORDERS for f in config.curve.fractions] + [('all', 1.0)]
  if truth is not None:
    points.append(('truth', float(truth.mean())))
  return Plan(
    masks,
    options.masks,
    config.seeds,
    options.chunk,
    tuple(points),
    config.curve.learners,
    config.estimator,
    None if truth is None else truth.reshape(-1),
    config.stop.target,
    config.stop.min_masks,
  )


def _log(config, name: str) -> ReturnsLog | None:
  """The log of a learner's returns, about everything that they depend on."""
  if not config.report.log:
    return None
  settings = json.loads(config.to_json_best_effort())
  others = {'report', 'checkpoint', 'mesh', 'log_every', 'transfer_guard', 'parallel', 'variant', 'learners'}
  others |= {'permutations', 'estimator', 'curve', 'stop', 'seeds', *LEARNERS} - {name}
  about = {key: value for key, value in settings.items() if key not in others}
  about[name] = {key: value for key, value in about[name].items() if key not in ('masks', 'chunk', 'batching')}
  return ReturnsLog(os.path.join(config.report.log, f'{name}.jsonl'), about)


def _experiment(config) -> Experiment:
  _check(config)
  environment, demos, truth = _problem(config)
  masks = MaskPlan(demos.episodes, demos.length, **config.mask).check()
  truth = None if truth is None else masks.truth(truth)
  learners = {name: _learner(config, name, environment) for name in config.learners}
  plans = {name: _plan(config, name, masks, truth) for name in config.learners}
  # NumPy here, so that nothing is bound to a device before the engine compiles.
  frames = jax.tree.map(np.asarray, make_frames(demos))
  valid = demos.valid.reshape(-1).astype(np.float32)
  axis = axis_name(config)
  mesh = make_mesh(config.mesh) if config.parallel == 'jit' and jax.device_count() > 1 else None
  functions = {
    name: map_and_curve(
      learner,
      environment,
      frames,
      valid,
      plans[name],
      lambda name=name: jax.random.fold_in(jax.random.key(config.seed), LEARNERS.index(name)),
      episodes=config.play.episodes,
      epsilon=config.play.epsilon,
      batching=config[name].batching,
      common=config.play.common,
      mesh=mesh,
      axis=axis,
    )
    for name, learner in learners.items()
  }

  def result(name: str, state: Any):
    plan = plans[name]
    returns, kept = (np.asarray(x).reshape(plan.seeds, plan.count) for x in (state.returns, state.kept))
    masks = functions[name].masks()
    return summary.learner_result(name, returns, kept, state.curve, masks, plan, config.permutations)

  def draw(states: Mapping[str, Any], page: Any) -> None:
    found = tuple(result(name, states[name]) for name in config.learners)
    compared = summary.agreement_matrix(found, plans)
    results = Results(
      environment=environment.name,
      demos=demos,
      truth=truth,
      block=1 if masks.smooth else masks.block,
      estimator=config.estimator,
      keep=masks.keep,
      learners=found,
      agreement=compared,
      baselines={},
    )
    summary.save_maps(page.folder / 'map.npz', results)
    report.draw(results, page)
    page.results(
      **{
        found.name: {'map': summary.map_metrics(found, plans[found.name]), 'curve': summary.curve_metrics(found.curve)}
        for found in results.learners
      },
      agreement=compared.__dict__,
    )

  stages = [
    _stage(
      config,
      name,
      functions[name],
      plans[name],
      _log(config, name),
      lambda state, name=name: summary.map_metrics(result(name, state), plans[name]),
    )
    for name in config.learners
  ]
  return Experiment(stages, draw)


def _stage(config, name: str, functions: Functions, plan: Plan, log: ReturnsLog | None, map_metrics) -> Stage:
  hosts = jax.process_count()
  shape = (plan.seeds, plan.count)

  def once():
    return [{'valid': np.ones(plan.chunk // hosts, bool)}]

  def so_far(outputs):
    state = list(outputs)[-1]
    returns, kept = (np.asarray(x).reshape(shape) for x in (state.returns, state.kept))
    if log is not None and jax.process_index() == 0:
      done = np.flatnonzero(summary.trained_masks(state.returns, state.kept))
      for part in np.split(done, np.flatnonzero(np.diff(done // plan.chunk)) + 1):
        log.append(part, state.returns[part], state.kept[part], config.play.episodes)
    return summary.progress(returns, kept, functions.masks(), plan)

  def curve(outputs):
    return summary.curve_metrics(summary.retraining_curve(list(outputs)[-1].curve, plan))

  return Stage(
    name,
    plan.steps,
    Numbers(plan, log.known if log else None, hosts, jax.process_index()),
    functions.init,
    functions.step,
    [
      Evaluation('so_far', once, lambda state, batch: state, so_far, every=1),
      Evaluation('map', once, lambda state, batch: state, lambda outputs: map_metrics(list(outputs)[-1])),
      Evaluation('curve', once, lambda state, batch: state, curve),
    ],
  )
