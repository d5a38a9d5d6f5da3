"""EMO's reference files: blocks, whole networks, training steps, learning-rate curves, and the dense heads."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.emo import EMO, VARIANTS, official, recipe
from jaxpapers.emo.block import IRMB
from jaxpapers.emo.model import Stem
from jaxpapers.engine import supervised
from jaxpapers.ops.classification import cross_entropy
from tests.golden import Check, UnknownKindError, dispatch, group, load

Data = dict[str, np.ndarray]
Meta = dict[str, Any]


def nhwc(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x, -3, -1)


def _option(value: Any) -> Any:
  """'ln_2d' -> 'ln'; everything else as it is."""
  return value.removesuffix('_2d') if isinstance(value, str) else value


_BLOCK_OPTIONS = {
  'dim_out': 'features',
  'norm_in': 'norm_in',
  'has_skip': 'skip',
  'exp_ratio': 'expansion',
  'norm_layer': 'norm',
  'act_layer': 'act',
  'v_proj': 'value_projection',
  'dw_ks': 'kernel_size',
  'stride': 'stride',
  'se_ratio': 'se_ratio',
  'dim_head': 'head_width',
  'window_size': 'window',
  'attn_s': 'attention',
  'qkv_bias': 'qkv_bias',
  'attn_drop': 'attn_drop',
  'drop': 'drop',
  'drop_path': 'drop_path',
  'v_group': 'v_group',
  'attn_pre': 'attn_pre',
}
_MODEL_OPTIONS = {
  'depths': 'depths',
  'stem_dim': 'stem_width',
  'embed_dims': 'widths',
  'exp_ratios': 'expansions',
  'norm_layers': 'norms',
  'act_layers': 'acts',
  'dw_kss': 'kernel_sizes',
  'dim_heads': 'head_widths',
  'window_sizes': 'windows',
  'attn_ss': 'attention',
  'qkv_bias': 'qkv_bias',
  'attn_drop': 'attn_drop',
  'drop': 'drop',
  'drop_path': 'drop_path',
  'v_group': 'v_group',
  'attn_pre': 'attn_pre',
  'pre_dim': 'pre_width',
  'num_classes': 'num_classes',
}


def _options(config: Meta, names: dict[str, str], ignored: Iterable[str] = ()) -> dict[str, Any]:
  unknown = set(config) - set(names) - set(ignored)
  if unknown:
    raise UnknownKindError(f'options that this test does not know: {sorted(unknown)}')
  chosen = {names[key]: value for key, value in config.items() if key in names}
  return {
    key: tuple(map(_option, value)) if isinstance(value, list) else _option(value) for key, value in chosen.items()
  }


def _block(data: Data, meta: Meta):
  """(module, official-name rule) of a block file."""
  config = meta['config']
  if isinstance(config, str):  # the stem, described in words
    width = data['param/0.convs.0.0.weight'].shape[0]
    return Stem(width), lambda path, bn: official.model_key((path[0], 'stem', *path[1:]), bn).removeprefix('stage0.')
  if config.get('dilation', 1) != 1:
    raise UnknownKindError('dilated blocks are not part of the method')
  return IRMB(**_options(config, _BLOCK_OPTIONS, ('dim_in', 'dilation'))), official.block_key


def block(data: Data, meta: Meta) -> Iterable[Check]:
  """Outputs, gradients and running statistics of one block in both modes."""
  module, key_of = _block(data, meta)
  x, ct = nhwc(data['input/x']), nhwc(data['input/ct'])
  variables, rest = official.take(official.shapes(module, x), key_of, group(data, 'param'))
  yield Check('unused parameters', len(rest), 0, 0)

  @jax.jit
  def run(variables, x):
    results = {}
    for mode in ('eval', 'train'):

      def forward(params, x, mode=mode):
        stats = {'batch_stats': variables.get('batch_stats', {})}
        return module.apply({'params': params, **stats}, x, train=mode == 'train', mutable=['batch_stats'])

      y, vjp, updated = jax.vjp(forward, variables['params'], x, has_aux=True)
      results[mode] = y, *vjp(jnp.asarray(ct)), updated
    return results

  results = run(variables, x)
  for mode, (y, grad_params, grad_x, updated) in results.items():
    yield Check(f'{mode}_y', y, nhwc(data[f'output/{mode}_y']), 2e-5)
    yield Check(f'{mode}_dx', grad_x, nhwc(data[f'grad/{mode}_x']), 1e-4)
    got = official.export_official({'params': grad_params, 'batch_stats': variables.get('batch_stats', {})}, key_of)
    wanted = group(data, f'grad/{mode}')
    for key, want in wanted.items():
      if mode == 'train' and key == '0.convs.0.0.bias':  # its true gradient is zero: both are rounding noise
        yield Check(f'{mode}_d {key}', got[key], np.zeros_like(want), 1e-4)
      else:
        yield Check(f'{mode}_d {key}', got[key], want, 2e-5, relative=True, floor=1e-3)
    missing = {key for key in got if 'running' not in key and 'num_batches' not in key} - set(wanted)
    yield Check(f'{mode} gradients without reference', len(missing), 0, 0)
    if mode == 'train':
      stats = official.export_official({'params': grad_params, **updated}, key_of)
      for key, want in group(data, 'output/train_state').items():
        yield Check(f'train_state {key}', stats[key], want, 1e-5)


def _model(meta: Meta, **options: Any) -> EMO:
  name = meta['variant'].lower()
  if name not in VARIANTS:
    raise UnknownKindError(f'unknown variant {meta["variant"]!r}')
  config = _options(meta.get('config') or {}, _MODEL_OPTIONS)
  return EMO(**{**VARIANTS[name], **config, **options})


def network(data: Data, meta: Meta) -> Iterable[Check]:
  """Logits and feature maps of a published variant, and of its runs with other windows (`<tag>_x`)."""
  state = group(data, 'param')
  classes = state['head.weight'].shape[0]
  tags = [name.removeprefix('input/').removesuffix('x') for name in data if re.fullmatch(r'input/(\w+_)?x', name)]
  strides = meta.get('feature_spatial_stride', [1] * 5)
  for tag in tags:
    own = meta.get(tag.removesuffix('_'), {}) if tag else meta
    size = own.get('window_size', own.get('window_sizes'))
    windows = {} if size is None else {'windows': tuple(size) if isinstance(size, list) else (size,) * 4}
    model = _model(meta, num_classes=classes, **windows)
    variables = official.import_official(state, model)

    @jax.jit
    def forward(variables, x, model=model):
      maps = model.apply(variables, x, method='features')
      return model.apply(variables, maps[-1], method='classify'), maps

    logits, maps = forward(variables, nhwc(data[f'input/{tag}x']))
    outputs = {f'{tag}logits': (logits, 1e-4)} | {f'{tag}stage{i}': (y, 2e-4) for i, y in enumerate(maps)}
    for name, (got, tolerance) in outputs.items():
      if f'output/{name}' not in data:
        continue
      want = data[f'output/{name}']
      if not name.endswith('logits'):
        want = nhwc(want)
        step = strides[int(name[-1])]
        if got.shape != want.shape:
          got = got[:, ::step, ::step]
      yield Check(name, got, want, tolerance)


def _zero_gradient(key: str, value: np.ndarray) -> np.ndarray | None:
  """The part of a weight whose true gradient is not zero; Adam makes +-lr steps of rounding noise in the rest."""
  if key in ('stage0.0.convs.0.0.bias', 'stage0.0.convs.0.1.running_mean'):
    return None
  return value[: len(value) // 2] if key.endswith('qk.conv.bias') else value


def train(data: Data, meta: Meta) -> Iterable[Check]:
  """The published recipe through the engine's step."""
  config = meta['config']
  model = EMO(**_options(config, _MODEL_OPTIONS))
  variables = official.import_official(group(data, 'param'), model)
  plan = meta['schedule']
  schedule = recipe.warmup_cosine(
    plan['base_lr'], plan['t_initial'], plan['warmup_t'], plan['warmup_lr'], plan['lr_min']
  )
  decay = float(re.search(r'wd ([\d.e-]+)', meta['optimizer'])[1])
  clip = float(re.search(r'norm ([\d.e-]+)', meta['clip'])[1])
  smoothing = float(re.search(r'smoothing ([\d.e-]+)', meta['loss'])[1])
  images, labels = nhwc(data['input/x']), data['input/y'].astype(np.int32)
  training = supervised(
    model,
    recipe.classification_loss(smoothing),
    recipe.adamw(schedule, decay),
    clip_norm=clip,
    ema_decay=meta['ema'],
    start=lambda _: jax.tree.map(jnp.asarray, variables),
  )

  stats = {'batch_stats': variables['batch_stats']}
  decaying = jax.tree.map(lambda p, d: np.full(p.shape, d), variables['params'], recipe.decays(variables['params']))
  mask = official.export_official({'params': decaying, **stats})
  for group_name, wanted in (('decay', 1.0), ('no_decay', 0.0)):
    got = [float(mask[key].mean()) for key in meta[group_name]]
    yield Check(f'{group_name} group', got, [wanted] * len(got), 0)

  def loss_at_start(params):
    outputs, _ = model.apply({'params': params, **stats}, images[0], train=True, mutable=['batch_stats'])
    return cross_entropy(outputs, labels[0], smoothing).mean(), outputs

  gradients, logits = jax.jit(jax.grad(loss_at_start, has_aux=True))(variables['params'])
  if 'output/train_logits_step0' in data:
    yield Check('train_logits_step0', logits, data['output/train_logits_step0'], 1e-4)
  got = official.export_official({'params': gradients, **stats})
  for key, want in group(data, 'grad/step0').items():
    # Gradients through a batch norm nearly cancel: what float32 left of them in the reference itself is the measure.
    noise = meta.get('noise_float32_minus_float64', {}).get(f'grad/step0/{key}', 0.0)
    yield Check(f'step0_d {key}', got[key], want, max(2e-5 * np.abs(want).max(), 10 * noise))

  batch = {'image': images[0], 'label': labels[0]}
  state = jax.jit(training.init)(jax.random.key(0), batch, {})
  step = jax.jit(training.step)
  losses, norms = [], []
  for t in range(len(images)):
    state, metrics = step(state, {'image': images[t], 'label': labels[t]}, jax.random.key(t))
    losses.append(float(metrics['loss']))
    norms.append(float(metrics['grad_norm']))
  per_step = {'relative': True}
  for t in range(len(images)):
    yield Check(f'loss[{t}]', losses[t], data['output/loss'][t], 1e-4, **per_step)
    yield Check(f'grad_norm[{t}]', norms[t], data['output/grad_norm'][t], 1e-4, **per_step)
  rates = [float(schedule(t)) for t in range(len(images))]
  yield Check('lr', rates, data['output/lr'], 1e-6, relative=True)
  for name, averaged, logits_name, tolerance in (
    ('final', False, 'eval_logits_final', 0.1),
    ('ema', True, 'ema_eval_logits_final', 1e-3),
  ):
    held = state.variables(ema=averaged)
    got = official.export_official(held)
    for key, want in group(data, name).items():
      if key.endswith('num_batches_tracked') or _zero_gradient(key, want) is None:
        continue
      yield Check(f'{name} {key}', _zero_gradient(key, got[key]), _zero_gradient(key, want), 1e-4)
    if f'output/{logits_name}' in data:
      yield Check(logits_name, jax.jit(model.apply)(held, images[0]), data[f'output/{logits_name}'], tolerance)


def curves(path: Path) -> Iterable[Check]:
  """The learning rate of the published logs; two of the four variants were trained with random noise on it."""
  rows = list(csv.DictReader(path.open()))
  for variant in sorted({row['variant'] for row in rows}):
    own = [row for row in rows if row['variant'] == variant]
    steps = np.array([int(row['iteration_of_last_record']) - 1 for row in own])
    logged = np.array([float(row['lr']) for row in own])
    epochs, per_epoch = max(int(row['epoch']) for row in own), 625
    schedule = recipe.warmup_cosine(6e-3, epochs * per_epoch, 20 * per_epoch)
    got = np.asarray(jax.vmap(schedule)(steps))
    if variant in ('EMO_1M', 'EMO_2M'):  # steps 42 % to 90 % carry noise
      quiet = (steps < 0.42 * epochs * per_epoch) | (steps >= 0.9 * epochs * per_epoch)
      yield Check(f'{variant} lr outside the noise', got[quiet], logged[quiet], 6e-7)
      ratio = logged[~quiet] / got[~quiet]
      yield Check(f'{variant} noise below its limit', float(np.all(np.abs(ratio - 1) < 0.68)), 1.0, 0)
    else:
      yield Check(f'{variant} lr', got, logged, 6e-7)


KINDS = {'block': block, 'network': network, 'train': train}
try:
  from tests.emo.golden_heads import KINDS as HEADS
except ModuleNotFoundError:
  HEADS = {}
KINDS |= HEADS


def kind(meta: Meta) -> str:
  """What a file holds, by its `meta`."""
  if 'kind' in meta:
    return meta['kind']
  if 'variant' in meta:
    return 'network'
  if 'schedule' in meta and 'steps' in meta:
    return 'train'
  return 'block' if 'case' in meta and 'config' in meta else 'unknown'


def run(path: Path) -> Iterable[Check]:
  """Every comparison of one file."""
  if path.suffix == '.csv':
    return curves(path)
  if path.suffix != '.npz':
    raise UnknownKindError(f'{path.name} is neither .npz nor .csv')
  data, meta = load(path)
  return dispatch(kind(meta), KINDS, data, meta)
