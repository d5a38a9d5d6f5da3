"""The house rules that a program can check: rooms, contracts, files, and what importing pulls in."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = {'engine', 'data', 'layers', 'ops'}
ROOMS = sorted(p.name for p in (ROOT / 'jaxpapers').iterdir() if (p / '__init__.py').exists() and p.name not in SHARED)


def test_contract_lists_every_room():
  contracts = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['importlinter']['contracts']
  layers = next(c for c in contracts if c['type'] == 'layers')['layers']
  listed = next(line for line in layers if 'emo' in line)
  assert sorted(name.strip().removeprefix('jaxpapers.') for name in listed.split('|')) == ROOMS


@pytest.mark.parametrize('room', ROOMS)
def test_room_has_what_the_readme_says(room):
  row = next(line for line in (ROOT / 'README.md').read_text().splitlines() if line.startswith(f'| `{room}` |'))
  state = row.split('|')[-2].strip()
  assert state in ('works', 'in progress')
  assert (ROOT / 'tests' / room / '__init__.py').exists()
  if state == 'works':
    assert (ROOT / 'configs' / f'{room}.py').exists()
    assert (ROOT / 'jaxpapers' / room / 'experiment.py').exists()


@pytest.mark.parametrize('room', ROOMS)
def test_importing_a_room_drags_in_nothing_else(room):
  code = (
    f'import jaxpapers.{room}, sys; '
    'bad = [m for m in ("tensorflow", "torch", "orbax.checkpoint", "matplotlib", "tensorboardX") if m in sys.modules]; '
    'sys.exit(", ".join(bad) or 0)'
  )
  process = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False)
  assert process.returncode == 0, process.stderr


def test_configs_import_no_jax():
  names = [p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem != '__init__']
  load = f'[__import__("configs." + n).__dict__[n].get_config() for n in {names}]'
  code = f'import sys; {load}; assert "jax" not in sys.modules'
  process = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False)
  assert process.returncode == 0, process.stderr


def test_requirements_and_metadata_agree():
  lines = [line.split('#')[0].strip() for line in (ROOT / 'requirements.txt').read_text().splitlines()]
  development = ('pytest', 'hypothesis', 'ruff', 'import-linter')
  wanted = sorted(line for line in lines if line and not line.startswith(('-e', *development)))
  assert wanted == sorted(tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['dependencies'])
