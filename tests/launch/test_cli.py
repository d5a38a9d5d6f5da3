"""The programs as a person starts them: one sentence and the right exit code for everything that can be wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxpapers.engine import errors

ROOT = Path(__file__).parent.parent.parent
CONFIG = '--config=configs/emo.py:test'


def launch(program, *arguments, env=None):
  command = [sys.executable, f'launch/{program}.py', *map(str, arguments)]
  return subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False
  )


def assert_one_sentence(process, *words, code=errors.EXIT_SETTINGS):
  assert process.returncode == code, process.stdout + process.stderr
  assert 'Traceback' not in process.stderr
  line = [line for line in process.stderr.splitlines() if line.strip()][-1]
  for word in words:
    assert word in line, line


@pytest.mark.parametrize('program', ['train', 'import_weights'])
def test_help_names_the_flags(program):
  process = launch(program, '--help')
  assert process.returncode == 0, process.stderr
  assert '--workdir' in process.stdout


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A finished run of emo:test, with its baseline."""
  workdir = tmp_path_factory.mktemp('emo') / 'run'
  process = launch('train', CONFIG, f'--workdir={workdir}', '--config.baseline=True')
  assert process.returncode == 0, process.stdout + process.stderr
  return workdir, process.stdout


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--config=configs/emo.py:imagenet1'], ["Unknown variant 'imagenet1'", "Did you mean 'imagenet1k'"]),
    (
      [CONFIG, '--config.optimizer.learning_rat=1'],
      ['config.optimizer.learning_rat', "Did you mean 'optimizer.learning_rate'"],
    ),
    (['--config.train.step=1', CONFIG], ['config.train.step', "Did you mean 'train.steps'"]),
    ([CONFIG, '--config.train.steps=many'], ['config.train.steps=many']),
    ([CONFIG, '--config.train=5'], ['config.train']),
    (['--config=configs/emu.py'], ["no settings file 'configs/emu.py'"]),
    ([], ['--config=configs/METHOD.py']),
    ([CONFIG, 'extra'], ["'extra'"]),
    ([CONFIG, '--workdri=x'], ['workdri']),
    ([CONFIG, '--config.parallel=tpu'], ["config.parallel='tpu'"]),
    ([CONFIG, '--config.mesh.model=3'], ['number of devices']),
    ([CONFIG, '--config.model.head_widths=(8,8,7,8)'], ['head_width 7', '16']),
    ([CONFIG, '--config.model.name=emo_9m'], ['emo_9m', 'Did you mean']),
    (['--config=configs/emo.py:imagenet1k', '--config.data.dir=/nowhere'], ['/nowhere']),
    ([CONFIG, '--config.init_from=/nowhere'], ['/nowhere']),
  ],
)
def test_wrong_settings(tmp_path, arguments, words):
  assert_one_sentence(launch('train', *arguments, *([] if not arguments else [f'--workdir={tmp_path}'])), *words)


def test_debug_shows_the_traceback():
  process = launch('train', '--config=configs/emo.py:nothing', '--debug')
  assert process.returncode == 1 and 'Traceback' in process.stderr


def test_batch_that_does_not_divide(tmp_path):
  env = {'XLA_FLAGS': '--xla_force_host_platform_device_count=3'}
  process = launch('train', CONFIG, f'--workdir={tmp_path}', env=env)
  assert_one_sentence(process, 'batch_size 16', '3 devices', '15 or 18')


def test_unusable_workdir(tmp_path):
  (tmp_path / 'file').write_text('')
  assert_one_sentence(launch('train', CONFIG, f'--workdir={tmp_path / "file"}'), 'cannot be used')


def test_non_image_in_the_image_folder(tmp_path):
  folder = tmp_path / 'train' / 'class_a'
  folder.mkdir(parents=True)
  (folder / 'notes.txt').write_text('no image')
  arguments = ['--config=configs/emo.py:imagenet1k', f'--config.data.dir={tmp_path}', f'--workdir={tmp_path / "run"}']
  assert_one_sentence(launch('train', *arguments), 'notes.txt')


def test_training_ends_with_metrics_and_a_report(trained):
  workdir, output = trained
  assert 'test/top1' in output and str(workdir / 'report' / 'index.html') in output
  page = (workdir / 'report' / 'index.html').read_text()
  pictures = [p.name for p in (workdir / 'report').glob('*.png')]
  assert pictures and all(name in page for name in pictures)
  assert (workdir / 'report' / 'results.json').exists() and any((workdir / 'tensorboard').iterdir())


def test_evaluate_gives_the_same_numbers(trained):
  workdir, output = trained
  process = launch('evaluate', f'--workdir={workdir}')
  assert process.returncode == 0, process.stderr
  line = next(line for line in output.splitlines() if line.startswith('emo: test/'))
  assert line in process.stdout


def test_evaluate_of_no_workdir(tmp_path):
  assert_one_sentence(launch('evaluate', f'--workdir={tmp_path}'), 'no workdir')
  assert_one_sentence(launch('evaluate'), '--workdir')


def test_resuming_under_other_settings_is_refused(trained):
  workdir, _ = trained
  arguments = ['--config.baseline=True', '--config.model.widths=(8,8,24,16)']
  process = launch('train', CONFIG, f'--workdir={workdir}', *arguments)
  assert_one_sentence(process, 'config.model.widths', '[8, 8, 16, 16]', '[8, 8, 24, 16]')


def test_init_from_a_damaged_checkpoint(trained, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(trained[0], copy)
  for path in (copy / 'checkpoints').glob('*/*/state/_METADATA'):
    path.unlink()
  process = launch('train', CONFIG, f'--workdir={tmp_path / "new"}', f'--config.init_from={copy}')
  assert_one_sentence(process, 'damaged')


def test_init_from_another_class_count_on_a_folder_of_images(trained, tmp_path):
  rng = np.random.default_rng(0)
  for split, count in (('train', 16), ('val', 3)):
    for name in ('cats', 'dogs', 'eels'):
      folder = tmp_path / 'images' / split / name
      folder.mkdir(parents=True)
      for index in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / f'{index}.JPEG')
  settings = ['data.name=imagenet_folder', f'data.dir={tmp_path / "images"}', 'augment.kind=randaugment']
  arguments = [f'--config.{s}' for s in settings] + [
    f'--config.init_from={trained[0]}',
    f'--workdir={tmp_path / "run"}',
  ]
  process = launch('train', CONFIG, *arguments)
  assert process.returncode == 0, process.stderr
  assert 'leaves are new' in process.stdout and 'head' in process.stdout


def official_state():
  """A random network of emo:test under the authors' names."""
  from configs.emo import get_config
  from jaxpapers.emo.experiment import build_model
  from jaxpapers.emo.official import export_official

  model = build_model(get_config('test'), 10, True)
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
  return {name: np.asarray(value) for name, value in export_official(variables).items()}


def import_weights(tmp_path, state, suffix='.npz'):
  path = tmp_path / f'weights{suffix}'
  if suffix == '.safetensors':
    from safetensors.numpy import save_file

    save_file(state, path)
  else:
    np.savez(path, **state)
  return launch('import_weights', CONFIG, f'--weights={path}', f'--workdir={tmp_path / "imported"}')


def test_imported_weights_are_evaluated_and_trained_on(tmp_path):
  process = import_weights(tmp_path, official_state(), '.safetensors')
  assert process.returncode == 0, process.stderr
  process = launch('evaluate', f'--workdir={tmp_path / "imported"}')
  assert process.returncode == 0 and 'test/top1' in process.stdout, process.stdout + process.stderr
  process = launch('train', CONFIG, f'--config.init_from={tmp_path / "imported"}', f'--workdir={tmp_path / "tuned"}')
  assert process.returncode == 0, process.stderr
  assert_one_sentence(launch('train', CONFIG, f'--workdir={tmp_path / "imported"}'), 'init_from')


def test_weights_with_wrong_keys(tmp_path):
  state = official_state()
  state['extra.weight'] = np.zeros(3, np.float32)
  assert_one_sentence(import_weights(tmp_path, state), 'extra.weight')
  state.pop('extra.weight')
  head = state.pop('head.weight')
  assert_one_sentence(import_weights(tmp_path, state), 'head.weight')
  assert_one_sentence(
    import_weights(tmp_path, {**state, 'head.weight': head[:, :-1]}), 'head.weight', str(head.shape[1] - 1)
  )
  assert not (tmp_path / 'imported').exists()


def test_weights_file_that_is_none(tmp_path):
  (tmp_path / 'weights.npz').write_text('no archive')
  process = launch('import_weights', CONFIG, f'--weights={tmp_path / "weights.npz"}', f'--workdir={tmp_path / "x"}')
  assert_one_sentence(process, 'weights.npz')
  process = launch('import_weights', CONFIG, f'--weights={tmp_path / "absent.npz"}', f'--workdir={tmp_path / "x"}')
  assert_one_sentence(process, 'absent.npz')


def test_benchmark_prints_a_table(tmp_path):
  process = launch('benchmark', CONFIG, '--repeats=1', f'--json={tmp_path / "b.json"}')
  assert process.returncode == 0, process.stderr
  assert 'emo train' in process.stdout and 'bandwidth' in process.stdout and (tmp_path / 'b.json').exists()


def test_no_program_imports_tensorflow_or_torch(trained, tmp_path):
  # The finished run is opened again: data, model, checkpoints, evaluation and report, without training.
  shutil.copytree(trained[0], tmp_path / 'run')
  code = (
    'import sys; sys.argv = ["train", "--config=configs/emo.py:test", "--config.baseline=True", '
    '"--workdir=" + sys.argv[1] + "/run"]; '
    'from launch import train; from jaxpapers.engine import cli; cli.main(train.main); '
    'assert not {"tensorflow", "torch"} & set(sys.modules)'
  )
  process = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert process.returncode == 0, process.stderr
