"""Boxes (x1, y1, x2, y2) in pixels: area, intersection over union, clipping, regression code."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""A decoded width or height is at most 1000 / 16 times the anchor's (and at least 16 / 1000 of it)."""


def area(boxes: jax.Array) -> jax.Array:
  """Areas [...] of boxes [..., 4]; a box with x2 < x1 or y2 < y1 has area 0."""
  chex.assert_axis_dimension(boxes, -1, 4)
  return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0) * jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)


def iou_matrix(a: jax.Array, b: jax.Array, over: str = 'union') -> jax.Array:
  """Intersection over union of every pair; 0 where both are degenerate (0/0).

  Args:
    a: [..., n, 4].
    b: [..., m, 4].
    over: 'union', or 'first': divided by the area of `a` alone (the share of `a` that lies in `b`: crowd regions).

  Returns:
    [..., n, m] in [0, 1].
  """
  if over not in ('union', 'first'):
    raise ValueError(f"over is 'union' or 'first', not {over!r}.")
  chex.assert_axis_dimension(b, -1, 4)
  a_area, b_area = area(a)[..., :, None], area(b)[..., None, :]
  top_left = jnp.maximum(a[..., :, None, :2], b[..., None, :, :2])
  bottom_right = jnp.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
  side = jnp.maximum(bottom_right - top_left, 0)
  overlap = side[..., 0] * side[..., 1]
  base = a_area + b_area - overlap if over == 'union' else jnp.broadcast_to(a_area, overlap.shape)
  # The inner `where` keeps 0/0 out of the gradient too.
  return jnp.where(base > 0, overlap / jnp.where(base > 0, base, 1), 0)


def clip(boxes: jax.Array, image_size: jax.Array) -> jax.Array:
  """Boxes [..., 4] moved into an image of `image_size` (height, width)."""
  height, width = image_size[0], image_size[1]
  return jnp.stack(
    [
      jnp.clip(boxes[..., 0], 0, width),
      jnp.clip(boxes[..., 1], 0, height),
      jnp.clip(boxes[..., 2], 0, width),
      jnp.clip(boxes[..., 3], 0, height),
    ],
    axis=-1,
  )


def xywh_to_xyxy(boxes: jax.Array) -> jax.Array:
  """(left, top, width, height), as COCO files hold, to (x1, y1, x2, y2); NumPy or JAX, [..., 4]."""
  corner, size = boxes[..., :2], boxes[..., 2:]
  return _join(corner, corner + size)


def xyxy_to_xywh(boxes: jax.Array) -> jax.Array:
  """Inverse of `xywh_to_xyxy`."""
  corner, end = boxes[..., :2], boxes[..., 2:]
  return _join(corner, end - corner)


def _join(first, second):
  # NumPy in, NumPy out: readers use these on the host.
  join = np.concatenate if isinstance(first, np.ndarray) else jnp.concatenate
  return join([first, second], axis=-1)


def encode(boxes: jax.Array, anchors: jax.Array, std: tuple[float, float, float, float] = (1, 1, 1, 1)) -> jax.Array:
  """Regression targets of boxes relative to anchors (Faster R-CNN, equation 2).

  ((gx - ax) / aw, (gy - ay) / ah, log(gw / aw), log(gh / ah)) / std, with centres (x, y) and sizes (w, h).

  Args:
    boxes: [..., 4], of positive size.
    anchors: [..., 4], of positive size.
    std: scale of each code.

  Returns:
    [..., 4].
  """
  center, size = _center_size(boxes)
  anchor_center, anchor_size = _center_size(anchors)
  code = jnp.concatenate([(center - anchor_center) / anchor_size, jnp.log(size / anchor_size)], axis=-1)
  return code / jnp.asarray(std, code.dtype)


def decode(
  codes: jax.Array,
  anchors: jax.Array,
  std: tuple[float, float, float, float] = (1, 1, 1, 1),
  max_log_ratio: float = MAX_LOG_RATIO,
) -> jax.Array:
  """Boxes of regression codes: the inverse of `encode`, sizes bounded by exp(+-max_log_ratio) anchors.

  Args:
    codes: [..., 4].
    anchors: [..., 4].
    std: as given to `encode`.
    max_log_ratio: bound of |log(w / aw)|, applied after multiplying by `std`.

  Returns:
    [..., 4], not clipped to any image.
  """
  codes = codes * jnp.asarray(std, codes.dtype)
  anchor_center, anchor_size = _center_size(anchors)
  center = anchor_center + codes[..., :2] * anchor_size
  half = jnp.exp(jnp.clip(codes[..., 2:], -max_log_ratio, max_log_ratio)) * anchor_size / 2
  return jnp.concatenate([center - half, center + half], axis=-1)


def _center_size(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
  chex.assert_axis_dimension(boxes, -1, 4)
  return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
