"""Class-enhanced distillation of the base model for incremental classes (a reconstruction)."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from jaxpapers.ops import resize
from jaxpapers.reft.references import cosine


def feature_distillation(
  student: Sequence[jax.Array],
  teacher: Sequence[jax.Array],
  novel: jax.Array,
  centers: Sequence[jax.Array],
  beta: float = 1.0,
) -> jax.Array:
  """Keeps the projected features where no novel object is, the more the closer they are to a base class.

  Args:
    student: per level [batch, h, w, width].
    teacher: likewise, of the frozen base model.
    novel: [batch, height, width] union of the novel objects' masks, 0 to 1.
    centers: per level [base classes, width].
    beta: extra weight of pixels like a base class; 0 is plain masked distillation.

  Returns:
    [levels] losses; their mean is the term of the paper's loss.
  """
  losses = []
  for s, t, p in zip(student, teacher, centers, strict=True):
    chex.assert_equal_shape([s, t])
    covered = resize.adaptive_mean(novel[..., None].astype(s.dtype), s.shape[1:3])[..., 0]
    alike = jnp.maximum(cosine(t[..., None, :], p).max(axis=-1), 0.0)
    weight = (1.0 - covered) * (1.0 + beta * alike)
    distance = jnp.sum(jnp.square(s - t), axis=-1)
    losses.append(jnp.sum(weight * distance) / (2.0 * weight.sum() + 1e-6))
  return jnp.stack(losses)


def class_distillation(
  student: jax.Array, teacher: jax.Array, base: jax.Array, keep: jax.Array, temperature: float = 1.0
) -> jax.Array:
  """T^2 KL(teacher || student) over base classes and "no object", averaged over the kept queries.

  Source: a reconstruction of the paper's distillation from its abstract.

  Args:
    student: [batch, queries, classes + 1] logits.
    teacher: [batch, queries, base classes + 1] logits.
    base: [base classes + 1] int, the student's columns of the teacher's classes.
    keep: [batch, queries], 0 for queries matched to a novel object.
    temperature: T.
  """
  s = jax.nn.log_softmax(student[..., base] / temperature)
  t = jax.nn.log_softmax(teacher / temperature)
  divergence = jnp.sum(jnp.exp(t) * (t - s), axis=-1)
  return temperature**2 * jnp.sum(divergence * keep) / jnp.maximum(keep.sum(), 1.0)
