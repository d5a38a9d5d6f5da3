"""Distances between student and teacher; means over a mask."""

import jax
import jax.numpy as jnp
import optax


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of values [N] over the mask [N]; 0 where the mask is empty, as it can be in a minibatch."""
  return jnp.sum(values * mask) / jnp.maximum(mask.sum(), 1.0)


def frobenius(student: jax.Array, teacher: jax.Array, mask: jax.Array) -> jax.Array:
  """CPF's distance: the Frobenius norm over the masked nodes, not a mean; it grows like their number's root.

  Args:
    student: probabilities [N, C].
    teacher: probabilities [N, C].
    mask: [N], 1 where a node counts.

  Returns:
    A scalar whose gradient is 0, not infinite, where both agree.
  """
  squares = jnp.sum(jnp.square(student - teacher) * mask[:, None])
  positive = squares > 0.0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def kl_batchmean(student_logits: jax.Array, teacher: jax.Array, mask: jax.Array) -> jax.Array:
  """KL(T || S) summed over classes, mean over masked nodes; of the other students of CPF."""
  return masked_mean(optax.losses.kl_divergence(jax.nn.log_softmax(student_logits), teacher), mask)


def negative_log_likelihood(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean cross entropy with integer labels [N] over masked nodes: the supervised loss."""
  return masked_mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels), mask)


def masked_accuracy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
  """Share of masked nodes whose largest logit (the first of ties) is their label."""
  return masked_mean(logits.argmax(axis=-1) == labels, mask)


def kl_mean(student_logits: jax.Array, teacher: jax.Array, mask: jax.Array) -> jax.Array:
  """KL(T || S) averaged over masked nodes and classes; an option of CPF."""
  return kl_batchmean(student_logits, teacher, mask) / teacher.shape[1]


def binary_cross_entropy(student: jax.Array, teacher: jax.Array, mask: jax.Array) -> jax.Array:
  """-T ln S - (1 - T) ln(1 - S), averaged over masked nodes and classes; an option of CPF.

  Logarithms are cut at -100, as PyTorch cuts them.
  """
  log_s, log_rest = (jnp.maximum(jnp.log(p), -100.0) for p in (student, 1.0 - student))
  values = -teacher * log_s - (1.0 - teacher) * log_rest
  return masked_mean(values.mean(axis=1), mask)


def distance(name: str, logits: jax.Array, teacher: jax.Array, mask: jax.Array) -> jax.Array:
  """The distillation loss called `name`: frobenius, kl_batchmean, kl_mean or binary_cross_entropy."""
  if name == 'frobenius':
    return frobenius(jax.nn.softmax(logits), teacher, mask)
  if name == 'binary_cross_entropy':
    return binary_cross_entropy(jax.nn.softmax(logits), teacher, mask)
  if name not in ('kl_batchmean', 'kl_mean'):
    known = 'frobenius, kl_batchmean, kl_mean, binary_cross_entropy'
    raise ValueError(f'distance={name!r} is not known; it is one of {known}.')
  return {'kl_batchmean': kl_batchmean, 'kl_mean': kl_mean}[name](logits, teacher, mask)
