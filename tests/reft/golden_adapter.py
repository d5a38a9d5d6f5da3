"""Compares jaxpapers.reft with outputs of the public base code and of the float64 reference of its own modules."""

import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.layers.norm import FrozenBatchNorm
from jaxpapers.layers.resnet import Bottleneck, ResNet
from jaxpapers.reft import (
  deformable,
  heads,
  inference,
  kshot,
  model,
  official,
  positions,
)
from jaxpapers.reft.pixel_decoder import PixelDecoder
from jaxpapers.reft.transformer import TransformerDecoder, attention_mask
from tests.golden import Check, UnknownKindError, group, load
from tests.reft import golden_coco, golden_modules, golden_training, small_networks

SUPPORT = ('coco_gt.json', 'coco_detections.json')


def run(path: Path) -> Iterable[Check]:
  if path.name.startswith('coco'):
    yield from golden_coco.run(path)
    return
  data, meta = load(path)
  module = meta.get('module', '')
  for pattern, case in KINDS.items():
    if re.search(pattern, module) or any(re.match(pattern, key) for key in data):
      yield from case(data, meta)
      return
  raise UnknownKindError(f'{path.name}: module {module!r} is unknown')


def nhwc(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x, -3, -1)


def nchw(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(np.asarray(x), -1, -3)


def prefixed(state: dict, prefix: str) -> dict:
  return {prefix + key: value for key, value in state.items()}


def imported(state: dict, module, part: str, prefix: str, *args) -> dict:
  template = jax.eval_shape(module.init, jax.random.key(0), *args)
  filled = official.import_variables(prefixed(state, prefix), {k: {part: v} for k, v in template.items()})
  return {k: v[part] for k, v in filled.items()}


def msdeform(data: dict, meta: dict) -> Iterable[Check]:
  sizes = [tuple(s) for s in meta['spatial_shapes']]
  layer = deformable.DeformableAttention(meta['n_heads'], meta['n_levels'], meta['n_points'])
  params = {}
  for key, value in group(data, 'param').items():
    name, leaf = key.rsplit('.', 1)
    params.setdefault(name, {})['kernel' if leaf == 'weight' else 'bias'] = value.T if leaf == 'weight' else value
  padding = data.get('input/padding_mask')

  def apply(params, query, reference, value):
    return layer.apply({'params': params}, query, reference, value, sizes, padding)

  inputs = (params, *(jnp.asarray(data[f'input/{n}']) for n in ('query', 'reference_points', 'value_in')))
  out, vjp = jax.vjp(jax.jit(apply), *inputs)
  yield Check('out', out, data['output/out'], 1e-5)
  grads = vjp(jnp.asarray(data['input/cotangent']))
  for name, grad in zip(('query', 'reference_points', 'value_in'), grads[1:], strict=True):
    yield Check(f'grad/{name}', grad, data[f'grad/{name}'], 1e-5, relative=True)
  for name in ('sampling_offsets', 'attention_weights', 'value_proj'):
    yield Check(f'grad/{name}', grads[0][name]['kernel'].T, data[f'grad/{name}.weight'], 1e-5, relative=True)
  core = deformable.deformable_sampling(
    _values(data, params, padding, meta['n_heads']),
    sizes,
    jnp.asarray(data['inter/sampling_locations']),
    jnp.asarray(data['inter/attention_weights']),
  )
  yield Check('core', core.reshape(out.shape), data['inter/core_output'], 1e-5)


def _values(data, params, padding, count):
  value = data['input/value_in'] @ params['value_proj']['kernel'] + params['value_proj']['bias']
  if padding is not None:
    value = np.where(padding[..., None], 0.0, value)
  return jnp.asarray(value.reshape(*value.shape[:2], count, -1))


def reference_points(data: dict, meta: dict) -> Iterable[Check]:
  yield Check('points', positions.reference_points(meta['shapes'])[None], data['output/reference_points'], 1e-6)


def embeddings(data: dict, meta: dict) -> Iterable[Check]:
  for index, case in enumerate(meta['cases']):
    got = positions.sine_embedding(case['H'], case['W'], 2 * case['num_pos_feats'], case['normalize'])
    yield Check(f'pos{index}', got, data[f'output/pos{index}'], 1e-5)


def resnet(data: dict, meta: dict) -> Iterable[Check]:
  cfg = meta['cfg']
  net = ResNet(cfg['blocks'], Bottleneck, cfg['stem'], cfg['base'], cfg['outs'], norm=FrozenBatchNorm)
  images = nhwc(next(value for key, value in data.items() if key.startswith('input/')))
  variables = imported(group(data, 'param'), net, 'backbone', 'backbone.', images)
  for index, got in enumerate(jax.jit(net.apply)(variables, images)):
    yield Check(f'res{index + 2}', nchw(got), data[f'output/res{index + 2}'], 2e-4)


def pixel_decoder(data: dict, meta: dict) -> Iterable[Check]:
  decoder = PixelDecoder(
    meta['conv_dim'],
    meta['mask_dim'],
    meta['nheads'],
    _ffn(data, meta),
    meta['enc_layers'],
    groups=meta['group_norm_groups'],
  )
  maps = [jnp.asarray(nhwc(data[f'input/res{i}'])) for i in range(2, 6)]
  state = group(data, 'param')
  variables = imported(state, decoder, 'pixel_decoder', 'sem_seg_head.pixel_decoder.', maps)
  found = jax.jit(decoder.apply)(variables, maps)
  yield Check('mask_features', nchw(found.mask_features), data['output/mask_features'], 5e-5)
  for index, level in enumerate(found.levels):
    yield Check(f'multi_scale{index}', nchw(level), data[f'output/multi_scale{index}'], 5e-5)


def _ffn(data, meta):
  name = next((k for k in data if k.endswith('encoder.layers.0.linear1.weight')), None)
  return data[name].shape[0] if name else meta['ffn']


def transformer_decoder(data: dict, meta: dict) -> Iterable[Check]:
  decoder = TransformerDecoder(
    heads.LinearHead(meta['num_classes']),
    meta['num_queries'],
    meta['hidden_dim'],
    meta['mask_dim'],
    meta['nheads'],
    meta['ffn'],
    meta['dec_layers'],
  )
  levels = [jnp.asarray(nhwc(data[f'input/x{i}'])) for i in range(3)]
  features = jnp.asarray(nhwc(data['input/mask_features']))
  state = group(data, 'param')
  variables = imported(state, decoder, 'decoder', 'sem_seg_head.predictor.', levels, features)
  found = jax.jit(decoder.apply)(variables, levels, features)
  for index in range(meta['dec_layers'] + 1):
    yield Check(f'logits{index}', found.logits[index], data[f'output/logits{index}'], 1e-5)
    yield Check(f'masks{index}', found.masks[index], data[f'output/masks{index}'], 5e-5)
  for key, want in group(data, 'inter').items():
    layer = int(key.removeprefix('attn_mask'))
    size = levels[layer % 3].shape[1:3]
    yield Check(key, attention_mask(found.masks[layer], size), want, 0)


def detections(data: dict, meta: dict, found, padded: tuple[int, int], limit: int) -> Iterable[Check]:
  for i, (size, output) in enumerate(zip(meta['sizes'], meta['output_sizes'], strict=True)):
    got = inference.instances(found.logits[-1][i], found.masks[-1][i], padded, tuple(size), tuple(output), limit)
    yield Check(f'scores{i}', got.scores, data[f'output/scores{i}'], 8e-4)
    yield Check(f'classes{i}', got.classes, data[f'output/classes{i}'], 0)
    if f'output/masks{i}' in data:
      want = data[f'output/masks{i}']
    else:
      shape = data[f'output/masks{i}_shape']
      want = np.unpackbits(data[f'output/masks{i}_packed'], axis=-1)[..., : shape[-1]].astype(bool)
    yield Check(f'masks{i}: share of pixels', np.mean(np.asarray(got.masks) != want), 0.0, 1e-4)


def small_inference(data: dict, meta: dict) -> Iterable[Check]:
  state = group(data, 'param')
  net = small_networks.small_model(meta['cfg'], state)
  images = small_networks.padded_images([data[f'input/image{i}'] for i in range(len(meta['sizes']))])
  found = jax.jit(net.apply)(official.import_official(state, net), images)
  yield Check('pred_logits', found.logits[-1], data['output/pred_logits'], 1e-4)
  yield Check('pred_masks', found.masks[-1], data['output/pred_masks'], 2e-3)
  yield from detections(data, meta, found, images.shape[1:3], meta['cfg']['topk'])


def recipe_weight(key: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
  """The README's rule for weights that are too large to store."""
  z = np.random.RandomState(zlib.crc32((salt + key).encode()) & 0x7FFFFFFF).standard_normal(shape)
  if key.endswith('running_var'):
    value = 1.0 + 0.5 * np.tanh(z)
  elif key.endswith('running_mean'):
    value = 0.1 * z
  elif key.endswith('sampling_offsets.bias'):
    value = 1.5 * z
  elif len(shape) == 1 and key.endswith('weight'):
    value = 0.3 + 0.05 * z if key.endswith('conv3.norm.weight') else 1.0 + 0.1 * z
  elif len(shape) == 1:
    value = 0.05 * z
  elif any(name in key for name in ('query_feat', 'query_embed', 'level_embed')):
    value = z
  else:
    value = z * np.sqrt(1.5 / np.prod(shape[1:]))
  return value.astype(np.float32)


def full_model(data: dict, meta: dict) -> Iterable[Check]:
  net = model.mask2former_r50(meta['num_classes'])
  images = small_networks.padded_images([data[f'input/image{i}'] for i in range(len(meta['sizes']))])
  template = jax.eval_shape(net.init, jax.random.key(0), images)
  shapes = official.official_shapes(template)
  names = [str(k) for k in data['check/key_names']]
  yield Check('keys', sorted(shapes), sorted(names), 0)
  state = {key: recipe_weight(key, shapes[key], meta['salt']) for key in names}
  sums = [state[key].sum(dtype=np.float64) for key in names]
  yield Check('key_sum', sums, data['check/key_sum'], 1e-3)
  variables = official.import_variables(state, template)

  def everything(variables, images):
    maps = net.apply(variables, images, method=lambda m, x: m.backbone(x))
    pyramid = net.apply(variables, maps, method=lambda m, x: m.pixel_decoder(x))
    return (
      maps,
      pyramid,
      net.apply(variables, pyramid.levels, pyramid.mask_features, method=lambda m, *x: m.decoder(*x)),
    )

  maps, pyramid, found = jax.jit(everything)(variables, images)
  for index, features in enumerate(maps):
    name = f'inter/res{index + 2}'
    yield Check(f'{name} mean', features.mean(axis=(1, 2)), data[f'{name}_mean_per_channel'], 2e-4)
    yield Check(name, nchw(features)[:, :8], data[f'{name}_first8channels'], 3e-4)
  yield Check('mask_features', nchw(pyramid.mask_features)[:, :16], data['inter/mask_features_first16channels'], 2e-4)
  for index, level in enumerate(pyramid.levels):
    yield Check(f'multi_scale{index}', nchw(level), data[f'inter/multi_scale{index}'], 2e-4)
  yield Check('pred_logits', found.logits[-1], data['output/pred_logits'], 1e-4)
  yield Check('pred_masks', found.masks[-1], data['output/pred_masks'], 2e-3)
  for index in range(len(found.logits) - 1):
    yield Check(f'aux{index}', found.logits[index], data[f'output/aux{index}_logits'], 1e-4)
  yield from detections(data, meta, found, images.shape[1:3], len(data['output/scores0']))


def sampler(data: dict, meta: dict) -> Iterable[Check]:
  names = meta['columns']
  column = {'annotation_id': 'id'}
  annotations = [{column.get(n, n): int(v) for n, v in zip(names, row, strict=True)} for row in data['annotations']]
  categories = dict(zip(data['category_ids'].tolist(), data['category_names'].tolist(), strict=True))
  for seed in meta['seeds']:
    chosen = kshot.sample_shots(annotations, categories, seed, meta['shots'])
    wanted = {k: v for k, v in data.items() if k.startswith(f'sel/seed{seed}/')}
    differing = []
    for key, want in wanted.items():
      _, _, shot, category, field = key.split('/')
      got = chosen[int(shot.removesuffix('shot'))][int(category)]
      if field == 'annotations':
        values = [entry['id'] for entry in got]
      else:
        values = list(dict.fromkeys(entry['image_id'] for entry in got))
      if values != want.tolist():
        differing.append(key)
    yield Check(f'seed {seed}: {len(wanted)} selections, differing', len(differing), 0, 0)


KINDS = {
  r'^MSDeformAttn$': msdeform,
  r'output/reference_points$': reference_points,
  r'output/pos\d+$': embeddings,
  r'^detectron2 ResNet': resnet,
  r'^MSDeformAttnPixelDecoder': pixel_decoder,
  r'^MultiScaleMaskedTransformerDecoder': transformer_decoder,
  r'^SetCriterion': golden_training.matcher,
  r'instance inference$': small_inference,
  r'^full Mask2Former': full_model,
  r'training step': golden_training.train_steps,
  r'output/class_center': golden_modules.reft_modules,
  r'sel/': sampler,
}
