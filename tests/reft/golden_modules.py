"""RefT's own modules against the float64 reference written for them."""

import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from jaxpapers.reft import distillation, heads, references
from tests.golden import Check, group


def reft_modules(data: dict, meta: dict) -> Iterable[Check]:
  with jax.enable_x64(True):
    yield from _reft_modules(jax.tree.map(jnp.asarray, data), meta)


def _tree(data: dict, prefix: str) -> dict:
  tree = {}
  for key, value in group(data, prefix).items():
    *names, leaf = re.split(r'[./]', key)
    node = tree
    for name in names:
      node = node.setdefault(name, {})
    node[leaf] = value
  return tree


def _reft_modules(data, meta):
  count, width = meta['num_classes'], data['input/query_queries'].shape[-1]
  masks, classes = data['input/support_mask'], data['input/support_class']
  centers_of = jax.jit(
    lambda f, mode: references.per_class(references.support_centers(f, masks, meta['tau'], mode), classes, count),
    static_argnums=1,
  )
  layer = references.FeatureReference(meta['heads'])
  params = {'params': _tree(data, 'param/feat_ref')}
  for index in range(len(meta['level_sizes'])):
    features = data[f'input/support_feat{index}']
    centers, present = centers_of(features, 'dynamic')
    yield Check(f'class_center{index}', centers, data[f'output/class_center{index}'], 1e-10)
    mean, _ = centers_of(features, 'mean')
    yield Check(f'class_center_mean{index}', mean, data[f'output/class_center_mean{index}'], 1e-10)
    got = layer.apply(params, data[f'input/query_tokens{index}'], centers, present)
    yield Check(f'query_tokens{index}', got, data[f'output/query_tokens{index}'], 1e-10)
  dice = references.mask_dice(data['input/support_mask_logits'], masks)
  yield Check('dice', dice, data['inter/support_dice'], 1e-10)
  best, index = references.choose_queries(data['input/support_queries'], dice, meta['topk'])
  yield Check('topk_index', index, data['output/topk_index'], 0)
  yield Check('topk_queries', best, data['output/topk_queries'], 1e-10)
  linking = references.QueryReference(meta['heads'], data['param/query_ref/ffn1.bias'].shape[0])
  got = linking.apply(
    {'params': _tree(data, 'param/query_ref')}, data['input/query_queries'], references.SupportTokens(best, classes)
  )
  yield Check('query_queries', got, data['output/query_queries'], 1e-10)
  x, rows = data['input/decoder_norm_out'], data['param/cos/weight']
  head = heads.CosineHead(count, meta['cos_scale'])
  yield Check('cos_logits', head.apply({'params': {'weight': rows}}, x), data['output/cos_logits'], 1e-10)
  yield from _support_head(data, meta, best, classes, x, rows, width)
  yield from _distillation(data, meta)


def _support_head(data, meta, best, classes, x, rows, width):
  head = heads.SupportHead(meta['num_classes'], width, meta['cos_scale'])
  own = _tree(data, 'param/ref_head')
  params = {'params': {'weight': rows, 'kernel': own['kernel'], 'bias': own['bias'], 'support_norm': own['norm']}}
  mean, present = references.per_class(best[:, 0], classes, meta['num_classes'])
  yield Check('ref_weight', head.apply(params, mean, present, method='rows'), data['output/ref_weight'], 1e-10)
  yield Check('ref_logits', head.apply(params, x, mean, present), data['output/ref_logits'], 1e-10)


def _distillation(data, meta):
  levels = range(len(meta['level_sizes']))
  args = (
    [data[f'input/kd_student{i}'] for i in levels],
    [data[f'input/kd_teacher{i}'] for i in levels],
    data['input/kd_novel_mask'],
    [data[f'input/kd_base_center{i}'] for i in levels],
  )
  per_level = distillation.feature_distillation(*args, meta['beta'])
  yield Check('feat_kd_per_level', per_level, data['output/feat_kd_per_level'], 1e-10)
  yield Check('feat_kd', per_level.mean(), data['output/feat_kd'], 1e-10)
  plain = distillation.feature_distillation(*args, 0.0).mean()
  yield Check('feat_kd_beta0', plain, data['output/feat_kd_beta0'], 1e-10)
  for name in (key for key in data if key.startswith('output/cls_kd_T')):
    got = distillation.class_distillation(
      data['input/kd_student_logits'],
      data['input/kd_teacher_logits'],
      data['input/kd_base_index'],
      data['input/kd_keep'],
      float(name.rsplit('T', 1)[1]),
    )
    yield Check(name, got, data[name], 1e-10)
