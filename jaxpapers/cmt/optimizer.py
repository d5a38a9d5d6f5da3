"""The published optimizer: AdamW in groups, with rate and first moment on two cosines."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

BETA1_RATIO = 0.85 / 0.95
"""How far beta1 falls while the rate rises."""


class Group(NamedTuple):
  """Parameters whose path matches, such as 'camera/backbone/...'.

  Attributes:
    pattern: regular expression, searched in the path.
    rate: factor of the learning rate.
    decay: factor of the weight decay.
  """

  pattern: str
  rate: float
  decay: float


PUBLISHED_GROUPS = (Group(r'^camera/backbone/', 0.01, 5.0), Group(r'^camera/neck/', 0.1, 1.0))


def two_cosines(
  start: float, peak: float, end: float, steps: int, rising: float = 0.4
) -> Callable[[jax.typing.ArrayLike], jax.Array]:
  """From `start` to `peak` on half a cosine, then to `end` on another.

  Args:
    start: value at step 0.
    peak: value at step int(rising * steps).
    end: value at step `steps`, and later.
    steps: of the whole run.
    rising: share of the first part.

  Returns:
    step -> value, in the dtype of the step where that is floating.
  """
  turn = int(rising * steps)

  def half(low, high, place, length):
    share = jnp.clip(place / max(length, 1), 0.0, 1.0)
    return high + (low - high) * (1 + jnp.cos(jnp.pi * share)) / 2

  def schedule(step):
    step = jnp.asarray(step)
    return jnp.where(step < turn, half(start, peak, step, turn), half(peak, end, step - turn, steps - turn))

  return schedule


def published_rate(base: float, peak_ratio: float, steps: int, rising: float = 0.4) -> Callable:
  """Learning rate of the four recipes: base, base * peak_ratio (8 or 6), base * 1e-4. Source: the authors' configs."""
  return two_cosines(base, base * peak_ratio, base * 1e-4, steps, rising)


def published_beta1(steps: int, rising: float = 0.4) -> Callable:
  """First moment of the four recipes: 0.9, less while the rate is high, 0.9. Source: the authors' configs."""
  return two_cosines(0.9, 0.9 * BETA1_RATIO, 0.9, steps, rising)


def factors(params: optax.Params, groups: Sequence[Group], field: str) -> optax.Params:
  """A tree like `params` with each leaf's `rate` or `decay`, 1 where no group matches; the first match counts."""
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  found = {
    path: next((getattr(group, field) for group in groups if re.search(group.pattern, path)), 1.0) for path in flat
  }
  return flax.traverse_util.unflatten_dict(found, sep='/')


def cmt_optimizer(
  rate: optax.ScalarOrSchedule,
  beta1: optax.ScalarOrSchedule = 0.9,
  *,
  weight_decay: float = 0.01,
  clip: float = 35.0,
  groups: Sequence[Group] = PUBLISHED_GROUPS,
) -> optax.GradientTransformation:
  """AdamW with decay on every parameter, norms and biases too. Source: the authors' configs.

  Args:
    rate: of parameters outside the groups.
    beta1: of the first moment.
    weight_decay: decoupled, scaled by the rate.
    clip: largest norm of the whole gradient; 0 does not clip.
    groups: with rates and decays of their own.
  """

  def decay(updates, params):
    return jax.tree.map(lambda u, p, f: u + f * weight_decay * p, updates, params, factors(params, groups, 'decay'))

  def scale(updates, params):
    return jax.tree.map(lambda u, f: f * u, updates, factors(params, groups, 'rate'))

  fixed = ('b2', 'eps', 'eps_root', 'mu_dtype', 'nesterov')
  parts = [optax.clip_by_global_norm(clip)] if clip else []
  parts += [
    optax.inject_hyperparams(optax.scale_by_adam, static_args=fixed)(b1=beta1, b2=0.999, eps=1e-8),
    optax.stateless(decay),
    optax.stateless(scale),
    optax.scale_by_learning_rate(rate),
  ]
  return optax.chain(*parts)
