"""FewShapes: images of twelve outlines, eight base and four novel. Generated, no download.

Colour and fill say nothing about the class: only the outline does. Stripes are sinusoidal and run
in a random direction; a retry draws size, place and turn anew.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.ops.resize import bilinear_matrix

SIDE = 48
BASE_NAMES = ('disk', 'square', 'triangle', 'ring', 'plus', 'star', 'bar', 'crescent')
NOVEL_NAMES = ('half_disk', 'L', 'frame', 'T')
NAMES = BASE_NAMES + NOVEL_NAMES
BASE = tuple(range(8))
NOVEL = tuple(range(8, 12))

_RADIUS = (8.0, 13.0)
_MARGIN = 0.8  # of the radius, between centre and border
_TURN = 0.5
_OVERLAP = 0.05  # of the area of the later object
_TRIES = 20
_UNLABELLED = 0.15
_PERIOD = 7.0
_GRID = 5
_CHUNK = 256  # images drawn from one generator, so that a larger set begins with the smaller one
_TRAIN, _TEST, _SHOTS = 1, 2, 3


class Scenes(NamedTuple):
  """Images with their labelled objects, padded to one number.

  Attributes:
    images: [n, 48, 48, 3] float32, in 0..1.
    masks: [n, objects, 48, 48] bool; disjoint.
    classes: [n, objects] int32, index into NAMES; -1 is padding.
  """

  images: np.ndarray
  masks: np.ndarray
  classes: np.ndarray


def base_set(seed: int, count: int = 3000) -> Scenes:
  """Training images: one or two labelled base objects and, in 15 of 100, an unlabelled novel one. Two object slots."""

  def wanted(rng, n):
    novel = np.where(rng.random(n) < _UNLABELLED, rng.choice(NOVEL, n), -1)
    return np.column_stack([_one_or_two(rng, n, BASE), novel])

  return _chunks(_TRAIN, seed, count, wanted, labelled=2)


def test_set(seed: int, count: int = 300) -> Scenes:
  """Images with one or two objects of all twelve classes, all labelled. Two object slots."""
  return _chunks(_TEST, seed, count, lambda rng, n: _one_or_two(rng, n, BASE + NOVEL), labelled=2)


def shots(seed: int, k: int) -> Scenes:
  """K images of each class with one object each: image j * 12 + c is shot j of class c. One object slot.

  Sets are nested: the first 12 K images of a larger K are those of K.

  Args:
    seed: of the K-shot set, 0, 1, ...
    k: shots, at least 1.
  """
  _positive('k', k)
  parts = []
  for shot in range(k):
    rng = np.random.default_rng([1000 + seed, _SHOTS, shot])
    parts.append(_generate(rng, np.arange(len(NAMES))[:, None], labelled=1))
  return _joined(parts)


def keep_classes(scenes: Scenes, classes: Iterable[int]) -> Scenes:
  """The images that have an object of `classes`, with the labels of these alone."""
  kept = np.isin(scenes.classes, list(classes)) & (scenes.classes >= 0)
  some = kept.any(axis=1)
  masks = scenes.masks & kept[..., None, None]
  return Scenes(scenes.images[some], masks[some], np.where(kept, scenes.classes, -1)[some])


def outline(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Whether points lie inside the outline of a class; bool, of the shape of x and y.

  Args:
    kind: 0..11, index into NAMES.
    x: to the right, in units of the object's radius.
    y: downwards.
  """
  ax, ay = np.abs(x), np.abs(y)
  rho = np.hypot(x, y)
  square = np.maximum(ax, ay)
  if kind == 0:
    inside = rho < 0.85
  elif kind == 1:
    inside = square < 0.72
  elif kind == 2:
    inside = (y > -0.6) & (y < 0.9 - 2.2 * ax)
  elif kind == 3:
    inside = (rho > 0.5) & (rho < 0.95)
  elif kind == 4:
    inside = ((ax < 0.28) & (ay < 0.9)) | ((ay < 0.28) & (ax < 0.9))
  elif kind == 5:
    turns = 5 * np.arctan2(y, x) / (2 * np.pi)
    inside = rho < 0.42 + 0.58 * 2 * np.abs(turns - np.floor(turns) - 0.5)
  elif kind == 6:
    inside = (ax < 0.95) & (ay < 0.3)
  elif kind == 7:
    inside = (rho < 0.9) & (np.hypot(x - 0.45, y) > 0.7)
  elif kind == 8:
    inside = (rho < 0.9) & (y > -0.05)
  elif kind == 9:
    inside = ((np.abs(x + 0.5) < 0.28) & (ay < 0.85)) | ((np.abs(y - 0.57) < 0.28) & (ax < 0.78))
  elif kind == 10:
    inside = (square > 0.45) & (square < 0.85)
  elif kind == 11:
    inside = ((ax < 0.25) & (ay < 0.85)) | ((np.abs(y + 0.6) < 0.25) & (ax < 0.85))
  else:
    raise ValueError(f'Classes are 0..{len(NAMES) - 1}, not {kind}.')
  return inside & (rho < 1.4)


def _one_or_two(rng, n, classes):
  drawn = rng.choice(classes, (n, 2))
  drawn[rng.random(n) < 0.5, 1] = -1
  return drawn


def _chunks(stream, seed, count, wanted, labelled):
  _positive('count', count)
  if seed < 0:
    raise UserError(f'A seed of FewShapes is at least 0, not {seed}.')
  parts = []
  for chunk in range(-(-count // _CHUNK)):
    rng = np.random.default_rng([seed, stream, chunk])
    parts.append(_generate(rng, wanted(rng, _CHUNK), labelled))
  return Scenes(*(x[:count] for x in _joined(parts)))


def _positive(name, value):
  if value < 1:
    raise UserError(f'{name} of FewShapes is at least 1, not {value}.')


def _joined(parts):
  return Scenes(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def _generate(rng, wanted, labelled):
  """Scenes of objects `wanted` [n, slots] (-1: none); the first `labelled` slots are told."""
  masks = _place(rng, wanted)
  images = _background(rng, len(wanted))
  for slot in range(wanted.shape[1]):
    there = np.flatnonzero(masks[:, slot].any(axis=(1, 2)))
    mask = masks[there, slot, :, :, None]
    images[there] = np.where(mask, _fill(rng, len(there)), images[there])
  masks = masks[:, :labelled]
  classes = np.where(masks.any(axis=(2, 3)), wanted[:, :labelled], -1)
  return Scenes(np.clip(images, 0, 1), masks, classes.astype(np.int32))


def _place(rng, wanted):
  """[n, slots, 48, 48] bool: what is visible of each object; nothing where it found no place."""
  masks = np.zeros((*wanted.shape, SIDE, SIDE), bool)
  for slot in range(wanted.shape[1]):
    taken = masks.any(axis=1)
    left = np.flatnonzero(wanted[:, slot] >= 0)
    for _ in range(_TRIES):
      drawn = _draw(rng, wanted[left, slot])
      overlap = np.count_nonzero(drawn & taken[left], axis=(1, 2))
      fits = overlap < _OVERLAP * np.count_nonzero(drawn, axis=(1, 2))
      masks[left[fits], slot] = drawn[fits] & ~taken[left[fits]]
      left = left[~fits]
  return masks


def _draw(rng, classes):
  """[n, 48, 48] bool: objects of random size, place and turn."""
  n = len(classes)
  radius = rng.uniform(*_RADIUS, n)
  center = rng.uniform(_MARGIN * radius, SIDE - _MARGIN * radius, (2, n))
  turn = rng.uniform(-_TURN, _TURN, n)
  pixels = np.arange(SIDE) + 0.5
  across = ((pixels - center[0][:, None]) / radius[:, None])[:, None, :]
  down = ((pixels - center[1][:, None]) / radius[:, None])[:, :, None]
  cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
  x, y = cos * across + sin * down, cos * down - sin * across
  masks = np.zeros((n, SIDE, SIDE), bool)
  for kind in np.unique(classes):
    here = classes == kind
    masks[here] = outline(kind, x[here], y[here])
  return masks


def _background(rng, n):
  """[n, 48, 48, 3] float32: smooth colours, pixel noise and one shift of colour."""
  enlarge = bilinear_matrix(_GRID, SIDE)
  grid = 0.5 + 0.18 * rng.standard_normal((n, _GRID, _GRID, 3), np.float32)
  smooth = np.einsum('ai,nijc,bj->nabc', enlarge, grid, enlarge, optimize=True)
  noise = 0.05 * rng.standard_normal((n, SIDE, SIDE, 3), np.float32)
  return smooth + noise + 0.12 * rng.standard_normal((n, 1, 1, 3), np.float32)


def _fill(rng, n):
  """[n, 48, 48, 3] float32: a colour each, plain, striped or noisy."""
  colour = rng.random((n, 1, 1, 3), np.float32)
  fill = rng.integers(3, size=n)
  angle, phase = rng.uniform(0, np.pi, n), rng.uniform(0, 2 * np.pi, n)
  pixels = np.arange(SIDE)
  along = np.cos(angle)[:, None, None] * pixels + np.sin(angle)[:, None, None] * pixels[:, None]
  stripes = 0.75 + 0.25 * np.sin(2 * np.pi * along / _PERIOD + phase[:, None, None])
  noise = 0.12 * rng.standard_normal((n, SIDE, SIDE), np.float32)
  factor = np.where((fill == 1)[:, None, None], stripes, 1.0).astype(np.float32)
  return colour * factor[..., None] + np.where((fill == 2)[:, None, None], noise, 0.0)[..., None].astype(np.float32)
