"""Mixing the images of a batch with each other, inside the compiled step."""

import chex
import jax
import jax.numpy as jnp


def mixup(images: jax.Array, labels: jax.Array, key: jax.Array, alpha: float = 0.2) -> tuple[jax.Array, jax.Array]:
  """Blends image i with image batch - 1 - i (Zhang et al., arXiv 1710.09412).

  Args:
    images: [batch, height, width, channels], float.
    labels: [batch, classes], one-hot or smoothed.
    key: PRNG key; one share lambda ~ Beta(alpha, alpha) is drawn for the batch.
    alpha: above 0; small values blend little.

  Returns:
    lambda * x + (1 - lambda) * x[::-1], for the images and the labels.
  """
  _check(images, labels, alpha)
  share = jax.random.beta(key, alpha, alpha)
  return _blend(images, share), _blend(labels, share)


def cutmix(images: jax.Array, labels: jax.Array, key: jax.Array, alpha: float = 1.0) -> tuple[jax.Array, jax.Array]:
  """Pastes a rectangle of image batch - 1 - i into image i (Yun et al., arXiv 1905.04899).

  The rectangle has the image's proportions, a share 1 - lambda of its area and a centre drawn uniformly, and is cut off
  at the border; the labels are weighted by the area that was really pasted.

  Args:
    images: [batch, height, width, channels].
    labels: [batch, classes], one-hot or smoothed.
    key: PRNG key; one rectangle is drawn for the batch, from lambda ~ Beta(alpha, alpha).
    alpha: above 0.

  Returns:
    images and labels of the same shapes.
  """
  _check(images, labels, alpha)
  share_key, place_key = jax.random.split(key)
  return _paste(images, labels, jax.random.beta(share_key, alpha, alpha), place_key)


def mixup_or_cutmix(
  images: jax.Array,
  labels: jax.Array,
  key: jax.Array,
  mixup_alpha: float = 0.8,
  cutmix_alpha: float = 1.0,
  cutmix_probability: float = 0.5,
  probability: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """One of the two, or neither, for the whole batch.

  Args:
    images: [batch, height, width, channels], float.
    labels: [batch, classes].
    key: PRNG key.
    mixup_alpha: as in `mixup`.
    cutmix_alpha: as in `cutmix`.
    cutmix_probability: of cutmix where the batch is mixed.
    probability: of the batch to be mixed at all.
  """
  _check(images, labels, min(mixup_alpha, cutmix_alpha))
  share_key, place_key, choice_key, apply_key = jax.random.split(key, 4)
  cut = jax.random.bernoulli(choice_key, cutmix_probability)
  alpha = jnp.where(cut, cutmix_alpha, mixup_alpha)
  share = jax.random.beta(share_key, alpha, alpha)
  return jax.lax.switch(
    jnp.where(jax.random.bernoulli(apply_key, probability), 1 + cut.astype(jnp.int32), 0),
    [
      lambda: (images, labels),
      lambda: (_blend(images, share), _blend(labels, share)),
      lambda: _paste(images, labels, share, place_key),
    ],
  )


def _check(images: jax.Array, labels: jax.Array, alpha: float) -> None:
  chex.assert_rank([images, labels], [4, 2])
  if images.shape[0] != labels.shape[0]:
    raise ValueError(f'{images.shape[0]} images cannot be mixed with {labels.shape[0]} rows of labels.')
  if not jnp.issubdtype(labels.dtype, jnp.floating):
    raise ValueError(f'Mixing needs labels [batch, classes] as floating-point one-hot rows, not {labels.dtype}.')
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f'Mixing needs floating-point images, not {images.dtype}; normalise them first.')
  if alpha <= 0:
    raise ValueError(f'alpha of a Beta(alpha, alpha) must be above 0, not {alpha}.')


def _blend(x: jax.Array, share: jax.Array) -> jax.Array:
  share = share.astype(x.dtype)
  return share * x + (1 - share) * x[::-1]


def _paste(images: jax.Array, labels: jax.Array, share: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Replaces a rectangle of about (1 - share) of the area."""
  row_key, column_key = jax.random.split(key)
  side = jnp.sqrt(1 - share)
  rows, columns = _interval(row_key, images.shape[1], side), _interval(column_key, images.shape[2], side)
  inside = rows[:, None] & columns[None, :]
  kept = 1 - jnp.mean(inside.astype(jnp.float32))
  return jnp.where(inside[None, :, :, None], images[::-1], images), _blend(labels, kept)


def _interval(key: jax.Array, length: int, share: jax.Array) -> jax.Array:
  """[length] bool: a run of floor(length * share) around a uniform centre, cut off at the ends."""
  cut = jnp.floor(length * share).astype(jnp.int32)
  centre = jax.random.randint(key, (), 0, length)
  place = jnp.arange(length)
  return (place >= centre - cut // 2) & (place < centre - cut // 2 + cut)
