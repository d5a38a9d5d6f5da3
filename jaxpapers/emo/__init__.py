"""Rethinking Mobile Block for Efficient Attention-based Models (Zhang et al., ICCV 2023, arXiv 2301.01146).

A backbone of 1-6 million parameters made of one residual block, iRMB: attention inside strided windows whose values are
expanded, followed by a depthwise convolution. For classification, detection and segmentation.

    from jaxpapers import emo
    model = emo.emo_1m(num_classes=10)
    variables = model.init(jax.random.key(0), images)                  # images [batch, height, width, 3]
    logits = model.apply(variables, images)                            # [batch, 10]
    maps = model.apply(variables, images, method='features')           # strides 2, 4, 8, 16, 32
    block = emo.irmb(64, head_width=16)                                # the block alone: block.init, block.apply
"""

from jaxpapers.emo.block import IRMB, MetaMobileBlock, SqueezeExcite
from jaxpapers.emo.model import EMO, VARIANTS, emo, emo_1m, emo_2m, emo_5m, emo_6m, frozen_mask, irmb
from jaxpapers.emo.window import attend, attention_weights, merge, pad_to_windows, partition

__all__ = [
  'EMO',
  'IRMB',
  'VARIANTS',
  'MetaMobileBlock',
  'SqueezeExcite',
  'attend',
  'attention_weights',
  'emo',
  'emo_1m',
  'emo_2m',
  'emo_5m',
  'emo_6m',
  'frozen_mask',
  'irmb',
  'merge',
  'pad_to_windows',
  'partition',
]
