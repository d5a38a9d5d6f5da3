"""Confidence scores of an exit: larger is surer (extension: the official criterion is in `prediction`).

All take logits [..., classes] and give [...]; a row of NaN gives NaN, which no threshold finds confident.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit.tables import Array

Score = Callable[[Array], jax.Array]


def max_prob(logits: Array) -> jax.Array:
  """Largest softmax probability. Source: our extension."""
  return jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)


def margin(logits: Array) -> jax.Array:
  """Largest less second largest softmax probability. Source: our extension."""
  top = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), 2)[0]
  return top[..., 0] - top[..., 1]


def neg_entropy(logits: Array) -> jax.Array:
  """1 - H(p) / ln K with 0 ln 0 = 0; BranchyNet's "entropy < T" is "score > 1 - T / ln K".

  Source: BranchyNet (Teerapittayanon et al., ICPR 2016); an extension.
  """
  log_p = jax.nn.log_softmax(logits, axis=-1)
  p = jnp.exp(log_p)
  # A probability that underflows meets a finite or infinite logarithm: its term is zero by definition.
  terms = jnp.where(p > 0, p * jnp.where(p > 0, log_p, 0.0), jnp.where(jnp.isnan(p), jnp.nan, 0.0))
  return 1.0 + jnp.sum(terms, axis=-1) / jnp.log(logits.shape[-1])


def logit_margin(logits: Array) -> jax.Array:
  """Largest less second largest logit. Source: our extension."""
  top = jax.lax.top_k(jnp.asarray(logits), 2)[0]
  return top[..., 0] - top[..., 1]


SCORES: dict[str, Score] = {
  'max_prob': max_prob,
  'margin': margin,
  'neg_entropy': neg_entropy,
  'logit_margin': logit_margin,
}


def score(name: str) -> Score:
  """The score called `name`.

  Raises:
    ValueError: listing the known names.
  """
  if name not in SCORES:
    raise ValueError(f'The score {name!r} is not known; known: {", ".join(SCORES)}.')
  return SCORES[name]


def oracle_score(logits: Array, labels: Array) -> jax.Array:
  """1 where an exit is right, else 0: with threshold 0.5 the bound "first exit that is right, else the last".

  Args:
    logits: [samples, exits, classes].
    labels: [samples].

  Returns:
    [samples, exits] float.
  """
  right = jnp.argmax(logits, axis=-1) == jnp.asarray(labels)[:, None]
  return right.astype(jnp.asarray(logits).dtype)


def fit_temperatures(logits: Array, labels: Array, steps: int = 60) -> jax.Array:
  """Temperature of every exit that minimises the negative log-likelihood of a calibration set.

  The likelihood is log-concave in the inverse temperature, so that a bisection of its derivative finds the optimum.

  Args:
    logits: [samples, exits, classes].
    labels: [samples] int.
    steps: halvings of the bracket 1e-3..1e3 of the inverse temperature, in the logarithm.

  Returns:
    [exits] temperatures T; divide logits by them.
  """
  logits = jnp.asarray(logits)
  chosen = jnp.take_along_axis(logits, jnp.asarray(labels)[:, None, None], axis=-1)[..., 0]

  def slope(log_scale: jax.Array) -> jax.Array:
    p = jax.nn.softmax(logits * jnp.exp(log_scale)[None, :, None], axis=-1)
    return jnp.mean(jnp.sum(p * logits, axis=-1) - chosen, axis=0)

  def halve(_, bracket):
    low, high = bracket
    middle = (low + high) / 2
    rising = slope(middle) > 0
    return jnp.where(rising, low, middle), jnp.where(rising, middle, high)

  edge = jnp.full(logits.shape[1], jnp.log(1e3), logits.dtype)
  low, high = jax.lax.fori_loop(0, steps, halve, (-edge, edge))
  return jnp.exp(-(low + high) / 2)
