"""A start from which cross-attention looks where its query is: position embeddings fitted to a Gaussian kernel.

Random embeddings, however sharp, make a poor map of 64 channels: of two tokens the one with the larger norm gets the
attention, not the nearer one. Here the second layer of each embedding is fitted, by least squares, to the leading
eigenfunctions of a kernel of distance. Query and key projections start as the identity on each sensor's half of the
channels, so that the scores of a query are that kernel: half of the heads look at the LiDAR tokens around the query's
reference point, half at the pixels around its projections.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from jaxpapers.cmt import encoding

_RIDGE = 1e-4


class Layers(NamedTuple):
  """Weights of a `PositionMlp`: kernel_0 [in, hidden], bias_0 [hidden], kernel_1 [hidden, width], bias_1 [width]."""

  kernel_0: np.ndarray
  bias_0: np.ndarray
  kernel_1: np.ndarray
  bias_1: np.ndarray


def fit(
  rng: np.random.Generator,
  inputs: np.ndarray,
  places: np.ndarray,
  reach: float,
  hidden: int,
  channels: int,
  heads: int,
  score: float,
) -> Layers:
  """Layers whose outputs have about the inner products score * sqrt(depth) * exp(-distance^2 / (2 reach^2)).

  Args:
    rng: of the first layer.
    inputs: [n, in], of the embedding.
    places: [n, k], where they are; the kernel's distance is Euclidean.
    reach: of the kernel, in the unit of places.
    hidden: units of the first layer.
    channels: of the output; all heads get the same channels / heads functions.
    heads: divides the channels.
    score: of a query with a token at its own place, before the softmax.
  """
  depth = channels // heads
  squared = ((places[:, None] - places[None]) ** 2).sum(-1)
  values, vectors = np.linalg.eigh(np.exp(-squared / (2 * reach**2)))
  functions = vectors[:, : -depth - 1 : -1] * np.sqrt(np.maximum(values[: -depth - 1 : -1], 0))
  # Functions left out take some of the kernel's height with them.
  functions *= np.sqrt(score * np.sqrt(depth) / (functions**2).sum(1).mean())
  spread = np.sqrt(3 / (inputs**2).sum(1).mean())
  kernel_0 = rng.uniform(-spread, spread, (inputs.shape[1], hidden)) * 2
  bias_0 = rng.uniform(-1, 1, hidden)
  features = np.maximum(inputs @ kernel_0 + bias_0, 0)
  features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
  gram = features.T @ features
  gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
  solution = np.tile(np.linalg.solve(gram, features.T @ functions), heads)
  return Layers(kernel_0, bias_0, solution[:-1], solution[-1])


def local_start(
  params: Mapping[str, Any],
  rng: np.random.Generator,
  *,
  img2lidar: np.ndarray,
  image_size: tuple[int, int],
  pc_range: Sequence[float],
  depths: int,
  heads: int,
  frequencies: tuple[float, float],
  bev_reach: float = 1.5,
  ray_reach: float = 0.3,
  score: float = 20.0,
) -> dict[str, Any]:
  """Parameters of a `Head` with embeddings and cross-attention that start local.

  Args:
    params: of the head; arrays or tracers.
    rng: of the first layers.
    img2lidar: [cameras, 4, 4] of the rig.
    image_size: (height, width) in pixels.
    pc_range: x, y, z lower then upper bounds in metres.
    depths: along a ray.
    heads: of attention, an even number.
    frequencies: of the sine code, see `Head`.
    bev_reach: of the kernel on the ground, metres.
    ray_reach: of the kernel of directions, radians.
    score: see `fit`.
  """
  if heads % 2:
    raise ValueError(f'Half of the heads start on each sensor: their number must be even, not {heads}.')
  flat = flax.traverse_util.flatten_dict(dict(params))
  width = flat['bev_embedding', 'layer1', 'bias'].shape[0]
  half = width // 2
  cells = encoding.cell_centers(24, 24)
  pixels = encoding.cell_pixels(8, 16, image_size).reshape(-1, 3)
  bins = encoding.depth_bins(depths, pc_range[3])
  with jax.ensure_compile_time_eval():
    code = np.asarray(encoding.sine_code(cells, encoding.geometric_periods(width, *frequencies)), np.float64)
    rays = np.asarray(encoding.ray_points(pixels, img2lidar[None], bins, pc_range), np.float64)
  extent = np.asarray(pc_range[3:5]) - np.asarray(pc_range[:2])
  bev = fit(rng, code, cells * extent, bev_reach, width, half, heads // 2, score)
  rays = rays.reshape(-1, 3 * depths)
  ends = rays.reshape(len(rays), depths, 3) * (np.asarray(pc_range[3:]) - np.asarray(pc_range[:3]))
  directions = ends[:, -1] - ends[:, 0]
  directions /= np.linalg.norm(directions, axis=1, keepdims=True)
  ray = fit(rng, rays, directions, ray_reach, 4 * width, half, heads // 2, score)
  for place, (module, layers) in enumerate((('bev_embedding', bev), ('rv_embedding', ray))):
    mine = slice(place * half, (place + 1) * half)
    kernel_1, bias_1 = np.zeros((len(layers.kernel_1), width)), np.zeros(width)
    kernel_1[:, mine], bias_1[mine] = layers.kernel_1, layers.bias_1
    for (layer, leaf), value in {
      ('layer0', 'kernel'): layers.kernel_0,
      ('layer0', 'bias'): layers.bias_0,
      ('layer1', 'kernel'): kernel_1,
      ('layer1', 'bias'): bias_1,
    }.items():
      flat[module, layer, leaf] = value.astype(np.float32)
  path = ('decoder', 'layers', 'cross_attention', 'in_proj_kernel')
  flat[path] = flat[path].at[:, :, : 2 * width].set(np.tile(np.eye(width, dtype=np.float32), 2))
  return flax.traverse_util.unflatten_dict(flat)
