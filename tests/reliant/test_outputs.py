"""Teachers of whom only a file of outputs is at hand."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from configs import reliant as config_module
from jaxpapers.engine import UserError, loop
from jaxpapers.reliant import experiment, outputs, training
from tests.reliant import toy


def probabilities(nodes=6, classes=2):
  return np.random.default_rng(0).dirichlet(np.ones(classes), nodes).round(4)


def test_official_text_files(tmp_path):
  path = tmp_path / 'output.txt'
  want = probabilities()
  want[0] = [0.0, 1.0]
  np.savetxt(path, want, fmt='%.4f', delimiter='\t')
  found = outputs.read_outputs(str(path), 6, 2)
  model = outputs.as_model(found)
  graph = toy.problem().graph._replace(nodes={'id': np.array([3, 0, 5])})
  targets = training.targets_of(model.apply(model.init(None, 0, 0, 0), graph, None))
  np.testing.assert_allclose(targets.probabilities, want[[3, 0, 5]], atol=1e-6)
  assert np.isfinite(targets.log_probabilities).all()
  np.savetxt(tmp_path / 'preds.txt', [0, 2, 1], fmt='%d')
  one_hot = outputs.read_outputs(str(tmp_path / 'preds.txt'), 3, 3)
  np.testing.assert_array_equal(one_hot.logits.argmax(axis=1), [0, 2, 1])


def save_torch(path, **values):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  torch.save({k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}, path)


@pytest.mark.parametrize('kind', ['npz', 'pth.tar'])
def test_official_graphakd_archives(tmp_path, kind):
  path, logits = tmp_path / f'bail_GCN.{kind}', np.log(probabilities()).astype(np.float32)
  embedding = np.ones((6, 5), np.float32)
  if kind == 'npz':
    np.savez(path, logits=logits, embedding=embedding)
  else:
    save_torch(path, logits=logits, embedding=embedding, parity=0.06, equality=0.02)
  found = outputs.read_outputs(str(path), 6, 2, need_embedding=True)
  np.testing.assert_array_equal(found.logits, logits)
  np.testing.assert_array_equal(found.embedding, embedding)


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('0.5\t0.5\n' * 5, 'a row for each of the 6 nodes'),
    ('0.2\t0.3\t0.5\n' * 6, '3 columns, but there are 2 classes'),
    ('0.5\t0.5\n0.7\t0.7\n', 'row 2: .* no probabilities'),
    ('0.5\t0.5\n-0.7\t1.7\n', 'row 2: .* no probabilities'),
    ('nan\t1.0\n' * 6, 'row 1: .* no probabilities'),
    ('0\n1\n2\n', 'row 3: 2 is no class of 0..1'),
    ('yes\tno\n', 'must hold numbers'),
    ('0.5\t0.5\n' * 6, 'no embedding'),
  ],
)
def test_wrong_text_files_are_named(tmp_path, text, words):
  path = tmp_path / 'output.txt'
  path.write_text(text)
  with pytest.raises(ValueError, match=words) as caught:
    outputs.read_outputs(str(path), 6, 2, need_embedding=True)
  assert 'output.txt' in str(caught.value)


def test_wrong_archives_are_named(tmp_path, monkeypatch):
  path = str(tmp_path / 'outputs.npz')
  ones = np.ones((6, 2))
  for values, words in (
    ({'log_probs': ones}, 'must hold logits, and for GraphAKD embedding; it has log_probs'),
    ({'logits': ones[:4]}, r'logits of shape \(4, 2\)'),
    ({'logits': ones, 'embedding': ones[:3]}, r'embedding of shape \(3, 2\)'),
    ({'logits': np.where(np.eye(6)[:, :2], np.nan, 0.0)}, 'logits of node 0 holds no finite number'),
  ):
    np.savez(path, **values)
    with pytest.raises(ValueError, match=words):
      outputs.read_outputs(path, 6, 2)
  with pytest.raises(FileNotFoundError, match='none.txt'):
    outputs.read_outputs(str(tmp_path / 'none.txt'), 6, 2)
  monkeypatch.setitem(sys.modules, 'torch', None)
  (tmp_path / 'bail_GCN.pth.tar').write_bytes(b'PK')
  with pytest.raises(ValueError, match=r'bail_GCN.pth.tar.* needs PyTorch'):
    outputs.read_outputs(str(tmp_path / 'bail_GCN.pth.tar'), 6, 2)


def test_the_stage_of_a_given_teacher_is_saved_and_restored(tmp_path):
  path = tmp_path / 'output.txt'
  np.savetxt(path, probabilities(1200), fmt='%.4f', delimiter='\t')
  config = settings(path, proxy='none')
  made = experiment.experiment(config)
  made = dataclasses.replace(made, stages=made.stages[:1], report=lambda states, page: None)
  first = loop.run(made, config, str(tmp_path / 'run'))
  assert loop.run(made, config, str(tmp_path / 'run')) == first and 'test/dsp' in first['teacher']


def settings(path, **changes):
  config = config_module.get_config('test')
  config.update({'seeds': 1, 'teacher_outputs': str(path), **changes})
  return config


@pytest.mark.parametrize('framework', ['cpf', 'akd'])
def test_a_given_teacher_takes_the_stage_of_a_trained_one(tmp_path, framework):
  path, logits = tmp_path / 'teacher.npz', np.log(probabilities(1200)).astype(np.float32)
  np.savez(path, logits=logits, embedding=np.ones((1200, 7), np.float32))
  made = experiment.experiment(settings(path, framework=framework))
  teacher, vanilla = made.stages[:2]
  batch = teacher.batch(0)
  state = jax.jit(teacher.init)(jax.random.key(0), batch, {})
  after, metrics = jax.jit(teacher.step)(state, batch, jax.random.key(1))
  np.testing.assert_array_equal(after.params['logits'], logits[None])
  assert teacher.steps == 1 and not metrics
  found = jax.jit(teacher.evaluations[0].step)(after, batch)
  np.testing.assert_allclose(found[0], np.exp(logits), rtol=1e-3)
  student = jax.eval_shape(vanilla.init, jax.random.key(0), batch, {'teacher': after})
  kept = student.model_state['targets']
  assert (kept.probabilities if framework == 'cpf' else kept.embedding).shape[:2] == (1, 1200)


def test_given_outputs_that_fit_nothing_end_in_a_sentence(tmp_path):
  path = tmp_path / 'output.txt'
  np.savetxt(path, probabilities(1200), fmt='%.4f', delimiter='\t')
  for changes, words in (
    ({'seeds': 2}, 'belong to one graph'),
    ({'framework': 'akd'}, 'no embedding'),
    ({'teacher_outputs': 'nowhere.txt'}, 'nowhere.txt'),
  ):
    with pytest.raises(UserError, match=words):
      experiment.experiment(settings(path, **changes))
