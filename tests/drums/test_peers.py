"""What the benchmark compares the room with: the same work, beside rows that exist."""

import sys

import jax
import numpy as np
import pytest

from configs import drums as settings
from jaxpapers.drums import benchmarks, experiment, llama_peer, official, peers
from jaxpapers.drums.architecture import llama
from jaxpapers.drums.generation import generate
from jaxpapers.drums.model import Decoder
from jaxpapers.drums.training import Network, adamw, language_training
from jaxpapers.engine import UserError

TINY = llama(256, 2, 16, 2, 1, 24, 32)


@pytest.fixture(scope='module')
def decoder():
  """(decoder, variables whose logits are far from even)."""
  model = Decoder(TINY)
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 4), np.int32))
  return model, jax.tree.map(lambda x: 4.0 * x, variables)


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  weights = rng.uniform(size=(3, 11)).astype(np.float32)
  return {'ids': rng.integers(0, 256, (3, 12), np.int32), 'weights': weights, 'lines': np.ones(3, np.int32)}


@pytest.fixture(scope='module')
def peer(decoder):
  """The same network in the other library."""
  pytest.importorskip('torch', reason='PyTorch is not installed')
  pytest.importorskip('transformers', reason='transformers is not installed')
  return lambda: _copy(decoder[1])


def _copy(variables):
  import torch

  state = {
    name: torch.from_numpy(np.array(x)) for name, x in official.export_official(variables['params'], TINY).items()
  }
  model = llama_peer.causal_llama(TINY)
  assert sum(p.numel() for p in model.parameters()) == official.parameter_count(TINY)
  missing = model.load_state_dict(state, strict=False)
  assert missing.missing_keys in ([], ['lm_head.weight']) and not missing.unexpected_keys
  return model


def test_rows_that_others_stand_beside():
  rows, lines = benchmarks.writing(1, llama(256, 1, 8, 2, 1, 8, 128), prompt=3, new=2, prompts=2)
  names = [row.name for row in rows]
  assert names == [benchmarks.writing_name(1, 2), benchmarks.writing_name(2, 2), 'write 2 tokens, no cache']
  assert [row.examples for row in rows] == [2, 4, 2] and rows[2].beside == names[0]
  assert len(lines) == 1 and 'as fast' in lines[0]
  ours = {row.name for row in benchmarks.symbols(1, count=1)}
  slow = peers.event_by_event(None, repeats=1, threads=0, grooves=1)
  assert {row.beside for row in slow} == ours and not ours & {row.name for row in slow}


def test_the_network_that_writes_is_that_of_the_default():
  config = settings.get_config()
  assert experiment.configured_architecture(config) == llama(
    *(getattr(benchmarks.NETWORK, name) for name in ('vocabulary', 'layers', 'width', 'heads', 'kv_heads', 'hidden')),
    config.model.context,
  )
  assert config.model.context >= benchmarks.PROMPT + benchmarks.NEW
  config.pretrain.steps = 0
  assert [stage.name for stage in experiment.experiment(config).stages] == ['scratch']
  assert [case.stages for case in benchmarks.CASES] == [('scratch',)]


def test_a_missing_library_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'transformers', None)
  monkeypatch.setitem(sys.modules, 'torch', sys)
  with pytest.raises(UserError, match=r'--peer=transformers needs .*pip install -e "\.\[bench\]"'):
    peers.PEERS['transformers'](settings.get_config(), repeats=1, threads=1)


def test_other_networks_are_refused(monkeypatch):
  monkeypatch.setattr(llama_peer, 'libraries', lambda: (None, None))
  with pytest.raises(UserError, match='needs a Llama over bytes'):
    peers.PEERS['transformers'](settings.get_config('gpt2_full'), repeats=1, threads=1)


def test_both_libraries_score_alike(decoder, batch, peer):
  model, variables = decoder
  network = Network(model)
  nats = network.nats(network.apply(variables, batch['ids']).logits, batch['ids'])
  np.testing.assert_allclose(llama_peer.scoring(peer(), batch)(), np.sum(nats * batch['weights'], axis=1), rtol=1e-4)


def test_both_libraries_train_alike(decoder, batch, peer):
  """Losses before and after steps of the same optimizer at a constant rate."""
  model, variables = decoder
  optimizer = adamw(1e-3, 10**6, warmup=1, weight_decay=0.05)
  training = language_training(Network(model), optimizer, start=lambda _: dict(variables))
  state = training.init(jax.random.key(0), batch, {})
  step, losses = jax.jit(training.step), []
  for _ in range(4):
    state, metrics = step(state, batch, jax.random.key(0))
    losses.append(float(metrics['loss']))
  call = llama_peer.training(peer(), batch)
  # The schedule starts from a rate of zero: the first update of ours moves nothing.
  np.testing.assert_allclose([call() for _ in range(2)], losses[:1] + losses[2:3], rtol=2e-3)


def test_both_libraries_write_alike(decoder, peer):
  model, variables = decoder
  prompts = benchmarks.random_prompts(3, 5)
  ours = generate(model, variables, prompts, np.full(3, 5, np.int32), jax.random.key(0), max_new=7, temperature=0).ids
  np.testing.assert_array_equal(llama_peer.writing(peer(), prompts, 7)(), ours)


def test_rows_of_the_other_library(monkeypatch, peer):
  monkeypatch.setattr(benchmarks, 'NETWORK', TINY)
  monkeypatch.setattr(benchmarks, 'PROMPT', 4)
  monkeypatch.setattr(benchmarks, 'NEW', 2)
  config = settings.get_config('test')
  rows = peers.PEERS['transformers'](config, repeats=1, threads=1)
  stages = {stage.name: [e.name for e in stage.evaluations[:1]] for stage in experiment.experiment(config).stages}
  ours = {f'{stage} {part}' for stage, parts in stages.items() for part in ('train', *parts)}
  ours |= {benchmarks.writing_name(count) for count in (1, benchmarks.PROMPTS)}
  assert len(rows) == 4 and {row.beside for row in rows} <= ours
