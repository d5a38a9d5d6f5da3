"""RefT at the size of the embedded run: the blocks of the published model, 48 x 48 images."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxpapers.layers.conv import Conv
from jaxpapers.reft.heads import SupportHead
from jaxpapers.reft.model import Mask2Former, RefT
from jaxpapers.reft.pixel_decoder import PixelDecoder
from jaxpapers.reft.transformer import TransformerDecoder

WIDTH = 32


class SmallBackbone(nn.Module):
  """3x3 convolutions with group norm and ReLU; the first of every stage halves the map.

  Attributes:
    widths: channels of the stages.
    convolutions: of each stage.
    groups: of the norms.
  """

  widths: Sequence[int] = (16, 24, 32, 48)
  convolutions: int = 2
  groups: int = 8

  @nn.compact
  def __call__(self, images: jax.Array) -> list[jax.Array]:
    """[batch, height, width, 3] -> maps at strides 2, 4, 8, ..., finest first."""
    maps, x = [], images
    for stage, width in enumerate(self.widths):
      for index in range(self.convolutions):
        # Slices and a matmul: lanes run in a scan, where XLA's CPU convolution is slow.
        conv = Conv(
          width,
          3,
          1 if index else 2,
          use_bias=False,
          kernel_init=nn.initializers.he_normal(),
          patches=True,
          name=f'conv{stage}_{index}',
        )
        x = nn.GroupNorm(self.groups, epsilon=1e-5, name=f'norm{stage}_{index}')(conv(x))
        x = nn.relu(x)
      maps.append(x)
    return maps


def mini_reft(
  classes: int = 12, queries: int = 8, heads: int = 4, hidden: int = 64, layers: int = 3, convolutions: int = 2
) -> RefT:
  """RefT with both references and the head that knows classes by their support.

  Images are [batch, 48, 48, 3], roughly standardised; levels 3x3, 6x6 and 12x12, mask features 24x24. `Switches` turn
  it into Mask2Former, into either reference alone, or into cosine classification.

  Source: this library's own size of the model.

  Args:
    classes: base and novel.
    queries: object queries.
    heads: of attention.
    hidden: of feed-forward layers.
    layers: of the decoder.
    convolutions: of each stage of the backbone.
  """
  base = Mask2Former(
    SmallBackbone(convolutions=convolutions),
    PixelDecoder(WIDTH, WIDTH, heads, hidden, layers=1, groups=8, patches=True),
    TransformerDecoder(
      SupportHead(classes, WIDTH, learn_scale=True), queries, WIDTH, WIDTH, heads, hidden, num_layers=layers
    ),
  )
  return RefT(base, classes, support_classifier=True, heads=heads, hidden=hidden)
