"""FewShapes for RefT's stages: batches of indices on the host, images prepared inside the compiled step."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.reft.fewshapes import Scenes

CENTER, SPREAD = 0.5, 0.25


def normalise(images: jax.Array) -> jax.Array:
  """Images in 0..1 to the network's input."""
  return (images - CENTER) / SPREAD


def augment(batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
  """Mirrors images at random, jitters their contrast, brightness and colour, and normalises them.

  Args:
    batch: 'images' [n, h, w, 3] in 0..1, 'masks' [n, objects, h, w] or [n, h, w]; the rest is passed on.
    key: of the random numbers.
  """
  images, masks = batch['images'], batch['masks']
  count = len(images)
  keys = jax.random.split(key, 3)
  mirror = jax.random.bernoulli(keys[0], 0.5, (count,))
  images = jnp.where(mirror[:, None, None, None], images[:, :, ::-1], images)
  masks = jnp.where(jnp.expand_dims(mirror, tuple(range(1, masks.ndim))), masks[..., ::-1], masks)
  contrast = jax.random.uniform(keys[1], (count, 1, 1, 1), minval=0.8, maxval=1.2)
  shift = 0.08 * jax.random.normal(keys[2], (count, 1, 1, 3))
  return {**batch, 'images': normalise((images - CENTER) * contrast + CENTER + shift), 'masks': masks}


class Pool(NamedTuple):
  """Images to draw from, with one entry per labelled object.

  Attributes:
    scenes: the images.
    image: [objects] index of the image.
    slot: [objects] which of its objects.
    label: [objects] its class.
  """

  scenes: Scenes
  image: np.ndarray
  slot: np.ndarray
  label: np.ndarray


def pool_of(scenes: Scenes) -> Pool:
  """The pool of all labelled objects."""
  image, slot = np.nonzero(scenes.classes >= 0)
  return Pool(scenes, image, slot, scenes.classes[image, slot])


def plain_batches(scenes: Scenes, batch_size: int, seed: int) -> Callable[[int], dict[str, np.ndarray]]:
  """step -> images with their objects, drawn with replacement."""

  def batch(step):
    rng = np.random.default_rng([seed, 11, step])
    chosen = rng.integers(len(scenes.images), size=batch_size)
    return {name: value[chosen] for name, value in scenes._asdict().items()}

  return batch


def episode_batches(
  pool: Pool, batch_size: int, classes: tuple[int, ...], seed: int
) -> Callable[[int], dict[str, np.ndarray]]:
  """step -> `plain_batches`, and one support object of every class from images that are not in the batch.

  Leaves share one leading axis: support example c stands in row c of 'support_images', 'support_masks' and
  'support_classes'; rows beyond the classes are padding with class -1.
  """
  by_class = [np.flatnonzero(pool.label == c) for c in classes]
  if batch_size < len(classes):
    raise ValueError(f'A batch of {batch_size} images has no room for one support example of {len(classes)} classes.')

  def batch(step):
    rng = np.random.default_rng([seed, 12, step])
    scenes = pool.scenes
    chosen = rng.integers(len(scenes.images), size=batch_size)
    rows = []
    for mine in by_class:
      free = mine[~np.isin(pool.image[mine], chosen)]
      rows.append(rng.choice(free if len(free) else mine))
    rows = np.asarray(rows + [rows[0]] * (batch_size - len(rows)))
    support_classes = np.full(batch_size, -1, np.int32)
    support_classes[: len(classes)] = classes
    return {
      **{name: value[chosen] for name, value in scenes._asdict().items()},
      'support_images': scenes.images[pool.image[rows]],
      'support_masks': scenes.masks[pool.image[rows], pool.slot[rows]],
      'support_classes': support_classes,
    }

  return batch


def split_support(batch: Mapping[str, jax.Array], count: int) -> dict[str, jax.Array]:
  """The first `count` rows of the support, under 'support'."""
  names = ('images', 'masks', 'classes')
  support = {name: batch[f'support_{name}'][:count] for name in names}
  return {**{name: batch[name] for name in names}, 'support': support}


def prepare_episode(batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
  """Augments queries and support, each image by itself."""
  first, second = jax.random.split(key)
  return {
    **augment({k: batch[k] for k in ('images', 'masks', 'classes')}, first),
    'support': augment(batch['support'], second),
  }
