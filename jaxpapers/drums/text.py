"""English for pre-training without a download: the documentation of Python's standard library."""

import ast
import re
import sysconfig
from pathlib import Path

import numpy as np

_SHORTEST = 80


def documentation() -> str:
  """The language reference's topics, then the docstrings over 80 characters of the library's top-level modules.

  Topics and files are sorted by name, so the text is the same for every run of one version of Python: 1.3 MB.

  Raises:
    ValueError: if this Python was installed without them.
  """
  try:
    from pydoc_data.topics import topics
  except ImportError as error:
    raise ValueError('This Python has no pydoc_data.topics, the text that pre-training reads.') from error
  parts = [topics[name] for name in sorted(topics)]
  for path in sorted(Path(sysconfig.get_paths()['stdlib']).glob('*.py')):
    parts += _docstrings(path.read_text(encoding='utf-8', errors='replace'))
  return '\n\n'.join(part.strip() for part in parts) + '\n'


def shuffle_words(text: str, seed: int) -> str:
  """The same words between the same white space, in another order: letters and words stay, sentences go."""
  pieces = re.split(r'(\s+)', text)
  words = pieces[0::2]
  order = np.random.default_rng(seed).permutation(len(words))
  pieces[0::2] = [words[index] for index in order]
  return ''.join(pieces)


def _docstrings(source: str) -> list[str]:
  holders = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
  found = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, holders)]
  return [text for text in found if text and len(text) > _SHORTEST]
