"""COCO segmentations: polygons and run lengths, checked, moved and rasterised by pycocotools."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as mask_ops

from jaxpapers.data.coco import decode_mask


def problem(segmentation: Any, height: int, width: int) -> str | None:
  """What is wrong with a segmentation, as the end of a sentence; None if all is well. Does not rasterise.

  Args:
    segmentation: list of polygons [x0, y0, x1, y1, ...], or {'size': [h, w], 'counts': list or string}.
    height: of the image.
    width: of the image.
  """
  if isinstance(segmentation, Mapping):
    return _run_length_problem(segmentation, height, width)
  if not isinstance(segmentation, Sequence) or isinstance(segmentation, str | bytes) or not segmentation:
    return 'has no segmentation'
  for polygon in segmentation:
    if not isinstance(polygon, Sequence) or isinstance(polygon, str | bytes):
      return f'has a polygon that is no list of numbers: {polygon!r}'
    if len(polygon) < 6 or len(polygon) % 2:
      return f'has a polygon of {len(polygon)} numbers: it takes an even number of them, at least 6'
    if not all(isinstance(x, int | float) and abs(x) < 1e7 for x in polygon):
      return 'has a polygon with a coordinate that is no finite number'
  return None


def _run_length_problem(segmentation, height, width):
  size, counts = segmentation.get('size'), segmentation.get('counts')
  if not isinstance(size, Sequence) or len(size) != 2 or counts is None:
    return "has a run-length mask without 'size' [height, width] and 'counts'"
  if tuple(size) != (height, width):
    return f'has a run-length mask of {size[1]}x{size[0]} on an image of {width}x{height}'
  runs = run_lengths(counts)
  if runs is None:
    return 'has compressed run lengths that end in the middle of a number'
  if min(runs, default=0) < 0:
    return 'has a negative run length'
  if sum(runs) != height * width:
    return f'has run lengths that add up to {sum(runs)}, not to {height * width} = {height} x {width}'
  return None


def run_lengths(counts: str | bytes | Sequence[int]) -> list[int] | None:
  """Run lengths, column by column and starting with zeros, of COCO's list or compressed string; None if cut off."""
  if not isinstance(counts, str | bytes):
    return list(counts)
  runs, value, shift = [], 0, 0
  for byte in counts.encode() if isinstance(counts, str) else counts:
    code = byte - 48
    value |= (code & 0x1F) << shift
    shift += 5
    if not code & 0x20:
      if code & 0x10:
        value |= -1 << shift
      runs.append(value + runs[-2] if len(runs) > 2 else value)
      value = shift = 0
  return runs if shift == 0 else None


def encode(segmentation: Any, height: int, width: int) -> dict[str, Any]:
  """Compressed run lengths of a segmentation that has no `problem`."""
  if not isinstance(segmentation, Mapping):
    return mask_ops.merge(mask_ops.frPyObjects(segmentation, height, width))
  if isinstance(segmentation['counts'], str | bytes):
    return segmentation
  return mask_ops.frPyObjects(segmentation, height, width)


class Placement(NamedTuple):
  """How an image comes onto a canvas: mirrored, resized, then cut or padded at the bottom and right.

  Attributes:
    source: (height, width) of the image.
    flip: mirrored left to right.
    resized: (height, width) of the whole image after resizing.
    offset: (top, left) of the canvas in the resized image.
    canvas: (height, width).
  """

  source: tuple[int, int]
  flip: bool
  resized: tuple[int, int]
  offset: tuple[int, int]
  canvas: tuple[int, int]

  @property
  def covered(self) -> tuple[int, int]:
    """(height, width) of the top left part of the canvas that the image covers."""
    return tuple(min(side - at, room) for side, at, room in zip(self.resized, self.offset, self.canvas, strict=True))


def place_image(image: np.ndarray, placement: Placement, pad: int) -> np.ndarray:
  """uint8 [height, width, 3] -> uint8 [*canvas, 3], by bilinear interpolation; `pad` is the value beside the image."""
  image = image[:, ::-1] if placement.flip else image
  rows, columns = placement.resized
  resized = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
  (top, left), (height, width) = placement.offset, placement.covered
  result = np.full((*placement.canvas, 3), pad, np.uint8)
  result[:height, :width] = resized[top : top + height, left : left + width]
  return result


def place_mask(segmentation: Any, placement: Placement) -> np.ndarray:
  """bool [*canvas] of a segmentation: polygons are moved and rasterised there, run lengths by nearest neighbour."""
  if isinstance(segmentation, Mapping):
    return _place_pixels(decode_mask(segmentation, *placement.source), placement)
  down, across = (r / s for r, s in zip(placement.resized, placement.source, strict=True))
  moved = []
  for polygon in segmentation:
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    x = placement.source[1] - points[:, 0] if placement.flip else points[:, 0]
    moved.append(np.column_stack([x * across - placement.offset[1], points[:, 1] * down - placement.offset[0]]))
  mask = decode_mask([points.ravel().tolist() for points in moved], *placement.canvas)
  height, width = placement.covered
  mask[height:] = False
  mask[:, width:] = False
  return mask


def _place_pixels(mask, placement):
  mask = mask[:, ::-1] if placement.flip else mask
  rows, columns = placement.resized
  resized = Image.fromarray(mask.astype(np.uint8)).resize((columns, rows), Image.Resampling.NEAREST)
  (top, left), (height, width) = placement.offset, placement.covered
  result = np.zeros(placement.canvas, bool)
  result[:height, :width] = np.asarray(resized)[top : top + height, left : left + width]
  return result
