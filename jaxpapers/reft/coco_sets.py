"""The few-shot protocols on COCO and LVIS: which files, which classes, which K-shot set."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxpapers.engine.errors import UserError, suggest
from jaxpapers.reft import splits
from jaxpapers.reft.annotations import Annotations, check_same_categories, read_annotations
from jaxpapers.reft.coco_data import OutlinedImages
from jaxpapers.reft.kshot import SHOTS
from jaxpapers.reft.kshot_files import draw_shots, read_shots
from jaxpapers.reft.splits import Split

SETTINGS = ('fsis', 'gfsis', 'ifsis')


class Layout(NamedTuple):
  """Where a benchmark keeps its files, below its folder.

  Attributes:
    train_file: annotations to train on.
    train_images: their images.
    test_file: annotations to test on.
    test_images: their images.
    split: annotations -> base and novel classes.
  """

  train_file: str
  train_images: str
  test_file: str
  test_images: str
  split: Callable[[Annotations], Split]


LAYOUTS: Mapping[str, Layout] = {
  'coco2017': Layout(
    'annotations/instances_train2017.json',
    'train2017',
    'annotations/instances_val2017.json',
    'val2017',
    splits.coco_split,
  ),
  'coco2014': Layout(
    'datasplit/trainvalno5k.json', 'trainval2014', 'datasplit/5k.json', 'trainval2014', splits.coco_split
  ),
  'lvis': Layout('annotations/lvis_v1_train.json', '', 'annotations/lvis_v1_val.json', '', splits.lvis_split),
}
"""'coco2017': Meta-DETR's files; 'coco2014': those of TFA and iMTFA; 'lvis': LVIS v1 with COCO's train2017, val2017.

Evaluation is COCO's for all. LVIS counts differently (300 detections, images not searched for every class): numbers on
it are not its official ones."""


class FewShotSets(NamedTuple):
  """What a few-shot experiment reads.

  Attributes:
    split: of the classes.
    base: training images with the objects of base classes; None if not asked for.
    shots: images of the K-shot set: of all classes for gFSIS, of the novel ones for FSIS and iFSIS.
    test: test images, with all objects.
    truth: instances JSON of the test images, for `few_shot_precision`.
    counts: a table to print: objects of each class in the K-shot set (sets that list every object of an image hold more
      than K), and what was left out of the files.
  """

  split: Split
  base: OutlinedImages | None
  shots: OutlinedImages
  test: OutlinedImages
  truth: Mapping[str, Any]
  counts: str


def few_shot_sets(
  folder: str,
  *,
  layout: str = 'coco2017',
  setting: str = 'gfsis',
  k: int = 10,
  seed: int = 1,
  shots_folder: str = '',
  sampled: Sequence[int] = SHOTS,
  max_objects: int = 100,
  bad: str = 'skip',
  with_base: bool = True,
) -> FewShotSets:
  """Opens a benchmark. Source: the protocols of TFA, iMTFA and Meta-DETR.

  Args:
    folder: of the benchmark, see LAYOUTS.
    layout: key of LAYOUTS.
    setting: 'gfsis': few shots of all classes; 'fsis': of the novel classes, which alone matter; 'ifsis': of the novel
      classes, which join the base classes.
    k: shots.
    seed: of the K-shot set.
    shots_folder: with K-shot files, see `read_shots`; '' draws the set from the training annotations by the public
      sampler.
    sampled: all K that the sampler draws: other lists give other sets, and the largest K must be there.
    max_objects: of a training image.
    bad: what to do about malformed or empty masks, 'error' or 'skip'; COCO has some.
    with_base: read the base training images too.

  Raises:
    UserError: for unknown names, missing or malformed files, or too few objects.
  """
  if layout == 'tfds':
    raise UserError(
      "TFDS's coco has no masks and its lvis no class frequencies: set config.data.layout=coco2017 or lvis, and "
      'config.data.dir to the folder with the original JSON files.'
    )
  if layout not in LAYOUTS:
    raise UserError(f'Unknown config.data.layout={layout!r}.{suggest(layout, LAYOUTS)}')
  if setting not in SETTINGS:
    raise UserError(f'Unknown setting {setting!r}.{suggest(setting, SETTINGS)}')
  if not folder:
    raise UserError(
      f'Set --config.data.dir=FOLDER to the folder that holds {LAYOUTS[layout].train_file}, '
      f'{LAYOUTS[layout].test_file} and the images, from https://cocodataset.org or https://lvisdataset.org.'
    )
  files = LAYOUTS[layout]
  images = {name: os.path.join(folder, getattr(files, f'{name}_images')) for name in ('train', 'test')}
  tested = read_annotations(os.path.join(folder, files.test_file), bad=bad)
  split = files.split(tested)
  trained = None
  if with_base or not shots_folder:
    trained = read_annotations(os.path.join(folder, files.train_file), bad=bad)
    check_same_categories(trained, tested)
  classes = tuple(split.names) if setting == 'gfsis' else split.novel
  if shots_folder:
    few = read_shots(shots_folder, k, seed, split, classes)
  else:
    few = draw_shots(trained, k, seed, split, classes, sampled)
  base = None
  if with_base:
    base = OutlinedImages(trained, images['train'], split, classes=split.base, max_objects=max_objects)
  counts = [count for count in splits.class_counts(few, split) if count.category in classes]
  return FewShotSets(
    split,
    base,
    OutlinedImages(few, images['train'], split, classes=classes, max_objects=max_objects),
    OutlinedImages(tested, images['test'], split, keep_empty=True),
    tested.as_json(),
    '\n'.join([splits.count_table(counts), *_left_out(tested, trained)]),
  )


def _left_out(*files: Annotations | None) -> list[str]:
  return [
    f'{count} annotations of {file.file} left out: {reason}'
    for file in files
    if file is not None
    for reason, count in file.skipped.items()
  ]
