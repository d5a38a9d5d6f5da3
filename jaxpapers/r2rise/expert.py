"""An expert for an environment without a scripted one: PPO (Schulman et al. 2017) as one program, kept in a file.

It is small on purpose: seconds for classic control and MinAtar. For games on the host bring demonstrations instead.
"""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.r2rise.environments import Environment, restart
from jaxpapers.r2rise.model import Mlp, as_input


class ExpertOptions(NamedTuple):
  """Settings of PPO.

  Attributes:
    updates: rounds of play and learning.
    copies, horizon: games played side by side, and decisions of each in a round.
    epochs, minibatches: passes over a round, and parts of each.
    rate: of Adam, falling linearly to 0.
    gamma, lam: discount and GAE's lambda.
    clip: of the ratio of probabilities.
    entropy: weight of the entropy bonus.
    hidden: widths of the network, whose outputs are logits and the value.
  """

  updates: int = 200
  copies: int = 32
  horizon: int = 64
  epochs: int = 4
  minibatches: int = 4
  rate: float = 3e-3
  gamma: float = 0.99
  lam: float = 0.95
  clip: float = 0.2
  entropy: float = 0.01
  hidden: tuple[int, ...] = (64, 64)


class Round(NamedTuple):
  """What was played in a round, [horizon, copies, ...] each."""

  observations: jax.Array
  actions: jax.Array
  log_probs: jax.Array
  values: jax.Array
  rewards: jax.Array
  done: jax.Array


def generalised_advantages(played: Round, last_value: jax.Array, gamma: float, lam: float) -> jax.Array:
  """GAE (Schulman et al. 2016), [horizon, copies]; nothing is carried over the end of an episode.

  Args:
    played: the round.
    last_value: [copies] value of the state after it.
    gamma: discount.
    lam: decay of the n-step estimates.
  """

  def body(carry, x):
    advantage, following = carry
    reward, value, done = x
    going = 1.0 - done
    delta = reward + gamma * following * going - value
    advantage = delta + gamma * lam * going * advantage
    return (advantage, value), advantage

  xs = played.rewards, played.values, played.done.astype(jnp.float32)
  return jax.lax.scan(body, (jnp.zeros_like(last_value), last_value), xs, reverse=True)[1]


def clipped_loss(logits: jax.Array, values: jax.Array, batch: Any, options: ExpertOptions) -> jax.Array:
  """PPO's loss of a minibatch: clipped surrogate, half the squared error of the value, and the entropy bonus."""
  observations_, actions, old, advantages, targets = batch
  del observations_
  log_probs = jax.nn.log_softmax(logits)
  ratio = jnp.exp(jnp.take_along_axis(log_probs, actions[:, None], axis=1)[:, 0] - old)
  advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
  surrogate = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - options.clip, 1 + options.clip) * advantages)
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=1)
  return -surrogate.mean() + 0.5 * jnp.mean((values - targets) ** 2) - options.entropy * entropy.mean()


def network_of(environment: Environment, options: ExpertOptions) -> Mlp:
  """Observations -> [n, A + 1], logits and value."""
  return Mlp(tuple(options.hidden), environment.num_actions + 1, jnp.tanh)


def train_expert(environment: Environment, options: ExpertOptions, key: jax.Array) -> tuple[dict[str, Any], jax.Array]:
  """A policy by PPO: a pure function of the key, one program.

  Args:
    environment: without a host.
    options: settings.
    key: of everything.

  Returns:
    (params of `network_of`, [updates] mean return of the episodes that ended in each round, NaN where none did).

  Raises:
    ValueError: for an environment on the host, or copies that do not split into minibatches.
  """
  if not environment.pure:
    raise ValueError(
      f'No expert is trained for {environment.name}, which runs on the host: give demonstrations '
      '(demos.source npz or minari).'
    )
  size = options.copies * options.horizon
  if size % options.minibatches:
    raise ValueError(f'{size} decisions a round do not split into minibatches={options.minibatches}.')
  network, actions_count = network_of(environment, options), environment.num_actions
  steps = options.updates * options.epochs * options.minibatches
  optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.linear_schedule(options.rate, 0.0, steps)))

  def forward(params, observations):
    out = network.apply({'params': params}, as_input(observations))
    return out[:, :actions_count], out[:, actions_count]

  def play(params, carry, step_key):
    state, total, time = carry
    act_key, restart_key = jax.random.split(step_key)
    observations = environment.observe(state)
    logits, values = forward(params, observations)
    actions = jax.random.categorical(act_key, logits)
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[:, None], axis=1)[:, 0]
    new, rewards, done = environment.step(state, actions)
    total, time = total + rewards, time + 1
    done = done | (time >= environment.max_steps)
    new = restart(environment, jax.random.split(restart_key, options.copies), new, done)
    row = Round(observations, actions, log_probs, values, rewards, done)
    return (new, jnp.where(done, 0.0, total), jnp.where(done, 0, time)), (row, total)

  def learn(params, opt_state, data, key):
    def minibatch(carry, batch):
      params, opt_state = carry
      grads = jax.grad(lambda p: clipped_loss(*forward(p, batch[0]), batch, options))(params)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state), None

    def epoch(carry, epoch_key):
      order = jax.random.permutation(epoch_key, size).reshape(options.minibatches, -1)
      return jax.lax.scan(minibatch, carry, jax.tree.map(lambda x: x[order], data))[0], None

    return jax.lax.scan(epoch, (params, opt_state), jax.random.split(key, options.epochs))[0]

  def a_round(carry, round_key):
    params, opt_state, games = carry
    play_key, learn_key = jax.random.split(round_key)
    keys = jax.random.split(play_key, options.horizon)
    games, (played, totals) = jax.lax.scan(lambda c, k: play(params, c, k), games, keys)
    last_value = forward(params, environment.observe(games[0]))[1]
    advantages = generalised_advantages(played, last_value, options.gamma, options.lam)
    data = played.observations, played.actions, played.log_probs, advantages, advantages + played.values
    data = jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), data)
    params, opt_state = learn(params, opt_state, data, learn_key)
    ended = played.done.sum()
    mean = jnp.where(ended > 0, jnp.sum(jnp.where(played.done, totals, 0.0)) / jnp.maximum(ended, 1), jnp.nan)
    return (params, opt_state, games), mean

  init_key, reset_key, loop_key = jax.random.split(key, 3)
  state = environment.reset(jax.random.split(reset_key, options.copies))
  params = network.init(init_key, as_input(environment.observe(state)[:1]))['params']
  games = (state, jnp.zeros(options.copies), jnp.zeros(options.copies, jnp.int32))
  carry = (params, optimizer.init(params), games)
  (params, _, _), returns = jax.lax.scan(a_round, carry, jax.random.split(loop_key, options.updates))
  return params, returns


def with_expert(environment: Environment, params: dict[str, Any], options: ExpertOptions) -> Environment:
  """The environment with the greedy policy of `params` as its expert."""
  network = network_of(environment, options)

  def expert(state: Any) -> jax.Array:
    out = network.apply({'params': params}, as_input(environment.observe(state)))
    return jnp.argmax(out[:, : environment.num_actions], axis=1).astype(jnp.int32)

  return environment._replace(expert=expert)


def cached_expert(environment: Environment, options: ExpertOptions, seed: int, folder: str) -> Environment:
  """The environment with its scripted expert, or else with one trained here or read from `folder`.

  The file's name tells environment, settings and seed apart; a damaged one is written anew.

  Args:
    environment: any.
    options: of the training.
    seed: of the training.
    folder: where experts are kept; '' keeps none.

  Raises:
    ValueError: as `train_expert`.
  """
  if environment.expert is not None:
    return environment
  told = (environment.name, environment.observation_shape, environment.max_steps, tuple(options), seed)
  digest = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
  path = Path(folder) / f'{environment.name.replace("/", "-")}-{digest}.npz' if folder else None
  params = _read(path) if path else None
  if params is None:
    params, returns = jax.device_get(jax.jit(lambda key: train_expert(environment, options, key))(jax.random.key(seed)))
    if path:
      _write(path, {**{'/'.join(k): v for k, v in flax.traverse_util.flatten_dict(params).items()}, 'returns': returns})
  return with_expert(environment, params, options)


def _read(path: Path) -> dict[str, Any] | None:
  try:
    with np.load(path, allow_pickle=False) as file:
      flat = {tuple(name.split('/')): file[name] for name in file.files if name != 'returns'}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):
    return None
  return flax.traverse_util.unflatten_dict(flat)


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
  """Written beside and renamed, so that a reader never meets half a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix(f'.{os.getpid()}.part')
  with part.open('wb') as file:
    np.savez(file, **arrays)
  part.replace(path)
