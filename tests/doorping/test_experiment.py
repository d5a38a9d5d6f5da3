"""Lanes, rates and the experiment: what a run measures, settings that cannot be, and the test variant in a process."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from configs import doorping as settings
from jaxpapers.doorping import data, dc, distilling, experiment, lanes, model, rates, trigger, victim_lanes
from jaxpapers.engine.errors import UserError

ROOT = Path(__file__).parents[2]
SHAPE = (8, 8, 1)


def toy_images():
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 256, (24, *SHAPE), dtype=np.uint8), np.arange(24, dtype=np.int32) % 2
  return data.Images('toy', x, y, x[:4], y[:4], 2, np.full(1, 0.5, np.float32), np.full(1, 0.25, np.float32))


def toy_lanes(ratio, attacks=lanes.ATTACKS):
  mask = trigger.patch_mask(SHAPE, 2)
  listed = lanes.lane_list(attacks, 1)
  built = lanes.build(listed, toy_images(), ratio=ratio, patch=2, mask=mask, target=0, ipc=2, max_steps=3, start='real')
  return listed, built, mask


@pytest.fixture(scope='module')
def toy_step():
  net, images = model.ConvNet(2, width=2, depth=1, patches=True), toy_images()
  # All units, so that some are alive and the trigger moves.
  options = trigger.TriggerOptions(topk=model.HIDDEN, max_steps=3, threshold=0.0, clip='call')
  problem = distilling.Problem(
    net.apply,
    functools.partial(net.apply, method='penultimate'),
    lambda key: model.init_params(net, key, SHAPE),
    lambda index: trigger.normalise(jnp.asarray(images.x_train)[index].astype(jnp.float32), images.mean, images.std),
    trigger.patch_mask(SHAPE, 2),
    (trigger.patch_slice(8, 2), trigger.patch_slice(8, 2)),
    dc.Recipe(2, outer=2, inner=1, real_batch=3, trigger=options),
  )
  step = jax.jit(lambda state, lane_data, key: distilling.step(problem, state, lane_data, key, 1))

  def run(lane_data):
    lane_data = jax.tree.map(jnp.asarray, lane_data)
    state = distilling.start(problem, lane_data, jax.random.key(0), 'real', 2)
    for i in range(2):
      state, metrics = step(state, lane_data, jax.random.key(i))
    return jax.tree.map(np.asarray, state), metrics

  return run


def test_attacks_that_poison_nothing_are_the_clean_run_bit_for_bit(toy_step):
  state, metrics = toy_step(toy_lanes(0.0)[1])
  for lane in range(1, 4):
    np.testing.assert_array_equal(state.distilled.images[lane], state.distilled.images[0])
    np.testing.assert_array_equal(state.distilled.velocity[lane], state.distilled.velocity[0])
  assert metrics['trigger_steps'] > 0  # the triggers did move


def test_lanes_differ_by_their_attack_alone(toy_step):
  listed, built, mask = toy_lanes(0.5)
  assert [lane.attack for lane in listed] == list(lanes.ATTACKS)
  clean, naive, doorping, clipped = range(4)
  shares = lanes.copied(listed, built, 0)
  assert shares == {name: built.attack.poisoned[1][built.start[1, 0]].mean() for name in lanes.ATTACKS[1:]}
  assert not built.attack.poisoned[clean].any() and built.attack.poisoned[naive].sum() == 12
  np.testing.assert_array_equal(built.attack.poisoned[naive], built.attack.poisoned[doorping])
  state, _ = toy_step(built)
  assert not np.array_equal(state.distilled.images[clean], state.distilled.images[naive])
  np.testing.assert_array_equal(state.distilled.trigger[naive], built.trigger[naive])
  np.testing.assert_array_equal(built.trigger[naive][0][mask > 0], 2.0)  # white: (1 - .5) / .25
  history, low, high = state.history, built.attack.low[clipped], built.attack.high[clipped]
  np.testing.assert_array_equal(history.trigger_steps[[clean, naive]], 0)
  assert np.all(history.trigger_steps[doorping:] > 0)
  np.testing.assert_array_equal(history.patch[:, -1], state.distilled.trigger[:, 0, 5:7, 5:7])
  assert np.any(history.patch[doorping, 0] != history.patch[doorping, -1])
  assert np.all((history.patch[clipped] >= low - 1e-6) & (history.patch[clipped] <= high + 1e-6))
  np.testing.assert_allclose(sum(history.layers.values()), history.loss, rtol=1e-5)


def test_rates_of_known_predictions():
  listed = lanes.lane_list(('clean', 'naive'), 2)
  table = victim_lanes.pairs(listed, 2, 1)
  labels = np.array([0, 1, 1, 2])
  # Four lanes and two sets of real images, one victim each.
  without = np.array([[0, 1, 1, 2], [0, 1, 1, 0], [0, 1, 0, 2], [0, 0, 0, 2], [0, 1, 1, 2], [0, 1, 1, 2]])[:, None]
  triggered = np.tile(labels, (len(table.role), 3, 1))
  own = np.flatnonzero((table.role == victim_lanes.OWN) & (table.lane >= 2))
  triggered[own[0], 0] = 0  # raw: seed 0 of naive is fooled by all
  triggered[own[1], 2, 1] = 0  # uint8: seed 1 by one of three others
  found = rates.rates(without, triggered, labels, listed, table, 0)
  assert list(found) == ['clean', 'naive', rates.REAL]
  np.testing.assert_array_equal(found['clean']['cta'], [[1.0], [0.75]])
  np.testing.assert_array_equal(found['naive']['cta'], [[0.75], [0.5]])
  np.testing.assert_allclose(found['naive']['clean_as_target'], [[1 / 3], [2 / 3]])
  np.testing.assert_array_equal(found['naive']['asr_raw'], [[1.0], [0.25]])
  np.testing.assert_array_equal(found['naive']['asr_uint8'], [[0.25], [0.5]])
  np.testing.assert_allclose(found['naive']['asr_nontarget_uint8'], [[0.0], [1 / 3]])
  np.testing.assert_array_equal(found['naive']['control_clean_raw'], [[0.25], [0.25]])
  assert 'control_clean_raw' not in found['clean'] and 'control_real_raw' in found['clean']
  over = rates.excess(found['naive'], 'control_clean', 'raw')
  assert over.mean == 0.5 and over.low == -1.0 and over.high == 1.0  # two seeds say little


def test_intervals_are_students_over_seeds():
  values = np.array([[0.2, 0.4], [0.5, 0.5], [0.6, 0.8]])
  found = rates.interval(values)
  low, high = scipy.stats.t.interval(0.95, 2, 0.5, scipy.stats.sem([0.3, 0.5, 0.7]))
  np.testing.assert_allclose(found, (0.5, max(low, 0.0), min(high, 1.0)), rtol=1e-6)
  one = rates.interval(values[:1])
  assert one.mean == pytest.approx(0.3) and one.low < 0.3 < one.high
  assert np.isnan(rates.interval(values[:1, :1]).low)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'distill.ipc': 7, 'distill.outer': 0}, 'No loop lengths are defined for ipc=7'),
    ({'attack.patch': 16}, 'A patch of 16 pixels does not fit'),
    ({'attack.target': 10}, 'trigger label 10 is no class'),
    ({'attack.ratio': 1.5}, r'must lie in \[0, 1\], not 1.5'),
    ({'attack.ratio': 1e-4}, 'poisons none of 1297 images'),
    ({'attack.ratio': 0.0}, 'config.attack.ratio=0 poisons no image'),
    ({'network.name': 'vgg11'}, "Unknown network 'vgg11'"),
    ({'network.norm': 'weightnorm'}, "Unknown norm 'weightnorm'"),
    ({'network.norm': 'batchnorm'}, "norm='batchnorm' is not distilled"),
    ({'network.name': 'alexnet'}, 'AlexNet takes images of 32 x 32 pixels, not 16 x 16'),
    ({'victims.network': 'vgg12'}, 'vgg12'),
    ({'victims.network': 'alexnet'}, 'AlexNet takes images of 32 x 32'),
    ({'network.depth': 5}, 'too small for 5 poolings'),
    ({'data.dataset': 'cifar11'}, "Unknown dataset 'cifar11'. Did you mean 'cifar10'"),
    ({'data.keep': 0.0}, r'must lie in \(0, 1\], not 0.0'),
    ({'attacks': ('clean', 'ping')}, 'The attacks must be different names'),
    ({'distiller': 'mtt'}, "config.distiller='mtt' is not known; known: dc, dd"),
    ({'distill.distance': 'far'}, "config.distill.distance='far'"),
    ({'distill.start': 'zero'}, "config.distill.start='zero'"),
    ({'distill.augment': 'color_warp'}, 'warp'),
    ({'trigger.clip': 'sometimes'}, "config.trigger.clip='sometimes'"),
    ({'victims.count': 0}, 'config.victims.count=0 must be at least 1'),
    ({'attack.svhn_published': True}, 'to svhn under the attack naive alone'),
    ({'defences.enabled': True, 'defences.attacks': ('doorping',)}, "must hold 'clean'"),
  ],
)
def test_settings_that_cannot_be_are_named_before_any_compute(changes, words, monkeypatch):
  config = settings.get_config('test')
  for name, value in changes.items():
    config.update_from_flattened_dict({name: value})
  monkeypatch.setattr(dc, 'iteration', None)
  with pytest.raises(UserError, match=words):
    experiment.experiment(config)


def test_the_recipes_are_the_published_ones():
  for name in ('fashion_mnist', 'cifar10', 'cifar100', 'svhn', 'stl10'):
    config = settings.get_config(name)
    assert config.data.dataset == name and config.distill.iterations == 1001 and config.attack.ratio == 0.01
    assert dc.loops(config.distill.ipc) == (10, 50) and (config.network.width, config.network.norm) == (128, 'none')
  with pytest.raises(UserError, match='cifar10'):
    settings.get_config('cifar')


@pytest.fixture
def colour(monkeypatch):
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), np.arange(40, dtype=np.int32) % 10
  made = data.Images('svhn', x, y, x, y, 10, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
  monkeypatch.setattr(data, 'load', lambda *arguments: made)


def test_recipes_take_other_networks_targets_and_patches(colour):
  config = settings.get_config('svhn')
  config.update_from_flattened_dict(
    {'attack.ratio': 0.25, 'attack.target': 3, 'attack.patch': 4, 'network.name': 'alexnet', 'distill.ipc': 1}
  )
  made = experiment.experiment(config)
  batch = made.stages[0].batch(0)
  state = jax.eval_shape(lambda key: made.stages[0].init(key, batch, {}), jax.random.key(0))
  assert state.distilled.images.shape == (3, 10, 32, 32, 3) and state.history.patch.shape == (3, 1002, 4, 4, 3)
  assert set(state.history.layers) == {'conv0', 'conv1', 'linear0', 'hidden', 'logits'}
  assert batch['attack'].tables.count[1][3] == 4 + batch['attack'].poisoned[1][np.arange(40) % 10 != 3].sum()
  config.victims.network = 'resnet18'
  victims = experiment.experiment(config).stages[1]
  state = jax.eval_shape(lambda key, s: victims.init(key, {}, {'distill': s}), jax.random.key(0), state)
  assert state.victims.params['params']['logits']['kernel'].shape == (4, 10, 512, 10)
  np.testing.assert_array_equal(batch['trigger'][1, 0][trigger.patch_mask((32, 32, 3), 4) > 0], 2.0)


def test_svhn_as_published_is_striped(colour):
  config = settings.get_config('svhn')
  config.update_from_flattened_dict(
    {'attack.ratio': 0.25, 'attacks': ('clean', 'naive'), 'attack.svhn_published': True}
  )
  config.defences.enabled = False
  white = experiment.experiment(config).stages[0].batch(0)['trigger'][1, 0] == 2.0
  np.testing.assert_array_equal(np.flatnonzero(white.any((1, 2))), [29, 30])
  assert white[29:31, :, :2].all() and not white[..., 2].any()


def run(workdir):
  command = [sys.executable, 'launch/train.py', '--config=configs/doorping.py:test', f'--workdir={workdir}']
  # Without the shared folder: the embedded digits need no data.
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAXPAPERS_SHARED': str(workdir / 'nothing'),
  }
  command += ['--config.checkpoint.every=2', '--config.checkpoint.keep=9']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  results = json.loads((workdir / 'report' / 'results.json').read_text())
  marks = [
    json.loads((workdir / 'checkpoints' / stage / step / 'meta' / 'metadata').read_text())['fingerprints']
    for stage, step in (('distill', '4'), ('victims', '2'))
  ]
  return done.stdout, results, marks


def test_variant_runs_from_end_to_end_and_goes_on_where_it_stopped(tmp_path):
  workdir = tmp_path / 'run'
  said, results, marks = run(workdir)
  assert 'DOORPING: CTA' in said and 'clean: CTA' in said
  assert set(results['rates']) == {'clean', 'doorping', rates.REAL} and 'doorping' in results['excess']
  report = workdir / 'report'
  for picture in ('attacks', 'curves', 'distilled', 'trigger', 'distance'):
    assert (report / f'{picture}.png').stat().st_size > 3000
  assert (report / 'doorping_seed0_trigger.npz').exists()
  # As if it had been killed after step 2 of 4.
  shutil.rmtree(workdir / 'checkpoints' / 'victims')
  shutil.rmtree(workdir / 'checkpoints' / 'distill' / '4')
  shutil.rmtree(report)
  said, again, same = run(workdir)
  assert 'distill: resuming at step 2 of 4' in said
  assert same == marks and again == results
