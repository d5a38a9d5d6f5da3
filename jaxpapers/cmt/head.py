"""The CMT head: tokens of both sensors in one memory, queries that are 3D points, boxes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.cmt import encoding
from jaxpapers.cmt.decoder import Decoder
from jaxpapers.cmt.denoising import Denoising
from jaxpapers.cmt.heads import TaskHeads
from jaxpapers.cmt.queries import inverse_sigmoid, query_rays
from jaxpapers.layers.conv import torch_uniform
from jaxpapers.layers.conv_norm import ConvNorm

PC_RANGE = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
"""Of the published models, metres: x, y, z lower then upper bounds."""

SIX_TASKS = (1, 2, 2, 1, 2, 2)
"""Classes per task in CenterPoint's grouping of the ten nuScenes classes; the published models have one task, (10,)."""

_FAN_OUT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
_EXACT = jax.lax.Precision.HIGHEST


class HeadOutput(NamedTuple):
  """Predictions of all L layers.

  Attributes:
    tasks: per task a dict of float32 [L, batch, queries, channels]: center 2 (metres), height 1 (metres), dim 3, rot 2
      (sine, cosine), vel 2 (m/s) and cls_logits. What height and dim mean depends on the order, see `coder.box_code`.
    noised: the same of the denoising queries; None without.
    references: [batch, queries, 3], the queries' points in units of the range.
    states: [L, batch, queries, width], what the output heads read.
  """

  tasks: tuple[dict[str, jax.Array], ...]
  noised: tuple[dict[str, jax.Array], ...] | None
  references: jax.Array
  states: jax.Array


class PositionMlp(nn.Module):
  """Two linear maps with ReLU between, float32 with exact products whatever the model computes in.

  Attributes:
    hidden: width between.
    features: of the output.
  """

  hidden: int
  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., in] -> [..., features]."""
    for index, features in enumerate((self.hidden, self.features)):
      default = torch_uniform(x.shape[-1])
      dense = nn.Dense(features, kernel_init=default, bias_init=default, precision=_EXACT, name=f'layer{index}')
      x = dense(nn.relu(x) if index else x)
    return x


class Head(nn.Module):
  """Decodes boxes from bird's-eye-view and image features; either may be absent.

  Parameters of a sensor exist only if it was there at initialisation: without images there is no `rv_embedding`,
  without LiDAR no `shared_conv`.

  Attributes:
    num_queries: learned 3D points.
    width: of tokens and queries.
    layers: of the decoder.
    heads: of attention.
    hidden: of the feed-forward layers.
    tasks: classes of each task, in class order.
    head_width: between the two convolutions of an output.
    head_kernel: 1, or 3 as the published LiDAR-only model has it.
    depths: points along an image token's ray.
    pc_range: x, y, z lower then upper bounds in metres.
    frequencies: None for the published sine code, or (low, high) exponents of 2 for `encoding.geometric_periods`.
    dropout: see DecoderLayer.
    block: keys of cross-attention at a time.
    dtype: of the shared convolution's and the decoder's products; geometry, embeddings and outputs stay float32.
  """

  num_queries: int = 900
  width: int = 256
  layers: int = 6
  heads: int = 8
  hidden: int = 1024
  tasks: Sequence[int] = (10,)
  head_width: int = 64
  head_kernel: int = 1
  depths: int = 64
  pc_range: Sequence[float] = PC_RANGE
  frequencies: tuple[float, float] | None = None
  dropout: float = 0.1
  block: int | None = 512
  dtype: Any = jnp.float32

  def setup(self):
    """Parameters and parts."""
    self.reference_points = self.param('reference_points', nn.initializers.uniform(1.0), (self.num_queries, 3))
    self.bev_embedding = PositionMlp(self.width, self.width)
    self.rv_embedding = PositionMlp(4 * self.width, self.width)
    self.shared_conv = ConvNorm(self.width, 3, kernel_init=_FAN_OUT, dtype=self.dtype)
    self.decoder = Decoder(self.layers, self.heads, self.hidden, self.dropout, self.block, self.dtype)
    self.task_heads = TaskHeads(self.tasks, self.head_width, self.head_kernel)

  def bev_code(self, points: jax.Array) -> jax.Array:
    """Embedding of points in the ground plane, [..., 2 or more] in units of the range -> [..., width]."""
    if self.frequencies is None:
      periods = encoding.linear_periods(self.width)
    else:
      periods = encoding.geometric_periods(self.width, *self.frequencies)
    return self.bev_embedding(encoding.sine_code(points, periods))

  def bev_tokens(self, bev: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Features [batch, Y, X, channels] -> tokens [batch, Y X, width] and embeddings [Y X, width]."""
    height, width = bev.shape[1:3]
    tokens = self.shared_conv(bev.astype(self.dtype), train)
    return tokens.reshape(bev.shape[0], -1, self.width), self.bev_code(encoding.cell_centers(height, width))

  def image_positions(self, size: tuple[int, int], img2lidar: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    """Embeddings of the cells of feature maps of (height, width) `size`: [batch, cameras, height * width, width].

    They depend on the calibration alone: a fixed rig may keep them.
    """
    pixels = encoding.cell_pixels(*size, image_size).reshape(-1, 3)
    return self.rv_embedding(encoding.ray_points(pixels, img2lidar, self._depths(), self.pc_range))

  def query_image_positions(
    self,
    points: jax.Array,
    lidar2img: jax.Array,
    img2lidar: jax.Array,
    image_size: tuple[int, int],
    has_camera: jax.Array | None = None,
  ) -> jax.Array:
    """Sum over the cameras that see it of a point's ray embedding. [batch, queries, 3] -> [batch, queries, width]."""
    rays, visible = query_rays(points, lidar2img, img2lidar, image_size, self._depths(), self.pc_range)
    if has_camera is not None:
      visible = visible & has_camera[:, :, None]
    return jnp.sum(jnp.where(visible[..., None], self.rv_embedding(rays), 0.0), axis=1)

  def _depths(self):
    return encoding.depth_bins(self.depths, self.pc_range[3])

  def __call__(
    self,
    bev: jax.Array | None,
    image_features: jax.Array | None,
    lidar2img: jax.Array | None = None,
    img2lidar: jax.Array | None = None,
    image_size: tuple[int, int] | None = None,
    *,
    has_lidar: jax.Array | None = None,
    has_camera: jax.Array | None = None,
    denoising: Denoising | None = None,
    train: bool = False,
  ) -> HeadOutput:
    """Predicts.

    Args:
      bev: [batch, Y, X, channels] LiDAR features, or None.
      image_features: [batch, cameras, h, w, width], or None.
      lidar2img: [batch, cameras, 4, 4] to (u d, v d, d, 1) in pixels of the padded image; needed with images.
      img2lidar: its inverse, taken in float64 by the caller where that is possible.
      image_size: (height, width) of the padded image.
      has_lidar: [batch] bool, False hides the LiDAR tokens of an example; None is True.
      has_camera: [batch, cameras] bool, False hides a camera's tokens and its view of the queries; None is True.
      denoising: queries of training, put before the learned ones.
      train: batch statistics (collection `batch_stats`) and dropout (rng stream `dropout`).

    Raises:
      ValueError: if both sensors are absent, or matrices do not fit the images.
    """
    if bev is None and image_features is None:
      raise ValueError('Both sensors are absent: the head needs LiDAR features, image features, or both.')
    if image_features is not None:
      _check_cameras(image_features, lidar2img, img2lidar, image_size, self.width)
    batch = (image_features if bev is None else bev).shape[0]
    memory, places, masks = [], [], []
    if bev is not None:
      chex.assert_rank(bev, 4)
      tokens, place = self.bev_tokens(bev, train)
      memory.append(tokens)
      places.append(jnp.broadcast_to(place, tokens.shape))
      masks.append(_mask(has_lidar, (batch,), tokens.shape[1]))
    references = jnp.broadcast_to(self.reference_points, (batch, self.num_queries, 3))
    if denoising is not None:
      references = jnp.concatenate([denoising.references, references], axis=1)
    logits = inverse_sigmoid(references)
    points = jax.nn.sigmoid(logits)
    place = self.bev_code(points)
    if image_features is not None:
      cameras, height, width = image_features.shape[1:4]
      memory.append(image_features.reshape(batch, -1, self.width).astype(self.dtype))
      tokens_place = self.image_positions((height, width), img2lidar, image_size)
      places.append(tokens_place.reshape(memory[-1].shape))
      masks.append(_mask(has_camera, (batch, cameras), height * width))
      place = place + self.query_image_positions(points, lidar2img, img2lidar, image_size, has_camera)
    states = self.decoder(
      place,
      jnp.concatenate(memory, axis=1),
      jnp.concatenate(places, axis=1),
      key_mask=None if has_lidar is None and has_camera is None else jnp.concatenate(masks, axis=1),
      blocked=None if denoising is None else denoising.blocked,
      train=train,
    )
    used = None
    if denoising is not None:
      used = jnp.concatenate([denoising.used, jnp.ones(self.num_queries, bool)])
    tasks = tuple(self._in_metres(task, logits) for task in self.task_heads(states, used))
    slots = 0 if denoising is None else denoising.references.shape[1]
    return HeadOutput(
      tasks=jax.tree.map(lambda x: x[:, :, slots:], tasks),
      noised=jax.tree.map(lambda x: x[:, :, :slots], tasks) if slots else None,
      references=references[:, slots:],
      states=states[:, :, slots:],
    )

  def _in_metres(self, task, logits):
    placed = jax.nn.sigmoid(jnp.concatenate([task['center'], task['height']], axis=-1) + logits)
    placed = encoding.denormalise_points(placed, self.pc_range)
    return {**task, 'center': placed[..., :2], 'height': placed[..., 2:]}


def _mask(has, shape, tokens):
  has = jnp.ones(shape, bool) if has is None else has
  chex.assert_shape(has, shape)
  return jnp.repeat(has.reshape(shape[0], -1), tokens, axis=1)


def _check_cameras(features, lidar2img, img2lidar, image_size, width):
  if features.ndim != 5 or features.shape[-1] != width:
    raise ValueError(f'image_features are [batch, cameras, h, w, {width}], not {features.shape}.')
  if image_size is None:
    raise ValueError('image_size, the (height, width) of the padded images, is needed with image features.')
  for name, matrices in (('lidar2img', lidar2img), ('img2lidar', img2lidar)):
    wanted = (*features.shape[:2], 4, 4)
    if matrices is None or tuple(matrices.shape) != wanted:
      found = None if matrices is None else tuple(matrices.shape)
      raise ValueError(f'{name} must be {wanted} for {features.shape[1]} cameras, not {found}.')
