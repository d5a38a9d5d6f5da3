"""Compares jaxpapers.predictive_exit with outputs of the authors' modules; what a file is, its contents say.

Files of policies, costs, schedules and the optimal policy go to `golden_policies`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.predictive_exit import comparison, costs, official
from jaxpapers.predictive_exit.exits import LogisticBof
from jaxpapers.predictive_exit.model import MultiExit, network
from jaxpapers.predictive_exit.policies import classic
from jaxpapers.predictive_exit.prediction import accuracy_forward, forecast_steps, official_score, official_walk
from jaxpapers.predictive_exit.scores import score
from jaxpapers.predictive_exit.tables import ExitTable
from jaxpapers.predictive_exit.thresholds import activation_thresholds, batch_activation
from jaxpapers.predictive_exit.training import exit_losses, official_loss, weighted_loss
from tests.golden import Check, group, load
from tests.predictive_exit import golden_policies


def run(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  if 'cases' in meta:
    yield from bags(data, meta)
  elif 'max_round' in meta:
    with jax.enable_x64(True):
      yield from official_policy(data, meta)
  elif 'network' in meta:
    yield from official_network(data, meta)
  elif 'arch' in meta:
    yield from pooled_network(data, meta)
  elif 'TH' in meta:
    yield from official_costs(data, meta)
  elif 'count' in meta:
    yield from macs(data, meta)
  elif 'output/zc' in data:
    yield from digits_claims(data, meta)
  else:
    yield from golden_policies.run(path)


def generated(shapes: dict[str, list[int]], seed: int, rule) -> dict[str, np.ndarray]:
  """Parameters by the rule of the folder's README: uniform numbers from a counter, then by name."""
  out = {}
  for i, name in enumerate(sorted(shapes)):
    shape = shapes[name]
    with np.errstate(over='ignore'):
      places = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
      z = np.uint64(seed + 1000003 * i) + places * np.uint64(0x9E3779B97F4A7C15)
      z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
      z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
      z ^= z >> np.uint64(31)
    u = 2 * (z >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 1
    out[name] = rule(name, u.reshape(shape), shape).astype(np.float32)
  return out


def _by_name(rules, name: str, u: np.ndarray, shape: list[int]) -> np.ndarray:
  common = (
    ('.running_var', lambda u: 1 + 0.5 * abs(u)),
    ('.running_mean', lambda u: 0.2 * u),
    ('.bias', lambda u: 0.2 * u),
  )
  for ending, value in (*common, *rules):
    if name.endswith(ending):
      return value(u)
  return 1 + 0.3 * u if len(shape) == 1 else u * np.sqrt(6 / np.prod(shape[1:]))


def rule_a(name: str, u: np.ndarray, shape: list[int]) -> np.ndarray:
  rules = (
    ('.a', lambda u: 1 + 0.3 * u),
    ('.c', lambda u: 0.3 * u),
    ('.n1', lambda u: 64 * (1 + 0.2 * u)),
    ('.n2', lambda u: 8 * (1 + 0.2 * u)),
    ('_bn2.weight', lambda u: 0.4 * (1 + 0.3 * u)),
    ('_bn3.weight', lambda u: 0.7 * (1 + 0.3 * u)),
  )
  return _by_name(rules, name, u, shape)


def rule_b(name: str, u: np.ndarray, shape: list[int]) -> np.ndarray:
  rules = (
    ('bn2.weight', lambda u: 0.4 * (1 + 0.3 * u)),
    ('downsample.1.weight', lambda u: 0.7 * (1 + 0.3 * u)),
    ('exits.weight', lambda u: u * np.sqrt(6 / shape[2])),
  )
  return _by_name(rules, name, u, shape)


def bags(data: dict, meta: dict) -> Iterable[Check]:
  for j, case in enumerate(meta['cases']):
    param, output = group(data, f'param/{j}'), group(data, f'output/{j}')
    params = {
      'codebook': {
        'kernel': param['codebook.weight'].transpose(2, 3, 1, 0),
        'bias': param['codebook.bias'],
      },
      **{name: param[name] for name in ('a', 'c', 'n1', 'n2')},
    }
    module = LogisticBof(case['split_horizon'], case['n_codewords'])
    x = data[f'input/{j}/x'].transpose(0, 2, 3, 1)

    @jax.jit
    def outputs(params, x, w, module=module):
      def total(params, x):
        y = module.apply({'params': params}, x)
        return jnp.sum(w * y), y

      (_, y), grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, x)
      return y, grads

    y, (grads, grad_x) = outputs(params, x, data[f'input/{j}/w'])
    yield Check(f'{j}/y', y, output['y'], 1e-5, relative=True)
    yield Check(f'{j}/ref64/y', y, data[f'ref64/{j}/y'], 1e-5, relative=True)
    got = {
      'x': grad_x.transpose(0, 3, 1, 2),
      'codebook.weight': grads['codebook']['kernel'].transpose(3, 2, 0, 1),
      'codebook.bias': grads['codebook']['bias'],
      **{name: grads[name] for name in ('a', 'c', 'n1', 'n2')},
    }
    for name, want in group(output, 'grad').items():
      yield Check(f'{j}/grad/{name}', got[name], want, 1e-4, relative=True)


def official_network(data: dict, meta: dict) -> Iterable[Check]:
  model = network(meta['network'], meta['num_classes'])
  state = generated(meta['shapes'], meta['seed'], rule_a)
  variables = official.import_official(state, model)
  counts = costs.parameter_count(variables)
  yield Check('parameters', counts['total'], meta['parameters'], 0)
  yield Check('exit_parameters', counts['exits'], meta['exit_parameters'], 0)
  images = jnp.asarray(data['input/images'].transpose(0, 2, 3, 1))
  logits = np.asarray(jax.jit(model.apply)(variables, images))
  yield Check('logits', logits, data['output/logits'], 2e-4)
  yield Check('original', logits[:, -1], data['output/original'], 2e-4)
  if 'ref64/logits' in data:
    yield Check('ref64/logits', logits, data['ref64/logits'], 2e-4)
  yield Check('mean_activation_eval', batch_activation(logits[:, :-1]), data['output/mean_activation_eval'], 2e-4)
  walk = {
    'rounds': 5 if meta['network'] == 'vgg19_stl10' else 8,
    'clip_target': meta['network'].startswith('vgg'),
    'official_quirks': True,
  }
  if 'input/betas' in data:
    with jax.enable_x64(True):
      ways = _walks(data['output/logits'], data, walk)
      yield Check('exit', [[w.exit for w in row] for row in ways], data['output/exit'], 0)
      yield Check('label', [[w.label for w in row] for row in ways], data['output/label'], 0)
  if 'output/logits_train_mode' in data:
    yield from _train_mode(model, variables, images, data)


def _train_mode(model: MultiExit, variables: dict, images: jax.Array, data: dict) -> Iterable[Check]:
  train = group(data, 'output/train')
  if not train:
    out, _ = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats']))(variables, images)
    yield Check('logits_train_mode', out, data['output/logits_train_mode'], 1e-3)
    return
  labels = jnp.asarray(data['input/labels'], jnp.int32)
  optimizer = optax.adam(1e-3)

  @jax.jit
  def step(variables):
    def objective(params):
      out, updates = model.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'])
      return official_loss(out, {'label': labels})[0], (out, updates)

    (loss, (out, updates)), grads = jax.value_and_grad(objective, has_aux=True)(variables['params'])
    change, _ = optimizer.update(grads, optimizer.init(variables['params']))
    after = {'params': optax.apply_updates(variables['params'], change), **updates}
    return loss, out, grads, after

  loss, out, grads, after = step(variables)
  yield Check('logits_train_mode', out, data['output/logits_train_mode'], 1e-3)
  yield Check('mean_activation_train', batch_activation(out[:, :-1]), data['output/mean_activation_train'], 1e-3)
  yield Check('train/ce', exit_losses(out, labels), train['ce'], 1e-5, relative=True)
  yield Check('train/loss', loss, train['loss'], 1e-5, relative=True)
  got = official.export_official({'params': grads}, model)
  new = official.export_official(after, model)
  for name, want in train.items():
    kind, _, parameter = name.partition('/')
    if re.fullmatch(r'conv\d+\.bias', parameter):
      continue  # a bias before batch normalisation has no gradient: what is stored is rounding noise
    if kind == 'gradnorm':
      yield Check(f'train/{name}', np.linalg.norm(got[parameter].ravel()), want, 1e-3, relative=True)
    elif kind == 'grad':
      yield Check(f'train/{name}', got[parameter], want, 1e-3, relative=True)
    elif kind == 'after':
      yield Check(f'train/{name}', new[parameter], want, 1e-5, relative=True, floor=1.0)


def _walks(logits: np.ndarray, data: dict, options: dict) -> list[list]:
  levels = data['input/thresholds']
  return [
    [official_walk(logits, levels, beta, int(start), **options) for start in data['input/starts']]
    for beta in data['input/betas']
  ]


def official_policy(data: dict, meta: dict) -> Iterable[Check]:
  logits, levels = data['input/logits'], data['input/thresholds']
  vgg = meta['network'].startswith('vgg')
  options = {'rounds': meta['max_round'], 'official_quirks': True}
  steps = [forecast_steps(logits[:, :-1], levels, beta, meta['max_round']) for beta in data['input/betas']]
  yield Check('step', steps, data['output/step'], 0)
  ways = _walks(logits, data, options | {'clip_target': vgg})
  for name in ('exit', 'visited', 'label'):
    yield Check(name, [[getattr(w, name) for w in row] for row in ways], data[f'output/{name}'], 0)
  kind = {'vgg19': 'layers', 'resnet34': 'exits', 'vgg19_stl10': 'none'}[meta['network']]
  wanted = group(data, 'output/accuracy_forward')
  for i, beta in enumerate(data['input/betas']):
    for j, start in enumerate(data['input/starts']):
      if np.all(wanted['exit'][i, j] == -1):
        continue  # the authors' code was not run from here
      jump = accuracy_forward(logits, levels, beta, int(start), classifier_jump=kind, **options)
      label = f'accuracy_forward/{i}/{j}'
      yield Check(f'{label}/exit', jump.exit, wanted['exit'][i, j], 0)
      yield Check(f'{label}/actual', jump.actual, wanted['actual_jump'][i, j], 0)
      yield Check(f'{label}/predicted', jump.predicted, wanted['predicted_jump'][i, j], 0)
      yield Check(f'{label}/score', official_score(jump.actual, jump.predicted), wanted['score'][i, j], 1e-12)


def official_costs(data: dict, meta: dict) -> Iterable[Check]:
  for name in ('vgg19', 'resnet34'):
    layers, exits = costs.official_book(name)
    yield Check(f'table_{name}', np.stack([layers, exits], 1), data[f'output/table_{name}'], 0)
    exact = group(data, f'output/exact/{name}')
    work = costs.work(network(name, 10)).costs
    yield Check(f'{name}/segments', work.segment_macs[:-1], exact['segments'], 0)
    yield Check(f'{name}/heads', work.head_macs[:-1], exact['heads'], 0)
    yield Check(f'{name}/classifier', work.head_macs[-1], exact['classifier'], 0)
    stay = 1 - data[f'input/exit_fraction/{name}']
    placed = costs.place_exits(layers, exits, stay, meta['TH'])
    yield Check(f'{name}/placed', placed, data[f'output/placed/{name}'], 0)


def macs(data: dict, meta: dict) -> Iterable[Check]:
  for arch in sorted({name.split('/')[1] for name in data if name.startswith('output/')}):
    model, want = network(f'pooled_{arch}', meta['classes'], grid=meta['pool']), group(data, f'output/{arch}')
    work = costs.work(model, meta['image'][2])
    for name, got in zip(('macs_seg', 'bytes_seg', 'macs_head', 'bytes_head'), work.costs, strict=True):
      yield Check(f'{arch}/{name}', got, want[name], 0)
    key = official.torchvision_key(model)
    found = {
      key(('params', *layer.name.split('/'), 'kernel')).removesuffix('.weight'): layer.macs
      for part in work.segments
      for layer in part
    }
    yield Check(f'{arch}/layer_macs', [found.get(str(n), -1) for n in want['layer_names']], want['layer_macs'], 0)


def pooled_network(data: dict, meta: dict) -> Iterable[Check]:
  model = network(f'pooled_{meta["arch"]}', meta['classes'], width=meta['width'], grid=meta['pool'])
  state = group(data, 'param') or generated(meta['shapes'], meta['seed'], rule_b)
  variables = official.import_official(state, model)
  yield Check('parameters', costs.parameter_count(variables)['total'], meta['param_count'], 0)
  images = jnp.asarray(data['input/image_nchw'].transpose(0, 2, 3, 1))
  labels, weights = jnp.asarray(data['input/logits_y'], jnp.int32), jnp.asarray(data['input/loss_weights'])

  def forward(variables):
    taps, last = model.apply(variables, images, method='taps')
    vectors = model.heads.apply({'params': variables['params']['heads']}, taps, method='vectors')
    heads = model.heads.apply({'params': variables['params']['heads']}, taps)
    return jnp.concatenate([heads, last[:, None]], axis=1), vectors

  def objective(params):
    logits, vectors = forward({**variables, 'params': params})
    return weighted_loss(logits, labels, weights), (logits, vectors)

  if 'ref64/loss' in data:
    grad = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, (logits, vectors)), grads = grad(variables['params'])
    yield Check('ce_per_exit', exit_losses(logits, labels), data['ref64/ce_per_exit'], 1e-5, relative=True)
    yield Check('loss', loss, data['ref64/loss'], 1e-5, relative=True)
    got = official.export_official({'params': grads}, model)
    largest = max(float(value) for value in group(data, 'ref64/gradnorm').values())
    for name, want in group(data, 'ref64/gradnorm').items():
      norm = np.linalg.norm(got[name].ravel())
      yield Check(f'gradnorm/{name}', norm, want, 1e-3, relative=True, floor=1e-4 * largest)
    for name, want in group(data, 'ref64/grad').items():
      yield Check(f'grad/{name}', got[name], want, 1e-3, relative=True)
  else:
    logits, vectors = jax.jit(forward)(variables)
  tolerance = 2e-5 if meta['stored_parameters'] else 5e-5
  yield Check('logits', logits, data['output/logits'], tolerance)
  yield Check('ref64/logits', logits, data['ref64/logits'], tolerance)
  yield Check('pooled_padded', vectors, data['output/pooled_padded'], tolerance)
  for name, want in group(data, 'ref64/score').items():
    values = score(name)(logits)
    yield Check(f'score/{name}', values, want, tolerance)
    yield Check(f'exit/{name}', classic(values, data[f'ref64/theta/{name}']).exit, data[f'ref64/exit/{name}'], 0)


def digits_claims(data: dict, meta: dict) -> Iterable[Check]:
  """Directional claims on stored logits; a check is the amount by which a bound is missed."""
  calibration = ExitTable(data['output/zc'], data['output/yc'])
  test = ExitTable(data['output/zt'], data['output/yt'])
  levels = np.asarray(activation_thresholds(batch_activation(calibration.logits[:, :-1])[None]))
  segments = np.ones(meta['exits'] + 1)
  heads = np.full(meta['exits'] + 1, 0.25)
  options = dict(drop=0.005, count=30)

  def best(criterion, engine):
    return comparison.choose(calibration, test, levels, segments, heads, criterion=criterion, engine=engine, **options)

  passive, forecast, probability = best('official', 'next'), best('official', 'official'), best('max_prob', 'next')
  yield Check('exits run, engine / next <= 0.65', max(0.0, forecast.heads / passive.heads - 0.65), 0.0, 0)
  yield Check('compute, max_prob / official <= 0.8', max(0.0, probability.compute / passive.compute - 0.8), 0.0, 0)
  order = np.random.default_rng(0).permutation(test.logits.shape[2])
  beta = forecast.threshold
  changed = forecast_steps(test.logits[:, :-1][..., order], levels, beta) != forecast_steps(
    test.logits[:, :-1], levels, beta
  )
  yield Check('class order changes forecasts', max(0.0, 0.01 - float(np.mean(changed))), 0.0, 0)
