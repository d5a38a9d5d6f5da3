"""Compares jaxpapers.vr_quality with outputs of the authors' code. What a file is, the names of its arrays say."""

import functools
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.layers.resnet import ResNet18
from jaxpapers.vr_quality import official, pseudocylindrical, rotate, tables, viewport
from jaxpapers.vr_quality.losses import plcc_loss
from jaxpapers.vr_quality.model import QualityModel, normalise, plain_network, tile_network
from jaxpapers.vr_quality.pseudo_layers import MaskedBatchNorm, pseudo_conv
from jaxpapers.vr_quality.sphere import angle_between, unit_vector
from tests.golden import Check, group, load


def run(path: Path) -> Iterable[Check]:
  if path.suffix == '.npz':
    data, meta = load(path)
    for name, case in KINDS.items():
      if any(re.match(name, key) for key in data):
        yield from case(data, meta)
        return
  from tests.vr_quality import golden_analysis

  yield from golden_analysis.run(path)


def to_tiles(x: np.ndarray, npart: int) -> np.ndarray:
  """(N * G, C, h, W) -> [N, G, h, W, C]."""
  return np.moveaxis(x.reshape(-1, npart, *x.shape[1:]), 2, -1)


def to_nhwc(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x, -3, -1)


def geometry(data: dict, meta: dict) -> Iterable[Check]:
  for name, want in data.items():
    if found := re.fullmatch(r'output/ratio64/npart(\d+)', name):
      yield Check(name, tables.tile_ratios(int(found[1])), want, 0)
    elif found := re.fullmatch(r'output/widths/npart(\d+)_W(\d+)', name):
      yield Check(name, tables.tile_widths(int(found[1]), int(found[2])), want, 0)
    else:
      raise ValueError(f'{name} is not understood')


def operators(data: dict, meta: dict) -> Iterable[Check]:
  npart = meta['npart']

  def pair(function, x, cotangent):
    return jax.jit(lambda x, c: (lambda y, vjp: (y, *vjp(c)))(*jax.vjp(function, x)))(x, cotangent)

  erp = to_nhwc(data['input/erp'])
  y, back = pair(lambda x: pseudocylindrical.sphere_slice(x, npart), erp, to_tiles(data['input/slice_cot'], npart))
  yield Check('slice', y, to_tiles(data['output/slice'], npart), 5e-4)
  yield Check('slice_vjp', back, to_nhwc(data['output/slice_vjp']), 5e-4)
  y, back = pair(pseudocylindrical.sphere_unslice, y, to_nhwc(data['input/uslice_cot']))
  yield Check('uslice_of_slice', y, to_nhwc(data['output/uslice_of_slice']), 5e-4)
  yield Check('uslice_vjp', back, to_tiles(data['output/uslice_vjp'], npart), 2e-5, relative=True)
  for case in meta['pads']:
    padding = int(case.rsplit('p', 1)[1])
    x, cotangent = (to_tiles(data[f'input/pad_{kind}_{case}'], npart) for kind in ('x', 'cot'))
    y, back = pair(lambda x, p=padding: pseudocylindrical.pad(x, p), x, cotangent)
    yield Check(f'pad_{case}', y, to_tiles(data[f'output/pad_{case}'], npart), 2e-5, relative=True)
    yield Check(f'pad_vjp_{case}', back, to_tiles(data[f'output/pad_vjp_{case}'], npart), 2e-5, relative=True)
  yield from _convolutions(data, npart)
  yield from _batch_norm(data, npart)


def _convolutions(data: dict, npart: int) -> Iterable[Check]:
  for stride in sorted(int(name[-1]) for name in data if re.fullmatch(r'output/conv_s\d', name)):
    kernel = data[f'param/conv_s{stride}.weight'].transpose(2, 3, 1, 0)
    x, cotangent = to_tiles(data['input/conv_x'], npart), to_tiles(data[f'input/conv_cot_s{stride}'], npart)
    for bucketed in (False, True):

      def layer(x, kernel, bias, stride=stride, bucketed=bucketed):
        return pseudocylindrical.trim(pseudo_conv(x, kernel, stride, bucketed) + bias)

      y, vjp = jax.vjp(jax.jit(layer), x, kernel, data[f'param/conv_s{stride}.bias'])
      grad_x, grad_w, grad_b = vjp(jnp.asarray(cotangent))
      name = f'conv_s{stride}'
      label = name + (' bucketed' if bucketed else '')
      yield Check(label, y, to_tiles(data[f'output/{name}'], npart), 2e-5, relative=True)
      yield Check(f'{label} grad_x', grad_x, to_tiles(data[f'output/{name}_grad_x'], npart), 2e-5, relative=True)
      want = data[f'output/{name}_grad_w'].transpose(2, 3, 1, 0)
      yield Check(f'{label} grad_w', grad_w, want, 2e-5, relative=True)
      yield Check(f'{label} grad_b', grad_b, data[f'output/{name}_grad_b'], 2e-5, relative=True)


def _batch_norm(data: dict, npart: int) -> Iterable[Check]:
  layer = MaskedBatchNorm()
  x, cotangent = to_tiles(data['input/conv_x'], npart), to_tiles(data['input/bn_cot'], npart)
  params = {'scale': data['param/bn.weight'], 'bias': data['param/bn.bias']}
  stats = {'mean': data['param/bn.running_mean'], 'var': data['param/bn.running_var']}

  def train(params, x):
    return layer.apply({'params': params, 'batch_stats': stats}, x, False, mutable=['batch_stats'])

  y, vjp, updates = jax.vjp(jax.jit(train), params, x, has_aux=True)
  grads, grad_x = vjp(jnp.asarray(cotangent))
  yield Check('bn_train', y, to_tiles(data['output/bn_train'], npart), 2e-5, relative=True)
  yield Check('bn_grad_x', grad_x, to_tiles(data['output/bn_grad_x'], npart), 2e-5, relative=True)
  yield Check('bn_grad_w', grads['scale'], data['output/bn_grad_w'], 2e-5, relative=True)
  yield Check('bn_grad_b', grads['bias'], data['output/bn_grad_b'], 2e-5, relative=True)
  new = updates['batch_stats']
  yield Check('bn_new_running_mean', new['mean'], data['output/bn_new_running_mean'], 2e-5, relative=True)
  yield Check('bn_new_running_var', new['var'], data['output/bn_new_running_var'], 2e-5, relative=True)
  after = layer.apply({'params': params, **updates}, x, True)
  yield Check('bn_eval_after', after, to_tiles(data['output/bn_eval_after'], npart), 2e-5, relative=True)


def _network(state: dict, npart: int, frames: int) -> QualityModel:
  """The model that a state dict belongs to; npart 0 is the plain network."""
  width, hidden = len(state['backbone.conv1.weight']), len(state['quality.0.weight'])
  backbone = tile_network(ResNet18, width=width) if npart else plain_network(ResNet18, width=width)
  return QualityModel(backbone, npart, hidden, frames=frames)


def thin_forward(data: dict, meta: dict) -> Iterable[Check]:
  npart = meta['npart']
  state = group(data, 'param')
  video = np.moveaxis(data['input/video'], 2, -1)
  model = _network(state, npart, video.shape[1])
  variables = official.import_official(state, model)

  @jax.jit
  def everything(variables, video):
    tiles = pseudocylindrical.sphere_slice(video.reshape(-1, *video.shape[2:]), npart)
    maps = model.apply(variables, tiles, method=lambda module, x: module.backbone(x))
    return model.apply(variables, video), maps

  out, maps = everything(variables, video)
  yield Check('quality', out.score[:, 0], data['output/quality'], 2e-4, relative=True)
  pooled = np.asarray(out.pooled)
  yield Check('features', pooled.reshape(-1, pooled.shape[-1]), data['output/features'], 2e-4, relative=True)
  for index, tiles in enumerate(maps):
    want = to_tiles(data[f'output/layer{index + 1}'], npart)
    got = np.asarray(pseudocylindrical.trim(tiles))[: len(want)]
    yield Check(f'layer{index + 1}', got, want, 2e-4, relative=True)
  features = np.asarray(out.features).reshape(-1, *out.features.shape[2:])
  yield Check('uslice', features, to_nhwc(data['output/uslice']), 2e-4, relative=True)


def hash_values(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
  """The README's rule for weights that are too large to store."""
  with np.errstate(over='ignore'):
    index = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64)
    x = np.uint64(zlib.crc32(key.encode())) * np.uint64(2**32) + index
    x = x + np.uint64(seed) * np.uint64(0x632BE59BD9B4E019) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
  u = (x >> np.uint64(40)).astype(np.float64) / 2**24
  if key.endswith('running_mean'):
    value = (2 * u - 1) * 0.3
  elif key.endswith('running_var'):
    value = 0.5 + u
  elif len(shape) in (2, 4):
    value = (2 * u - 1) * np.sqrt((6 if len(shape) == 4 else 3) / np.prod(shape[1:]))
  elif key.endswith('weight'):
    value = 0.3 + 0.4 * u
  else:
    value = (2 * u - 1) * 0.3
  return value.astype(np.float32).reshape(shape)


def big_network(data: dict, meta: dict) -> Iterable[Check]:
  state = {key: hash_values(key, tuple(want[0]), meta['seed']) for key, want in meta['param_check'].items()}
  for key in (next(iter(state)), 'quality.1.weight'):
    ends = [state[key].flat[0], state[key].flat[-1], state[key].sum(dtype=np.float64)]
    yield Check(f'hash {key}', ends, meta['param_check'][key][1:], 1e-4)
  frames = data['input/frames_uint8']
  clips = len(data['output/quality'])
  frames = frames.reshape(clips, -1, *frames.shape[1:])
  model = _network(state, meta.get('npart', 0), frames.shape[1])
  out = jax.jit(lambda v, x: model.apply(v, normalise(x)))(official.import_official(state, model), frames)
  features = np.asarray(out.features).reshape(-1, *out.features.shape[2:])
  pooled = np.asarray(out.pooled).reshape(-1, out.pooled.shape[-1])
  yield Check('quality', out.score[:, 0], data['output/quality'], 2e-4, relative=True)
  yield Check('pooled', pooled, data['output/pooled'], 2e-4, relative=True)
  if 'output/backbone' in data:
    yield Check('backbone', features, to_nhwc(data['output/backbone']), 2e-4, relative=True)
  for name in data:
    if found := re.fullmatch(r'output/erp_feature_frame(\d+)', name):
      yield Check(name, features[int(found[1])], to_nhwc(data[name]), 2e-4, relative=True)


def train_steps(data: dict, meta: dict) -> Iterable[Check]:
  state = group(data, 'param')
  with jax.enable_x64(True):
    video = np.moveaxis(data['input/video'], 2, -1).astype(np.float64)
    model = _network(state, meta['npart'], video.shape[1])
    variables = official.import_official({k: np.asarray(v, np.float64) for k, v in state.items()}, model)
    mos = data['input/mos'].astype(np.float64)
    optimizer = optax.chain(
      optax.add_decayed_weights(meta['weight_decay']), optax.adam(meta['lr'], *meta['betas'], eps=meta['eps'])
    )

    @jax.jit
    def step(params, stats, opt_state):
      def objective(params):
        out, new = model.apply({'params': params, **stats}, video, train=True, mutable=['batch_stats'])
        return plcc_loss(out.score[:, 0], mos, floor=0.0), (new, out.score[:, 0])

      (loss, (stats, scores)), grads = jax.value_and_grad(objective, has_aux=True)(params)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), stats, opt_state, loss, scores, grads

    params = variables.pop('params')
    opt_state = optimizer.init(params)
    stats, losses, predictions = variables, [], []
    for index in range(meta['steps']):
      params, stats, opt_state, loss, scores, grads = step(params, stats, opt_state)
      losses.append(loss)
      predictions.append(scores)
      if index == 0:
        first = official.export_official({'params': grads})
    losses, predictions = np.asarray(losses), np.asarray(predictions)
    yield Check('losses / output', losses / data['output/losses'], np.ones_like(losses), 3e-2)
    yield Check('losses', losses, data['ref64/losses'], 1e-5)
    yield Check('predictions', predictions[0], data['output/predictions'][0], 1e-4, relative=True)
    yield Check('predictions0', predictions[0], data['ref64/predictions0'], 1e-5, relative=True)
    for key, want in group(data, 'ref64/grad0').items():
      yield Check(f'grad0/{key}', first[key], want, 1e-5, relative=True, floor=1e-6)
    after = official.export_official({'params': params, **stats})
    for key, want in group(data, 'ref64/after').items():
      yield Check(f'after/{key}', after[key], want, 1e-5, relative=True)


def rotation(data: dict, meta: dict) -> Iterable[Check]:
  images = jnp.asarray(data['input/erp'], jnp.float32)
  matrices = rotate.official_rotation(*np.deg2rad(data['input/lon_lat_deg']).T)
  turn = jax.jit(lambda image, matrix: rotate.rotate_erp(image, matrix, poles='clamp'))
  with jax.enable_x64(True):
    double = rotate.official_rotation(*np.deg2rad(data['input/lon_lat_deg']).T)
  yield Check('matrix', double, data['ref64/matrix'], 1e-9)
  for a, matrix in enumerate(matrices):
    for i, image in enumerate(images):
      # Noise, a smooth function and a photograph, in this order: how far rounded coordinates can move a value.
      tolerance = (0.1, 1e-3, 5e-3)[i]
      got = turn(image, matrix)
      yield Check(f'angle{a} image{i}', got, data['output/rotated'][a, i], tolerance)
      yield Check(f'angle{a} image{i} ref64', got, data['ref64/rotated'][a, i], tolerance)


def viewports(data: dict, meta: dict) -> Iterable[Check]:
  settings = np.deg2rad(data['input/fov_yaw_pitch_deg'])
  # In double precision: float32 angles already move the values of a photograph by the tolerance.
  with jax.enable_x64(True):
    for name, want in group(data, 'ref64').items():
      if found := re.fullmatch(r'bilinear_pole_(\w+)', name):
        image = _image(data, found[1]).astype(np.float64)
        see = functools.partial(_see, image=image, size=want.shape[1:3])
        yield Check(name, jax.jit(jax.vmap(see))(settings), want, 2e-3)
    want = data['ref64/ray_lon_lat'].astype(np.float64)
    rays = jax.vmap(lambda a: viewport.viewport_rays(a[1], -a[2], 0.0, a[0], want.shape[1:3]))(settings)
    gap = angle_between(rays, unit_vector(*np.moveaxis(want, -1, 0)))
    yield Check('rays', gap, np.zeros_like(gap), 1e-5)
  for name, want in group(data, 'output').items():
    image = _image(data, name.removeprefix('official_'))
    for index, (fov, yaw, pitch) in enumerate(settings):
      got = viewport.spline_viewport(image, yaw, -pitch, fov, want.shape[1:3])
      yield Check(f'{name}[{index}]', got, want[index], 1 if image.dtype == np.uint8 else 2e-3)


def _see(setting: jax.Array, image: np.ndarray, size: tuple[int, int]) -> jax.Array:
  fov, yaw, pitch = setting
  return viewport.viewport(jnp.asarray(image), yaw, -pitch, fov=fov, size=size)


def _image(data: dict, name: str) -> np.ndarray:
  return next(data[key] for key in (f'input/{name}', f'input/{name}_uint8') if key in data)


KINDS = {
  r'output/(ratio64|widths)/': geometry,
  r'output/slice$': operators,
  r'output/layer1$': thin_forward,
  r'output/(erp_feature_frame\d+|backbone)$': big_network,
  r'output/losses$': train_steps,
  r'output/rotated$': rotation,
  r'input/fov_yaw_pitch_deg$': viewports,
}
