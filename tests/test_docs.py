"""The documentation: its examples run, the commands it names exist, and every room has its pages."""

import ast
import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from jaxpapers import engine

ROOT = Path(__file__).parent.parent
PAGES = ROOT / 'docs' / 'pages'
SHARED = {'engine', 'data', 'layers', 'ops'}
ROOMS = sorted(p.name for p in (ROOT / 'jaxpapers').iterdir() if (p / '__init__.py').exists() and p.name not in SHARED)
TEXTS = [ROOT / 'README.md', *sorted(PAGES.rglob('*.md'))]
COMMAND = re.compile(r'launch/train\.py --config=configs/(\w+)\.py(?::(\w+))?([^\n`|;]*)')
BLOCKS = [
  pytest.param(path, text, id=f'{path.relative_to(ROOT)}:{number}')
  for path in TEXTS
  for number, text in enumerate(re.findall(r'^```python\n(.*?)^```$', path.read_text(), re.MULTILINE | re.DOTALL))
]
PARTS = (
  'Idea',
  'Equations',
  'Import',
  'Run',
  'Measured here',
  'Differences from the official code',
)


@pytest.mark.parametrize(('path', 'text'), BLOCKS)
def test_examples_run(path, text, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  exec(compile(text, str(path), 'exec'), {'__name__': 'example'})


def test_every_method_has_its_example_and_picture_in_the_readme():
  """Under its heading: commands, a block that imports the room, and the picture of its page."""
  sections = re.split(r'^### ', (ROOT / 'README.md').read_text(), flags=re.MULTILINE)
  for room in ROOMS:
    section = next(text for text in sections if f'launch/train.py --config=configs/{room}.py`' in text.split('```')[0])
    assert f'from jaxpapers import {room}' in section
    picture = PAGES / 'pictures' / f'{room}.png'
    assert f'({picture.relative_to(ROOT)})' in section
    assert f'(../pictures/{room}.png)' in (PAGES / 'methods' / f'{room}.md').read_text()
    assert picture.stat().st_size < 60_000


def test_no_example_stands_twice():
  texts = [text.strip() for _, text in (block.values for block in BLOCKS)]
  assert len(set(texts)) == len(texts)


def test_guide_to_a_room_trains(tmp_path, monkeypatch):
  guide = (PAGES / 'guides' / 'room.md').read_text()
  files = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', guide, re.MULTILINE | re.DOTALL))
  assert sorted(files) == ['configs/mine.py', 'jaxpapers/mine/experiment.py', 'jaxpapers/mine/model.py']
  for name, text in files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  for package in ('configs', 'jaxpapers'):
    module = importlib.import_module(package)
    monkeypatch.setattr(module, '__path__', [*module.__path__, str(tmp_path / package)])
  try:
    config = importlib.import_module('configs.mine').get_config('test')
    experiment = importlib.import_module('jaxpapers.mine.experiment').experiment(config)
    final = engine.run(experiment, config, str(tmp_path / 'run'))
  finally:
    for name in [n for n in sys.modules if n == 'configs.mine' or n.startswith('jaxpapers.mine')]:
      del sys.modules[name]
  assert final['linear']['test/accuracy'] > 0.5
  assert (tmp_path / 'run' / 'report' / 'index.html').exists()


@pytest.mark.parametrize('name', ['pieces', 'weights'])
def test_example_scripts_run(name, capsys):
  specification = importlib.util.spec_from_file_location(name, ROOT / 'docs' / 'examples' / f'{name}.py')
  module = importlib.util.module_from_spec(specification)
  specification.loader.exec_module(module)
  module.main()
  printed = capsys.readouterr().out
  assert {'pieces': 'sub-spaces (4, 6, 4) True', 'weights': 'same logits: True'}[name] in printed
  assert name != 'weights' or 'refused:' in printed


@pytest.mark.parametrize('room', ROOMS)
def test_every_room_has_its_pages(room):
  page = (PAGES / 'methods' / f'{room}.md').read_text()
  assert re.findall(r'^## (.*)$', page, re.MULTILINE) == list(PARTS)
  assert '```python' in page
  assert (PAGES / 'api' / f'{room}.md').exists()
  navigation = (ROOT / 'docs' / 'mkdocs.yml').read_text()
  assert f'methods/{room}.md' in navigation and f'api/{room}.md' in navigation


def test_named_configs_and_programs_exist():
  named = {found for path in TEXTS for found in re.findall(r'configs/(\w+)\.py(?::(\w+))?', path.read_text())}
  assert {room for room, _ in named} >= set(ROOMS)
  for room, variant in sorted(named - {('mine', '')}):
    importlib.import_module(f'configs.{room}').get_config(variant or 'default')
  for path in TEXTS:
    for program in re.findall(r'python (?:-m )?([\w./]+)', path.read_text()):
      file = program if '/' in program else program.replace('.', '/') + '.py'
      if program.startswith(('launch/', 'docs/', 'jaxpapers.', 'tests.')):
        assert (ROOT / file).exists(), f'{path.name} names {program}'


@pytest.mark.parametrize('room', ROOMS)
def test_variants_named_beside_the_commands_exist(room):
  """Single words in backticks under "Run" are variants of the config, or programs of the room."""
  page = (PAGES / 'methods' / f'{room}.md').read_text()
  run = page.split('## Run\n')[1].split('\n## ')[0]
  words = re.findall(r'`(\w+)`', re.sub(r'^```.*?^```$', '', run, flags=re.MULTILINE | re.DOTALL))
  for word in words:
    if not (ROOT / 'jaxpapers' / room / f'{word}.py').exists():
      importlib.import_module(f'configs.{room}').get_config(word)


def test_named_settings_exist():
  for path in TEXTS:
    for room, variant, rest in COMMAND.findall(path.read_text()):
      if room == 'mine':
        continue
      config = importlib.import_module(f'configs.{room}').get_config(variant or 'default')
      for key in re.findall(r'--config\.([\w.]+)=', rest):
        value = config
        for name in key.split('.'):
          assert name in value, f'{path.name}: configs/{room}.py:{variant} has no {key}'
          value = value[name]


@pytest.mark.parametrize('room', [*ROOMS, 'engine'])
def test_public_names_are_no_modules(room):
  """A module of the same name would hide the function as soon as something imports it."""
  modules = {path.stem for path in (ROOT / 'jaxpapers' / room).glob('*.py')}
  assert not modules & set(getattr(importlib.import_module(f'jaxpapers.{room}'), '__all__', ()))


@pytest.mark.parametrize('room', [*ROOMS, 'engine'])
def test_reference_names_exist(room):
  """Every public name has a definition where the reference looks for it."""
  specification = importlib.util.spec_from_file_location('hooks', ROOT / 'docs' / 'hooks.py')
  hooks = importlib.util.module_from_spec(specification)
  specification.loader.exec_module(hooks)
  names = hooks.public_names(f'jaxpapers.{room}')
  assert set(names) == set(getattr(importlib.import_module(f'jaxpapers.{room}'), '__all__', ()))
  for name, where in names.items():
    module, _, attribute = where.rpartition('.')
    tree = ast.parse((ROOT / (module.replace('.', '/') + '.py')).read_text())
    defined = {node.name for node in tree.body if hasattr(node, 'name')}
    for node in tree.body:
      targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, 'target', None)]
      defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    assert attribute in defined, f'{name} is not in {module}'
