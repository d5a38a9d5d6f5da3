"""Fills the reference pages of mkdocs: one entry for each public name of a package, taken from its `__init__.py`.

A page `api/<package>.md` may name whole modules in its front matter (`modules: [a, b]`), for packages without names.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
  """The page's text, with the entries behind it where it is a reference page."""
  path = Path(page.file.src_uri)
  if path.parent.name != 'api':
    return markdown
  package = f'jaxpapers.{path.stem}'
  modules = [f'{package}.{name}' for name in page.meta.get('modules', ())]
  return '\n\n'.join([markdown, *(f'::: {where}' for where in modules or public_names(package).values())])


def public_names(package: str) -> dict[str, str]:
  """{public name: the dotted path of its definition}, without loading what the package loads on first use."""
  module = importlib.import_module(package)
  found = {name: f'{package}.{where}.{name}' for name, where in getattr(module, '_WHERE', {}).items()}
  renamed = getattr(module, '_RENAMED', {})
  found |= {name: f'{package}.{where}.{there}' for name, (where, there) in renamed.items()}
  if not found:
    tree = ast.parse((ROOT / package.replace('.', '/') / '__init__.py').read_text())
    for node in tree.body:
      if isinstance(node, ast.ImportFrom):
        found |= {alias.asname or alias.name: f'{node.module}.{alias.name}' for alias in node.names}
  return found
