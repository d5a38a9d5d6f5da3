"""Retraining mask after mask, as one writes it first, for `launch/benchmark.py --peer=loop` and `--peer=torch`.

All train and play the learner `bc` of the settings on the same masks; a row's examples are masks. They stand beside the
row `bc train`, whose step retrains `config.bc.chunk` learners as one program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement, median_seconds
from jaxpapers.r2rise.bc import update
from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.experiment import bc_parts
from jaxpapers.r2rise.learners import Frames, Learner, make_frames
from jaxpapers.r2rise.model import as_input
from jaxpapers.r2rise.problem import make_problem
from jaxpapers.r2rise.retrain import retrain

_MASKS = 2  # a call of a loop
BESIDE = 'bc train'


class Task(NamedTuple):
  """What is retrained: a game, frames, the learner and its pieces, masks over frames [masks, n], and how it plays."""

  environment: Environment
  frames: Frames
  learner: Learner
  network: Any
  optimizer: Any
  weights: np.ndarray
  options: ml_collections.ConfigDict
  episodes: int
  epsilon: float


def make_task(config: ml_collections.ConfigDict) -> Task:
  """The learner `bc` of the settings and a few of its masks."""
  problem = make_problem(
    config.environment,
    seed=config.seed,
    block=config.mask.block,
    max_steps=config.play.max_steps,
    forks=config.forks.to_dict(),
    demos=config.demos.to_dict(),
  )
  demos, block = problem.demos, config.mask.block
  cells = np.random.default_rng(config.seed).random((_MASKS, demos.episodes, -(-demos.length // block)))
  weights = np.repeat(cells < config.mask.keep, block, axis=2)[:, :, : demos.length] & demos.valid
  return Task(
    problem.environment,
    make_frames(demos),
    *bc_parts(config.bc, problem.environment),
    weights.reshape(_MASKS, -1).astype(np.float32),
    config.bc,
    config.play.episodes,
    config.play.epsilon,
  )


def one_by_one(task: Task) -> Callable[[], Any]:
  """A compiled program that trains and plays one learner, called once a mask."""
  play = dict(episodes=task.episodes, epsilon=task.epsilon)
  program = jax.jit(
    lambda keys, weights: retrain(task.learner, task.environment, task.frames, keys, weights, **play).returns.mean()
  )
  keys = jax.random.split(jax.random.key(0), _MASKS)
  return lambda: [program(keys[i : i + 1], task.weights[i : i + 1]) for i in range(_MASKS)]


def python_loop(task: Task) -> Callable[[], Any]:
  """Loops over masks, updates and decisions in Python; the update, the policy and the games' step are compiled.

  Batches are drawn by NumPy; a learner's episodes are played side by side until all are done.
  """
  network, optimizer, game, options = task.network, task.optimizer, task.environment, task.options
  count = task.weights.shape[1]
  observations, actions = np.asarray(task.frames.observations)[:count], np.asarray(task.frames.actions)
  fit = jax.jit(lambda params, opt_state, *batch: update(network, optimizer, params, opt_state, *batch)[:2])
  begin = jax.jit(lambda key: network.init(key, as_input(task.frames.observations[:1]))['params'])
  act = jax.jit(lambda params, state, key: task.learner.act(params, game.observe(state), key))
  reset, step = jax.jit(game.reset), jax.jit(game.step)

  def one(number: int) -> float:
    rng, key = np.random.default_rng(number), jax.random.key(number)
    params = begin(key)
    opt_state = optimizer.init(params)
    kept = np.flatnonzero(task.weights[number])
    for _ in range(options.steps):
      if options.sampling == 'full':
        params, opt_state = fit(params, opt_state, observations, actions, task.weights[number])
      else:
        index = rng.choice(kept, options.batch)
        ones = np.ones(options.batch, np.float32)
        params, opt_state = fit(params, opt_state, observations[index], actions[index], ones)
    state = reset(jax.random.split(key, task.episodes))
    alive, total = np.ones(task.episodes, bool), np.zeros(task.episodes)
    for _ in range(game.max_steps):
      chosen = np.array(act(params, state, key))
      random = rng.random(task.episodes) < task.epsilon
      chosen[random] = rng.integers(0, game.num_actions, random.sum())
      state, reward, done = step(state, chosen)
      total += np.where(alive, reward, 0.0)
      alive &= ~np.asarray(done)
      if not alive.any():
        break
    return total.mean()

  return lambda: [one(number) for number in range(_MASKS)]


def torch_loop(task: Task, threads: int) -> Callable[[], Any]:
  """Eager PyTorch in the structure of the authors' program: Python loops, one game after another, batch by batch.

  Raises:
    UserError: without PyTorch, or for the network 'nature'.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError('--peer=torch needs PyTorch: pip install -e ".[torch]".') from error
  if task.options.network == 'nature':
    raise UserError("--peer=torch times config.bc.network 'table' and 'mlp'.")
  if threads:
    torch.set_num_threads(threads)
  game, options, count = task.environment, task.options, task.weights.shape[1]
  observations = np.asarray(as_input(task.frames.observations[:count])).reshape(count, -1)
  actions = np.asarray(task.frames.actions).astype(np.int64)
  reset, step, observe = jax.jit(game.reset), jax.jit(game.step), jax.jit(lambda s: as_input(game.observe(s)))
  optimizers = {'sgd': torch.optim.SGD, 'adam': torch.optim.Adam}

  def network() -> Any:
    sizes = [observations.shape[1], *(options.hidden if options.network == 'mlp' else ()), game.num_actions]
    layers = [torch.nn.Linear(a, b, bias=options.network == 'mlp') for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    return torch.nn.Sequential(*(x for layer in layers for x in (layer, torch.nn.ReLU())))[:-1]

  def one(number: int) -> float:
    rng, model = np.random.default_rng(number), network()
    optimizer = optimizers[options.optimizer](model.parameters(), lr=options.learning_rate)
    kept = np.flatnonzero(task.weights[number])
    for _ in range(options.steps):
      index = kept if options.sampling == 'full' else rng.choice(kept, options.batch)
      batch, labels = torch.from_numpy(observations[index]), torch.from_numpy(actions[index])
      loss = torch.nn.functional.cross_entropy(model(batch), labels)
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
    returns = []
    for episode in range(task.episodes):
      state, total = reset(jax.random.key(number * task.episodes + episode)[None]), 0.0
      for _ in range(game.max_steps):
        with torch.inference_mode():
          logits = model(torch.from_numpy(np.array(observe(state)).reshape(1, -1)))
        action = int(logits.argmax())
        if rng.random() < task.epsilon:
          action = int(rng.integers(0, game.num_actions))
        state, reward, done = step(state, np.array([action], np.int32))
        total += float(reward[0])
        if done[0]:
          break
      returns.append(total)
    return float(np.mean(returns))

  return lambda: [one(number) for number in range(_MASKS)]


def loop_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """Mask after mask in JAX: one compiled program a mask, and Python loops over compiled pieces.

  Args:
    config: the room's settings.
    repeats: timed calls of two masks each.
    threads: not used: start with taskset to limit JAX.
  """
  del threads
  task = make_task(config)
  calls = {'bc, a program a mask': one_by_one(task), 'bc, loops over jitted pieces': python_loop(task)}
  return [Measurement(name, _MASKS, median_seconds(call, repeats), beside=BESIDE) for name, call in calls.items()]


def torch_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """Mask after mask in eager PyTorch.

  Args:
    config: the room's settings.
    repeats: timed calls of two masks each.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if PyTorch is missing or the network is none of 'table' and 'mlp'.
  """
  call = torch_loop(make_task(config), threads)
  return [Measurement('bc, eager PyTorch loops', _MASKS, median_seconds(call, repeats), beside=BESIDE)]


PEERS: dict[str, Callable[..., list[Measurement]]] = {'loop': loop_peer, 'torch': torch_peer}
