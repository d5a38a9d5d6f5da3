"""A RefT small enough to compile in seconds."""

import jax
import jax.numpy as jnp

from jaxpapers.layers.norm import FrozenBatchNorm
from jaxpapers.layers.resnet import Bottleneck, ResNet
from jaxpapers.reft.heads import LinearHead, SupportHead
from jaxpapers.reft.model import Mask2Former, RefT
from jaxpapers.reft.pixel_decoder import PixelDecoder
from jaxpapers.reft.transformer import TransformerDecoder

CLASSES = 3
SIZE = (64, 96)


def base(classifier=None) -> Mask2Former:
  backbone = ResNet((1, 1, 1, 1), Bottleneck, 4, (4, 4, 4, 4), (8, 8, 8, 8), norm=FrozenBatchNorm)
  decoder = TransformerDecoder(classifier or LinearHead(CLASSES), 5, 8, 8, 2, 16, 3)
  return Mask2Former(backbone, PixelDecoder(8, 8, 2, 16, 1, groups=4), decoder)


def reft(support_classifier: bool = True) -> RefT:
  head = SupportHead(CLASSES, 8) if support_classifier else LinearHead(CLASSES)
  return RefT(base(head), CLASSES, support_classifier=support_classifier, heads=2, hidden=16)


def examples(count: int, seed: int = 0):
  """Images, one mask each, classes."""
  keys = jax.random.split(jax.random.key(seed), 2)
  images = jax.random.normal(keys[0], (count, *SIZE, 3))
  masks = jnp.zeros((count, *SIZE)).at[:, 10:40, 20:70].set(1.0)
  return images, masks, jnp.arange(count, dtype=jnp.int32) % CLASSES
