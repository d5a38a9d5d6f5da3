"""K annotated objects per class: the sampler of the few-shot detection benchmarks."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOTS = (1, 2, 3, 5, 10, 30)


def sample_shots(
  annotations: Iterable[Mapping[str, Any]], categories: Mapping[int, str], seed: int, shots: Sequence[int] = SHOTS
) -> dict[int, dict[int, list[Mapping[str, Any]]]]:
  """Nested sets of exactly K objects per category, as the public benchmark draws them. Source: TFA's sampler.

  Images are taken whole: an image joins only if all its objects of the category fit. Smaller sets are prefixes of
  larger ones, and one random stream runs through all categories: other shots mean other objects.

  Args:
    annotations: COCO annotations with id, image_id, category_id and iscrowd (crowds are left out).
    categories: id -> name.
    seed: of Python's generator.
    shots: the K, drawn in this order.

  Returns:
    K -> category id -> annotations, in the order in which they were drawn.

  Raises:
    ValueError: naming category and K where fewer than K images have it, or no choice of whole images holds K objects.
  """
  by_category: dict[int, dict[int, list[Mapping[str, Any]]]] = {key: {} for key in sorted(categories)}
  for entry in annotations:
    if not entry.get('iscrowd', 0):
      images = by_category.get(entry['category_id'])
      if images is None:
        raise ValueError(f'Annotation {entry.get("id")} has category {entry["category_id"]}, which is not listed.')
      images.setdefault(entry['image_id'], []).append(entry)
  generator = random.Random(seed)
  chosen = {k: {} for k in shots}
  for category, images in by_category.items():
    drawn: list[Mapping[str, Any]] = []
    for k in shots:
      while len(drawn) < k:
        _check(categories[category], category, images, drawn, k)
        _visit(generator.sample(list(images), k), images, drawn, k)
      chosen[k][category] = list(drawn)
  return chosen


def _visit(order, images, drawn, k):
  used = {entry['image_id'] for entry in drawn}
  for image in order:
    if image in used or len(images[image]) + len(drawn) > k:
      continue
    drawn.extend(images[image])
    used.add(image)
    if len(drawn) == k:
      return


def _check(name, category, images, drawn, k):
  """What is drawn and whole images must be able to add up to K, or the draw would never end."""
  if len(images) < k:
    objects = sum(map(len, images.values()))
    raise ValueError(
      f'Category {category} ({name}): {k} shots are drawn from at least {k} images; found {objects} objects in '
      f'{len(images)}.'
    )
  used = {entry['image_id'] for entry in drawn}
  reachable, limit = 1 << len(drawn), (1 << (k + 1)) - 1  # bit n: n objects
  for image, entries in images.items():
    if image not in used:
      reachable |= (reachable << len(entries)) & limit
  if not reachable >> k & 1:
    had = f' with the {len(drawn)} that this seed drew' if drawn else ''
    raise ValueError(f'Category {category} ({name}): no choice of whole images holds exactly {k} objects{had}.')
