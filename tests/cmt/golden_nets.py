"""Reference files of the image and LiDAR networks, and of the complete models."""

from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from jaxpapers.cmt import coder, model, official
from jaxpapers.cmt.cp_fpn import CPFPN
from jaxpapers.cmt.second import SECOND, SECONDFPN
from jaxpapers.cmt.sparse_encoder import SparseEncoder
from jaxpapers.cmt.vovnet import VoVNet
from jaxpapers.cmt.voxelize import voxelize
from jaxpapers.layers.resnet import Bottleneck, ResNet
from tests.golden import Check, UnknownKindError, group, load

MAXIMUM = {'relative': True}


def nhwc(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x, -3, -1)


def nchw(x: jax.Array) -> np.ndarray:
  return np.moveaxis(np.asarray(x), -1, -3)


def _backbone(meta: dict):
  settings = meta['backbone']
  if settings['type'] == 'ResNet' and settings['depth'] == 50:
    return ResNet((3, 4, 6, 3), Bottleneck, settings['base_channels'])
  if settings['type'] == 'VoVNet' and meta['spec']['eSE'] and not meta['spec']['dw']:
    spec = meta['spec']
    sizes = (spec['stem'], spec['block_per_stage'], spec['stage_conv_ch'], spec['stage_out_ch'])
    return VoVNet(*map(tuple, sizes), layers=spec['layer_per_block'])
  raise UnknownKindError(f'backbone {settings}')


def image_branch(path: Path) -> Iterable[Check]:
  """Backbone and neck at reduced width."""
  data, meta = load(path)
  backbone, neck = _backbone(meta), CPFPN(meta['neck']['out_channels'])
  images = nhwc(data['input/img_nchw'])
  state = group(data, 'param')

  def both(variables, images):
    maps = backbone.apply(variables['backbone'], images)[-2:]
    return maps, neck.apply(variables['neck'], maps)

  key = jax.random.key(0)
  shapes = {'backbone': jax.eval_shape(backbone.init, key, images)}
  maps = jax.eval_shape(lambda v: backbone.apply(v, images)[-2:], shapes['backbone'])
  shapes['neck'] = jax.eval_shape(neck.init, key, maps)
  variables = official.import_parts(state, {('camera', name): value for name, value in shapes.items()})
  variables = {name: variables['camera', name] for name in shapes}
  maps, levels = jax.jit(both)(variables, images)
  for kind, got in (('backbone', maps), ('neck', levels)):
    for i, x in enumerate(got):
      yield Check(f'{kind}/{i}', nchw(x), data[f'output/{kind}/{i}_nchw'], 1e-4, **MAXIMUM)


def second_fpn(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  if len(set(meta['layer_nums'])) > 1:
    raise UnknownKindError(f'stages of {meta["layer_nums"]} layers')
  backbone = SECOND(tuple(meta['out_channels']), tuple(meta['layer_strides']), meta['layer_nums'][0])
  neck = SECONDFPN(tuple(meta['fpn_out']), tuple(meta['upsample_strides']))
  bev = nhwc(data['input/bev_nchw'])
  key = jax.random.key(0)
  shapes = {('lidar', 'backbone'): jax.eval_shape(backbone.init, key, bev)}
  maps = jax.eval_shape(lambda v: backbone.apply(v, bev), shapes['lidar', 'backbone'])
  shapes['lidar', 'neck'] = jax.eval_shape(neck.init, key, maps)
  variables = official.import_parts(group(data, 'param'), shapes)

  @jax.jit
  def both(variables, bev):
    maps = backbone.apply(variables['lidar', 'backbone'], bev)
    return maps, neck.apply(variables['lidar', 'neck'], maps)

  maps, out = both(variables, bev)
  for i, x in enumerate(maps):
    yield Check(f'second/{i}', nchw(x), data[f'output/second/{i}_nchw'], 1e-4, **MAXIMUM)
  yield Check('secondfpn', nchw(out), data['output/secondfpn_nchw'], 1e-4, **MAXIMUM)


STAGES = ('conv_input', 'encoder_layer1', 'encoder_layer2', 'encoder_layer3', 'encoder_layer4', 'conv_out')
CAPACITIES = ('encoder_layer1', 'encoder_layer2', 'encoder_layer3', 'conv_out')


def sparse_encoder(path: Path) -> Iterable[Check]:
  """Active sites and features of every stage; the reference's `encoder_layerN` ends with its strided convolution."""
  data, meta = load(path)
  batch, coords = meta['batch'], data['input/coors_bzyx']
  sizes = [int((coords[:, 0] == b).sum()) for b in range(batch)]
  places = np.full((batch, max(sizes) + 7, 3), -1, np.int32)
  features = np.zeros((batch, max(sizes) + 7, 5), np.float32)
  for b, size in enumerate(sizes):
    places[b, :size] = coords[coords[:, 0] == b][:, 1:]
    features[b, :size] = data['input/features'][coords[:, 0] == b]
  widths = tuple(channels[0] for channels in meta['encoder_channels'])
  counts = [np.bincount(data[f'output/{name}/coors_bzyx_sorted'][:, 0]).max() for name in CAPACITIES]
  capacities = tuple(int(count) + 5 for count in counts)
  encoder = SparseEncoder(tuple(meta['sparse_shape']), widths, meta['output_channels'], capacities, block=256)
  template = jax.eval_shape(encoder.init, jax.random.key(0), features, places)
  variables = official.import_parts(group(data, 'param'), {('lidar', 'encoder'): template})['lidar', 'encoder']

  @jax.jit
  def run(variables, features, places):
    return encoder.apply(
      variables, features, places, capture_intermediates=lambda _, name: name == 'levels', mutable=['intermediates']
    )

  (bev, lost), seen = run(variables, features, places)
  ((levels, _),) = seen['intermediates']['levels']
  yield Check('lost sites', [int(n.sum()) for n in lost.values()], [0] * len(lost), 0)
  for name, (ids, x), shape in zip(STAGES, levels, encoder.grids(), strict=True):
    used = np.asarray(ids) < np.prod(shape)
    b, row = np.nonzero(used)
    z, y, x_ = np.unravel_index(np.asarray(ids)[used], shape)
    yield Check(f'{name} sites', np.stack([b, z, y, x_], 1), data[f'output/{name}/coors_bzyx_sorted'], 0)
    yield Check(name, np.asarray(x)[b, row], data[f'output/{name}/features_sorted'], 1e-4, **MAXIMUM)
    yield Check(f'{name} unused rows', np.abs(np.asarray(x)[~used]).max(initial=0.0), 0.0, 0)
  yield Check('bev', nchw(bev), data['output/bev_nchw'], 1e-4, **MAXIMUM)


def voxels(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  points = data['input/points']
  padded = np.concatenate([points, np.full((5, points.shape[1]), 1.0, np.float32)])
  mask = np.arange(len(padded)) < len(points)
  total = len(data['output/eval/num_points'])
  for mode, maximum in zip(('train', 'eval'), meta['max_voxels'], strict=True):
    got = jax.jit(
      lambda p, m, n=maximum: voxelize(p, m, meta['point_cloud_range'], meta['voxel_size'], n, meta['max_num_points'])
    )(jnp.asarray(padded), mask)
    used = int((got.counts > 0).sum())
    yield Check(f'{mode} coords', got.coords[:used], data[f'output/{mode}/coors_zyx'], 0)
    yield Check(f'{mode} counts', got.counts[:used], data[f'output/{mode}/num_points'], 0)
    yield Check(f'{mode} means', got.features[:used], data[f'output/{mode}/mean'], 1e-5, **MAXIMUM)
    yield Check(f'{mode} lost', got.lost, max(total - maximum, 0), 0)


def recipe_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
  """The README's rule for weights that are too large to store."""
  rng = np.random.Generator(np.random.PCG64(seed))
  state = {}
  for key in sorted(shapes):
    shape = shapes[key]
    z = rng.standard_normal(shape).astype(np.float32)
    if key.endswith('running_var'):
      value = 1 + 0.1 * np.abs(z)
    elif key.endswith('running_mean'):
      value = 0.1 * z
    elif key.endswith('reference_points.weight'):
      value = np.clip(0.5 + 0.25 * z, 0.02, 0.98)
    elif len(shape) == 1 and key.endswith('weight'):
      value = (1 + 0.1 * z) * (0.3 if key.endswith('bn3.weight') else 1.0)
    elif len(shape) == 1:
      value = 0.05 * z
    else:
      fan = shape[0] if key == 'pts_neck.deblocks.1.0.weight' else np.prod(shape[1:])
      gain = 1.6 if key.startswith('pts_middle_encoder') else 1.3
      gain = next((g for end, g in (('in_proj_weight', 2.0), ('cls_logits.3.weight', 3.0)) if key.endswith(end)), gain)
      value = gain * z / np.sqrt(fan)
    state[key] = value.astype(np.float32)
  return state


MODELS = {
  40_919_572: model.cmt_r50,
  86_607_380: model.cmt_vov,
  16_769_492: model.cmt_lidar,
  78_156_100: model.cmt_camera,
}


def full(path: Path) -> Iterable[Check]:
  """A published model at its real size: 600 MB of weights, minutes of one core."""
  data, meta = load(path)
  if meta['n_params'] not in MODELS:
    raise UnknownKindError(f'no published model has {meta["n_params"]} parameters')
  net = MODELS[meta['n_params']]()
  template = official.template(net)
  yield Check('parameters', sum(x.size for x in jax.tree.leaves(template['params'])), meta['n_params'], 0)
  shapes = official.official_names(template)
  yield Check('entries of the state dict', len(shapes), meta['n_state_entries'], 0)
  state = recipe_weights(shapes, meta['weight_seed'])
  first = group(data, 'check/param_first5')
  for key, want in first.items():
    yield Check(f'weights {key}', state[key].ravel()[:5], want, 1e-6)
  variables = official.import_official(state, net)
  arguments = {}
  if net.lidar is not None:
    arguments['points'] = data['input/points'][None]
  if net.camera is not None:
    shape = (len(data['input/lidar2img']), 3, meta['H'], meta['W'])
    images = np.random.Generator(np.random.PCG64(meta['input_seed'])).standard_normal(shape).astype(np.float32)
    yield Check('images', images.ravel()[:8], data['check/img_first8'], 1e-6)
    matrices = data['input/lidar2img']
    arguments['images'] = nhwc(images)[None]
    arguments['lidar2img'] = matrices.astype(np.float32)[None]
    arguments['img2lidar'] = np.linalg.inv(matrices).astype(np.float32)[None]

  @jax.jit
  def run(variables, arguments):
    out, seen = net.apply(
      variables, **arguments, capture_intermediates=lambda m, _: m.name in PARTS, mutable=['intermediates']
    )
    return out, seen['intermediates'], coder.decode(out.head.tasks)

  out, seen, found = run(variables, arguments)
  for name, n in out.lost.items():
    yield Check(name, n, np.zeros_like(n), 0)
  if 'camera' in seen:
    level = nchw(seen['camera']['backbone']['__call__'][0][-2])
    yield Check('backbone0_sub', level[::2, ::16, ::3, ::3], data['output/backbone0_sub'], 1e-4, **MAXIMUM)
    level = nchw(seen['camera']['neck']['__call__'][0][0])
    yield Check('neck0_sub', level[::2, ::8, ::3, ::3], data['output/neck0_sub'], 1e-4, **MAXIMUM)
  if 'lidar' in seen:
    bev = nchw(seen['lidar']['encoder']['__call__'][0][0])
    yield Check('sparse_sub', bev[:, ::8, ::5, ::5], data['output/sparse_sub'], 1e-4, **MAXIMUM)
    bev = nchw(seen['lidar']['neck']['__call__'][0])
    yield Check('fpn_sub', bev[:, ::16, ::5, ::5], data['output/fpn_sub'], 1e-4, **MAXIMUM)
  (task,) = out.head.tasks
  for name, got in task.items():
    yield Check(name, got, data[f'output/{name}'], 5e-2 if name in ('center', 'height') else 1e-2)
  yield from _detections(found, data)


PARTS = ('backbone', 'neck', 'encoder')


def _detections(found: coder.Detections, data: dict) -> Iterable[Check]:
  """Rows may change places where scores are nearly equal: they are paired by class and place."""
  kept = np.asarray(found.valid[0])
  boxes, scores, labels = (np.asarray(x[0])[kept] for x in found[:3])
  want = data['output/final_boxes_bottom_center']
  yield Check('final scores', scores, data['output/final_scores'], 1e-4)
  if len(boxes) != len(want):
    return
  distance = np.linalg.norm(boxes[:, None, :3] - want[None, :, :3], axis=-1)
  other = labels[:, None] != data['output/final_labels'][None]
  rows, columns = scipy.optimize.linear_sum_assignment(np.minimum(distance, 10.0) + 100.0 * other)
  yield Check('final labels', labels[rows], data['output/final_labels'][columns], 0)
  scale = np.maximum(1.0, want[columns][:, 3:6].max(1, keepdims=True))  # random sizes reach many metres
  yield Check('final boxes', boxes[rows] / scale, want[columns] / scale, 5e-2)


HANDLERS = {
  'resnet50_cpfpn': image_branch,
  'vovnet99_cpfpn': image_branch,
  'vovnet57_cpfpn': image_branch,
  'second_fpn': second_fpn,
  'sparse_encoder': sparse_encoder,
  'voxelize': voxels,
  'full_': full,
}
