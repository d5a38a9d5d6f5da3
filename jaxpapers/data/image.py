"""Decoding and the classical augmentations of images, on the host.

Functions on single Pillow images serve files of any size; those on uint8 batches [batch, height, width, channels] serve
small images in memory. Whatever is random takes a numpy Generator.
"""

import contextlib
import io
import math
import struct
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance

from jaxpapers.engine.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

BILINEAR = Image.Resampling.BILINEAR
BICUBIC = Image.Resampling.BICUBIC


@contextlib.contextmanager
def readable(name: str):
  """Turns Pillow's errors about damaged image data into one that names the image."""
  try:
    yield
  except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
    raise UserError(f'{name} cannot be decoded as an image ({error}); replace or remove it.') from error


def open_image(data: bytes, name: str = 'the image') -> Image.Image:
  """Reads the header of an encoded image; pixels are decoded when they are needed, at a reduced size where it serves.

  Raises:
    UserError: naming `name`, when the data is no image.
  """
  with readable(name):
    return Image.open(io.BytesIO(data))


def decode(data: bytes, name: str = 'the image') -> np.ndarray:
  """An encoded image as uint8 [height, width, 3] RGB.

  Raises:
    UserError: naming `name`, when the data is no image, or truncated.
  """
  image = open_image(data, name)
  with readable(name):
    return np.asarray(image.convert('RGB'))


def center_crop(image: Image.Image, size: int, short_side: int) -> Image.Image:
  """The usual test transform: short side to `short_side` pixels (bicubic), then the central size x size.

  Args:
    image: any mode; an unread JPEG is decoded at a fraction of its size when that loses nothing.
    size: of the crop, in pixels.
    short_side: at least `size`.
  """
  if short_side < size:
    raise ValueError(f'center_crop cannot cut {size} pixels out of a short side of {short_side}.')
  scale = short_side / min(image.size)
  width, height = (max(short_side, round(side * scale)) for side in image.size)
  _shrink_on_load(image, scale)
  image = image.convert('RGB').resize((width, height), BICUBIC)
  left, top = round((width - size) / 2), round((height - size) / 2)
  return image.crop((left, top, left + size, top + size))


def random_resized_crop(
  image: Image.Image,
  size: int,
  rng: np.random.Generator,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  interpolations: Sequence[Image.Resampling] = (BILINEAR, BICUBIC),
) -> Image.Image:
  """A random part of the image, resized to size x size by an interpolation drawn at random.

  Args:
    image: any mode.
    size: of the result, in pixels.
    rng: source of randomness.
    scale: bounds of the part's share of the area.
    ratio: bounds of width / height, drawn log-uniformly.
    interpolations: drawn from uniformly.
  """
  width, height = image.size
  left, top, right, bottom = random_box(width, height, rng, scale, ratio)
  resample = interpolations[int(rng.integers(len(interpolations)))]
  _shrink_on_load(image, max(size / (right - left), size / (bottom - top)))
  across, down = image.size[0] / width, image.size[1] / height
  box = (left * across, top * down, right * across, bottom * down)
  return image.convert('RGB').resize((size, size), resample, box=box)


def random_box(
  width: int, height: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
  """(left, top, right, bottom) of a random part; the largest central one of allowed ratio after ten vain draws."""
  for _ in range(10):
    area = width * height * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
      return left, top, left + w, top + h
  aspect = min(max(width / height, ratio[0]), ratio[1])
  w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
  left, top = (width - w) // 2, (height - h) // 2
  return left, top, left + w, top + h


def color_jitter(
  image: Image.Image,
  rng: np.random.Generator,
  brightness: float = 0.4,
  contrast: float = 0.4,
  saturation: float = 0.4,
  hue: float = 0.0,
) -> Image.Image:
  """Changes brightness, contrast, saturation and hue in a random order.

  Args:
    image: RGB.
    rng: source of randomness.
    brightness: factor drawn from [1 - b, 1 + b], not below 0; likewise contrast and saturation.
    contrast: see brightness.
    saturation: see brightness.
    hue: shift drawn from [-hue, hue], as a share of the colour circle; at most 0.5.
  """
  changes: list[Callable[[Image.Image], Image.Image]] = []
  for enhance, strength in (
    (ImageEnhance.Brightness, brightness),
    (ImageEnhance.Contrast, contrast),
    (ImageEnhance.Color, saturation),
  ):
    factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
    changes.append(lambda im, enhance=enhance, factor=factor: enhance(im).enhance(factor))
  shift = rng.uniform(-hue, hue)
  changes.append(lambda im: _shift_hue(im, shift))
  for index in rng.permutation(len(changes)):
    image = changes[index](image)
  return image


def random_flip(images: np.ndarray, rng: np.random.Generator, probability: float = 0.5) -> np.ndarray:
  """Mirrors each image of [batch, height, width, channels] left to right with the given probability."""
  flip = rng.random(len(images)) < probability
  return np.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_crop(images: np.ndarray, rng: np.random.Generator, padding: int = 4) -> np.ndarray:
  """Shifts each image of [batch, height, width, channels] by up to `padding` pixels; zeros come in at the border."""
  batch, height, width, _ = images.shape
  padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  top, left = rng.integers(2 * padding + 1, size=(2, batch))
  rows = top[:, None] + np.arange(height)
  columns = left[:, None] + np.arange(width)
  return padded[np.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalize(
  images: np.ndarray, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> np.ndarray:
  """uint8 [..., channels] -> float32 (x / 255 - mean) / std, per channel."""
  scale = 1 / (255 * np.asarray(std, np.float32))
  return images * scale - np.asarray(mean, np.float32) / np.asarray(std, np.float32)


def _shrink_on_load(image: Image.Image, scale: float) -> None:
  """Lets an unread JPEG decode at 1/2, 1/4 or 1/8 of its size when the caller shrinks it by `scale` < 1 anyway.

  Twice the needed resolution is kept, so that the filter of the caller's resize still decides the result.
  """
  if scale < 0.5 and image.format == 'JPEG':
    image.draft('RGB', tuple(math.ceil(side * scale * 2) for side in image.size))


def _shift_hue(image: Image.Image, shift: float) -> Image.Image:
  step = round(shift * 255)
  if step == 0:
    return image
  hue, saturation, value = image.convert('HSV').split()
  return Image.merge('HSV', (hue.point(lambda h: (h + step) % 256), saturation, value)).convert('RGB')
