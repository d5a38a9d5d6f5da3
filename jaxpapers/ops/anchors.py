"""Anchor boxes of one-stage detectors. All on the host: they depend on shapes only."""

import math
from collections.abc import Sequence

import numpy as np


def grid(shapes: np.ndarray, stride: tuple[float, float], size: tuple[int, int], offset: float) -> np.ndarray:
  """Boxes of the sizes `shapes` at every cell of a map.

  Args:
    shapes: [k, 2], (width, height) of the boxes of a cell.
    stride: (vertical, horizontal) distance of cells in pixels.
    size: (rows, columns) of the map.
    offset: of the centre of cell (i, j): ((j + offset) * stride_x, (i + offset) * stride_y).

  Returns:
    [rows * columns * k, 4] float32; row-major over cells, the k boxes of a cell together.
  """
  rows, columns = size
  y, x = np.meshgrid((np.arange(rows) + offset) * stride[0], (np.arange(columns) + offset) * stride[1], indexing='ij')
  centers = np.stack([x, y], axis=-1)[:, :, None]
  half = np.asarray(shapes, np.float64)[None, None] / 2
  return np.concatenate([centers - half, centers + half], axis=-1).reshape(-1, 4).astype(np.float32)


def ssd_shapes(minimum: float, maximum: float, ratios: Sequence[float] = (2, 3)) -> np.ndarray:
  """Box sizes of an SSD cell, [2 + 2 * len(ratios), 2] (width, height).

  First the square of side `minimum`, then the square of side sqrt(minimum * maximum), then for each ratio r one box of
  height / width = 1 / r and one of r, both of area minimum**2 (SSD, section 2.2, in the order of the lite heads).
  """
  shapes = [(minimum, minimum), (math.sqrt(minimum * maximum),) * 2]
  for ratio in ratios:
    for r in (1 / ratio, ratio):
      shapes.append((minimum / math.sqrt(r), minimum * math.sqrt(r)))
  return np.asarray(shapes)


def retinanet_shapes(
  stride: float, scale: float = 4, octaves: int = 3, ratios: Sequence[float] = (0.5, 1, 2)
) -> np.ndarray:
  """Box sizes of a RetinaNet cell, [len(ratios) * octaves, 2] (width, height); all scales of a ratio together.

  Areas are (scale * stride * 2**(o / octaves))**2, o = 0 ... octaves - 1; `ratios` are height / width
  (RetinaNet, section 4).
  """
  sides = [scale * stride * 2 ** (o / octaves) for o in range(octaves)]
  return np.asarray([(side / math.sqrt(r), side * math.sqrt(r)) for r in ratios for side in sides])


def ssd_anchors(
  sizes: Sequence[tuple[int, int]],
  strides: Sequence[float],
  minimums: Sequence[float],
  maximums: Sequence[float],
  ratios: Sequence[float] = (2, 3),
) -> list[np.ndarray]:
  """Anchors of every level of an SSD head, with centres half a cell in.

  Args:
    sizes: (rows, columns) of each level.
    strides: pixels between cells of each level.
    minimums: side of the small square of each level.
    maximums: the large square has side sqrt(minimum * maximum).
    ratios: see `ssd_shapes`.

  Returns:
    for each level [rows * columns * (2 + 2 * len(ratios)), 4] float32.
  """
  return [
    grid(ssd_shapes(low, high, ratios), (stride, stride), size, 0.5)
    for size, stride, low, high in zip(sizes, strides, minimums, maximums, strict=True)
  ]


def retinanet_anchors(
  sizes: Sequence[tuple[int, int]],
  strides: Sequence[float],
  scale: float = 4,
  octaves: int = 3,
  ratios: Sequence[float] = (0.5, 1, 2),
) -> list[np.ndarray]:
  """Anchors of every level of a RetinaNet head, with centres at the corner of the cell (no half-cell offset).

  Returns:
    for each level [rows * columns * octaves * len(ratios), 4] float32.
  """
  return [
    grid(retinanet_shapes(stride, scale, octaves, ratios), (stride, stride), size, 0.0)
    for size, stride in zip(sizes, strides, strict=True)
  ]


def cells(sizes: Sequence[tuple[int, int]], strides: Sequence[float], per_cell: int) -> np.ndarray:
  """(row, column, stride) of the cell of every anchor, [anchors of all levels, 3] float32, in their order.

  Args:
    sizes: (rows, columns) of each level.
    strides: pixels between cells of each level.
    per_cell: anchors of a cell.
  """
  parts = []
  for (rows, columns), stride in zip(sizes, strides, strict=True):
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing='ij')
    cell = np.stack([y.reshape(-1), x.reshape(-1), np.full(rows * columns, stride)], axis=1)
    parts.append(np.repeat(cell, per_cell, axis=0))
  return np.concatenate(parts).astype(np.float32)
