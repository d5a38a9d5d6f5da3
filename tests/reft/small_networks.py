"""Networks and images of the small reference cases."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.layers.norm import FrozenBatchNorm
from jaxpapers.layers.resnet import Bottleneck, ResNet
from jaxpapers.reft import heads, model
from jaxpapers.reft.pixel_decoder import PixelDecoder
from jaxpapers.reft.transformer import TransformerDecoder


def small_model(cfg: dict, state: dict) -> model.Mask2Former:
  """The network of a small case; what its `cfg` leaves open, the weights' shapes say."""
  blocks = [
    1 + max(int(k.split('.')[2]) for k in state if k.startswith(f'backbone.res{stage}.')) for stage in range(2, 6)
  ]
  widths = [len(state[f'backbone.res{stage}.0.conv1.weight']) for stage in range(2, 6)]
  outputs = [len(state[f'backbone.res{stage}.0.conv3.weight']) for stage in range(2, 6)]
  stem = len(state['backbone.stem.conv1.weight'])
  hidden = len(state['sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear1.weight'])
  return model.Mask2Former(
    ResNet(blocks, Bottleneck, stem, widths, outputs, norm=FrozenBatchNorm),
    PixelDecoder(cfg['conv'], cfg['mdim'], cfg['heads'], hidden, cfg['enc'], groups=cfg.get('groups', 32)),
    TransformerDecoder(
      heads.LinearHead(cfg['nc']), cfg['Q'], cfg['conv'], cfg['mdim'], cfg['heads'], cfg['ffn'], cfg['dec']
    ),
  )


def padded_images(images: list) -> jax.Array:
  """CHW uint8 images, normalised, then padded with zeros to a common multiple of 32."""
  height, width = (-(-max(x.shape[i] for x in images) // 32) * 32 for i in (1, 2))
  out = np.zeros((len(images), height, width, 3), np.float32)
  for i, image in enumerate(images):
    out[i, : image.shape[1], : image.shape[2]] = model.normalise(np.moveaxis(image, 0, -1))
  return jnp.asarray(out)
