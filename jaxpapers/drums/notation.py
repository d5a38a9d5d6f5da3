"""Grooves as grids, lines and text (the paper's notation, as in the authors' code).

A grid is [steps, 6] bool, one row a sixteenth note, columns INSTRUMENTS. A line is its row as a number 0..63, the crash
the most significant bit; its text is six characters, `o` a hit and `-` a rest. Text is made for language models only.
"""

import re
from typing import NamedTuple

import chex
import numpy as np

INSTRUMENTS = ('crash', 'ride', 'snare', 'kick', 'hi-hat', 'tom')
CANONICAL = (49, 51, 38, 36, 42, 50)
MERGED = ((49, 52, 55, 57), (51, 53, 59), (37, 38, 40), (36,), (22, 26, 42, 46), (43, 45, 47, 48, 50, 58))
IGNORED = (39, 44, 54, 56)
STEPS = 16
LINES = 64
SHORTEST = 129
SEP, END = 'SEP\n', 'END'

_SEP_LINE = re.compile(f'^{SEP}', re.MULTILINE)
_HIT, _REST, _BREAK = ord('o'), ord('-'), ord('\n')
_BITS = np.unpackbits(np.arange(LINES, dtype=np.uint8)[:, None], axis=1)[:, 2:].astype(bool)
LINE_TEXT = np.concatenate([np.where(_BITS, _HIT, _REST), np.full((LINES, 1), _BREAK)], axis=1).astype(np.uint8)


class Parsed(NamedTuple):
  """What a text held.

  Attributes:
    grid: [steps, 6] bool; an illegal line is a step too.
    repaired: number of lines that were not six characters `o` and `-`.
    blank: number of empty lines, which are no steps.
    problems: one sentence for every repaired line, with its number in the text, counted from 1.
    ended: whether END was there; what follows it is not read.
  """

  grid: np.ndarray
  repaired: int
  blank: int
  problems: tuple[str, ...]
  ended: bool


def line_ids(grid: np.ndarray) -> np.ndarray:
  """[..., steps] uint8 numbers 0..63 of the rows of `grid` [..., steps, 6]."""
  grid = np.asarray(grid)
  chex.assert_axis_dimension(grid, -1, len(INSTRUMENTS))
  return np.packbits(grid.astype(bool), axis=-1)[..., 0] >> 2


def grid_of(ids: np.ndarray) -> np.ndarray:
  """[..., 6] bool rows of line numbers 0..63.

  Raises:
    ValueError: for a number outside.
  """
  ids = np.asarray(ids)
  if ids.size and not (0 <= ids.min() and ids.max() < LINES):
    raise ValueError(f'Line numbers lie in 0..{LINES - 1}, not {ids.min()}..{ids.max()}.')
  return _BITS[ids.astype(np.intp)]


def to_text(grid: np.ndarray) -> str:
  """One line of text a step, each with its newline. Source: the paper's text notation, as in the authors' code."""
  chex.assert_rank(grid, 2)
  return LINE_TEXT[line_ids(grid)].tobytes().decode()


def parse(text: str, strict: bool = False) -> Parsed:
  """Reads lines, without SEP lines, up to the first END. Source: the paper's text notation.

  An illegal line is repaired and counted: other characters are rests, long lines are cut, short ones padded with rests.

  Args:
    text: lines that end in newline or carriage return and newline; the last may lack it.
    strict: an illegal line is an error.

  Raises:
    ValueError: if strict, naming the first illegal line.
  """
  body, end, _ = text.replace('\r\n', '\n').partition(END)
  grid = _parse_legal(body)
  if grid is not None:
    return Parsed(grid, 0, 0, (), bool(end))
  rows, problems, blank = [], [], 0
  lines = body.split('\n')
  for number, line in enumerate(lines, 1):
    word = line.strip()
    if not word:
      # The text behind the last newline is no line.
      blank += number < len(lines)
      continue
    fault = _fault(line)
    if fault:
      problems.append(f'line {number}: {line!r} {fault}')
      if strict:
        raise ValueError(problems[-1] + '.')
    if word != SEP.strip():
      rows.append(line[: len(INSTRUMENTS)].ljust(len(INSTRUMENTS), '-'))
  characters = np.array(rows, 'U6').view('U1').reshape(-1, len(INSTRUMENTS))
  return Parsed(characters == 'o', len(problems), blank, tuple(problems), bool(end))


def drop_leading_silence(grid: np.ndarray) -> np.ndarray:
  """Removes measures from the front while their first quarter note is silent, a pick-up behind it included.

  Source: the authors' code.
  """
  starts = np.arange(0, len(grid), STEPS)
  sounds = [grid[start : start + STEPS // 4].any() for start in starts]
  return grid[starts[np.argmax(sounds)] :] if any(sounds) else grid[:0]


def prompt_completion(grid: np.ndarray, prompt_measures: int = 2) -> tuple[str, str]:
  """(prompt, completion) of a groove. Source: the authors' fine-tuning records.

  A SEP line follows every measure of the prompt and stands between those of the completion; END is last.
  """
  text = to_text(grid)
  width = STEPS * LINE_TEXT.shape[1]
  measures = [text[i : i + width] for i in range(0, len(text), width)]
  prompt = ''.join(measure + SEP for measure in measures[:prompt_measures])
  return prompt, SEP.join(measures[prompt_measures:]) + END


def _parse_legal(text: str) -> np.ndarray | None:
  """The grid of a text in which every line is legal, else None."""
  if not text.isascii():
    return None
  text = _SEP_LINE.sub('', text)
  if text and not text.endswith('\n'):
    text += '\n'
  if len(text) % LINE_TEXT.shape[1]:
    return None
  characters = np.frombuffer(text.encode(), np.uint8).reshape(-1, LINE_TEXT.shape[1])
  hits = characters[:, :-1] == _HIT
  legal = np.all(hits | (characters[:, :-1] == _REST)) and np.all(characters[:, -1] == _BREAK)
  return hits if legal else None


def _fault(line: str) -> str:
  """What is wrong with a line that is not blank; '' for a legal one."""
  if line == SEP.strip():
    return ''
  odd = sorted(set(line) - {'o', '-'})
  if odd:
    return f'has {"".join(odd)!r} where only "o" and "-" belong'
  width = len(INSTRUMENTS)
  return '' if len(line) == width else f'has {len(line)} characters, not {width}'
