"""Fills the reference pages of mkdocs: one entry for each public name of a package, taken from its `__init__.py`.

Names stand under their module, with the first paragraph of its docstring. A page `api/<package>.md` may name whole
modules in its front matter (`modules: [a, b]`), for packages without names.
"""

import ast
import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
  """The page's text, with the entries behind it where it is a reference page."""
  path = Path(page.file.src_uri)
  if path.parent.name != 'api':
    return markdown
  package = f'jaxpapers.{path.stem}'
  modules = [f'::: {package}.{name}' for name in page.meta.get('modules', ())]
  return '\n\n'.join([markdown, *(modules or _entries(package))])


def public_names(package: str) -> dict[str, str]:
  """{public name: the dotted path of its definition}, without loading what the package loads on first use."""
  module = importlib.import_module(package)
  found = {name: f'{package}.{where}.{name}' for name, where in getattr(module, '_WHERE', {}).items()}
  renamed = getattr(module, '_RENAMED', {})
  found |= {name: f'{package}.{where}.{there}' for name, (where, there) in renamed.items()}
  if not found:
    for node in _tree(package.replace('.', '/') + '/__init__.py').body:
      if isinstance(node, ast.ImportFrom):
        found |= {alias.asname or alias.name: f'{node.module}.{alias.name}' for alias in node.names}
  return found


def _entries(package: str) -> Iterator[str]:
  """Every module's heading and docstring, then its names."""
  names = public_names(package)

  def module_of(name):
    return names[name].rpartition('.')[0]

  order = list(dict.fromkeys(module_of(name) for name in names))
  for module, members in itertools.groupby(sorted(names, key=lambda n: order.index(module_of(n))), module_of):
    about = (ast.get_docstring(_tree(module.replace('.', '/') + '.py')) or '').split('\n\n')[0]
    yield f'## {module.removeprefix(package + ".")}\n\n{about}'
    for name in members:
      title = '' if names[name].endswith(f'.{name}') else f'`{package}.{name}`:\n\n'
      yield f'{title}::: {names[name]}\n    options:\n      heading_level: 3'


def _tree(file: str) -> ast.Module:
  return ast.parse((ROOT / file).read_text())
