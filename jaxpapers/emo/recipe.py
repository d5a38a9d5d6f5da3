"""The published ImageNet recipe as pure functions: learning rate, which weights decay, loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxpapers.ops.classification import cross_entropy


def warmup_cosine(
  peak: float, steps: int, warmup_steps: int, warmup_start: float = 1e-6, end: float = 1e-6
) -> optax.Schedule:
  """Linear warm-up, then a cosine that is indexed from step 0, not from the end of the warm-up.

  lr(t) = start + t (peak - start) / W for t < W, else end + (peak - end)(1 + cos(pi t / T)) / 2: it drops a little when
  the warm-up ends, as in the released runs.

  Args:
    peak: learning rate that the warm-up leads to.
    steps: T, after which the rate stays at `end`.
    warmup_steps: W.
    warmup_start: rate at step 0.
    end: lowest rate.

  Returns:
    step (int scalar, from 0) -> float32 learning rate.
  """

  def schedule(step: Any) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    rising = warmup_start + step * ((peak - warmup_start) / max(warmup_steps, 1))
    falling = end + 0.5 * (peak - end) * (1.0 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0)))
    return jnp.where(step < warmup_steps, rising, falling)

  return schedule


def noisy(
  schedule: optax.Schedule, key: jax.Array, first: int, last: int, limit: float = 0.67, std: float = 1.0
) -> optax.Schedule:
  """Multiplies a schedule by 1 + n in steps first <= t < last, n normal and redrawn until |n| < limit.

  The two smaller released models were trained so, from 42 % to 90 % of the steps. A pure function of (key, step).

  Args:
    schedule: the rate without noise.
    key: random key.
    first: first step with noise.
    last: first step without noise again.
    limit: bound of the noise.
    std: of the normal before it is bounded.
  """

  def noise(step: Any) -> jax.Array:
    step = jnp.asarray(step, jnp.int32)
    bound = limit / std
    n = std * jax.random.truncated_normal(jax.random.fold_in(key, step), -bound, bound)
    return schedule(step) * jnp.where((step >= first) & (step < last), 1.0 + n, 1.0)

  return noise


def decays(params: Any) -> Any:
  """True for the leaves that weight decay acts on: those of rank 2 and more, so no bias and no norm."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def adamw(
  learning_rate: optax.ScalarOrSchedule,
  weight_decay: float = 0.05,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformation:
  """AdamW whose decoupled decay leaves biases and norms alone."""
  return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decays)


def classification_loss(smoothing: float = 0.1) -> Callable[[jax.Array, Any], tuple[jax.Array, dict[str, jax.Array]]]:
  """A loss for `engine.supervised`: (logits, batch) -> (mean smoothed cross-entropy, {'top1'}).

  batch['label'] is int [batch], or float [batch, classes] where images were mixed.
  """

  def loss(logits: jax.Array, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    labels = batch['label']
    hard = labels if labels.ndim == 1 else labels.argmax(-1)
    return cross_entropy(logits, labels, smoothing).mean(), {'top1': (logits.argmax(-1) == hard).mean()}

  return loss
