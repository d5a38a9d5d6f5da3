"""A CMT of 0.3 M parameters for the synthetic scenes, which learns in minutes on two processor cores."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxpapers.cmt.head import Head
from jaxpapers.cmt.model import CMT
from jaxpapers.cmt.pillars import PillarBranch
from jaxpapers.layers.conv import Conv

FREQUENCIES = (-1.0, 3.0)
"""Exponents of 2 of the sharp position code, see `encoding.geometric_periods`."""


class SmallCamera(nn.Module):
  """Four 3x3 convolutions with ReLU between, shared by the cameras; an eighth of the image's sides leaves it.

  Attributes:
    width: channels of the result.
    patches: see `layers.conv.conv`.
  """

  width: int = 64
  patches: bool = False

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Normalised images [batch, cameras, height, width, 3] -> [batch, cameras, height / 8, width / 8, channels].

    Raises:
      ValueError: for another rank, other than three channels, or sides that are no multiples of 8.
    """
    if images.ndim != 5 or images.shape[-1] != 3 or images.shape[2] % 8 or images.shape[3] % 8:
      raise ValueError(f'images must be [batch, cameras, 8 h, 8 w, 3], not {images.shape}.')
    x = images.reshape(-1, *images.shape[2:])
    plan = ((self.width // 4, 2), (self.width // 2, 2), (self.width, 2), (self.width, 1))
    for index, (width, stride) in enumerate(plan):
      x = Conv(width, 3, stride, patches=self.patches, name=f'conv{index}')(nn.relu(x) if index else x)
    return x.reshape(*images.shape[:2], *x.shape[1:])


def small_cmt(
  pc_range: Sequence[float],
  classes: int,
  *,
  cell: float = 0.5,
  width: int = 64,
  layers: int = 2,
  heads: int = 4,
  queries: int = 16,
  depths: int = 12,
  dropout: float = 0.0,
  sharp: bool = True,
  dtype: Any = None,
) -> CMT:
  """Pillars and a small convolutional network before the head of the paper.

  Args:
    pc_range: x, y, z lower then upper bounds in metres.
    classes: how many.
    cell: side of a pillar in metres; a LiDAR token covers two by two.
    width: of tokens and queries.
    layers: of the decoder.
    heads: of attention.
    queries: learned.
    depths: points along an image token's ray.
    dropout: see `Head`.
    sharp: position codes of geometric frequencies instead of the paper's low ones.
    dtype: of the decoder's products; None is float32.
  """
  head = Head(
    num_queries=queries,
    width=width,
    layers=layers,
    heads=heads,
    hidden=2 * width,
    tasks=(classes,),
    head_width=width // 2,
    depths=depths,
    pc_range=tuple(pc_range),
    frequencies=FREQUENCIES if sharp else None,
    dropout=dropout,
    block=None,
    **({} if dtype is None else {'dtype': dtype}),
  )
  lidar = PillarBranch(tuple(pc_range), (cell, cell), point_width=width // 2, widths=(width, width), strides=(1, 2))
  return CMT(SmallCamera(width), lidar, head)
