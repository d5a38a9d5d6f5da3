"""Compares jaxpapers.reft with outputs of the public base code and of the float64 reference of its own modules."""

import functools
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.layers.norm import FrozenBatchNorm
from jaxpapers.layers.resnet import Bottleneck, ResNet
from jaxpapers.reft import (
  deformable,
  distillation,
  heads,
  inference,
  kshot,
  losses,
  matching,
  model,
  official,
  optimizer,
  positions,
  references,
)
from jaxpapers.reft.pixel_decoder import PixelDecoder
from jaxpapers.reft.transformer import TransformerDecoder, attention_mask
from tests.golden import Check, UnknownKindError, group, load

SUPPORT = ('coco_gt.json', 'coco_detections.json')


def run(path: Path) -> Iterable[Check]:
  if path.name.startswith('coco'):
    from tests.reft import golden_coco

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


def place(params: dict, name: str) -> dict:
  """A part's variables where they lie in the whole model, for its official names."""
  return {'params': {name: params['params']}}


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


def padded_targets(data: dict, prefix: str, count: int, size: tuple[int, int] | None = None) -> losses.Targets:
  """Objects of `count` images under `prefix`, padded to one number and size."""
  labels = [data[prefix.format('labels', i)] for i in range(count)]
  masks = [data[prefix.format('masks', i)] for i in range(count)]
  most = max(1, *(len(x) for x in labels))
  height, width = size or masks[0].shape[1:]
  out = losses.Targets(
    np.zeros((count, most), np.int32), np.zeros((count, most, height, width), bool), np.zeros((count, most), bool)
  )
  for i, (label, mask) in enumerate(zip(labels, masks, strict=True)):
    out.labels[i, : len(label)] = label
    out.masks[i, : len(label), : mask.shape[1], : mask.shape[2]] = mask
    out.valid[i, : len(label)] = True
  return jax.tree.map(jnp.asarray, out)


def recorded_points(data: dict, prefix: str, layer: str, targets: losses.Targets, order: list) -> losses.Points:
  """Recorded points, whose rows are the pairs by image and query, at the places of the objects."""
  batch, most = targets.valid.shape
  match = np.concatenate([data[f'{prefix}points/match/{layer}/img{i}'] for i in range(batch)])

  def spread(name):
    rows = data[f'{prefix}points/{name}/{layer}']
    out, start = np.full((batch, most, *rows.shape[1:]), 0.5, np.float32), 0
    for image, objects in enumerate(order):
      out[image, objects] = rows[start : start + len(objects)]
      start += len(objects)
    return out

  return losses.Points(*(jnp.asarray(x) for x in (match, spread('loss_oversampled'), spread('loss_random'))))


def matched_order(matches: matching.Matches, image: int) -> np.ndarray:
  """Objects of an image by ascending query."""
  objects = np.flatnonzero(np.asarray(matches.matched[image]))
  return objects[np.argsort(np.asarray(matches.query[image])[objects])]


def matcher(data: dict, meta: dict) -> Iterable[Check]:
  layers = ['final', *sorted({key.split('/')[2] for key in data if re.match(r'input/logits/aux', key)})]
  count = sum(key.startswith('input/target_labels/') for key in data)
  targets = padded_targets(data, 'input/target_{}/img{}', count)
  weights = matching.Weights(meta['class_weight'], meta['mask_weight'], meta['dice_weight'])
  logits = jnp.stack([data[f'input/logits/{layer}'] for layer in layers])
  masks = jnp.stack([data[f'input/masks/{layer}'] for layer in layers])
  all_points = []
  for index, layer in enumerate(layers):
    at = jnp.concatenate([jnp.asarray(data[f'points/match/{layer}/img{i}']) for i in range(count)])
    matches = jax.jit(functools.partial(losses.match_layer, weights=weights))(logits[index], masks[index], targets, at)
    order = [matched_order(matches, image) for image in range(count)]
    for image in range(count):
      pairs = np.stack([np.asarray(matches.query[image])[order[image]], order[image]])
      yield Check(f'match/{layer}/{image}', pairs, data[f'match/{layer}/img{image}'], 0)
      valid = np.flatnonzero(targets.valid[image])
      yield from _costs(data, layer, image, logits[index], masks[index], targets, at, weights, valid)
    all_points.append(recorded_points(data, '', layer, targets, order))
  points = jax.tree.map(lambda *x: jnp.stack(x), *all_points)

  def objective(logits, masks):
    total, terms, _ = losses.deep_loss(logits, masks, targets, points, weights, no_object=meta['no_object_weight'])
    return total, terms

  (total, terms), grads = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(logits, masks)
  yield Check('total', total, data['output/total_weighted'], 1e-5, relative=True)
  for index, layer in enumerate(layers):
    tail = '' if layer == 'final' else layer.replace('aux', '_')
    for name, term, weight in zip(('ce', 'mask', 'dice'), terms, weights, strict=True):
      yield Check(f'loss_{name}{tail}', term[index] / weight, data[f'output/loss_{name}{tail}'], 1e-5)
    yield Check(f'grad/logits/{layer}', grads[0][index], data[f'grad/logits/{layer}'], 1e-5)
    yield Check(f'grad/masks/{layer}', grads[1][index], data[f'grad/masks/{layer}'], 1e-5)


def _costs(data, layer, image, logits, masks, targets, at, weights, valid):
  if not len(valid):
    return
  from jaxpapers.reft.sampling import sample_points

  points = at[image]

  def sampled(maps):
    return sample_points(maps, jnp.broadcast_to(points, (len(maps), *points.shape)))

  truth = sampled(targets.masks[image][valid].astype(jnp.float32))
  costs = matching.matching_costs(logits[image], sampled(masks[image]), targets.labels[image][valid], truth, weights)
  for name, got in (('total', costs.total), ('mask_bce', costs.mask), ('dice', costs.dice)):
    yield Check(f'cost/{name}/{layer}/{image}', got, data[f'cost/{name}/{layer}/img{image}'], 4e-5)


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
    out[i, : image.shape[1], : image.shape[2]] = model.normalise(nhwc(image))
  return jnp.asarray(out)


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
  net = small_model(meta['cfg'], state)
  images = padded_images([data[f'input/image{i}'] for i in range(len(meta['sizes']))])
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
  images = padded_images([data[f'input/image{i}'] for i in range(len(meta['sizes']))])
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


def train_steps(data: dict, meta: dict) -> Iterable[Check]:
  # In double precision: in single, a unit at the edge of its ReLU moves one weight by more than the tolerance.
  with jax.enable_x64(True):
    yield from _train_steps({k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in data.items()}, meta)


def _train_steps(data: dict, meta: dict) -> Iterable[Check]:
  cfg, solver = meta['cfg'], meta['solver']
  state = group(data, 'param_init')
  net = small_model(cfg, state)
  variables = official.import_official(state, net)
  schedule = optax.piecewise_constant_schedule(solver['base_lr'], {s: solver['gamma'] for s in solver['steps']})
  transform = optimizer.mask2former_optimizer(schedule, clip=solver['clip'])
  params, frozen = variables['params'], {k: v for k, v in variables.items() if k != 'params'}
  opt_state = transform.init(params)
  layers = ['final', *(f'aux{i}' for i in range(cfg['dec']))]
  # Recorded layers are the last one, then the others from the first on.
  order_of = [*range(1, cfg['dec'] + 1), 0]

  @jax.jit
  def forward(params, images):
    found = net.apply({'params': params, **frozen}, images)
    return found.logits, found.masks

  @jax.jit
  def step(params, opt_state, images, targets, points):
    def objective(params):
      found = net.apply({'params': params, **frozen}, images)
      total, terms, _ = losses.deep_loss(found.logits, found.masks, targets, points)
      return total, terms

    (total, terms), grads = jax.value_and_grad(objective, has_aux=True)(params)
    updates, opt_state = transform.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, total, terms, grads

  for number in range(meta['steps']):
    part = group(data, f'step{number}')
    count = sum(bool(re.fullmatch(r'image\d+', key)) for key in part)
    images = padded_images([part[f'image{i}'] for i in range(count)])
    targets = padded_targets(part, '{}{}', count, images.shape[1:3])
    logits, masks = forward(params, images)
    collected = []
    for index in range(cfg['dec'] + 1):
      layer = layers[order_of[index]]
      at = jnp.concatenate([jnp.asarray(part[f'points/match/{layer}/img{i}']) for i in range(count)])
      matches = losses.match_layer(logits[index], masks[index], targets, at)
      order = [matched_order(matches, image) for image in range(count)]
      collected.append(recorded_points(part, '', layer, targets, order))
    points = jax.tree.map(lambda *x: jnp.stack(x), *collected)
    yield Check(f'step{number}/lr', schedule(number), part['lr'][-1], 1e-9)
    params, opt_state, total, terms, grads = step(params, opt_state, images, targets, points)
    yield Check(f'step{number}/total', total, part['total'], 4e-5)
    for index in range(cfg['dec'] + 1):
      layer = layers[order_of[index]]
      tail = '' if layer == 'final' else layer.replace('aux', '_')
      for name, term in zip(('ce', 'mask', 'dice'), terms, strict=True):
        yield Check(f'step{number}/{name}{tail}', term[index], part[f'loss_weighted/loss_{name}{tail}'], 4e-5)
    yield Check(f'step{number}/grad_norm', optax.global_norm(grads), part['grad_norm_before_clip'], 5e-4)
    named = official.export_variables({'params': grads})
    for key, want in group(part, 'grad').items():
      yield Check(f'step{number}/grad/{key}', named[key], want, 1e-4, relative=True)
  after = official.export_variables({'params': params, **frozen})
  for key, want in group(data, 'param_final').items():
    if key in after:
      yield Check(f'after/{key}', after[key], want, 4e-5)


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
  r'^SetCriterion': matcher,
  r'instance inference$': small_inference,
  r'^full Mask2Former': full_model,
  r'training step': train_steps,
  r'output/class_center': reft_modules,
  r'sel/': sampler,
}
