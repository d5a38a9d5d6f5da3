"""Cheap scores of frames to set beside a map: they see one training and its loss, never the return.

Higher means more important throughout. A frame with a wrong action has a large loss, so that the frame loss finds such
frames at once; what it cannot know is which of the frames that are learned well the return depends on.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.r2rise.bc import BcOptions, update, weighted_cross_entropy
from jaxpapers.r2rise.learners import Frames, draw_frames
from jaxpapers.r2rise.model import as_input

BASELINES = ('frame_loss', 'gradient_norm', 'tracin', 'weight_gradient', 'random')
_BATCH = 256  # frames whose gradients are taken at once


def frame_losses(network: nn.Module, params: Any, frames: Frames) -> jax.Array:
  """Cross-entropy of every frame, [n] float32."""
  count = len(frames.actions)

  def one(pair):
    observation, action = pair
    logits = network.apply({'params': params}, as_input(observation[None]))
    return optax.softmax_cross_entropy_with_integer_labels(logits, action[None])[0]

  return jax.lax.map(one, (frames.observations[:count], frames.actions), batch_size=min(_BATCH, count))


def gradient_norms(network: nn.Module, params: Any, frames: Frames) -> jax.Array:
  """Norm of the gradient of every frame's loss by the parameters (GraNd, Paul et al. 2021), [n] float32."""
  count = len(frames.actions)

  def one(pair):
    def loss(params):
      logits = network.apply({'params': params}, as_input(pair[0][None]))
      return optax.softmax_cross_entropy_with_integer_labels(logits, pair[1][None])[0]

    return optax.global_norm(jax.grad(loss)(params))

  return jax.lax.map(one, (frames.observations[:count], frames.actions), batch_size=min(_BATCH, count))


def tracin(network: nn.Module, checkpoints: Any, rates: jax.Array, frames: Frames, weights: jax.Array) -> jax.Array:
  """Sum over checkpoints of rate * <gradient of a frame's loss, gradient of the mean loss> (Pruthi et al. 2020).

  An inner product with a fixed vector is the frame losses' derivative along it, so that no frame needs a gradient of
  its own.

  Args:
    network: observations -> logits.
    checkpoints: its parameters, leaves [K, ...].
    rates: [K] learning rates.
    frames: n of them.
    weights: [n], of the mean loss; 0 for padding.

  Returns:
    [n] float32.
  """
  chex.assert_rank([rates, weights], 1)
  count = len(frames.actions)

  def mean_loss(params):
    logits = network.apply({'params': params}, as_input(frames.observations[:count]))
    return weighted_cross_entropy(logits, frames.actions, weights)

  def one(pair):
    params, rate = pair
    direction = jax.grad(mean_loss)(params)
    return rate * jax.jvp(lambda p: frame_losses(network, p, frames), (params,), (direction,))[1]

  return jax.lax.map(one, (checkpoints, rates)).sum(axis=0)


def train_weighted(
  network: nn.Module,
  optimizer: optax.GradientTransformation,
  options: BcOptions,
  key: jax.Array,
  frames: Frames,
  valid: jax.Array,
  weights: jax.Array,
  checkpoints: int = 1,
) -> Any:
  """Behaviour cloning whose loss is weighted, differentiable by the weights.

  Frames are drawn uniformly from the valid ones; 'full' takes all.

  Args:
    network: observations -> logits.
    optimizer: any.
    options: steps, batch and sampling ('permute' draws as 'iid' here).
    key: of initial values and batches.
    frames: n of them.
    valid: [n], 0 for padding.
    weights: [n], of the losses.
    checkpoints: K parameters are kept, evenly spaced, the last among them.

  Returns:
    Parameters, leaves [K, ...].
  """
  chex.assert_equal_shape([valid, weights])
  init_key, batch_key = jax.random.split(key)
  count = len(weights)
  params = network.init(init_key, as_input(frames.observations[:1]))['params']

  @jax.checkpoint
  def body(carry, step):
    if options.sampling == 'full':
      batch = frames.observations[:count], frames.actions, weights * valid
    else:
      index = draw_frames(jax.random.fold_in(batch_key, step), valid, options.batch)
      batch = frames.observations[index], frames.actions[index], weights[index]
    return update(network, optimizer, *carry, *batch)[:2], None

  def part(carry, steps):
    carry, _ = jax.lax.scan(body, carry, steps)
    return carry, carry[0]

  size = -(-options.steps // checkpoints)
  steps = jnp.arange(size * checkpoints).reshape(checkpoints, size)
  return jax.lax.scan(part, (params, optimizer.init(params)), steps)[1]


def weight_gradient(
  network: nn.Module,
  optimizer: optax.GradientTransformation,
  options: BcOptions,
  key: jax.Array,
  frames: Frames,
  valid: jax.Array,
) -> jax.Array:
  """What more weight on a frame would take off the mean loss after training: the gradient through all of training.

  Reverse mode keeps every step's parameters: for small networks.

  Returns:
    [n] float32, minus the derivative by the frame's weight where all are 1.
  """

  def final_loss(weights):
    last = train_weighted(network, optimizer, options, key, frames, valid, weights)
    params = jax.tree.map(lambda x: x[-1], last)
    return jnp.sum(frame_losses(network, params, frames) * valid) / jnp.maximum(valid.sum(), 1.0)

  return -jax.grad(final_loss)(jnp.ones_like(valid)) * valid


def cell_means(scores: jax.Array, valid: jax.Array, expand: jax.Array, cells: int) -> jax.Array:
  """Means of frame scores [n] over the valid frames of every cell, [cells]; NaN where there are none.

  Args:
    scores: [n].
    valid: [n].
    expand: [n] int32, the cell of every frame.
    cells: their number.
  """
  chex.assert_equal_shape([scores, valid, expand])
  total = jnp.zeros(cells).at[expand].add(jnp.where(valid > 0, scores, 0.0))
  count = jnp.zeros(cells).at[expand].add(valid)
  return jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)


def baseline_scores(
  network: nn.Module,
  optimizer: optax.GradientTransformation,
  options: BcOptions,
  frames: Frames,
  valid: jax.Array,
  expand: np.ndarray,
  shape: tuple[int, int],
  key: jax.Array,
  differentiable: optax.GradientTransformation | None = None,
  checkpoints: int = 5,
) -> dict[str, np.ndarray]:
  """Scores of every cell by cheap methods, from one training on all frames.

  Args:
    network: of the learner.
    optimizer: of the learner; TracIn takes its rate as 1, which does not change the order of the cells.
    options: of the learner.
    frames: n of them.
    valid: [n] float32, 0 for padding.
    expand: [n], the cell of every frame.
    shape: (E, C).
    key: of training and of `random`.
    differentiable: the optimizer for 'weight_gradient', with a derivative everywhere (Adam needs an `eps_root` above
      0), or None, which leaves that one out: it needs memory for the parameters of all steps.
    checkpoints: of TracIn.

  Returns:
    {name of BASELINES: [E, C] float64}, higher is more important.
  """
  train_key, random_key = jax.random.split(key)

  @jax.jit
  def run(frames, valid):
    ones = jnp.ones_like(valid)
    kept = train_weighted(network, optimizer, options, train_key, frames, valid, ones, checkpoints)
    last = jax.tree.map(lambda x: x[-1], kept)
    scores = {
      'frame_loss': lambda: -frame_losses(network, last, frames),
      'gradient_norm': lambda: gradient_norms(network, last, frames),
      'tracin': lambda: tracin(network, kept, jnp.ones(checkpoints), frames, valid),
      'weight_gradient': lambda: weight_gradient(network, differentiable, options, train_key, frames, valid),
      'random': lambda: jax.random.uniform(random_key, valid.shape),
    }
    if differentiable is None:
      del scores['weight_gradient']
    cells = int(np.prod(shape))
    return {name: cell_means(score(), valid, jnp.asarray(expand), cells) for name, score in scores.items()}

  found = jax.device_get(run(jax.tree.map(jnp.asarray, frames), jnp.asarray(valid)))
  return {name: np.asarray(value, np.float64).reshape(shape) for name, value in found.items()}
