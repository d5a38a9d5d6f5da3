"""Compares the defences with stored outputs: `run(path)` of a file with the groups strip/, nc/, scan/ and so on."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.doorping import neural_cleanse, scan, spectral, spectre, strip
from tests.golden import Check, group, load


def run(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  params = {name: jnp.asarray(value) for name, value in group(data, 'param').items()}
  yield from stripped(group(data, 'strip'), params)
  yield from cleansed(group(data, 'nc'), meta['nc'], params)
  with jax.enable_x64(True):
    yield from scanned(group(data, 'scan'))
    yield from spectra(group(data, 'spectral'))
    yield from spectres(group(data, 'spectre'))


def logits(params: dict, images: jax.Array) -> jax.Array:
  """The network of the file: convolutions with padding, ReLU and 2x2 averages, then linear layers; images are NCHW."""
  x = images
  layers = sorted({name.rsplit('.', 1)[0] for name in params}, key=lambda n: (n[0] != 'f', int(n.rsplit('.', 1)[1])))
  last = layers[-1]
  for name in layers:
    weight, bias = params[f'{name}.weight'], params[f'{name}.bias']
    if weight.ndim == 4:
      pad = 3 if name == layers[0] and weight.shape[1] == 1 else weight.shape[-1] // 2  # as model.ConvNet pads
      x = jax.lax.conv_general_dilated(x, weight, (1, 1), ((pad, pad), (pad, pad))) + bias[:, None, None]
      x = jax.nn.relu(x)
      n, c, h, w = x.shape
      x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))
    else:
      x = x.reshape(x.shape[0], -1) @ weight.T + bias
      x = x if name == last else jax.nn.relu(x)
  return x


def of(params: dict):
  """Logits of NHWC images."""
  return lambda images: logits(params, jnp.transpose(images, (0, 3, 1, 2)))


def nhwc(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x, -3, -1)


def stripped(data: dict, params: dict) -> Iterable[Check]:
  images, overlays = jnp.asarray(nhwc(data['input/x'])), jnp.asarray(nhwc(data['input/overlays']))
  got = jax.jit(lambda x, o: strip.entropies(of(params), x, o))(images, overlays)
  yield Check('strip/entropy', got, data['output/entropy'], 1e-4)
  benign, trojan = data['input/benign_entropy'], data['input/trojan_entropy']
  limit = strip.threshold(benign)
  yield Check('strip/threshold', limit, data['output/threshold'], 1e-4)
  yield Check('strip/frr', strip.false_rejection(benign, limit), data['output/frr'], 1e-6)
  yield Check('strip/far', strip.false_acceptance(trojan, limit), data['output/far'], 1e-6)
  published = strip.false_acceptance(trojan, strip.threshold(trojan))
  yield Check('strip/far_as_published', published, data['output/far_as_published'], 1e-6)


def cleansed(data: dict, text: str, params: dict) -> Iterable[Check]:
  label, weight = int(re.search(r'target (\d+)', text)[1]), float(re.search(r'lambda ([\d.]+)', text)[1])
  rate, size = float(re.search(r'lr ([\d.]+)', text)[1]), int(re.search(r'x\[:(\d+)\]', text)[1])
  epochs, patience = int(re.search(r'(\d+) epochs at most', text)[1]), int(re.search(r'after (\d+) epochs', text)[1])
  batches, weights = (jnp.asarray(x) for x in neural_cleanse.mini_batches(nhwc(data['input/x']), size))
  patch = (jnp.asarray(nhwc(data['input/trigger0'])), jnp.asarray(data['input/mask0']))
  optimizer = optax.adam(rate)
  step = jax.jit(
    lambda patch, state, x, w: neural_cleanse.patch_step(of(params), optimizer, patch, state, x, w, label, weight)
  )
  steps = sorted(int(name.rsplit('step', 1)[1]) for name in data if name.startswith('output/trigger_pre_clip_step'))
  state, current = optimizer.init(patch), patch
  for number in range(1, steps[-1] + 1):
    row = (number - 1) % len(batches)
    raw, state = step(current, state, batches[row], weights[row])
    if number in steps:
      yield Check(f'nc/trigger step {number}', raw[0], nhwc(data[f'output/trigger_pre_clip_step{number}']), 1e-4)
      yield Check(f'nc/mask step {number}', raw[1], data[f'output/mask_pre_clip_step{number}'], 1e-4)
    current = jax.tree.map(lambda x: jnp.clip(x, 0.0, 1.0), raw)
  final = jax.jit(
    lambda patch: neural_cleanse.invert(
      of(params),
      *patch,
      batches,
      weights,
      jnp.int32(label),
      weight_l1=weight,
      learning_rate=rate,
      epochs=epochs,
      patience=patience,
    )
  )(patch)
  yield Check('nc/trigger_final', final.pattern, nhwc(data['output/trigger_final']), 1e-4)
  yield Check('nc/mask_final', final.mask, data['output/mask_final'], 1e-4)
  for name, norms in group(data, 'input').items():
    if not name.startswith('l1_'):
      continue
    number = name.removeprefix('l1_')
    with jax.enable_x64(True):
      flags = neural_cleanse.flag(jnp.asarray(norms))
    yield Check(f'nc/median_{number}', flags.median, data[f'output/median_{number}'], 1e-4)
    yield Check(f'nc/mad_{number}', flags.spread, data[f'output/mad_{number}'], 1e-4)
    smallest = flags.index[int(np.argmin(norms))]
    yield Check(f'nc/anomaly_index_{number}', smallest, data[f'output/anomaly_index_{number}'], 1e-4)
    yield Check(f'nc/flagged_{number}', np.flatnonzero(flags.flagged), data[f'output/flagged_{number}'], 0)


def scanned(data: dict) -> Iterable[Check]:
  clean, labels = jnp.asarray(data['input/clean_feats']), jnp.asarray(data['input/clean_labels'])
  start, rows = jnp.asarray(data['input/init_membership']), np.argsort(data['input/labels'], kind='stable')
  classes = len(start)
  covariances = jax.jit(scan.decompose, static_argnums=2)(clean, labels, classes)
  yield Check('scan/Su', covariances.identity, data['output/Su'], 1e-4)
  yield Check('scan/Se', covariances.variation, data['output/Se'], 1e-4)
  features = jnp.asarray(data['input/feats'][rows]).reshape(*start.shape, -1)
  ratios, index, member = jax.jit(scan.scan_scores, static_argnums=3)(features, covariances, start, True)
  yield Check('scan/score', ratios, data['output/score'], 1e-4, relative=True)
  yield Check('scan/anomaly_index', index, data['output/anomaly_index'], 1e-4, relative=True)
  yield Check('scan/membership', member, data['output/membership'], 0)


def spectra(data: dict) -> Iterable[Check]:
  features = jnp.asarray(data['input/feats'])
  yield Check('spectral/uncentred', spectral.uncentred_scores(features), data['output/art_uncentred'], 1e-4)
  got = spectral.spectral_scores(features)
  yield Check('spectral/centred', got, data['output/paper_centred_sq'], 1e-4, relative=True)


def spectres(data: dict) -> Iterable[Check]:
  features, clean = (jnp.asarray(data[f'input/{name}'], jnp.float64) for name in ('feats', 'clean_feats'))
  for name, want in group(data, 'output').items():
    if name.startswith('suspicious_dim'):
      size = int(name.removeprefix('suspicious_dim'))
      whitened = spectre.whiten(features, clean, size)
      # The elementwise exponential depends on the signs of singular vectors, which every library chooses otherwise:
      # the stored choice must be that of some signs.
      signs = jnp.asarray([(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=size - 1)])
      scores = jax.vmap(lambda s, h=whitened: spectre.que_scores(h * s[:, None], elementwise=True))(signs)
      chosen = [np.sort(np.asarray(spectre.suspicious(row, len(want)))) for row in scores]
      match = next((c for c in chosen if np.array_equal(c, np.sort(want))), chosen[0])
      yield Check(f'spectre/{name}', match, np.sort(want), 0)
  whitened = jnp.asarray(data['input/whitened'], jnp.float64)
  published = spectre.que_scores(whitened, elementwise=True)
  yield Check('spectre/que_published', published, data['output/que_published'], 1e-4)
  yield Check('spectre/que_matrix_exp', spectre.que_scores(whitened), data['output/que_matrix_exp'], 1e-4)
