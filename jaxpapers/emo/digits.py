"""Scenes of real handwritten digits, as the embedded data for classification.

The digits are the 1,797 real ones inside scikit-learn, which the project needs anyway. A bigger set would cost one more
dependency, with pandas behind it, for digits that would be drawn no larger than these.
"""

import functools

import numpy as np
import sklearn.datasets
from PIL import Image

from jaxpapers.emo.backgrounds import SPLITS, backgrounds
from jaxpapers.engine.errors import UserError, suggest

TASKS = ('pair', 'cued', 'single')
NUM_DIGITS = 10

COLORS = np.array([[1.0, 0.2, 0.15], [0.2, 0.9, 0.25], [0.3, 0.5, 1.0], [1.0, 0.85, 0.1]], np.float32)
DIGIT, DISC = 0.38, 0.22  # sides, as shares of the canvas


def digits(split: str, count: int, size: int = 64, seed: int = 0, task: str = 'pair') -> dict[str, np.ndarray]:
  """Scenes of real handwritten digits on real textures; train and test share no digit and no background pixel.

  'pair': two digits lie in opposite quarters of the canvas, and the larger one is the label: who reads only one of them
  is right in 55 % of the scenes. 'cued': a disc in a third quarter has the colour of one of them, which is the label.
  Reading both is not enough then: the disc has to be matched with a digit half a canvas away (again 55 % otherwise).
  'single': one digit, in any quarter.

  Args:
    split: 'train' (1,437 digits) or 'test' (360).
    count: number of scenes; equal arguments give equal arrays.
    size: height and width in pixels, at least 32.
    seed: at least 0.
    task: one of TASKS.

  Returns:
    image: uint8 [count, size, size, 3].
    label: int32 [count], 0..9.
    other: int32 [count], the digit that is not the label; -1 for 'single'.

  Raises:
    UserError: for an unknown split or task, or a size below 32.
  """
  for what, value, known in (('split', split, SPLITS), ('task', task, TASKS)):
    if value not in known:
      raise UserError(f'Unknown {what} {value!r} of the digits.{suggest(value, known)}')
  if size < 32:
    raise UserError(f'The digits need a canvas of at least 32 pixels, not {size}.')
  rng = np.random.default_rng([seed, SPLITS.index(split), 0])
  canvas = backgrounds(split, count, size, rng)
  pictures, targets = _handwriting(split, round(size * DIGIT))
  chosen = rng.integers(len(targets), size=(count, 2))
  quarters = _quarters(rng, count)
  colors = COLORS[rng.permuted(np.tile(np.arange(len(COLORS)), (count, 1)), axis=1)[:, :2]]
  _paint(canvas, pictures[chosen[:, 0]], quarters[:, 0], colors[:, 0], rng)
  label, other = targets[chosen].T
  if task == 'single':
    other = np.full(count, -1)
  else:
    _paint(canvas, pictures[chosen[:, 1]], quarters[:, 1], colors[:, 1], rng)
  if task == 'cued':
    disc = _disc(round(size * DISC))
    _paint(canvas, np.broadcast_to(disc, (count, *disc.shape)), quarters[:, 2], colors[:, 0], rng)
  elif task == 'pair':
    label, other = np.maximum(label, other), np.minimum(label, other)
  return {
    'image': np.round(canvas * 255).clip(0, 255).astype(np.uint8),
    'label': label.astype(np.int32),
    'other': other.astype(np.int32),
  }


@functools.lru_cache(maxsize=8)
def _handwriting(split: str, side: int) -> tuple[np.ndarray, np.ndarray]:
  """(float32 [digits, side, side] in [0, 1], int [digits]): this split's share, one digit in five for testing."""
  loaded = sklearn.datasets.load_digits()
  chosen = np.flatnonzero((np.random.default_rng(0).permutation(len(loaded.target)) % 5 == 0) == (split == 'test'))
  shape = (side, side)
  grown = [
    np.asarray(Image.fromarray(picture.astype(np.float32) / 16).resize(shape, Image.Resampling.BICUBIC))
    for picture in loaded.images[chosen]
  ]
  return np.clip(np.stack(grown), 0, 1), loaded.target[chosen]


def _quarters(rng: np.random.Generator, count: int) -> np.ndarray:
  """[count, 4]: the quarters 0..3 (row-major), the first two opposite each other."""
  first = rng.integers(4, size=count)
  swap = rng.integers(2, size=count)
  return np.stack([first, 3 - first, first ^ (1 + swap), first ^ (2 - swap)], 1)


def _disc(side: int) -> np.ndarray:
  """float32 [side, side]: coverage of a disc with smooth edge."""
  place = np.arange(side) - (side - 1) / 2
  return np.clip(side / 2 - np.hypot(place[:, None], place), 0, 1).astype(np.float32)


def _paint(
  canvas: np.ndarray, alpha: np.ndarray, quarters: np.ndarray, colors: np.ndarray, rng: np.random.Generator
) -> None:
  """Blends colors [count, 3] into canvas [count, size, size, 3], in place, at a random spot of each image's quarter."""
  count, size = canvas.shape[:2]
  side, half = alpha.shape[1], size // 2
  spot = rng.integers(half - side + 1, size=(2, count))
  rows = ((quarters // 2) * half + spot[0])[:, None] + np.arange(side)
  columns = ((quarters % 2) * half + spot[1])[:, None] + np.arange(side)
  part = np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]
  canvas[part] += alpha[..., None] * (colors[:, None, None] - canvas[part])
