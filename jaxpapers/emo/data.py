"""Images to classify: embedded digits, ImageNet as a folder or from TFDS, small images such as CIFAR."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxpapers import data
from jaxpapers.data import image, randaugment
from jaxpapers.data.erasing import random_erasing
from jaxpapers.emo import digits
from jaxpapers.engine.errors import UserError, suggest

SMALL = 32  # images up to this size are shifted, not cropped and resized
AUGMENTATIONS = ('none', 'flip', 'jitter', 'randaugment')
DIGIT_AUGMENTATIONS = ('none', 'shift')
CLASSES = {'imagenet_folder': 1000, 'imagenet2012': 1000, 'cifar10': 10, 'cifar100': 100, 'i_naturalist2018': 8142}
TEST_SPLITS = {'imagenet_folder': 'val', 'imagenet2012': 'validation', 'i_naturalist2018': 'validation'}


class Transforms(NamedTuple):
  """Keyword arguments that turn a source into normalised images.

  Attributes:
    train: for `data.batches`.
    test: for `data.evaluation_batches`.
  """

  train: dict[str, Callable]
  test: dict[str, Callable]


def source(
  name: str, split: str, data_dir: str = '', image_size: int = 64, count: int = 0, task: str = 'pair'
) -> data.Source:
  """Opens a dataset; its images become batches through `transforms(name, ...)`.

  Args:
    name: 'digits' (embedded), 'imagenet_folder', or a TFDS dataset with `image` and `label` such as 'imagenet2012'.
    split: 'train' or 'test'; the latter is ImageNet's validation set.
    data_dir: for 'imagenet_folder' what holds train/<class>/*.JPEG and val/<class>/*.JPEG; else a TFDS folder, '' being
      the usual one.
    image_size: of the digits.
    count: how many scenes of digits.
    task: of the digits, see `digits.digits`.

  Raises:
    UserError: for an unknown name or split, a missing folder, a dataset that is not prepared.
  """
  if split not in ('train', 'test'):
    raise UserError(f'Unknown split {split!r}; known: train, test.')
  if name == 'digits':
    return data.ArraySource(digits.digits(split, count, image_size, task=task))
  where = 'train' if split == 'train' else TEST_SPLITS.get(name, 'test')
  if name == 'imagenet_folder':
    return data.ImageFolder(_folder(data_dir), where)
  return data.tfds_source(name, where, data_dir or None, decode_images=False, keys=('image', 'label'))


def num_classes(name: str, task: str = '', data_dir: str = '') -> int:
  """How many classes a dataset has; a folder's are counted where it is given."""
  del task  # every task of the digits answers with a digit
  if name == 'digits':
    return digits.NUM_DIGITS
  if name == 'imagenet_folder' and data_dir:
    return len(data.ImageFolder(_folder(data_dir), 'train').classes)
  if name not in CLASSES:
    raise UserError(f'Unknown dataset config.data.name={name!r}.{suggest(name, ["digits", *CLASSES])}')
  return CLASSES[name]


def transforms(name: str, image_size: int, kind: str = 'none', erase: float = 0.0) -> Transforms:
  """What makes float32 images [batch, image_size, image_size, 3], normalised, and int32 labels of a source's examples.

  Args:
    name: as for `source`.
    image_size: of the result, in pixels.
    kind: one of AUGMENTATIONS ('none' is the test transform, 'flip' a random part of the image and a flip, the others
      add colour jitter or RandAugment to these), for the digits one of DIGIT_AUGMENTATIONS.
    erase: probability of random erasing.

  Raises:
    UserError: for an unknown kind.
  """
  known = DIGIT_AUGMENTATIONS if name == 'digits' else AUGMENTATIONS
  if kind not in known:
    raise UserError(f'Unknown augmentation config.augment.kind={kind!r} for {name}; known: {", ".join(known)}.')
  if name != 'digits':
    test = test_transform(image_size)
    train = train_transform(image_size, kind, erase)
    return Transforms({'augment': train}, {'transform': test})

  def normalized(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**batch, 'image': image.normalize(batch['image'])}

  def augmented(batch: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    if kind == 'shift':
      batch = {**batch, 'image': image.random_crop(batch['image'], rng, image_size // 16)}
    batch = normalized(batch)
    return {**batch, 'image': random_erasing(batch['image'], rng, erase, 'pixel')} if erase else batch

  return Transforms({'batch_augment': augmented}, {'batch_transform': normalized})


def train_transform(
  size: int, kind: str = 'randaugment', erase: float = 0.0
) -> Callable[[Mapping[str, Any], np.random.Generator], dict[str, Any]]:
  """The published training transform for encoded examples {'image': bytes, 'label': int, 'name': str}.

  A random part of the image, resized (up to 32 pixels: the whole image, shifted by up to 4), a flip, the augmentation,
  normalisation and random erasing.

  Args:
    size: of the result, in pixels.
    kind: one of AUGMENTATIONS.
    erase: probability of random erasing with noise.

  Returns:
    (example, rng) -> {'image': float32 [size, size, 3], 'label': int32}; it raises UserError, naming the image, where
    one cannot be decoded.
  """

  def transform(example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    name = example.get('name', 'the image')
    picture = image.open_image(example['image'], name)
    with image.readable(name):
      if kind == 'none':
        picture = _test_view(picture, size)
      elif size <= SMALL:
        picture = Image.fromarray(image.random_crop(np.asarray(_test_view(picture, size))[None], rng)[0])
      else:
        picture = image.random_resized_crop(picture, size, rng)
    if kind != 'none' and rng.random() < 0.5:
      picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if kind == 'randaugment':
      picture = randaugment.rand_augment(picture, rng)
    elif kind == 'jitter':
      picture = image.color_jitter(picture, rng)
    pixels = image.normalize(np.asarray(picture))
    if erase:
      pixels = random_erasing(pixels[None], rng, erase, 'pixel')[0]
    return {'image': pixels, 'label': np.int32(example['label'])}

  return transform


def test_transform(size: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
  """The test transform for encoded examples: short side to size * 256 / 224 (bicubic), then the central part.

  Up to 32 pixels it is the whole image, resized where it has another size. Results are those of `train_transform`.
  """

  def transform(example: Mapping[str, Any]) -> dict[str, Any]:
    name = example.get('name', 'the image')
    picture = image.open_image(example['image'], name)
    with image.readable(name):
      picture = _test_view(picture, size)
    return {'image': image.normalize(np.asarray(picture)), 'label': np.int32(example['label'])}

  return transform


def _test_view(picture: Image.Image, size: int) -> Image.Image:
  if size > SMALL:
    return image.center_crop(picture, size, round(size * 256 / 224))
  picture = picture.convert('RGB')
  return picture if picture.size == (size, size) else picture.resize((size, size), image.BICUBIC)


def _folder(data_dir: str) -> str:
  if not data_dir:
    raise UserError('Set config.data.dir to the folder that holds train/<class>/*.JPEG and val/<class>/*.JPEG.')
  return os.path.expanduser(data_dir)
