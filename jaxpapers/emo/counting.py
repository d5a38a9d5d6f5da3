"""Exact counts of multiply-adds and parameters, from shapes alone (paper table 2)."""

from typing import Any, NamedTuple

import jax

from jaxpapers.emo.model import EMO


class Macs(NamedTuple):
  """Multiply-adds of one image, by kind, and the elements that norms touch.

  Attributes:
    depthwise: depthwise convolutions.
    pointwise: 1x1 maps, those of squeeze-and-excitation included.
    stem: the first convolution.
    attention: the two products of attention.
    head: linear maps after the pooling.
    batch_norm: elements that batch norms see; no multiply-adds.
    layer_norm: elements that layer norms see; no multiply-adds.
  """

  depthwise: int = 0
  pointwise: int = 0
  stem: int = 0
  attention: int = 0
  head: int = 0
  batch_norm: int = 0
  layer_norm: int = 0

  @property
  def total(self) -> int:
    """Multiply-adds of convolutions, linear maps and attention products; nothing else."""
    return self.depthwise + self.pointwise + self.stem + self.attention + self.head

  @property
  def published(self) -> int:
    """The rule of the published FLOPs: multiply-adds, 2 per batch-norm and 5 per layer-norm element."""
    return self.total + 2 * self.batch_norm + 5 * self.layer_norm

  def __add__(self, other: 'Macs') -> 'Macs':
    """Sums kind by kind."""
    return Macs(*(a + b for a, b in zip(self, other, strict=True)))


def stage_macs(model: EMO, height: int, width: int, channels: int = 3) -> tuple[Macs, ...]:
  """Counts of stages 0-4 and, last, of the head, for one image.

  Counted as the released models compute: the maps of an attention block run on the padded map, so that windows which
  divide the map are cheaper.

  Args:
    model: its sizes and windows.
    height: of the image in pixels.
    width: of the image in pixels.
    channels: of the image.
  """
  size = -(-height // 2), -(-width // 2)
  pixels, stem = size[0] * size[1], model.stem_width
  counts = [
    Macs(
      depthwise=pixels * stem * 9,
      pointwise=pixels * stem * stem + 2 * stem * stem,
      stem=pixels * 9 * channels * stem,
      batch_norm=2 * pixels * stem,
    )
  ]
  inputs = stem
  for stage in (1, 2, 3, 4):
    total = Macs()
    for j in range(model.depths[stage - 1]):
      options = model.block_options(stage, j)
      total += _block(inputs, size, options)
      size = tuple(-(-n // options['stride']) for n in size)
      inputs = options['features']
    counts.append(total)
  norm = {'bn': 'batch_norm', 'ln': 'layer_norm'}.get(model.norms[3])
  head = Macs(head=_linear(inputs, model.pre_width, model.num_classes))
  counts.append(head._replace(**{norm: size[0] * size[1] * inputs}) if norm else head)
  return tuple(counts)


def macs(model: EMO, height: int, width: int, channels: int = 3) -> Macs:
  """Counts of the whole network for one image; see `stage_macs`."""
  return sum(stage_macs(model, height, width, channels), Macs())


def parameter_counts(variables: Any) -> dict[str, int]:
  """Trainable values by part: stage0 ... stage4, norm, head; `total`, and `buffers` for the running statistics.

  Args:
    variables: of an EMO, or their shapes.
  """
  counts: dict[str, int] = {}
  for name, tree in variables['params'].items():
    part = 'stage0' if name == 'stem' else name.split('_block')[0]
    counts[part] = counts.get(part, 0) + _size(tree)
  buffers = _size(variables.get('batch_stats', {}))
  return dict(sorted(counts.items())) | {'total': sum(counts.values()), 'buffers': buffers}


def _size(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _linear(inputs: int, hidden: int, classes: int) -> int:
  return inputs * hidden + hidden * classes if hidden else inputs * classes


def _block(channels: int, size: tuple[int, int], options: dict[str, Any]) -> Macs:
  expanded = int(channels * options['expansion'])
  pixels = size[0] * size[1]
  after = -(-size[0] // options['stride']) * -(-size[1] // options['stride'])
  depthwise = after * expanded * options['kernel_size'] ** 2
  pointwise = after * expanded * options['features']
  attention = 0
  if options['attention']:
    window = (options['window'],) * 2 if options['window'] > 0 else size
    padded = (size[0] + -size[0] % window[0]) * (size[1] + -size[1] % window[1])
    groups = channels // options['head_width'] if options['v_group'] else 1
    pointwise += padded * channels * 2 * channels + padded * channels * expanded // groups
    passes = 2 if options['partition'] == 'hybrid' else 1
    values = channels if options['attn_pre'] else expanded
    attention = passes * padded * window[0] * window[1] * (channels + values)
  else:
    pointwise += pixels * channels * expanded
  norms = {'batch_norm': after * expanded, 'layer_norm': 0}
  if options['norm'] != 'none':
    norms['batch_norm' if options['norm'] == 'bn' else 'layer_norm'] += pixels * channels
  return Macs(depthwise=depthwise, pointwise=pointwise, attention=attention, **norms)
