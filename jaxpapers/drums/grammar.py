"""The notation as an automaton over tokens: with it, every sample is legal and has exactly the measures asked for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxpapers.drums.notation import END, INSTRUMENTS, SEP, STEPS

_ALPHABET = b'-o\n' + bytes(sorted(set((SEP + END).encode()) - set(b'\n')))


class Grammar(NamedTuple):
  """Which tokens may follow.

  Attributes:
    ids: [n] int32, tokens that are legal in some state.
    next: [states, n] int32, state after each of them; -1 where it is illegal.
    start: state before the first line.
    done: state after the end; nothing is legal in it.
  """

  ids: np.ndarray
  next: np.ndarray
  start: np.ndarray
  done: np.ndarray


def measures_grammar(tokens: Sequence[bytes], measures: int, closing: str = END) -> Grammar:
  """`measures` measures of sixteen lines with SEP lines between them and `closing` behind the last.

  Source: this library's own.

  Args:
    tokens: bytes of every token id; those without bytes are never legal.
    measures: at least 1.
    closing: END, or SEP for a part of a groove.

  Raises:
    ValueError: for no measure, or a vocabulary that cannot spell every character.
  """
  if measures < 1:
    raise ValueError(f'A grammar needs at least 1 measure, not {measures}.')
  steps = _byte_automaton(measures, closing)
  letters = {letter: index for index, letter in enumerate(_ALPHABET)}
  single = {token for token in tokens if len(token) == 1}
  missing = [chr(letter) for letter in _ALPHABET if bytes([letter]) not in single]
  if missing:
    raise ValueError(f'This vocabulary has no token for {", ".join(map(repr, missing))}.')
  ids, columns = [], []
  for index, token in enumerate(tokens):
    if not token or any(byte not in letters for byte in token):
      continue
    state = np.arange(len(steps))
    for byte in token:
      state = steps[state, letters[byte]]
    if np.any(state[:-1] >= 0):
      ids.append(index)
      columns.append(state[:-1])
  done = len(steps) - 2
  return Grammar(np.array(ids, np.int32), np.stack(columns, axis=1).astype(np.int32), np.int32(0), np.int32(done))


def _byte_automaton(measures: int, closing: str) -> np.ndarray:
  """[states + 1, letters]: next state, -1 illegal; the last row, which -1 indexes, leads nowhere."""
  letters = {letter: index for index, letter in enumerate(_ALPHABET)}
  rows: list[dict[bytes, int]] = []

  def path(choices: Sequence[bytes]) -> None:
    """A chain of states, each left by any of its letters."""
    for letter in choices:
      rows.append({bytes([byte]): len(rows) + 1 for byte in letter})

  for measure in range(measures):
    path(([b'-o'] * len(INSTRUMENTS) + [b'\n']) * STEPS)
    path([bytes([byte]) for byte in (SEP if measure < measures - 1 else closing).encode()])
  table = np.full((len(rows) + 2, len(_ALPHABET)), -1)
  for state, row in enumerate(rows):
    for letter, target in row.items():
      table[state, letters[letter[0]]] = target
  return table
