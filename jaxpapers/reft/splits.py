"""Which classes are base and which novel, and how many objects each has."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxpapers.engine.errors import UserError
from jaxpapers.reft.annotations import Annotations

COCO_NOVEL = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72)
"""Category ids of the 20 classes that COCO shares with PASCAL VOC; the other 60 are base."""


class Split(NamedTuple):
  """Category ids of a set, divided.

  Attributes:
    base: ascending category ids.
    novel: ascending category ids.
    names: category id -> name, of both, ascending; class k is the k-th.
  """

  base: tuple[int, ...]
  novel: tuple[int, ...]
  names: Mapping[int, str]

  @property
  def index(self) -> dict[int, int]:
    """Category id -> class: the rank of the id among all."""
    return {category: k for k, category in enumerate(self.names)}

  @property
  def base_classes(self) -> tuple[int, ...]:
    """Classes (not category ids) that are base."""
    return tuple(self.index[category] for category in self.base)

  @property
  def novel_classes(self) -> tuple[int, ...]:
    """Classes (not category ids) that are novel."""
    return tuple(self.index[category] for category in self.novel)


def coco_split(annotations: Annotations) -> Split:
  """COCO's: the 20 classes of PASCAL VOC are novel. Source: the split of the few-shot benchmarks (TFA).

  Raises:
    UserError: if the file does not list one of them.
  """
  rest = [category for category in annotations.names if category not in COCO_NOVEL]
  return make_split(annotations, rest, COCO_NOVEL)


def lvis_split(annotations: Annotations) -> Split:
  """LVIS's: rare classes are novel, common and frequent ones base. Source: LVIS.

  Raises:
    UserError: if a category has no frequency 'r', 'c' or 'f'.
  """
  groups: dict[str, list[int]] = {'r': [], 'c': [], 'f': []}
  for key, entry in annotations.categories.items():
    if entry.get('frequency') not in groups:
      raise UserError(f"{annotations.file}: category {key} has no 'frequency' r, c or f: it is no LVIS file.")
    groups[entry['frequency']].append(key)
  return make_split(annotations, groups['c'] + groups['f'], groups['r'])


def make_split(annotations: Annotations, base: Iterable[int | str], novel: Iterable[int | str]) -> Split:
  """A split by category ids or names.

  Raises:
    UserError: naming the file and the category: unknown, in both lists, or in neither.
  """
  names = annotations.names
  ids = {name: key for key, name in names.items()}
  groups = []
  for group in (base, novel):
    chosen = {ids.get(key, key) for key in group}
    unknown = sorted((key for key in chosen if key not in names), key=str)
    if unknown:
      raise UserError(f'{annotations.file} has no category {unknown[0]}, which the split names.')
    groups.append(tuple(sorted(chosen)))
  both = sorted(set(groups[0]) & set(groups[1]))
  if both:
    raise UserError(f'Category {both[0]} ({names[both[0]]}) of {annotations.file} is both base and novel.')
  neither = sorted(set(names) - set(groups[0]) - set(groups[1]))
  if neither:
    raise UserError(f'Category {neither[0]} ({names[neither[0]]}) of {annotations.file} is neither base nor novel.')
  return Split(*groups, names)


class ClassCount(NamedTuple):
  """How often a class appears, crowds left out.

  Attributes:
    category: id.
    name: of the class.
    novel: else base.
    images: with at least one object.
    objects: in all.
  """

  category: int
  name: str
  novel: bool
  images: int
  objects: int


def class_counts(annotations: Annotations, split: Split) -> list[ClassCount]:
  """Counts of every class of the split, by ascending category id."""
  images: dict[int, set[int]] = {category: set() for category in split.names}
  objects = dict.fromkeys(split.names, 0)
  for entry in annotations.entries:
    if not entry['iscrowd']:
      images[entry['category_id']].add(entry['image_id'])
      objects[entry['category_id']] += 1
  novel = set(split.novel)
  return [ClassCount(c, name, c in novel, len(images[c]), objects[c]) for c, name in split.names.items()]


def count_table(counts: Sequence[ClassCount]) -> str:
  """The counts as lines of text, one a class, with their sums."""
  lines = [f'{"id":>6}  {"class":<24} {"group":<6} {"images":>7} {"objects":>8}']
  for count in counts:
    group = 'novel' if count.novel else 'base'
    lines.append(f'{count.category:>6}  {count.name:<24} {group:<6} {count.images:>7} {count.objects:>8}')
  lines.append(f'{len(counts)} classes, {sum(count.objects for count in counts)} objects')
  return '\n'.join(lines)
