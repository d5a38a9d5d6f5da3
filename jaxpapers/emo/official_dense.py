"""Weights of the authors' detectors and segmenters: state dict -> variables of `EmoDetector` / `EmoSegmenter`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.emo import official
from jaxpapers.emo.detection import EmoDetector
from jaxpapers.emo.segmentation import EmoSegmenter
from jaxpapers.engine.errors import UserError

# Module path here -> module name there. Every path must match exactly one pattern.
_MODULES = (
  (r'neck/reduce(\d+)/', r'neck.extra_layers.\1.0.'),
  (r'neck/down(\d+)/', r'neck.extra_layers.\1.1.depthwise_conv.'),
  (r'neck/expand(\d+)/', r'neck.extra_layers.\1.1.pointwise_conv.'),
  (r'head/class(\d+)_depthwise/', r'bbox_head.cls_convs.\1.0.'),
  (r'head/class(\d+)_output/', r'bbox_head.cls_convs.\1.1.'),
  (r'head/box(\d+)_depthwise/', r'bbox_head.reg_convs.\1.0.'),
  (r'head/box(\d+)_output/', r'bbox_head.reg_convs.\1.1.'),
  (r'head/class_tower(\d+)/', r'bbox_head.cls_convs.\1.conv.'),
  (r'head/box_tower(\d+)/', r'bbox_head.reg_convs.\1.conv.'),
  (r'head/class_output/', r'bbox_head.retina_cls.'),
  (r'head/box_output/', r'bbox_head.retina_reg.'),
  (r'(?:neck|head)/fpn/lateral(\d+)/', r'neck.lateral_convs.\1.conv.'),
  (r'(?:neck|head)/fpn/output(\d+)/', r'neck.fpn_convs.\1.conv.'),
  (r'head/pool/', r'decode_head.image_pool.1.'),
  (r'head/branch(\d+)/', r'decode_head.aspp_modules.\1.'),
  (r'head/grid(\d+)/', r'decode_head.psp_modules.\1.1.'),
  (r'head/merge/', r'decode_head.bottleneck.'),
  (r'head/map(\d+)/', r'decode_head.convs.\1.'),
  (r'head/fuse/', r'decode_head.fusion_conv.'),
  (r'head/level(\d+)_(\d+)/', lambda m: f'decode_head.scale_heads.{m[1]}.{2 * int(m[2])}.'),
  (r'head/classify/conv/', r'decode_head.conv_seg.'),
  (r'auxiliary/conv/', r'auxiliary_head.convs.0.'),
  (r'auxiliary/classify/conv/', r'auxiliary_head.conv_seg.'),
)
_LEAVES = {
  'kernel': 'weight',
  'bias': 'bias',
  'scale': 'weight',
  'mean': 'running_mean',
  'var': 'running_var',
}


def import_dense(state: Mapping[str, np.ndarray], model: EmoDetector | EmoSegmenter) -> dict[str, Any]:
  """Variables of `model` from the state dict of the authors' detector or segmenter.

  Args:
    state: name -> array, as saved (`state_dict` and `module.` levels are opened).
    model: of the same sizes.

  Returns:
    {'params': ..., 'batch_stats': ...}, float32 numpy arrays.

  Raises:
    UserError: naming every missing, unexpected and misshapen entry.
  """
  backbone, rest = official.import_backbone(state, model.backbone)
  template = official.shapes(model, jnp.zeros((1, 64, 64, 3)))
  heads = import_heads(rest, {k: {n: x for n, x in v.items() if n != 'backbone'} for k, v in template.items()})
  return {name: {'backbone': backbone[name], **heads[name]} for name in template}


def import_heads(state: Mapping[str, np.ndarray], template: Mapping[str, Any]) -> dict[str, Any]:
  """Variables of neck, head and auxiliary head.

  Args:
    state: official names (`neck.`, `bbox_head.`, `decode_head.`, `auxiliary_head.`) and layouts.
    template: {'params': ..., 'batch_stats': ...} with anything that has a shape as leaves, as
      `jax.eval_shape(model.init, ...)` gives; without the backbone.

  Returns:
    the template's structure with numpy arrays, float32.

  Raises:
    UserError: naming every missing, unexpected or misshapen key.
  """
  unused = {name for name in state if not name.endswith('num_batches_tracked')}
  problems = []

  def fetch(path, leaf):
    name = official_name('/'.join(str(key.key) for key in path[1:]))
    if name not in state:
      problems.append(f'{name} is missing')
      return None
    unused.discard(name)
    value = _layout(np.asarray(state[name], np.float32), len(leaf.shape))
    if value.shape != tuple(leaf.shape):
      problems.append(f'{name} has shape {tuple(np.shape(state[name]))}, which does not fit {tuple(leaf.shape)}')
    return value

  variables = jax.tree_util.tree_map_with_path(fetch, dict(template))
  problems += [f'{name} is not in this model' for name in sorted(unused)]
  if problems:
    raise UserError(f'The weights do not fit this model: {"; ".join(problems)}.')
  return variables


def official_name(path: str) -> str:
  """The authors' name of a leaf such as 'head/merge/norm/scale'.

  Raises:
    ValueError: for a path that no official head has.
  """
  for pattern, replacement in _MODULES:
    match = re.match(pattern, path)
    if match:
      rest = path[match.end() :].split('/')
      module = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
      inner = ''.join({'conv': 'conv.', 'norm': 'bn.'}[part] for part in rest[:-1])
      return module + inner + _LEAVES[rest[-1]]
  raise ValueError(f'{path} has no counterpart in the official detectors and segmenters.')


def _layout(value: np.ndarray, rank: int) -> np.ndarray:
  """OIHW -> HWIO; depthwise (C, 1, k, k) -> (k, k, C)."""
  if value.ndim == 4:
    return value[:, 0].transpose(1, 2, 0) if rank == 3 else value.transpose(2, 3, 1, 0)
  return value
