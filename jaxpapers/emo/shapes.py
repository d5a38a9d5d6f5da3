"""Coloured shapes on real textures: one seeded generator for classification, detection and segmentation.

Every image has one to four shapes, each within its own quarter, so that no shape hides another and a relation between
two of them reaches far. Outlines are signed distance functions: smooth edges, exact boxes and masks at any size.
"""

from collections.abc import Callable

import numpy as np

from jaxpapers.emo.backgrounds import SPLITS, backgrounds

MAX_SHAPES = 4
IGNORE = 255
RADII = (0.11, 0.22)  # of a shape, as a share of the image's side

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return np.maximum(v, np.abs(u) * np.sin(np.pi / 3) - v * 0.5) - 0.5


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
  return np.maximum(long - 1, short - 0.3)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  # Folded into one tenth of the star, its outline is the line from an inner to an outer corner.
  radius, inner, half = np.hypot(u, v), 0.42, np.pi / 5
  angle = np.abs((np.arctan2(v, u) % (2 * half)) - half)
  x, y = radius * np.cos(angle), radius * np.sin(angle)
  along = np.array([np.cos(half) - inner, np.sin(half)])
  normal = np.array([along[1], -along[0]]) / np.hypot(*along)
  return (x - inner) * normal[0] + y * normal[1]


OUTLINES: dict[str, Outline] = {
  'disc': lambda u, v: np.hypot(u, v) - 1,
  'ring': lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.25,
  'square': lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.8,
  'triangle': _triangle,
  'cross': _cross,
  'bar': lambda u, v: np.maximum(np.abs(u) - 1, np.abs(v) - 0.3),
  'star': _star,
  'crescent': lambda u, v: np.maximum(np.hypot(u, v) - 1, 0.75 - np.hypot(u - 0.5, v)),
}
"""Kind of shape -> signed distance (negative inside) of points (u, v) in units of its radius."""

KINDS = tuple(OUTLINES)


def shapes(split: str, count: int, size: int, seed: int = 0, same_share: float = 0.5) -> dict[str, np.ndarray]:
  """`count` images; equal arguments give equal arrays, the splits share neither seeds nor background pixels.

  Args:
    split: 'train' or 'test'.
    count: number of images.
    size: height and width in pixels, at least 32.
    seed: at least 0.
    same_share: of the images with two or more shapes, how many repeat one kind.

  Returns:
    image: uint8 [count, size, size, 3].
    label: int32 [count], kind of the largest shape.
    same: int32 [count], 1 where two shapes are of one kind: a relation between far-apart places.
    boxes: float32 [count, MAX_SHAPES, 4], x1, y1, x2, y2 in pixels; 0 beyond the image's shapes.
    classes: int32 [count, MAX_SHAPES], indices into KINDS; -1 beyond the image's shapes.
    count: int32 [count], how many shapes.
    mask: int32 [count, size, size], 0 background, 1 + kind inside a shape, 255 on the pixel around it.

  Raises:
    ValueError: for an unknown split or a size below 32.
  """
  if size < 32:
    raise ValueError(f'The shapes need images of at least 32 pixels, not {size}.')
  if split not in SPLITS:
    raise ValueError(f'Unknown split {split!r}; known: {", ".join(SPLITS)}.')
  rng = np.random.default_rng([seed, SPLITS.index(split), 1])
  image = backgrounds(split, count, size, rng)
  mask = np.zeros((count, size, size), np.int32)
  number, kinds, same = _kinds(count, same_share, rng)
  radii = rng.uniform(*RADII, (count, MAX_SHAPES)).astype(np.float32) * size
  freedom = np.maximum(size / 4 - radii - 1, 0)[..., None]
  quarters = rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1)
  centres = np.stack([quarters // 2, quarters % 2], -1) * (size / 2) + size / 4
  centres = (centres + rng.uniform(-1, 1, (count, MAX_SHAPES, 2)) * freedom).astype(np.float32)
  angles = rng.uniform(0, 2 * np.pi, (count, MAX_SHAPES)).astype(np.float32)
  colors = _colors(rng, count * MAX_SHAPES).reshape(count, MAX_SHAPES, 3)

  boxes = np.zeros((count, MAX_SHAPES, 4), np.float32)
  areas = np.zeros((count, MAX_SHAPES), np.float32)
  for slot in range(MAX_SHAPES):
    for kind in range(len(KINDS)):
      here = np.flatnonzero((number > slot) & (kinds[:, slot] == kind))
      if len(here) == 0:
        continue
      where = here, slot
      corner = (centres[where] // (size // 2)).astype(int) * (size // 2)
      alpha = _draw(OUTLINES[KINDS[kind]], centres[where] - corner, radii[where], angles[where], size // 2)
      part = _patch(here, corner, size // 2)
      # A little of the texture shows through, so that colour alone does not give the shape away.
      paint = 0.85 * colors[where][:, None, None] + 0.15 * image[part]
      image[part] += alpha[..., None] * (paint - image[part])
      inside = alpha >= 0.5
      mask[part] = np.where(inside, 1 + kind, mask[part])
      boxes[where] = _extent(inside) + corner[:, [1, 0, 1, 0]]
      areas[where] = inside.sum((1, 2))
  present = np.arange(MAX_SHAPES) < number[:, None]
  return {
    'image': np.round(image * 255).clip(0, 255).astype(np.uint8),
    'label': kinds[np.arange(count), areas.argmax(1)].astype(np.int32),
    'same': same.astype(np.int32),
    'boxes': boxes,
    'classes': np.where(present, kinds, -1).astype(np.int32),
    'count': number.astype(np.int32),
    'mask': _with_border(mask),
  }


def _kinds(count: int, same_share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(how many shapes [count], kinds [count, MAX_SHAPES], whether two are equal [count])."""
  number = rng.integers(1, MAX_SHAPES + 1, size=count)
  # All different at first; then one of the shapes takes the kind of another.
  kinds = rng.permuted(np.tile(np.arange(len(KINDS)), (count, 1)), axis=1)[:, :MAX_SHAPES]
  same = (rng.random(count) < same_share) & (number > 1)
  source = (rng.random(count) * number).astype(int)
  target = (source + 1 + (rng.random(count) * (number - 1)).astype(int)) % number
  rows = np.flatnonzero(same)
  kinds[rows, target[rows]] = kinds[rows, source[rows]]
  return number, kinds, same


def _draw(outline: Outline, centres: np.ndarray, radii: np.ndarray, angles: np.ndarray, side: int) -> np.ndarray:
  """Coverage [shapes, side, side] in [0, 1]; centres [shapes, 2] as (y, x), pixel (i, j) has its centre at +0.5."""
  grid = np.arange(side, dtype=np.float32) + 0.5
  y = (grid[None, :, None] - centres[:, :1, None]) / radii[:, None, None]
  x = (grid[None, None, :] - centres[:, 1:, None]) / radii[:, None, None]
  cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
  distance = outline(cos * x + sin * y, cos * y - sin * x) * radii[:, None, None]
  return np.clip(0.5 - distance, 0, 1).astype(np.float32)


def _patch(images: np.ndarray, corners: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Index of the side x side part at (y, x) = corners [parts, 2] of each of `images` [parts]."""
  steps = np.arange(side)
  rows, columns = corners[:, :1] + steps, corners[:, 1:] + steps
  return images[:, None, None], rows[:, :, None], columns[:, None, :]


def _extent(inside: np.ndarray) -> np.ndarray:
  """[shapes, h, w] bool -> float32 [shapes, 4]: x1, y1, x2, y2 of the smallest box around the True pixels."""
  rows, columns = inside.any(2), inside.any(1)
  first, last = np.argmax(columns, 1), inside.shape[2] - np.argmax(columns[:, ::-1], 1)
  top, bottom = np.argmax(rows, 1), inside.shape[1] - np.argmax(rows[:, ::-1], 1)
  return np.stack([first, top, last, bottom], 1).astype(np.float32)


def _colors(rng: np.random.Generator, count: int) -> np.ndarray:
  """float32 [count, 3]: saturated colours of every hue."""
  hue = rng.random((count, 1))
  saturation, value = rng.uniform(0.6, 1.0, (count, 1)), rng.uniform(0.6, 1.0, (count, 1))
  wheel = np.clip(np.abs((hue + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1, 0, 1)
  return (value * (1 - saturation * (1 - wheel))).astype(np.float32)


def _with_border(mask: np.ndarray) -> np.ndarray:
  """Background pixels beside a shape become IGNORE."""
  shape = mask > 0
  padded = np.pad(shape, ((0, 0), (1, 1), (1, 1)))
  beside = padded[:, 2:, 1:-1] | padded[:, :-2, 1:-1] | padded[:, 1:-1, 2:] | padded[:, 1:-1, :-2]
  return np.where(beside & ~shape, IGNORE, mask).astype(np.int32)
