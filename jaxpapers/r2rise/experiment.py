"""Binds the settings of configs/r2rise.py to functions. The only file of the room that reads the config."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers.engine import (
  Evaluation,
  Experiment,
  Stage,
  TrainState,
  UserError,
  axis_name,
  load_variables,
  merge_variables,
)
from jaxpapers.engine.parallel import make_mesh
from jaxpapers.r2rise import report, summary
from jaxpapers.r2rise.attribution import baseline_scores
from jaxpapers.r2rise.bc import BcOptions, Validation, behaviour_cloning
from jaxpapers.r2rise.bco import BcoOptions, bco
from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.gail import GailNets, GailOptions, flat_features, gail
from jaxpapers.r2rise.importance import ESTIMATORS
from jaxpapers.r2rise.learners import BATCHINGS, Learner, make_frames
from jaxpapers.r2rise.masks import check_chunk
from jaxpapers.r2rise.model import Mlp, NatureCnn, Table, as_input, nature_features
from jaxpapers.r2rise.official import import_layers, import_official
from jaxpapers.r2rise.problem import Problem, make_problem
from jaxpapers.r2rise.results import Results
from jaxpapers.r2rise.retrain import ORDERS
from jaxpapers.r2rise.returns_log import ReturnsLog
from jaxpapers.r2rise.rollouts import evaluate
from jaxpapers.r2rise.stage import Functions, MaskPlan, Numbers, Plan, map_and_curve

Features = Callable[[jax.Array], jax.Array]
LEARNERS = ('bc', 'bco', 'gail')  # a learner's place here is its branch of the run's key
_POLICY_EPISODES = 64
FEATURES = ('observations', 'nature')


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """A stage per learner: it is retrained on every mask, and then on the top, bottom and random cells of its map."""
  try:
    return _experiment(config)
  except ValueError as error:
    raise UserError(str(error)) from error


def _network(options, outputs: int) -> nn.Module:
  networks = {'table': Table(outputs), 'mlp': Mlp(tuple(options.hidden), outputs), 'nature': NatureCnn(outputs)}
  return networks[_known(options.network, networks, 'config.bc.network')]


def _optimizer(options) -> optax.GradientTransformation:
  optimizers = {'sgd': optax.sgd, 'adam': optax.adam}
  chosen = optimizers[_known(options.optimizer, optimizers, 'config.bc.optimizer')](options.learning_rate)
  return optax.chain(optax.add_decayed_weights(options.l2), chosen) if options.l2 else chosen


def _differentiable(options) -> optax.GradientTransformation | None:
  """The optimizer with a derivative everywhere; None for a network too large to keep of every step."""
  if options.network == 'nature':
    return None
  return optax.adam(options.learning_rate, eps_root=1e-8) if options.optimizer == 'adam' else _optimizer(options)


def _known(name: str, known: Iterable[str], field: str) -> str:
  if name not in known:
    raise ValueError(f'{field}={name!r} is not known; known: {", ".join(known)}.')
  return name


def bc_parts(options: Any, environment: Environment, start: Any = None) -> tuple[Learner, nn.Module, Any]:
  """(learner, its network, its optimizer) of the settings `config.bc`, all trainings from parameters `start` if given.

  Raises:
    ValueError: naming a setting that cannot be.
  """
  validation = Validation(**options.validation) if options.validation.fraction else None
  settings = BcOptions(options.steps, options.batch, options.sampling, validation)
  network, optimizer = _network(options, environment.num_actions), _optimizer(options)
  return behaviour_cloning(network, optimizer, settings, start), network, optimizer


def _bco(options, environment: Environment, features: Features) -> Learner:
  settings = BcoOptions(**{name: options[name] for name in BcoOptions._fields})
  net = Mlp(tuple(options.hidden), environment.num_actions, nn.leaky_relu)
  return bco(net, net, environment, optax.adam(options.learning_rate), settings, features)


def _gail(options, environment: Environment, features: Features) -> Learner:
  own = [name for name in GailOptions._fields if name in options]
  settings = GailOptions(environment.num_actions, **{name: options[name] for name in own})
  sizes = (options.hidden, environment.num_actions), (options.hidden, 1), (options.discriminator, 1)
  nets = GailNets(*(Mlp(tuple(hidden), outputs, nn.tanh) for hidden, outputs in sizes))
  return gail(nets, environment, settings, options.iterations, options.episodes, options.horizon, features)


def _learner(config, name: str, environment: Environment, start: Any) -> Learner:
  options = config[_known(name, LEARNERS, 'config.learners')]
  if name == 'bc':
    return bc_parts(options, environment, start)[0]
  _known(options.features, FEATURES, f'config.{name}.features')
  if options.features == 'observations':
    features = flat_features
  elif start is None or 'cnn' not in start:
    raise ValueError(
      f"config.{name}.features='nature' needs config.init_from: a workdir with a policy of config.bc.network='nature'."
    )
  else:
    features = nature_features(start['cnn'])
  return (_bco if name == 'bco' else _gail)(options, environment, features)


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Variables of stage `policy` from arrays under PyTorch's names: the authors' BC network, or layers of a perceptron.

  Raises:
    UserError: if they are not those of `config.bc` and the environment.
  """
  try:
    environment = _problem(config).environment
    if config.bc.network == 'nature':
      return import_official(state, environment.num_actions)
    network = _network(config.bc, environment.num_actions)
    shapes = jax.tree.map(lambda x: x.shape, _abstract(network, environment))
    return import_layers(state, shapes)
  except ValueError as error:
    raise UserError(str(error)) from error


def _abstract(network: nn.Module, environment: Environment) -> Any:
  example = jax.ShapeDtypeStruct((1, *environment.observation_shape), np.float32)
  return jax.eval_shape(network.init, jax.random.key(0), example)['params']


def _start(config, environment: Environment) -> Any:
  """Parameters of the policy in `config.init_from` as NumPy arrays, or None."""
  if not config.init_from:
    return None
  loaded = load_variables(config.init_from, prefer=['policy'])
  initial = {'params': _abstract(_network(config.bc, environment.num_actions), environment)}
  return jax.tree.map(np.asarray, merge_variables(initial, loaded)['params'])


def _problem(config) -> Problem:
  return make_problem(
    config.environment,
    seed=config.seed,
    block=config.mask.block,
    max_steps=config.play.max_steps,
    forks=config.forks.to_dict(),
    demos=config.demos.to_dict(),
  )


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


def _check_host_game(config, environment: Environment) -> None:
  """A game outside of JAX has one set of emulators in a process, and no axis of learners."""
  if environment.pure:
    return
  if jax.local_device_count() > 1:
    raise ValueError(
      f'{environment.name} plays on the host: use one device per process, not {jax.local_device_count()}.'
    )
  for name in ('bco', 'gail'):
    if name in config.learners and config[name].batching == 'vmap':
      raise ValueError(f"{environment.name} plays on the host: config.{name}.batching must be 'map'.")


def _plan(config, name: str, masks: MaskPlan, truth: np.ndarray | None) -> Plan:
  """The plan of learner `name`."""
  options = config[name]
  try:
    check_chunk(options.masks, options.chunk, masks.antithetic)
  except ValueError as error:
    raise ValueError(f'config.{name}: {error}') from error
  _known(options.batching, BATCHINGS, f'config.{name}.batching')
  if masks.smooth and options.get('sampling') == 'permute':
    raise ValueError(f"config.{name}.sampling='permute' takes frames or leaves them: smooth masks need iid or full.")
  points = [(order, float(f)) for order in ORDERS for f in config.curve.fractions] + [('all', 1.0)]
  if truth is not None:
    points.append(('truth', float(truth.mean())))
  # What an earlier learner finds important, given to this one.
  half = min(config.curve.fractions, key=lambda f: abs(f - 0.5))
  points += [(f'top_of_{other}', float(half)) for other in config.learners[: config.learners.index(name)]]
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
  _check_host_game(config, environment)
  start = _start(config, environment)
  learners = {name: _learner(config, name, environment, start) for name in config.learners}
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
      lambda name=name: _branch(config, name),
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
      baselines=baseline_scores(
        network,
        optimizer,
        BcOptions(config.bc.steps, config.bc.batch, config.bc.sampling),
        frames,
        valid,
        masks.expand(),
        masks.shape,
        _branch(config, 'baselines'),
        _differentiable(config.bc),
      ),
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

  policy, network, optimizer = bc_parts(config.bc, environment, start)
  stages = [_policy_stage(config, policy, network, environment, frames, valid)]
  stages += [
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


def _branch(config, name: str) -> jax.Array:
  """The key of a learner, of the policy or of the baselines."""
  return jax.random.fold_in(jax.random.key(config.seed), (*LEARNERS, 'policy', 'baselines').index(name))


def _policy_stage(config, learner: Learner, network: nn.Module, environment: Environment, frames, valid) -> Stage:
  """Behaviour cloning on all frames in one step: the policy that masks are compared with, or one that was imported."""
  hosts, size = jax.process_count(), config[config.learners[0]].chunk
  some = min(256, len(valid))

  def batch(step):
    return {'valid': np.ones(size // hosts, bool)}

  def init(key, batch, earlier):
    del batch, earlier
    params = network.init(key, as_input(jnp.asarray(frames.observations[:1])))['params']
    return TrainState(jnp.zeros((), jnp.int32), params, {}, (), None)

  def step(state, batch, key):
    del batch, key
    params = learner.train(_branch(config, 'policy'), jax.tree.map(jnp.asarray, frames), jnp.asarray(valid))
    logits = network.apply({'params': params}, as_input(jnp.asarray(frames.observations[:some])))
    right = (jnp.argmax(logits, axis=-1) == jnp.asarray(frames.actions[:some])) * valid[:some]
    return state.replace(step=state.step + 1, params=params), {'agrees_with_expert': right.sum() / valid[:some].sum()}

  def play(state, batch):
    del batch
    keys = jax.random.split(_branch(config, 'policy'), 1)
    params = jax.tree.map(lambda x: x[None], state.params)
    return evaluate(learner, environment, keys, params, _POLICY_EPISODES, config.play.epsilon)[0]

  def summarize(outputs):
    returns = np.asarray(list(outputs)[-1], np.float64)
    return {'return': returns.mean(), 'return_se': returns.std(ddof=1) / np.sqrt(len(returns))}

  return Stage('policy', 1, batch, init, step, [Evaluation('policy', lambda: [batch(0)], play, summarize)])


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
