"""What the authors published beside the method: continuations by two GPT-3 models and listening notes (section 6.3).

They state no licence, so nothing of it lies in this package: both are read from files of one's own.
"""

import csv
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

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


def _mark(text: str, no: str) -> bool | None:
  return None if text == _UNRATED else text not in ('', no)
