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
  """RGB images [..., 3] in 0..255 to the backbone's input; pad afterwards, with zeros. Source: Mask2Former's config."""
  return (images.astype(jnp.float32) - jnp.asarray(MEAN)) / jnp.asarray(STD)


def resnet50() -> ResNet:
  """ResNet-50 with frozen batch norm, as Mask2Former uses it. Source: Mask2Former's config."""
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


class Switches(NamedTuple):
  """Which parts of RefT take part, each 0 or 1: one compiled program then serves every row of an ablation.

  A part that is switched off leaves its input as it is, bit for bit, and its parameters get no gradient.

  Source: the paper's ablation of its two references.

  Attributes:
    first: pixels look at class centres.
    second: object queries look at those of the examples.
    rows: the classifier takes the support's queries.
  """

  first: jax.Array | float = 1.0
  second: jax.Array | float = 1.0
  rows: jax.Array | float = 1.0


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
    centers, present = self._centers(pyramid.levels, masks, classes)
    queries, found = self.base.decoder.refine(pyramid.levels, pyramid.mask_features)
    tokens, query_mean = self._tokens(queries[-1], found[-1], masks, classes)
    return Support(centers, present, tokens, query_mean)

  def _centers(self, levels, masks, classes):
    """Class centres of every level, and which classes have an example."""
    known = [
      per_class(support_centers(level, masks, self.tau, self.center_mode), classes, self.classes) for level in levels
    ]
    return tuple(mean for mean, _ in known), known[0][1]

  def _tokens(self, queries, found, masks, classes):
    """The best queries of the examples, and the mean of the very best over those of a class."""
    quarter = resize.adaptive_mean(masks[..., None].astype(found.dtype), found.shape[-2:])[..., 0]
    best, _ = choose_queries(queries, mask_dice(found, quarter), self.top_k)
    return SupportTokens(best, classes), per_class(best[:, 0], classes, self.classes)[0]

  def __call__(
    self, images: jax.Array, support: Support, *args: jax.Array, switches: Switches | None = None
  ) -> Predictions:
    """Predictions for normalised images [batch, height, width, 3]; further arguments go to the classifier."""
    pyramid = self.base.encode(images)
    levels = self._refer(pyramid.levels, support.centers, support.present, switches)
    queries, masks = self.base.decoder.refine(levels, pyramid.mask_features)
    return self._read(queries, masks, pyramid.mask_features, support, args, switches)

  def episode(
    self,
    images: jax.Array,
    examples: tuple[jax.Array, jax.Array, jax.Array],
    *args: jax.Array,
    switches: Switches | None = None,
  ) -> tuple[Predictions, Pyramid]:
    """Encodes examples of the images' size and predicts in one pass: what a training step needs.

    Args:
      images: [batch, height, width, 3], normalised.
      examples: arguments of `support`.
      *args: for the classifier.
      switches: parts that take part; default all.

    Returns:
      What `support` and a call give, and the images' pyramid.
    """
    known, masks, classes = examples
    count = len(images)
    pyramid = self.base.encode(jnp.concatenate([images, known]))
    own = Pyramid(*jax.tree.map(lambda x: x[:count], tuple(pyramid)))
    others = [level[count:] for level in pyramid.levels]
    centers, present = self._centers(others, masks, classes)
    levels = self._refer(own.levels, centers, present, switches)
    both = [jnp.concatenate(pair) for pair in zip(levels, others, strict=True)]
    queries, found = self.base.decoder.refine(both, pyramid.mask_features)
    tokens, query_mean = self._tokens(queries[-1, count:], found[-1, count:], masks, classes)
    support = Support(centers, present, tokens, query_mean)
    return self._read(queries[:, :count], found[:, :count], own.mask_features, support, args, switches), own

  def _refer(self, levels, centers, present, switches):
    """Levels after the feature reference."""
    if not self.feature_reference:
      return levels
    referred = tuple(
      reference(x.reshape(x.shape[0], -1, x.shape[-1]), center, present).reshape(x.shape)
      for reference, x, center in zip(self.features, levels, centers, strict=True)
    )
    return referred if switches is None else tuple(map(_switch(switches.first), levels, referred))

  def _read(self, queries, masks, mask_features, support, args, switches) -> Predictions:
    """Predictions from the queries of every layer; the query reference changes the last."""
    decoder = self.base.decoder
    if self.query_reference:
      linked = self.linking(queries[-1], support.tokens)
      last = linked if switches is None else _switch(switches.second)(queries[-1], linked)
      queries = queries.at[-1].set(last)
      masks = masks.at[-1].set(decoder.mask_logits(last, mask_features))
    present = support.present if switches is None else support.present & (jnp.asarray(switches.rows) > 0)
    known = (support.query_mean, present) if self.support_classifier else ()
    return Predictions(decoder.classify(queries, *known, *args), masks, queries[-1])


def _switch(value):
  return lambda off, on: jnp.where(jnp.asarray(value) > 0, on, off)


reft_r50 = functools.partial(RefT, mask2former_r50())
"""RefT on the published model, 80 classes unless another base is given."""
