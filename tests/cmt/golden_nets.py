"""Reference files of the image and LiDAR networks, and of the complete models."""

from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.cmt import official
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
  encoder = SparseEncoder(
    tuple(meta['sparse_shape']), widths, meta['output_channels'], (2100, 1300, 400, 200), block=256
  )
  template = jax.eval_shape(encoder.init, jax.random.key(0), features, places)
  variables = official.import_parts(group(data, 'param'), {('lidar', 'encoder'): template})['lidar', 'encoder']

  @jax.jit
  def run(variables, features, places):
    levels, _ = encoder.apply(variables, features, places, method='levels')
    return levels, encoder.apply(variables, features, places)

  levels, (bev, lost) = run(variables, features, places)
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


HANDLERS = {
  'resnet50_cpfpn': image_branch,
  'vovnet99_cpfpn': image_branch,
  'vovnet57_cpfpn': image_branch,
  'second_fpn': second_fpn,
  'sparse_encoder': sparse_encoder,
  'voxelize': voxels,
}
