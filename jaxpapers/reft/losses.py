"""Set loss of Mask2Former on sampled points (arXiv 2112.01527)."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxpapers.ops import resize
from jaxpapers.reft.matching import PUBLISHED, Matches, Weights, match, matching_costs
from jaxpapers.reft.sampling import sample_points, sample_shared


class Targets(NamedTuple):
  """Objects of a batch, padded to one number.

  Attributes:
    labels: [batch, objects] int32; any class where not `valid`.
    masks: [batch, objects, height, width] bool or floating, at the padded size of the images.
    valid: [batch, objects] bool.
  """

  labels: jax.Array
  masks: jax.Array
  valid: jax.Array


class Points(NamedTuple):
  """Random points in [0, 1], (x, y), for one layer.

  Attributes:
    match: [batch, points, 2], shared by all queries and objects of an image.
    oversampled: [batch, objects, 3 * points, 2], of which the uncertain ones are kept.
    random: [batch, objects, points / 4, 2], added to these.
  """

  match: jax.Array
  oversampled: jax.Array
  random: jax.Array


def draw_points(key: jax.Array, batch: int, objects: int, points: int = 12544) -> Points:
  """Fresh points for one layer. Source: Mask2Former (arXiv 2112.01527), section 3.3."""
  keys = jax.random.split(key, 3)
  shapes = ((batch, points, 2), (batch, objects, 3 * points, 2), (batch, objects, points - 3 * points // 4, 2))
  return Points(*(jax.random.uniform(k, shape) for k, shape in zip(keys, shapes, strict=True)))


class Terms(NamedTuple):
  """Terms of the loss of one layer, before their weights."""

  label: jax.Array
  mask: jax.Array
  dice: jax.Array


def match_layer(
  logits: jax.Array, masks: jax.Array, targets: Targets, points: jax.Array, weights: Weights = PUBLISHED
) -> Matches:
  """Matches of one layer, [batch, objects]. Source: Mask2Former (arXiv 2112.01527), section 3.3.

  Args:
    logits: [batch, queries, classes + 1].
    masks: [batch, queries, h, w] logits.
    targets: the objects.
    points: [batch, points, 2].
    weights: of the cost.
  """

  def image(logits, masks, labels, truth, valid, points):
    at_masks, at_truth = (sample_shared(maps, points) for maps in (masks, truth.astype(masks.dtype)))
    cost = matching_costs(logits, at_masks, labels, at_truth, weights)
    return match(cost.total, valid)

  return jax.vmap(image)(logits, masks, targets.labels, targets.masks, targets.valid, points)


def set_loss(
  logits: jax.Array,
  masks: jax.Array,
  targets: Targets,
  matches: Matches,
  points: Points,
  *,
  no_object: float = 0.1,
) -> Terms:
  """Class, mask and dice terms of one layer, each over the whole batch.

  Source: Mask2Former (arXiv 2112.01527), section 3.3, and its code.

  Args:
    logits: [batch, queries, classes + 1]; the last class is "no object".
    masks: [batch, queries, h, w] logits.
    targets: the objects.
    matches: of this layer, [batch, objects].
    points: of this layer.
    no_object: weight of queries without object in the class term.
  """
  chex.assert_equal_shape_prefix([logits, masks], 2)
  chosen = jnp.take_along_axis(masks, matches.query[..., None, None], axis=1)
  places = _uncertain(jax.lax.stop_gradient(chosen), points)
  x, t = sample_points(chosen, places), sample_points(targets.masks.astype(masks.dtype), places)
  return _terms(logits, x, jax.lax.stop_gradient(t), targets, matches, no_object)


def _terms(logits, x, t, targets, matches, no_object) -> Terms:
  """Terms from the values of the matched masks (logits) and of the objects, both [batch, objects, places]."""
  classes = logits.shape[-1] - 1

  def labelled(labels, matches):
    start = jnp.full(logits.shape[1], classes, jnp.int32)
    # Objects without query write past the end, which drops them.
    at = jnp.where(matches.matched, matches.query, logits.shape[1])
    return start.at[at].set(labels.astype(jnp.int32), mode='drop')

  labels = jax.vmap(labelled)(targets.labels, matches)
  weight = jnp.where(labels == classes, no_object, 1.0)
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  label_term = jnp.sum(weight * nll) / weight.sum()

  cross = optax.sigmoid_binary_cross_entropy(x, t).mean(axis=-1)
  s = jax.nn.sigmoid(x)
  dice = 1.0 - (2.0 * (s * t).sum(axis=-1) + 1.0) / (s.sum(axis=-1) + t.sum(axis=-1) + 1.0)
  objects = jnp.maximum(targets.valid.sum(), 1).astype(x.dtype)
  return Terms(
    label_term,
    jnp.where(matches.matched, cross, 0.0).sum() / objects,
    jnp.where(matches.matched, dice, 0.0).sum() / objects,
  )


def _uncertain(masks: jax.Array, points: Points) -> jax.Array:
  """Three quarters of the points where the mask is least certain, one quarter anywhere."""
  count = points.oversampled.shape[-2] // 3
  values = sample_points(masks, points.oversampled)
  _, index = jax.lax.top_k(-jnp.abs(values), 3 * count // 4)
  kept = jnp.take_along_axis(points.oversampled, index[..., None], axis=-2)
  return jnp.concatenate([kept, points.random], axis=-2)


def deep_loss(
  logits: jax.Array,
  masks: jax.Array,
  targets: Targets,
  points: Points,
  weights: Weights = PUBLISHED,
  *,
  no_object: float = 0.1,
) -> tuple[jax.Array, Terms, Matches]:
  """Sum over the layers of a decoder, each matched and sampled by itself. Source: Mask2Former's code.

  Args:
    logits: [layers, batch, queries, classes + 1].
    masks: [layers, batch, queries, h, w].
    targets: the objects.
    points: with a leading axis of layers.
    weights: of the terms.
    no_object: see `set_loss`.

  Returns:
    The loss, the weighted terms of every layer [layers], and the matches [layers, batch, objects].
  """
  matching = functools.partial(match_layer, targets=targets, weights=weights)
  # All layers and images in one call: each call of the assignment is a loop to compile.
  matches = jax.vmap(lambda a, b, p: matching(a, b, points=p))(logits, masks, points.match)
  terms = jax.vmap(lambda a, b, m, p: set_loss(a, b, targets, m, p, no_object=no_object))(
    logits, masks, matches, points
  )
  weighted = Terms(*(w * term for w, term in zip(weights, terms, strict=True)))
  return sum(term.sum() for term in weighted), weighted, matches


def map_loss(
  logits: jax.Array, masks: jax.Array, targets: Targets, weights: Weights = PUBLISHED, *, no_object: float = 0.1
) -> tuple[jax.Array, Terms, Matches]:
  """As `deep_loss`, on every pixel of the mask logits instead of sampled points: for small maps.

  Source: the loss of Mask2Former without its sampling of points.

  Args:
    logits: [layers, batch, queries, classes + 1].
    masks: [layers, batch, queries, h, w].
    targets: the objects; their masks are averaged down to h x w.
    weights: of the terms.
    no_object: see `set_loss`.
  """
  chex.assert_equal_shape_prefix([logits, masks], 3)
  flat = masks.reshape(*masks.shape[:3], -1)
  truth = targets.masks.astype(masks.dtype).transpose(0, 2, 3, 1)
  truth = resize.adaptive_mean(truth, masks.shape[-2:])
  truth = truth.reshape(truth.shape[0], -1, truth.shape[-1]).transpose(0, 2, 1)

  def image(logits, flat, labels, truth, valid):
    return match(matching_costs(logits, flat, labels, truth, weights).total, valid)

  over_images = jax.vmap(image)
  matches = jax.vmap(lambda a, b: over_images(a, b, targets.labels, truth, targets.valid))(logits, flat)

  def layer(logits, flat, matches):
    chosen = jnp.take_along_axis(flat, matches.query[..., None], axis=1)
    return _terms(logits, chosen, truth, targets, matches, no_object)

  terms = jax.vmap(layer)(logits, flat, matches)
  weighted = Terms(*(w * term for w, term in zip(weights, terms, strict=True)))
  return sum(term.sum() for term in weighted), weighted, matches
