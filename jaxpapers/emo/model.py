"""EMO: a four-stage network of iRMBs only, and its published variants (paper section 2.4)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.emo.block import EPS, IRMB, activation
from jaxpapers.layers.conv import Conv
from jaxpapers.layers.norm import BatchNorm, LayerNorm

VARIANTS: Mapping[str, Mapping[str, Any]] = {
  'emo_1m': dict(
    depths=(2, 2, 8, 3),
    widths=(32, 48, 80, 168),
    expansions=(2.0, 2.5, 3.0, 3.5),
    head_widths=(16, 16, 20, 21),
    drop_path=0.04036,
  ),
  'emo_2m': dict(
    depths=(3, 3, 9, 3),
    widths=(32, 48, 120, 200),
    expansions=(2.0, 2.5, 3.0, 3.5),
    head_widths=(16, 16, 20, 20),
    drop_path=0.05,
  ),
  'emo_5m': dict(
    depths=(3, 3, 9, 3),
    widths=(48, 72, 160, 288),
    expansions=(2.0, 3.0, 4.0, 4.0),
    head_widths=(24, 24, 32, 32),
    drop_path=0.05,
  ),
  'emo_6m': dict(
    depths=(3, 3, 9, 3),
    widths=(48, 72, 160, 320),
    expansions=(2.0, 3.0, 4.0, 5.0),
    head_widths=(16, 24, 20, 32),
    drop_path=0.05,
  ),
}


class Stem(nn.Module):
  """Stage 0: a strided convolution with batch norm, and a depthwise block with squeeze-and-excitation.

  Attributes:
    features: output channels.
    act: of squeeze-and-excitation.
    dtype: compute precision; None is that of the input.
    axis_name: pmap axis that batch statistics are shared over.
  """

  features: int = 24
  act: str = 'silu'
  dtype: Any = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, batch_statistics: bool | None = None) -> jax.Array:
    """[batch, height, width, channels] -> [batch, ceil(height / 2), ceil(width / 2), features]."""
    running = not (train if batch_statistics is None else batch_statistics)
    x = Conv(self.features, 3, stride=2, padding=1, dtype=self.dtype, name='conv')(x)
    x = BatchNorm(eps=EPS, dtype=self.dtype, axis_name=self.axis_name, name='norm')(x, running)
    block = IRMB(
      self.features,
      expansion=1.0,
      act=self.act,
      norm_in=False,
      value_projection=False,
      skip=False,
      se_ratio=1.0,
      attention=False,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name='block',
    )
    return block(x, train, batch_statistics)


class EMO(nn.Module):
  """The network; the defaults of every field but the first four are those of all published variants.

  Attributes:
    depths: blocks of stages 1-4.
    widths: channels of stages 1-4.
    expansions: lambda of stages 1-4; the first block of a stage doubles it.
    head_widths: channels per head in stages 1-4.
    windows: side of the attention windows in stages 1-4; 0 is one window over the whole map.
    kernel_sizes: of the depthwise convolutions.
    norms: 'bn', 'ln' or 'none'.
    acts: names of the activations.
    attention: which stages attend (in all blocks but their first); False leaves attention out everywhere.
    stem_width: channels of stage 0.
    num_classes: 0 leaves the classifier out: the model gives the pooled features.
    pre_width: width of an additional map before the classifier; 0 has none.
    partition: see IRMB.
    qkv_bias: see IRMB.
    attn_pre: see IRMB.
    v_group: see IRMB.
    attn_drop: see IRMB.
    drop: see IRMB.
    drop_path: of the last block; it grows linearly from 0 over the blocks of stages 1-4.
    frozen_stages: stages 0..f run as in inference and pass no gradient; -1 freezes none.
    norm_eval: all batch norms use their running statistics in training too.
    dtype: compute precision, None for that of the input; parameters, norms, softmax and logits stay float32.
    axis_name: pmap axis that batch statistics are shared over.
  """

  depths: tuple[int, ...]
  widths: tuple[int, ...]
  expansions: tuple[float, ...]
  head_widths: tuple[int, ...]
  windows: tuple[int, ...] = (7, 7, 7, 7)
  kernel_sizes: tuple[int, ...] = (3, 3, 5, 5)
  norms: tuple[str, ...] = ('bn', 'bn', 'ln', 'ln')
  acts: tuple[str, ...] = ('silu', 'silu', 'gelu', 'gelu')
  attention: tuple[bool, ...] | bool = (False, False, True, True)
  stem_width: int = 24
  num_classes: int = 1000
  pre_width: int = 0
  partition: str = 'grid'
  qkv_bias: bool = True
  attn_pre: bool = True
  v_group: bool = False
  attn_drop: float = 0.0
  drop: float = 0.0
  drop_path: float = 0.0
  frozen_stages: int = -1
  norm_eval: bool = False
  dtype: Any = None
  axis_name: str | None = None

  def stage_attention(self) -> tuple[bool, ...]:
    """For each of stages 1-4, whether its blocks (but the first) attend."""
    if isinstance(self.attention, bool):
      return tuple(self.attention and published for published in (False, False, True, True))
    return tuple(self.attention)

  def block_options(self, stage: int, block: int) -> dict[str, Any]:
    """Keyword arguments of the IRMB number `block` (from 0) of stage 1-4, but for `dtype` and `axis_name`."""
    i, first = stage - 1, block == 0
    position = sum(self.depths[:i]) + block
    return dict(
      features=self.widths[i],
      expansion=self.expansions[i] * (2 if first else 1),
      kernel_size=self.kernel_sizes[i],
      stride=2 if first else 1,
      norm=self.norms[i],
      act=self.acts[i],
      skip=not first,
      attention=self.stage_attention()[i] and not first,
      head_width=self.head_widths[i],
      window=self.windows[i],
      partition=self.partition,
      qkv_bias=self.qkv_bias,
      attn_pre=self.attn_pre,
      v_group=self.v_group,
      attn_drop=self.attn_drop,
      drop=self.drop,
      drop_path=self.drop_path * position / max(sum(self.depths) - 1, 1),
    )

  def setup(self):
    """Names the parts: stem, stage{1-4}_block{0...}, norm, head."""
    lengths = {name: len(getattr(self, name)) for name in _PER_STAGE} | {'attention': len(self.stage_attention())}
    if set(lengths.values()) != {4}:
      wrong = ', '.join(f'{name} has {n}' for name, n in lengths.items() if n != 4)
      raise ValueError(f'EMO has four stages after the stem: {wrong} values.')
    shared = dict(dtype=self.dtype, axis_name=self.axis_name)
    self.stem = Stem(self.stem_width, **shared)
    self.blocks = {
      f'{stage}_{j}': IRMB(**self.block_options(stage, j), **shared, name=f'stage{stage}_block{j}')
      for stage in (1, 2, 3, 4)
      for j in range(self.depths[stage - 1])
    }
    if self.norms[3] == 'bn':
      self.norm = BatchNorm(eps=EPS, axis_name=self.axis_name)
    else:
      self.norm = LayerNorm(epsilon=EPS, dtype=jnp.float32) if self.norms[3] == 'ln' else None
    self.pre_head = nn.Dense(self.pre_width, kernel_init=_classifier_init) if self.pre_width else None
    self.head = nn.Dense(self.num_classes, kernel_init=_classifier_init) if self.num_classes else None

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Classifies images.

    Args:
      x: [batch, height, width, 3], floating, normalised.
      train: batch statistics, dropout and drop path are those of training (a 'dropout' rng is needed for the latter).

    Returns:
      [batch, num_classes] float32 logits, or without a classifier [batch, widths[3]] pooled features.

    Raises:
      ValueError: for a wrong rank, integer images, an empty map, or channels that the parameters do not fit.
    """
    return self.classify(self.features(x, train)[-1], train)

  def features(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
    """The maps after stages 0-4, strides 2, 4, 8, 16 and 32, without a norm: what dense heads take.

    Args:
      x: [batch, height, width, 3], floating, normalised.
      train: as in `__call__`; frozen stages and `norm_eval` are honoured.

    Returns:
      Five maps [batch, ceil(height / stride), ceil(width / stride), channels].
    """
    _check_images(x)
    channels = self._input_channels()
    if channels is not None and channels != x.shape[-1]:
      raise ValueError(f'EMO: images have {x.shape[-1]} channels, the parameters fit {channels}.')
    x = x.astype(self.dtype or x.dtype)
    maps = []
    for stage in range(5):
      learning = train and stage > self.frozen_stages
      statistics = learning and not self.norm_eval
      if stage == 0:
        x = self.stem(x, learning, statistics)
      else:
        for j in range(self.depths[stage - 1]):
          x = self.blocks[f'{stage}_{j}'](x, learning, statistics)
      if stage <= self.frozen_stages:
        x = jax.lax.stop_gradient(x)
      maps.append(x)
    return tuple(maps)

  def classify(self, x: jax.Array, train: bool = False) -> jax.Array:
    """From the stage-4 map [batch, height, width, channels]: norm, mean over the map, linear classifier."""
    x = x.astype(jnp.float32)
    if self.norms[3] == 'bn':
      x = self.norm(x, not train or self.norm_eval)
    elif self.norm is not None:
      x = self.norm(x)
    x = x.mean((1, 2))
    if self.pre_head is not None:
      x = activation(self.acts[3])(self.pre_head(x))
    return x if self.head is None else self.head(x)

  def _input_channels(self) -> int | None:
    kernel = self.variables.get('params', {}).get('stem', {}).get('conv', {}).get('kernel')
    return None if kernel is None else kernel.shape[2]


_PER_STAGE = ('depths', 'widths', 'expansions', 'head_widths', 'windows', 'kernel_sizes', 'norms', 'acts')
_classifier_init = nn.initializers.truncated_normal(0.02, lower=-100.0, upper=100.0)


def _check_images(x: jax.Array) -> None:
  if x.ndim != 4:
    raise ValueError(f'EMO takes images [batch, height, width, channels], not an array of shape {x.shape}.')
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f'EMO takes floating-point images, not {x.dtype}: convert and normalise them first.')
  if min(x.shape[1:3]) < 1:
    raise ValueError(f'EMO: images of {x.shape[1]}x{x.shape[2]} pixels are empty.')


def emo(name: str, **options: Any) -> EMO:
  """A published variant; `options` override its fields.

  Args:
    name: 'emo_1m', 'emo_2m', 'emo_5m' or 'emo_6m'.
    **options: fields of EMO, such as num_classes=0, windows=(7, 7, 10, 10) or attention=False.

  Raises:
    ValueError: for an unknown variant, listing the known ones.
  """
  if name not in VARIANTS:
    raise ValueError(f'Unknown variant {name!r}; known: {", ".join(VARIANTS)}.')
  return EMO(**{**VARIANTS[name], **options})


def emo_1m(**options: Any) -> EMO:
  """EMO-1M: 1.36 M parameters, 0.26 GMACs at 224x224, 71.5 % top-1 on ImageNet.

  Source: section 2.4 and the tables of the paper.
  """
  return emo('emo_1m', **options)


def emo_2m(**options: Any) -> EMO:
  """EMO-2M: 2.38 M parameters, 0.43 GMACs at 224x224, 75.1 % top-1 on ImageNet.

  Source: section 2.4 and the tables of the paper.
  """
  return emo('emo_2m', **options)


def emo_5m(**options: Any) -> EMO:
  """EMO-5M: 5.11 M parameters, 0.89 GMACs at 224x224, 78.4 % top-1 on ImageNet.

  Source: section 2.4 and the tables of the paper.
  """
  return emo('emo_5m', **options)


def emo_6m(**options: Any) -> EMO:
  """EMO-6M: 6.17 M parameters, 0.95 GMACs at 224x224, 79.0 % top-1 on ImageNet.

  Source: section 2.4 and the tables of the paper.
  """
  return emo('emo_6m', **options)


def irmb(features: int, **options: Any) -> IRMB:
  """One block, a pair of pure functions `.init(key, x)`, `.apply(variables, x)`; `options` are fields of IRMB.

  Source: section 2.3 of the paper.
  """
  return IRMB(features, **options)


def frozen_mask(params: Mapping[str, Any], frozen_stages: int) -> Mapping[str, Any]:
  """True for every leaf of an EMO's parameters that `frozen_stages` keeps from changing (weight decay included).

  Source: the authors' backbone for dense prediction.
  """
  frozen = ('stem', *(f'stage{i}_' for i in range(1, frozen_stages + 1))) if frozen_stages >= 0 else ()
  return {name: jax.tree.map(lambda _: name.startswith(frozen), tree) for name, tree in params.items()}  # noqa: B023
