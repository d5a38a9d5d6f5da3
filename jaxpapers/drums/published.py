"""What the authors published beside the method: continuations by two GPT-3 models and listening notes.

They state no licence, so nothing of it lies in this package: both are read from files of one's own. The comparison of
all corpora on the test grooves, table 7.2, is printed by

    python -m jaxpapers.drums.published TEXTS.zip NOTES.csv
"""

import csv
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from jaxpapers.drums import data, metrics
from jaxpapers.drums.structure import random_baseline, repeat_baseline, stability_curves
from jaxpapers.engine.errors import UserError

FOLDERS = {'human': 'data_text', 'davinci': 'output_text_davinci', 'ada': 'output_text_ada'}
PATTERNS = ('consistent', 'repetitive', 'chaotic', 'none', 'not rated')
_UNRATED = '-'


class Note(NamedTuple):
  """What was heard in one groove.

  Attributes:
    who: 'human', 'davinci' or 'ada'.
    name: of the groove.
    pattern: one of PATTERNS.
    fill: whether there is one; None where it was not rated.
    short: whether the groove stops early; None where it was not rated.
  """

  who: str
  name: str
  pattern: str
  fill: bool | None
  short: bool | None


def read_texts(path: str | os.PathLike, who: str, split: str) -> dict[str, str]:
  """{name: text, prompt included and SEP lines taken out}, sorted by name.

  Args:
    path: the zip with `data_text/SPLIT`, `output_text_davinci/SPLIT` and `output_text_ada/SPLIT`.
    who: 'human', 'davinci' or 'ada'.
    split: 'dev' or 'test', for 'human' also 'train'.

  Raises:
    UserError: if the zip cannot be read or has no such texts.
  """
  folder = f'{FOLDERS[who]}/{split}/'
  try:
    with zipfile.ZipFile(path) as file:
      names = sorted(n for n in file.namelist() if n.startswith(folder) and n.endswith('.txt'))
      texts = {PurePosixPath(name).stem: file.read(name).decode() for name in names}
  except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
    raise UserError(f'{path} cannot be read as the zip of published texts: {error}.') from error
  if not texts:
    raise UserError(f'{path} has no texts in {folder}.')
  return texts


def read_notes(path: str | os.PathLike, version: str = 'v2') -> list[Note]:
  """The listening notes of one round; 'v2' is the final one.

  Raises:
    UserError: for a file that is missing, lacks a column, or holds a word that is not understood.
  """
  try:
    with open(path, newline='', encoding='utf-8') as file:
      rows = [row for row in csv.DictReader(file) if row['version'] == version]
      return [
        Note(
          row['drummer'],
          row['name'],
          'not rated' if row['pattern'] == _UNRATED else row['pattern'].lower(),
          _mark(row['fill'], 'no'),
          None if row['short'] == _UNRATED else bool(row['short']),
        )
        for row in rows
      ]
  except KeyError as error:
    raise UserError(f'{path} is not the table of listening notes: it lacks {error}.') from error
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f'{path} cannot be read as a CSV file: {error}.') from error


def tabulate(notes: Sequence[Note]) -> dict[str, int]:
  """Counts: every one of PATTERNS, 'fill', 'fill rated', 'short'."""
  patterns = Counter(note.pattern for note in notes)
  return {
    **{pattern: patterns[pattern] for pattern in PATTERNS},
    'fill': sum(note.fill is True for note in notes),
    'fill rated': sum(note.fill is not None for note in notes),
    'short': sum(note.short is True for note in notes),
  }


def fill_auc(notes: Sequence[Note], curves: Mapping[tuple[str, str], np.ndarray]) -> float:
  """Area under the curve with which the largest stability value tells grooves with a fill from those without.

  Args:
    notes: those that were not rated are left out, and those whose curve is empty.
    curves: {(who, name): stability curve}.

  Raises:
    ValueError: if only one kind of groove is left.
  """
  # Takes a second to load, and only this function needs it.
  from sklearn.metrics import roc_auc_score

  rated = [note for note in notes if note.fill is not None and len(curves[note.who, note.name])]
  heard = [note.fill for note in rated]
  if len(set(heard)) < 2:
    raise ValueError('Grooves with a fill and grooves without one are needed.')
  return float(roc_auc_score(heard, [curves[note.who, note.name].max() for note in rated]))


def comparison(texts_path: str | os.PathLike, notes_path: str | os.PathLike) -> dict[str, dict[str, float]]:
  """{corpus: {row: value}} for the 37 test grooves, each as it was encoded: human, davinci, ada, repeat and random.

  Rows are those of `metrics.describe`, and for the first three also those of `tabulate` and 'fill_auc'.

  Raises:
    UserError: what `read_texts` and `read_notes` find.
  """
  bundled, notes = data.bundled(), read_notes(notes_path)
  train, human = ([groove.grid for groove in bundled if groove.split == split] for split in ('train', 'test'))
  corpora: dict[str, Sequence[str | np.ndarray]] = {
    'repeat': [repeat_baseline(grid) for grid in human],
    'random': random_baseline(len(human)),
  }
  heard = {}
  for who in FOLDERS:
    texts = read_texts(texts_path, who, 'test')
    curves = dict(zip([(who, name) for name in texts], stability_curves(list(texts.values())), strict=True))
    own = [note for note in notes if note.who == who]
    heard[who] = {**tabulate(own), 'fill_auc': fill_auc(own, curves)}
    corpora[who] = list(texts.values())
  rows = {who: metrics.describe(corpora[who], train, human) for who in (*FOLDERS, 'repeat', 'random')}
  return {who: {**row, **heard.get(who, {})} for who, row in rows.items()}


def _mark(text: str, no: str) -> bool | None:
  return None if text == _UNRATED else text not in ('', no)


def _print(table: Mapping[str, Mapping[str, float]]) -> None:
  print(f'{"":18}' + ''.join(f'{who:>10}' for who in table))
  for row in dict.fromkeys(row for several in table.values() for row in several):
    values = [table[who].get(row) for who in table]
    cells = ['' if v is None else f'{v:.4f}' if v % 1 or 'mean' in row else f'{v:.0f}' for v in values]
    print(f'{row:18}' + ''.join(f'{cell:>10}' for cell in cells))


if __name__ == '__main__':
  _print(comparison(*sys.argv[1:3]))
