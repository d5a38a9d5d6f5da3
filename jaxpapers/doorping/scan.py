"""SCAn: a class whose features are a mixture of two groups is attacked (Tang et al., USENIX Security 2021)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.doorping.defence import anomaly_index

LIMIT = 7.389056  # e^2: the anomaly index above which the paper flags a class


class Covariances(NamedTuple):
  """Of features = identity of the class + variation within it.

  Attributes:
    identity: Su [units, units].
    variation: Se [units, units].
  """

  identity: jax.Array
  variation: jax.Array


class Split(NamedTuple):
  """The best division of one class in two.

  Attributes:
    member: [images] 1 in the first group, 0 in the second.
    first: mean of the first group [units].
    second: mean of the second group [units].
  """

  member: jax.Array
  first: jax.Array
  second: jax.Array


def _covariance(x: jax.Array) -> jax.Array:
  return jnp.cov(x, rowvar=False)


def decompose(
  features: jax.Array,
  labels: jax.Array,
  classes: int,
  *,
  tolerance: float = 0.01,
  rounds: int = 100,
  ridge: float = 0.0,
) -> Covariances:
  """Identity and variation of clean features, by expectation and maximisation (the global model).

  Args:
    features: [images, units] of clean images.
    labels: [images] int.
    classes: number of classes.
    tolerance: ends when the Frobenius norms of both changes add up to less.
    rounds: at most.
    ridge: added to the diagonal of Se, relative to its mean; needed where there are fewer images than units.

  Returns:
    Both covariances.
  """
  chex.assert_rank([features, labels], [2, 1])
  x = features - features.mean(axis=0)
  one_hot = jax.nn.one_hot(labels, classes, dtype=x.dtype)
  counts, sums = one_hot.sum(axis=0), one_hot.T @ x
  eye = jnp.eye(x.shape[1], dtype=x.dtype)

  def update(identity_of_class):
    identity = one_hot @ identity_of_class
    variation = _covariance(x - identity)
    return Covariances(_covariance(identity), variation + ridge * jnp.trace(variation) / x.shape[1] * eye)

  def expected(covariances, count, total):
    # E[mu | x] = Su (n Su + Se)^-1 sum x
    inverse = jnp.linalg.pinv(count * covariances.identity + covariances.variation, hermitian=True)
    return covariances.identity @ (inverse @ total)

  def body(carry):
    old, _, n = carry
    # One class after the other: a class needs a decomposition of [units, units].
    means = jax.lax.map(lambda args: expected(old, *args), (counts, sums))
    new = update(means)
    change = sum(jnp.linalg.norm(a - b) for a, b in zip(new, old, strict=True))
    return new, change, n + 1

  def going(carry):
    return (carry[1] >= tolerance) & (carry[2] < rounds)

  start = update(sums / jnp.maximum(counts, 1.0)[:, None])
  return jax.lax.while_loop(going, body, (start, jnp.asarray(jnp.inf, x.dtype), 0))[0]


def split(x: jax.Array, precision: jax.Array, start: jax.Array, rounds: int = 100) -> Split:
  """Divides one class in two by Fisher's linear discriminant: means, then assignment, until it stays.

  Args:
    x: [images, units], centred.
    precision: Se^-1 [units, units].
    start: [images] memberships; an image with 0.5 or more starts in the first group.
    rounds: at most.

  Returns:
    The groups. Where one would be empty, the last division with two groups stays.
  """
  chex.assert_rank([x, precision, start], [2, 2, 1])
  start = (start >= 0.5).astype(x.dtype)
  n = x.shape[0]
  # A start with one empty group is given one image.
  start = jnp.where((start.sum() == 0) & (jnp.arange(n) == 0), 1.0, start)
  start = jnp.where((start.sum() == n) & (jnp.arange(n) == 0), 0.0, start).astype(x.dtype)

  def means(member):
    first = member @ x / jnp.maximum(member.sum(), 1.0)
    second = (1.0 - member) @ x / jnp.maximum((1.0 - member).sum(), 1.0)
    return first, second

  def body(carry):
    member, _, n_rounds = carry
    first, second = means(member)
    bias = first @ precision @ first - second @ precision @ second
    fresh = (bias - 2.0 * (x @ precision @ (first - second)) < 0.0).astype(x.dtype)
    kept = jnp.where((fresh.sum() == 0) | (fresh.sum() == n), member, fresh)
    return kept, jnp.any(kept != member), n_rounds + 1

  member, _, _ = jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < rounds), body, (start, jnp.asarray(True), 0))
  return Split(member, *means(member))


def likelihood_ratio(
  x: jax.Array, covariances: Covariances, precision: jax.Array, groups: Split, published: bool = False
) -> jax.Array:
  """Twice the log-likelihood ratio of two groups against one, per image.

  Args:
    x: [images, units], centred.
    covariances: of the global model.
    precision: Se^-1.
    groups: from `split`.
    published: takes Se (n Su + Se)^-1 sum x for the mean of the one group, as the published scripts do, instead of its
      expectation Su (n Su + Se)^-1 sum x. The former is nearly 0, so that every class far from the centre scores high.

  Returns:
    Scalar J.
  """
  total = x.shape[0] * covariances.identity + covariances.variation
  factor = covariances.variation if published else covariances.identity
  one = factor @ (jnp.linalg.pinv(total, hermitian=True) @ x.sum(axis=0))

  def squared(v):
    return jnp.sum(v @ precision * v, axis=-1)

  member = groups.member[:, None]
  two = member * groups.first + (1.0 - member) * groups.second
  return jnp.mean(squared(x - one) - squared(x - two))


def scan_scores(
  features: jax.Array, covariances: Covariances, start: jax.Array, published: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """SCAn of all classes of equal size (the local models).

  Args:
    features: [classes, images, units].
    covariances: of clean features.
    start: [classes, images] initial memberships, usually uniform random.
    published: see `likelihood_ratio`.

  Returns:
    (J [classes], anomaly index [classes], memberships [classes, images]).
  """
  chex.assert_rank([features, start], [3, 2])
  precision = jnp.linalg.pinv(covariances.variation, hermitian=True)
  centred = features - features.mean(axis=(0, 1))

  def one(x, start):
    groups = split(x, precision, start)
    return likelihood_ratio(x, covariances, precision, groups, published), groups.member

  ratios, members = jax.vmap(one)(centred, start)
  return ratios, anomaly_index(ratios)[0], members
