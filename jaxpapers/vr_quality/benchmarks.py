"""What the room saves: viewports, alignment of scanpaths, pseudocylindrical networks, each beside another way.

`launch/benchmark.py` runs it after the stages of the config. All timings of a ratio are of one run on one machine.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.engine.benchmarks import Case
from jaxpapers.engine.measure import Measurement, measure, median_seconds
from jaxpapers.vr_quality.alignment import dtw
from jaxpapers.vr_quality.model import QualityModel, erp_resnet18, normalise, pconv_resnet18
from jaxpapers.vr_quality.scanpath_metrics import all_pairs
from jaxpapers.vr_quality.viewport import scanpath_viewports, spline_viewport

Point = tuple[float, float, float]
CASES = (Case('default', stages=('visibility', 'viewport')),)


def programs(repeats: int) -> tuple[list[Measurement], list[str]]:
  """Measurements, and lines that state their ratios."""
  parts = [viewports(repeats), alignments(repeats), networks(repeats)]
  return [row for rows, _ in parts for row in rows], [line for _, lines in parts for line in lines]


def viewports(
  repeats: int, height: int = 1920, frames: int = 3, scanpaths: int = 5, side: int = 224
) -> tuple[list[Measurement], list[str]]:
  """Viewports along scanpaths of a uint8 video beside the published cubic splines over the whole frame."""
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (frames, height, 2 * height, 3), np.uint8)
  lon = np.float32(rng.uniform(-np.pi, np.pi, (scanpaths, frames)))
  lat = np.float32(rng.normal(0, 0.3, (scanpaths, frames)))

  def see(video, lon, lat):
    return scanpath_viewports(video, lon, lat, size=(side, side))

  ours = measure('viewports', see, tuple(map(jax.device_put, (video, lon, lat))), lon.size, repeats)
  seconds = median_seconds(
    lambda: spline_viewport(video[0], float(lon[0, 0]), float(lat[0, 0]), np.pi / 2, (side, side)), min(repeats, 3)
  )
  other = Measurement('viewport by splines', 1, seconds, beside=ours.name)
  gain = other.seconds / (ours.seconds / ours.examples)
  return [ours, other], [f'viewports of {2 * height} x {height}: {gain:.0f} times as many a second as by splines']


def alignments(repeats: int, paths: int = 20, time: int = 15) -> tuple[list[Measurement], list[str]]:
  """Dynamic time warping of all pairs beside nested Python loops, over floats and over NumPy vectors."""
  points = np.cumsum(np.random.default_rng(0).normal(0, 0.25, (paths, time, 3)), axis=1) + [1.5, 0, 0]
  points /= np.linalg.norm(points, axis=-1, keepdims=True)
  ours = measure('dtw', lambda x: all_pairs(dtw, x), (jnp.asarray(points, jnp.float32),), paths**2, 10 * repeats)
  plain = [[tuple(map(float, point)) for point in path] for path in points]
  floats = Measurement(
    'dtw, Python floats', paths**2, median_seconds(lambda: looped(plain, plain, _gap), repeats), beside='dtw'
  )
  few = max(1, paths // 5)
  vectors = Measurement(
    'dtw, NumPy in loops',
    few * paths,
    median_seconds(lambda: looped(points[:few], points, _numpy_gap), 1),
    beside='dtw',
  )
  each = ours.seconds / ours.examples
  line = (
    f'DTW of {paths} x {paths} paths of {time} points: '
    f'{floats.seconds / floats.examples / each:.0f} times as fast as loops over floats, '
    f'{vectors.seconds / vectors.examples / each:.0f} times as loops over NumPy vectors'
  )
  return [ours, floats, vectors], [line]


def networks(repeats: int, height: int = 512, width: int = 64) -> tuple[list[Measurement], list[str]]:
  """One frame through the plain ResNet-18 and the pseudocylindrical one, all columns or by buckets of equal width."""
  frame = jax.device_put(np.random.default_rng(0).integers(0, 256, (1, 1, height, 2 * height, 3), np.uint8))
  models = {
    'ResNet-18, plain': erp_resnet18(width),
    'ResNet-18, tiles': pconv_resnet18(width),
    'ResNet-18, bucketed tiles': pconv_resnet18(width, bucketed=True),
  }
  variables = jax.jit(models['ResNet-18, plain'].init)(jax.random.key(0), normalise(frame))
  rows = [measure(name, _forward(model), (variables, frame), 1, repeats) for name, model in models.items()]
  plain, tiles, bucketed = (row.seconds for row in rows)
  line = (
    f'ResNet-18 at {2 * height} x {height}: tiles take {tiles / plain:.2f} and bucketed tiles '
    f'{bucketed / plain:.2f} of the plain time; bucketed / unbucketed {bucketed / tiles:.2f}'
  )
  return rows, [line]


def looped(paths: Sequence, others: Sequence, gap) -> list[list[float]]:
  """Dynamic time warping of all pairs as it is usually written: four nested loops. `gap` is the distance of points."""
  found = []
  for p in paths:
    row = []
    for q in others:
      table = [[math.inf] * (len(q) + 1) for _ in range(len(p) + 1)]
      table[0][0] = 0.0
      for i, a in enumerate(p):
        for j, b in enumerate(q):
          table[i + 1][j + 1] = gap(a, b) + min(table[i][j + 1], table[i + 1][j], table[i][j])
      row.append(table[-1][-1])
    found.append(row)
  return found


def _gap(a: Point, b: Point) -> float:
  x, y, z = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
  return math.atan2(math.sqrt(x * x + y * y + z * z), a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _numpy_gap(a: np.ndarray, b: np.ndarray) -> float:
  return np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)


def _forward(model: QualityModel):
  return lambda variables, frame: model.apply(variables, normalise(frame)).score
