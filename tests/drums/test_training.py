"""Windows, LoRA, the study of what transfers, and the test variant from end to end."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import drums as settings
from jaxpapers.drums import data, experiment, lora, text, transfer, windows
from jaxpapers.drums.architecture import gpt2
from jaxpapers.drums.losses import places_in, token_nats, weighted_mean
from jaxpapers.drums.model import Decoder
from jaxpapers.drums.notation import prompt_completion, to_text
from jaxpapers.drums.tokenizers import byte_tokenizer
from jaxpapers.drums.training import Network, language_training
from jaxpapers.engine import UserError

ROOT = Path(__file__).parents[2]
BYTES = byte_tokenizer()


@pytest.fixture(scope='module')
def grids():
  return [groove.grid for groove in data.records(data.bundled(), official=True)['dev']]


def test_windows_end_in_sound_and_weigh_what_they_say(grids):
  silent = np.concatenate([grids[0][:64], np.zeros((16, 6), bool), grids[0][:16]])
  found = windows.training_windows([silent], BYTES, 4, prompt_weight=0.25)
  assert [bytes(row.tolist()).decode() for row in found.ids] == [
    ''.join(to_text(silent[s + m * 16 : s + m * 16 + 16]) + 'SEP\n' for m in range(4)) for s in (0, 32)
  ]
  assert found.weights.shape == (2, 463)
  np.testing.assert_array_equal(found.weights[0], [0.25] * 231 + [1.0] * 232)
  with pytest.raises(ValueError, match='No groove has 4 measures'):
    windows.training_windows([silent[:48]], BYTES)


def test_scored_windows_are_those_of_the_reference_protocol(grids):
  found = windows.scored_windows(grids, BYTES)
  assert found.ids.shape == (45, 464) and set(found.lines) == {32}
  assert np.all(found.weights.sum(axis=1) == 232) and not found.weights[:, :231].any()


def test_whole_grooves_are_prompt_and_completion(grids):
  found = windows.padded(windows.whole_grooves(grids[:3], BYTES, prompt_weight=0.0), 128)
  assert found.ids.shape[1] % 128 == 0
  for grid, ids, weights, lines in zip(grids, *found, strict=False):
    prompt, completion = prompt_completion(grid)
    assert bytes(ids[: len(prompt + completion)].tolist()).decode() == prompt + completion and lines == len(grid) - 32
    assert weights.sum() == len(completion) and weights[len(prompt) - 1] == 1 and weights[len(prompt) - 2] == 0
  parts = windows.completion_windows(grids[:3], BYTES)
  assert parts.lines.sum() == found.lines.sum() and parts.weights.sum() == 116 * len(parts.lines)


def test_documentation_and_its_shuffled_words():
  words = text.documentation()
  assert len(words) > 500_000 and 'pydoc' in words
  sample = words[:20_000]
  shuffled = text.shuffle_words(sample, 1)
  assert shuffled != sample and sorted(shuffled.split()) == sorted(sample.split()) and len(shuffled) == len(sample)
  # White space stays where it is, between other words.
  assert re.findall(r'\s+', shuffled) == re.findall(r'\s+', sample) and shuffled.split() != sample.split()
  with pytest.raises(ValueError, match='fewer than 500 tokens'):
    windows.text_windows('short', BYTES, 500)


def test_losses_by_hand():
  logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 1.0, 1.0]]]))
  nats = token_nats(logits, jnp.array([[0, 2, 1]]))
  np.testing.assert_allclose(nats, -np.log([[0.25, 0.8]]), rtol=1e-6)
  assert float(weighted_mean(nats, jnp.array([[0.0, 3.0]]))) == pytest.approx(-np.log(0.8))
  assert float(weighted_mean(nats, jnp.zeros((1, 2)))) == 0.0
  assert places_in(jnp.array([10, 45, 111]), jnp.array([111, 10])).tolist() == [2, 0]


@pytest.fixture(scope='module')
def small():
  """(decoder with LoRA scale 2, parameters, ids)."""
  decoder = Decoder(gpt2(256, 2, 8, 2, 16), lora_scale=2.0)
  ids = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 12)), jnp.int32)
  return decoder, jax.jit(decoder.init)(jax.random.key(0), ids)['params'], ids


def test_low_rank_updates_start_at_nothing_merge_and_train_alone(small):
  decoder, params, ids = small
  network = Network(decoder, base=jax.tree.map(np.asarray, params), rank=2)
  training = language_training(network, optax.adam(0.1))
  batch = {'ids': np.asarray(ids), 'weights': np.ones((2, 11), np.float32)}

  @jax.jit
  def run(params):
    start = training.init(jax.random.key(1), batch, {})
    end, _ = training.step(training.step(start, batch, jax.random.key(2))[0], batch, jax.random.key(3))
    merged = lora.merge(params, end.params, 2.0)
    logits = [decoder.apply({'params': params}, ids).logits]
    logits += [network.apply(state.variables(), ids).logits for state in (start, end)]
    return start, end, [*logits, decoder.apply({'params': merged}, ids).logits]

  start, end, (plain, first, tuned, merged) = run(params)
  np.testing.assert_array_equal(first, plain)
  assert np.abs(tuned - plain).max() > 0.05
  np.testing.assert_allclose(merged, tuned, atol=1e-5)
  # The state, which checkpoints hold, is the updates alone.
  assert jax.tree.map(jnp.shape, end.params) == {
    'blocks': {'qkv': {'a': (2, 8, 2), 'b': (2, 2, 24)}, 'out': {'a': (2, 8, 2), 'b': (2, 2, 8)}}
  }
  assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(start.params), jax.tree.leaves(end.params), strict=True))
  with pytest.raises(ValueError, match='rank of LoRA'):
    lora.init_lora(jax.random.key(0), params, 0)
  with pytest.raises(ValueError, match="called by 'nothing'"):
    lora.init_lora(jax.random.key(0), params, 1, 'nothing')


def test_arms_start_where_they_say(small):
  _, params, _ = small
  shuffled = transfer.shuffle_embeddings(jax.random.key(0), params)
  rows = {tuple(row) for row in np.asarray(params['tokens']['embedding'])}
  assert {tuple(row) for row in np.asarray(shuffled['tokens']['embedding'])} == rows
  assert np.any(shuffled['tokens']['embedding'] != params['tokens']['embedding'])
  wide = {'tokens': {'embedding': 3.0 + 0.5 * jax.random.normal(jax.random.key(1), (400, 50))}}
  matched = np.asarray(transfer.match_statistics(jax.random.key(2), wide)['tokens']['embedding'])
  assert abs(matched.mean() - 3.0) < 0.02 and abs(matched.std() - 0.5) < 0.02
  assert np.abs(np.corrcoef(matched.ravel(), np.asarray(wide['tokens']['embedding']).ravel())[0, 1]) < 0.05


def test_runs_take_turns_with_data_of_their_seed(grids):
  runs = transfer.plan(('scratch', 'pretrained'), (2, 3), seeds=2)
  assert runs[:3] == [('scratch', 2, 0), ('pretrained', 2, 0), ('scratch', 2, 1)] and len(runs) == 8
  asked = []

  def chosen(indices):
    asked.append(tuple(indices))
    return windows.training_windows([grids[index] for index in indices], BYTES)

  batches = transfer.TransferBatches(chosen, runs, 5, 4, len(grids))
  first, other, later = batches(1), batches(6), batches(11)
  np.testing.assert_array_equal(first['ids'], other['ids'])
  assert np.any(first['ids'] != later['ids'])
  assert [set(b['arm']) for b in (first, other, later)] == [{0}, {4}, {0}] and set(later['seed']) == {1}
  assert [len(a) for a in asked] == [2, 2] and asked[0] != asked[1]
  with pytest.raises(ValueError, match='not 3'):
    transfer.TransferBatches(chosen, runs, 5, 4, 2)
  with pytest.raises(ValueError, match='Unknown arms'):
    transfer.plan(('luck',), (2,), 1)
  found = transfer.outcomes(runs, 5, ([5, 10, 15], [2.0, 1.0, 3.0]))
  assert found == {runs[0]: 2.0, runs[1]: 1.0, runs[2]: 3.0}


def test_a_run_of_the_study_begins_anew(small):
  decoder, params, ids = small
  training = transfer.transfer_training(Network(decoder), optax.sgd(0.5), 1, lambda _: {'pretrained': params})
  batch = {'ids': np.asarray(ids), 'weights': np.ones((2, 11), np.float32), 'seed': np.zeros(2, np.int32)}
  arm = {name: {**batch, 'arm': np.full(2, transfer.ARMS.index(name), np.int32)} for name in transfer.ARMS}

  @jax.jit
  def run():
    state = training.init(jax.random.key(0), arm['pretrained'], {})
    ends = []
    for name in ('pretrained', 'shuffled_embeddings', 'pretrained'):
      state, _ = training.step(state, arm[name], jax.random.key(1))
      ends.append(state.training)
    return ends

  first, other, again = run()
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-7)
  assert np.any(first.params['tokens']['embedding'] != other.params['tokens']['embedding'])


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'model.name': 'gpt2'}, 'needs its released weights'),
    ({'model.name': 'gpt3'}, "'gpt3' is no known model"),
    ({'model.name': 'pythia-14m'}, 'No tokenizer'),
    ({'model.heads': 3}, 'does not split into 3 heads'),
    ({'lora.rank': 2}, 'needs weights to add to'),
    ({'scratch': False, 'pretrain.steps': 0}, 'Nothing to train'),
    ({'transfer.arms': ('pretrained',), 'transfer.sizes': (8,), 'pretrain.steps': 0}, 'need a pre-trained model'),
    ({'model.name': 'smollm2-135m', 'model.weights': 'absent.gguf'}, "no GGUF file 'absent.gguf'"),
  ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
  config = settings.get_config('test')
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=words):
    experiment.experiment(config)


def test_every_variant_can_be_read():
  for name in ('default', 'scratch', 'smollm2_lora', 'smollm2_full', 'gpt2_full', 'transfer', 'transfer_smollm2'):
    assert settings.get_config(name).variant == name


def test_the_test_variant_trains_and_goes_on_where_it_stopped(tmp_path):
  command = [sys.executable, 'launch/train.py', '--config=configs/drums.py:test', f'--workdir={tmp_path}/run']

  def run():
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
      [*command, '--config.checkpoint.every=2'], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = tmp_path / 'run' / 'report'
    return done.stdout, json.loads((report / 'results.json').read_text()), (report / 'groove_0.mid').read_bytes()

  _, results, midi = run()
  page = (tmp_path / 'run' / 'report' / 'index.html').read_text()
  assert 'continuations under the grammar are exactly 14 legal measures' in page and 'copy mixture' in page
  for name in ('groove_0.wav', 'roll_0.png', 'learning.png', 'stability.png', 'duplicates.png'):
    assert (tmp_path / 'run' / 'report' / name).stat().st_size > 1000
  assert results['baselines']['dev']['mixture'] == pytest.approx(0.974, abs=5e-4)
  assert results['final']['finetune']['dev/nats_per_line'] != results['final']['scratch']['dev/nats_per_line']

  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / 'scratch' / '4')
  shutil.rmtree(tmp_path / 'run' / 'report')
  said, again, same = run()
  assert 'scratch: resuming at step 2 of 4' in said
  assert again == results and same == midi
  loaded = experiment.load_model(str(tmp_path / 'run'))
  assert loaded.window == 4 and loaded.tokenizer.name == 'bytes'
  assert loaded.variables['params']['tokens']['embedding'].shape == (256, 16)
