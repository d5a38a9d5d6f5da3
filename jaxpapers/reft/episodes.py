"""Episodes: a batch of query images with one shared set of support examples."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxpapers import data
from jaxpapers.engine.errors import UserError
from jaxpapers.reft.coco_data import Objects, OutlinedImages

_STREAM = 2  # apart from the numbers that order the query images


class Plan(NamedTuple):
  """Which images and objects make up an episode; N = batch * per_row support places, filled from the first on.

  Attributes:
    queries: [batch] int, images.
    support: [batch, per_row] int, rows of the objects; -1 is an empty place.
    support_class: [batch, per_row] int32; -1 is an empty place.
    same_image: [batch, per_row] bool: the object lies in a query image. It happens only to a class that has a single
      image, as every class has for K = 1; training then sees the answer, so report it.
    active: [classes] bool: the classes of the episode. Labels of others are to be removed from the targets.
  """

  queries: np.ndarray
  support: np.ndarray
  support_class: np.ndarray
  same_image: np.ndarray
  active: np.ndarray


class Episodes:
  """Plans of episodes as a function of (seed, step), the same on every host. Source: a reconstruction.

  Every epoch is a permutation of the images. The classes of an episode are those present in its query images, then
  random others up to `episode_classes`; each is shown by up to `shots` objects from images that are no query image.

  Attributes:
    per_row: support places of each query image: the leaves of a batch then all have the batch dimension, and are split
      over devices and hosts like the images.
  """

  def __init__(
    self,
    objects: Objects,
    images: int,
    classes: int,
    *,
    batch_size: int,
    seed: int,
    episode_classes: int | None = None,
    shots: int = 1,
  ):
    """Sorts the objects by class.

    Args:
      objects: of the set, see `objects_of` and `OutlinedImages.objects`.
      images: how many the set has.
      classes: number of classes of the model.
      batch_size: query images of an episode, over all hosts.
      seed: of the episodes.
      episode_classes: at most so many; default all that have objects.
      shots: support examples of a class.

    Raises:
      UserError: without any object, or for sizes below 1.
    """
    if not len(objects.label):
      raise UserError('Episodes need at least one labelled object.')
    for name, value in (('episode_classes', episode_classes), ('shots', shots), ('batch_size', batch_size)):
      if value is not None and value < 1:
        raise UserError(f'{name} of episodes is at least 1, not {value}.')
    self._objects, self._classes, self._seed, self._shots = objects, classes, seed, shots
    self._known = np.unique(objects.label)
    self._rows = {int(c): np.flatnonzero(objects.label == c) for c in self._known}
    self._single = {c: len(np.unique(objects.image[rows])) == 1 for c, rows in self._rows.items()}
    self._start = np.searchsorted(objects.image, np.arange(images + 1))
    self._limit = min(episode_classes or len(self._known), len(self._known))
    self.batch_size, self.per_row = batch_size, math.ceil(self._limit * shots / batch_size)
    self._order = data.batches(
      data.ArraySource({'index': np.arange(images)}), seed=seed, batch_size=batch_size, process=0, processes=1
    )

  def plan(self, step: int) -> Plan:
    """The episode of a step."""
    rng = np.random.Generator(np.random.Philox(key=[self._seed, step], counter=[0, 0, 0, _STREAM]))
    queries = self._order(step)['index']
    chosen = np.unique(queries)
    here = np.concatenate([np.arange(self._start[i], self._start[i + 1]) for i in chosen])
    labels = self._objects.label[here]
    support, same, active = [], [], np.zeros(self._classes, bool)
    for label in self._candidates(labels, rng):
      if active.sum() == self._limit:
        break
      rows, reused = self._draw(int(label), chosen, int(np.sum(labels == label)), rng)
      support.extend(rows)
      same.extend([reused] * len(rows))
      active[label] = len(rows) > 0
    places = self.batch_size * self.per_row
    rows = np.pad(np.asarray(support, np.int64), (0, places - len(support)), constant_values=-1)
    shape = self.batch_size, self.per_row
    return Plan(
      queries,
      rows.reshape(shape),
      np.where(rows >= 0, self._objects.label[rows], -1).astype(np.int32).reshape(shape),
      np.pad(np.asarray(same, bool), (0, places - len(same))).reshape(shape),
      active,
    )

  def _candidates(self, labels, rng):
    """Present classes, then the others, each in random order."""
    present = np.unique(labels)
    others = np.setdiff1d(self._known, present)
    return np.concatenate([rng.permutation(present), rng.permutation(others)])

  def _draw(self, label, queries, present, rng):
    """Objects of a class, and whether they had to come from a query image."""
    rows = self._rows[label]
    # So many that enough remain even if all of the query images' objects are among them.
    drawn = rng.choice(rows, min(len(rows), self._shots + present), replace=False)
    outside = drawn[~np.isin(self._objects.image[drawn], queries)]
    if len(outside) or not self._single[label]:
      return outside[: self._shots], False
    return drawn[: self._shots], True


class _Rows:
  """Row p of all episodes, in order: (query image, active classes, support rows and classes)."""

  def __init__(self, episodes: Episodes):
    self._episodes = episodes
    self._last: tuple[int, Plan] | None = None  # the rows of a step come one after the other

  def __len__(self) -> int:
    return 2**32 // self._episodes.batch_size * self._episodes.batch_size

  def __getitem__(self, position: int) -> dict[str, Any]:
    step, row = divmod(int(position), self._episodes.batch_size)
    last = self._last
    if last is None or last[0] != step:
      last = self._last = step, self._episodes.plan(step)
    plan = last[1]
    return {
      'query': int(plan.queries[row]),
      'support': plan.support[row],
      'support_classes': plan.support_class[row],
      'same_image': plan.same_image[row],
      'active': plan.active,
    }


Query = Callable[[Mapping[str, Any], np.random.Generator], dict[str, np.ndarray]]
SupportExample = Callable[[Mapping[str, Any], int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def episode_batches(
  source: OutlinedImages, episodes: Episodes, query: Query, support: SupportExample, *, seed: int, **options: Any
) -> data.Pipeline:
  """Endless training batches of episodes, by grain; a pure function of (seed, step).

  Args:
    source: of images; `episodes` was made from its objects.
    episodes: the plans.
    query: (example, generator) -> arrays, such as `jitter`; labels outside the episode are gone from the example.
    support: (example, slot, generator) -> (image, mask), such as `jitter_support`.
    seed: of the augmentations.
    **options: `process`, `processes`, `workers`, `prefetch` of `data.batches`.

  Returns:
    A pipeline of {what `query` gives, 'support_images' [batch, per_row, ...], 'support_masks' [batch, per_row, ...],
    'support_classes' [batch, per_row] int32 (-1: empty place, zeros), 'same_image' [batch, per_row] bool, 'active'
    [batch, classes] bool, equal in all rows}. Reshape the first two axes of the support into one.
  """

  def load(row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    batch = query(_only(source[row['query']], row['active']), rng)
    images, masks = _supports(source, row['support'], support, rng)
    kept = {name: row[name] for name in ('support_classes', 'same_image', 'active')}
    return {**batch, 'support_images': images, 'support_masks': masks, **kept}

  return data.batches(
    _Rows(episodes), seed=seed, batch_size=episodes.batch_size, augment=load, shuffle=False, **options
  )


def _supports(source, rows, support, rng):
  """Images and masks of support places; zeros in empty ones."""

  def load(row):
    return support(source[int(source.objects.image[row])], int(source.objects.slot[row]), rng)

  found = [load(row) if row >= 0 else None for row in rows]
  # A row without any place filled still needs the shapes of a support example.
  image, mask = next((example for example in found if example is not None), None) or load(0)
  empty = np.zeros_like(image), np.zeros_like(mask)
  return tuple(np.stack(x) for x in zip(*(example or empty for example in found), strict=True))


def _only(example: Mapping[str, Any], active: np.ndarray) -> dict[str, Any]:
  """The example without the labels of classes that are not active."""
  kept = active[example['labels']]
  outlines = [x for x, keep in zip(example['segmentations'], kept, strict=True) if keep]
  return {**example, 'segmentations': outlines, 'labels': example['labels'][kept]}
