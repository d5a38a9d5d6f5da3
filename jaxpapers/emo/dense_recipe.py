"""Optimisation of the dense recipes, as the authors' configs have it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxpapers.engine.errors import UserError, suggest


def _cosine(progress: jax.Array) -> jax.Array:
  return 0.5 * (1 + jnp.cos(jnp.pi * progress))


SHAPES: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  'cosine': _cosine,
  'poly': lambda progress: (1 - progress) ** 0.9,
  'constant_cosine': lambda progress: _cosine(jnp.maximum(2 * progress - 1, 0)),
}
"""Name -> share of the learning rate at progress 0..1; all end at 0."""


def schedule(name: str, learning_rate: float, steps: int, warmup_steps: int, warmup_factor: float) -> optax.Schedule:
  """A shape of SHAPES, multiplied in the first `warmup_steps` by a line from `warmup_factor` to 1.

  Raises:
    UserError: for an unknown shape.
  """
  if name not in SHAPES:
    raise UserError(f'Unknown config.optimizer.schedule={name!r}.{suggest(name, SHAPES)}')

  def rate(step: Any) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    regular = learning_rate * SHAPES[name](jnp.minimum(step / steps, 1.0))
    missing = 1 - jnp.minimum(step / max(warmup_steps, 1), 1.0)
    return regular * (1 - missing * (1 - warmup_factor)) if warmup_steps else regular

  return rate


def decays(params: Any) -> Any:
  """True for the leaves that weight decay acts on: all but the backbone's norms.

  The official rule excludes names that contain "norm". The stem's norm and those of the heads have other names there,
  and so do decay, like every bias.
  """

  def rule(path, _):
    names = [entry.key for entry in path]
    return not (names[0] == 'backbone' and names[1] != 'stem' and 'norm' in names[-2])

  return jax.tree_util.tree_map_with_path(rule, params)


def adamw(
  learning_rate: optax.ScalarOrSchedule, weight_decay: float, head_multiplier: float = 1.0
) -> optax.GradientTransformation:
  """AdamW; everything outside the backbone learns `head_multiplier` times as fast."""
  optimizer = optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=decays)
  if head_multiplier == 1.0:
    return optimizer

  def heads(params):
    return {name: jax.tree.map(lambda _: name != 'backbone', tree) for name, tree in params.items()}  # noqa: B023

  return optax.chain(optimizer, optax.masked(optax.scale(head_multiplier), heads))
