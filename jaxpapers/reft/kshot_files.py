"""K-shot sets on disk, in the two layouts that are public, and writing them with the public sampler.

* TFA and iMTFA: one file a class, `full_box_{K}shot_{class}_trainval.json` with exactly K objects; seed 0 in the folder
  itself, the others in `seed{s}/`.
* Meta-DETR: one file a seed, `seed{s}/{K}shot.json`; it lists every object of a chosen image, so that a class may have
  more than K objects, or fewer.

Each may be compressed (.gz).
"""

import json
import os
from collections.abc import Mapping, Sequence

from jaxpapers.engine.errors import UserError
from jaxpapers.reft.annotations import Annotations, merge_annotations, read_annotations
from jaxpapers.reft.kshot import SHOTS, sample_shots
from jaxpapers.reft.splits import Split, class_counts


def read_shots(folder: str | os.PathLike, k: int, seed: int, split: Split, classes: Sequence[int] = ()) -> Annotations:
  """The K-shot set of a seed, from whichever layout the folder has. Source: the files of TFA and of Meta-DETR.

  Args:
    folder: `cocosplit/` of TFA, or the folder that holds `seed{s}/` of Meta-DETR.
    k: shots.
    seed: of the set.
    split: of the classes.
    classes: category ids to read; default all of the split. Objects of others are left out.

  Raises:
    UserError: naming files looked for; or the class, K and the number found: where a file of one class does not hold
      exactly K objects, or a class has none.
  """
  folder = os.fspath(folder)
  classes = sorted(classes or split.names)
  whole = _existing(os.path.join(folder, f'seed{seed}', f'{k}shot.json'))
  if whole:
    found = read_annotations(whole)
  else:
    parts = []
    for category in classes:
      path = _existing(class_file(folder, k, seed, split.names[category]))
      if path is None:
        wanted = class_file(folder, k, seed, split.names[category])
        raise UserError(
          f'{folder} holds neither seed{seed}/{k}shot.json nor {os.path.relpath(wanted, folder)}: it is no folder of '
          f'{k}-shot sets for seed {seed}, or class {split.names[category]!r} lacks.'
        )
      part = only_classes(read_annotations(path), [category])
      if len(part.entries) != k:
        raise UserError(f'{path}: class {split.names[category]!r} should have {k} objects, found {len(part.entries)}.')
      parts.append(part)
    found = merge_annotations(parts, f'{folder} (seed {seed}, {k} shots)')
  if dict(found.names) != dict(split.names):
    raise UserError(
      f'{found.file} lists {len(found.names)} classes that are not the {len(split.names)} of the split: support and '
      'query files need one list of classes.'
    )
  found = only_classes(found, classes)
  for count in class_counts(found, split):
    if count.category in classes and not count.objects:
      raise UserError(f'{found.file}: class {count.name!r} should have {k} objects, found 0.')
  return found


def draw_shots(
  annotations: Annotations, k: int, seed: int, split: Split, classes: Sequence[int] = (), shots: Sequence[int] = SHOTS
) -> Annotations:
  """The K-shot set that `write_shots` would write for a seed, without writing it. Source: TFA's sampler.

  Args:
    annotations: of all training images.
    k: shots, one of `shots`.
    seed: of the set.
    split: of the classes.
    classes: category ids to keep; default all of the split. All are drawn: one random stream runs through them.
    shots: see `write_shots`: those beyond k matter too.

  Raises:
    UserError: naming file, class, K and what was found.
  """
  if k not in shots:
    raise UserError(f'The sampler draws {", ".join(map(str, shots))} shots, not {k}.')
  chosen = _sample(annotations, seed, shots)[k]
  kept = [entry for category in sorted(classes or split.names) for entry in chosen[category]]
  used = dict.fromkeys(entry['image_id'] for entry in kept)
  return Annotations(
    f'{annotations.file} ({k} shots, seed {seed})',
    {key: annotations.images[key] for key in used},
    annotations.categories,
    kept,
  )


def only_classes(annotations: Annotations, classes: Sequence[int]) -> Annotations:
  """The objects of these category ids that are no crowds, and their images."""
  kept = set(classes)
  entries = [entry for entry in annotations.entries if entry['category_id'] in kept and not entry['iscrowd']]
  used = {entry['image_id'] for entry in entries}
  images = {key: image for key, image in annotations.images.items() if key in used}
  return Annotations(annotations.file, images, annotations.categories, entries, annotations.skipped)


def class_file(folder: str | os.PathLike, k: int, seed: int, name: str) -> str:
  """Path of the K-shot file of a class in TFA's layout."""
  place = os.fspath(folder) if seed == 0 else os.path.join(folder, f'seed{seed}')
  return os.path.join(place, f'full_box_{k}shot_{name}_trainval.json')


def write_shots(
  annotations: Annotations, folder: str | os.PathLike, seeds: Sequence[int], shots: Sequence[int] = SHOTS
) -> list[str]:
  """Draws K-shot sets as the public benchmark does, and writes them in TFA's layout; nothing if one can't be drawn.

  Source: TFA's sampler and files.

  Args:
    annotations: of all training images.
    folder: made where it is missing.
    seeds: TFA takes 1 to 9, iMTFA 0 to 9.
    shots: the K. Other lists draw other sets: one random stream runs through them.

  Returns:
    The paths, in the order drawn.

  Raises:
    UserError: naming file, class, K and what was found, where K objects can't be drawn.
  """
  contents = {}
  for seed in seeds:
    for k, per_class in _sample(annotations, seed, shots).items():
      for category, entries in per_class.items():
        contents[class_file(folder, k, seed, annotations.names[category])] = _content(annotations, entries)
  for path, content in contents.items():
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
      json.dump(content, file)
  return list(contents)


def _sample(annotations, seed, shots):
  try:
    return sample_shots(annotations.entries, annotations.names, seed, shots)
  except ValueError as error:
    raise UserError(f'{annotations.file}, seed {seed}: {error}') from None


def _content(annotations, entries) -> Mapping:
  images = dict.fromkeys(entry['image_id'] for entry in entries)
  return {
    'images': [annotations.images[key] for key in images],
    'annotations': list(entries),
    'categories': list(annotations.categories.values()),
  }


def _existing(path):
  return next((name for name in (path, f'{path}.gz') if os.path.isfile(name)), None)
