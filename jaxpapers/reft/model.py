"""Mask2Former, and RefT on top of it: backbone, pixel decoder, masked-attention decoder, two references."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.norm import FrozenBatchNorm
from jaxpapers.layers.resnet import Bottleneck, ResNet
from jaxpapers.ops import resize
from jaxpapers.reft.heads import LinearHead
from jaxpapers.reft.pixel_decoder import PixelDecoder, Pyramid
from jaxpapers.reft.references import (
  FeatureReference,
  QueryReference,
  SupportTokens,
  choose_queries,
  mask_dice,
  per_class,
  support_centers,
)
from jaxpapers.reft.transformer import Predictions, TransformerDecoder

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def normalise(images: jax.Array) -> jax.Array:
  """RGB images [..., 3] in 0..255 to the backbone's input; pad afterwards, with zeros."""
  return (images.astype(jnp.float32) - jnp.asarray(MEAN)) / jnp.asarray(STD)


def resnet50() -> ResNet:
  """ResNet-50 with frozen batch norm, as Mask2Former uses it."""
  return ResNet((3, 4, 6, 3), Bottleneck, norm=FrozenBatchNorm)


class Mask2Former(nn.Module):
  """Images to object queries with a class and a mask each (arXiv 2112.01527).

  Attributes:
    backbone: images -> maps, finest (stride 4) first.
    pixel_decoder: maps -> Pyramid.
    decoder: (levels, mask features, arguments of the classifier) -> Predictions.
  """

  backbone: nn.Module
  pixel_decoder: PixelDecoder
  decoder: TransformerDecoder

  def encode(self, images: jax.Array) -> Pyramid:
    """Normalised images [batch, height, width, 3] -> Pyramid."""
    return self.pixel_decoder(self.backbone(images))

  def __call__(self, images: jax.Array, *args: jax.Array) -> Predictions:
    """Normalised images [batch, height, width, 3], sides multiples of 32 -> Predictions; see `TransformerDecoder`."""
    pyramid = self.encode(images)
    return self.decoder(pyramid.levels, pyramid.mask_features, *args)


def mask2former_r50(classes: int = 80, queries: int = 100) -> Mask2Former:
  """The published instance segmentation model with ResNet-50."""
  return Mask2Former(resnet50(), PixelDecoder(), TransformerDecoder(LinearHead(classes), queries))


class Support(NamedTuple):
  """What the support examples leave behind: computed once, then every image takes one forward for all classes.

  Attributes:
    centers: per level [classes, width].
    present: [classes] bool.
    tokens: object queries of the examples.
    query_mean: [classes, width], mean of the best query of each example.
  """

  centers: tuple[jax.Array, ...]
  present: jax.Array
  tokens: SupportTokens
  query_mean: jax.Array


class RefT(nn.Module):
  """Mask2Former that consults support examples twice (arXiv 2301.01156); details are reconstructed, see `references`.

  Attributes:
    base: the model; its decoder's classifier may take (support queries, present) as further arguments.
    classes: number of classes.
    feature_reference: pixels look at class centres before the decoder.
    query_reference: object queries look at those of the examples after the decoder.
    support_classifier: the classifier takes the support's queries.
    heads: of attention in the references.
    hidden: of the query reference.
    tau: see `references.dynamic_weights`.
    center_mode: see `references.dynamic_weights`.
    top_k: queries of each example.
  """

  base: Mask2Former
  classes: int
  feature_reference: bool = True
  query_reference: bool = True
  support_classifier: bool = False
  heads: int = 8
  hidden: int = 2048
  tau: float = 0.2
  center_mode: str = 'dynamic'
  top_k: int = 2

  def setup(self):
    """The references."""
    levels = self.base.decoder.num_levels
    if self.feature_reference:
      self.features = [FeatureReference(self.heads, name=f'feature_reference{i}') for i in range(levels)]
    if self.query_reference:
      self.linking = QueryReference(self.heads, self.hidden, name='query_reference')

  def support(self, images: jax.Array, masks: jax.Array, classes: jax.Array) -> Support:
    """Encodes the support examples with the plain base model.

    Args:
      images: [examples, height, width, 3], normalised.
      masks: [examples, height, width], the one object of each, 0 to 1.
      classes: [examples] int32; negative ones are padding.
    """
    pyramid = self.base.encode(images)
    nothing = self._nothing(images.dtype) if self.support_classifier else ()
    found = self.base.decoder(pyramid.levels, pyramid.mask_features, *nothing)
    quarter = resize.adaptive_mean(masks[..., None], pyramid.mask_features.shape[1:3])[..., 0]
    best, _ = choose_queries(found.queries, mask_dice(found.masks[-1], quarter), self.top_k)
    centers = []
    for level in pyramid.levels:
      mean, present = per_class(support_centers(level, masks, self.tau, self.center_mode), classes, self.classes)
      centers.append(mean)
    query_mean, present = per_class(best[:, 0], classes, self.classes)
    return Support(tuple(centers), present, SupportTokens(best, classes), query_mean)

  def __call__(self, images: jax.Array, support: Support, *args: jax.Array) -> Predictions:
    """Predictions for normalised images [batch, height, width, 3]; further arguments go to the classifier."""
    pyramid = self.base.encode(images)
    levels = pyramid.levels
    if self.feature_reference:
      levels = tuple(
        reference(x.reshape(x.shape[0], -1, x.shape[-1]), center, support.present).reshape(x.shape)
        for reference, x, center in zip(self.features, levels, support.centers, strict=True)
      )
    known = (support.query_mean, support.present) if self.support_classifier else ()
    found = self.base.decoder(levels, pyramid.mask_features, *known, *args)
    if not self.query_reference:
      return found
    queries = self.linking(found.queries, support.tokens)
    decoder = self.base.decoder
    logits = found.logits.at[-1].set(decoder.classify(queries, *known, *args))
    masks = found.masks.at[-1].set(decoder.mask_logits(queries, pyramid.mask_features))
    return Predictions(logits, masks, queries)

  def _nothing(self, dtype):
    width = self.base.decoder.width
    return jnp.zeros((self.classes, width), dtype), jnp.zeros(self.classes, bool)


reft_r50 = functools.partial(RefT, mask2former_r50())
"""RefT on the published model, 80 classes unless another base is given."""
