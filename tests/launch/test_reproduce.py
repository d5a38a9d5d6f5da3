import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxpapers.engine import reproduction
from jaxpapers.engine.claims import Above, Claim, Run
from jaxpapers.engine.config import flatten
from jaxpapers.engine.errors import PreemptedError, UserError

ROOT = Path(__file__).parent.parent.parent
SLUGS = reproduction.rooms(ROOT)
DEFAULT, OTHER = Run(), Run('other', ('a.b=3',))


def claim(name, run=DEFAULT, **changes):
  return Claim(name, f'{name}.', 'table', lambda r: r['gain'], Above(0.0), 'points', run=run, **changes)


def plan(folder, *claims, seeds=2, data_dir=None):
  return reproduction.Plan({'room': claims}, seeds, folder, data_dir, ROOT)


class Trainer:
  """Stands for launch/train.py: leaves a report, or ends with a code."""

  def __init__(self, code=0):
    self.calls, self.code = [], code

  def __call__(self, arguments, log):
    self.calls.append(arguments)
    workdir = Path(next(a for a in arguments if a.startswith('--workdir=')).removeprefix('--workdir='))
    assert log.parent == workdir
    log.write_text(f'room · default on 4 x tpu; workdir {workdir}\nloss 1.0\n')
    if self.code == 0:
      (workdir / 'report').mkdir()
      (workdir / 'report' / 'results.json').write_text(json.dumps({'gain': 1.0 + len(self.calls) / 100}))
      (workdir / 'report' / 'bars.png').write_bytes(b'picture')
    return self.code


def quiet(text):
  pass


def test_claims_share_runs_and_finished_runs_are_not_run_again(tmp_path):
  claims = claim('first', picture='bars'), claim('second'), claim('third', OTHER)
  train = Trainer()
  rows = reproduction.reproduce(plan(tmp_path, *claims), train, quiet)
  assert len(train.calls) == 4
  assert [row.judgement.verdict for row in rows] == ['holds'] * 3
  assert '--config.a.b=3' in train.calls[2] and f'--config={ROOT / "configs" / "room.py"}:other' in train.calls[2]
  assert (tmp_path / rows[0].picture).read_bytes() == b'picture'
  board = (tmp_path / 'scoreboard.json').read_text()
  assert json.loads(board)['machine']['devices'] == '4 x tpu'
  assert str(tmp_path) not in board + (tmp_path / 'scoreboard.md').read_text()
  # A report that is gone and a run that was stopped are started again in their folders; the others are left alone.
  gone = reproduction.workdir(plan(tmp_path), 'room', OTHER, 1)
  (gone / 'report' / 'results.json').unlink()
  (gone / 'report' / 'bars.png').unlink()
  (gone / 'report').rmdir()
  again = Trainer()
  reproduction.reproduce(plan(tmp_path, *claims), again, quiet)
  assert [a for a in again.calls[0] if a.startswith('--workdir')] == [f'--workdir={gone}'] and len(again.calls) == 1


def test_a_run_that_fails_ends_neither_the_rest_nor_its_own_second_chance(tmp_path):
  rows = reproduction.reproduce(plan(tmp_path, claim('first'), claim('second', OTHER)), Trainer(3), quiet)
  assert all('exit code 3' in row.judgement.why and row.judgement.verdict == 'not checkable here' for row in rows)
  train = Trainer()
  rows = reproduction.reproduce(plan(tmp_path, claim('first')), train, quiet)
  assert len(train.calls) == 2 and rows[0].judgement.verdict == 'holds'


def test_being_stopped_is_told_and_the_run_goes_on_later(tmp_path):
  def stopped(arguments, log):
    raise KeyboardInterrupt

  with pytest.raises(PreemptedError, match='room default seed 0'):
    reproduction.reproduce(plan(tmp_path, claim('first')), stopped, quiet)
  record = reproduction.workdir(plan(tmp_path), 'room', DEFAULT, 0) / reproduction.RECORD
  assert json.loads(record.read_text())['exit'] == 75
  train = Trainer()
  reproduction.reproduce(plan(tmp_path, claim('first')), train, quiet)
  assert len(train.calls) == 2


def test_real_data_add_claims(tmp_path):
  wanted = claim('real', Run('real', seeded=False), data='table.csv', needs='the table')
  train = Trainer()
  rows = reproduction.reproduce(plan(tmp_path / 'a', wanted), train, quiet)
  assert not train.calls and rows[0].judgement.why == 'the table'
  (tmp_path / 'data' / 'room').mkdir(parents=True)
  (tmp_path / 'data' / 'room' / 'table.csv').write_text('1')
  rows = reproduction.reproduce(plan(tmp_path / 'b', wanted, data_dir=tmp_path / 'data'), train, quiet)
  assert rows[0].judgement.verdict == 'holds'
  assert len(train.calls) == 1 and f'--config.data.dir={tmp_path / "data" / "room"}' in train.calls[0]


def test_every_method_has_claims():
  assert SLUGS == sorted(p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem != '__init__')
  with pytest.raises(UserError, match="Did you mean 'reliant'"):
    reproduction.rooms(ROOT, 'relaint')


@pytest.mark.parametrize('slug', SLUGS)
def test_claims_name_settings_that_exist(slug):
  claims = reproduction.claims_of(slug)
  assert 2 <= len(claims) <= 5 and len({c.name for c in claims}) == len(claims)
  config = importlib.import_module(f'configs.{slug}')
  for run in {c.run for c in claims if c.run}:
    known = flatten(config.get_config(run.variant))
    assert {override.split('=')[0] for override in run.overrides} <= set(known)


@pytest.mark.parametrize(
  'flag, words',
  [('--only=xdepint', "Did you mean 'xdeepint'"), ('--seeds=0', 'at least 1'), ('--data-dir=no', 'no folder')],
)
def test_wrong_input_ends_in_a_sentence(flag, words, tmp_path):
  command = [sys.executable, 'launch/reproduce.py', flag, f'--out={tmp_path}']
  process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert process.returncode == 2 and words in process.stderr and 'Traceback' not in process.stderr
