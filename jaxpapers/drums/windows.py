"""Grooves and text as padded token arrays: what training reads, and what nats per line are counted on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxpapers.drums.generation import pad
from jaxpapers.drums.ngrams import sounding
from jaxpapers.drums.notation import END, SEP, STEPS, prompt_completion, to_text
from jaxpapers.drums.tokenizers import Tokenizer

PROMPT = 2


class Examples(NamedTuple):
  """Texts as tokens.

  Attributes:
    ids: [examples, time] int32, padded on the right.
    weights: [examples, time - 1] float32, of predicting each token but the first; 0 for padding.
    lines: [examples] int32, step lines that the weighted tokens spell.
  """

  ids: np.ndarray
  weights: np.ndarray
  lines: np.ndarray

  def arrays(self) -> dict[str, np.ndarray]:
    """As a source of batches has them."""
    return self._asdict()


def training_windows(
  grids: Sequence[np.ndarray], tokenizer: Tokenizer, measures: int = 4, prompt_weight: float = 1.0
) -> Examples:
  """Every run of consecutive measures whose last one is not silent; a SEP line behind each.

  Args:
    grids: bool [steps, 6] each; a last part of a measure is left out.
    tokenizer: vocabulary.
    measures: in a window.
    prompt_weight: of the tokens of the first two measures.

  Raises:
    ValueError: if no groove has so many measures.
  """
  texts, weights = [], []
  for grid in grids:
    tokens = _measure_tokens(grid, tokenizer)
    for start in range(len(tokens) - measures + 1):
      if not grid[(start + measures - 1) * STEPS : (start + measures) * STEPS].any():
        continue
      window = tokens[start : start + measures]
      texts.append(sum(window, []))
      weights.append(_weights(sum(map(len, window[:PROMPT])), len(texts[-1]), prompt_weight))
  if not texts:
    raise ValueError(f'No groove has {measures} measures.')
  return _examples(texts, weights, np.full(len(texts), measures * STEPS, np.int32))


def whole_grooves(grids: Sequence[np.ndarray], tokenizer: Tokenizer, prompt_weight: float = 0.01) -> Examples:
  """Prompt and completion of every groove, END included, as the paper's fine-tuning files have them.

  Args:
    grids: bool [steps, 6] each.
    tokenizer: vocabulary.
    prompt_weight: of prompt tokens; 0 counts completions alone.
  """
  texts, weights = [], []
  for grid in grids:
    prompt, completion = (tokenizer.encode(text) for text in prompt_completion(grid))
    texts.append(prompt + completion)
    weights.append(_weights(len(prompt), len(texts[-1]), prompt_weight))
  return _examples(texts, weights, np.array([len(grid) - PROMPT * STEPS for grid in grids], np.int32))


def scored_windows(grids: Sequence[np.ndarray], tokenizer: Tokenizer) -> Examples:
  """Measures 3 and 4 given 1 and 2, of the grooves with hits in both: the protocol of the reference baselines.

  The SEP lines behind measures 3 and 4 count too; there are 32 step lines in each.
  """
  chosen = [grids[index][: 4 * STEPS] for index in sounding(grids)]
  examples = training_windows(chosen, tokenizer, 4, prompt_weight=0.0)
  return examples._replace(lines=np.full(len(chosen), 2 * STEPS, np.int32))


def completion_windows(grids: Sequence[np.ndarray], tokenizer: Tokenizer, measures: int = 4) -> Examples:
  """Every measure from the third on, given the `measures` - 1 before it or as many as there are.

  Summed over a groove this is the whole completion for a model whose positions end after `measures`. The SEP line
  behind each measure counts too.
  """
  texts, weights = [], []
  for grid in grids:
    tokens = _measure_tokens(grid, tokenizer)
    for last in range(PROMPT, len(tokens)):
      window = tokens[max(0, last + 1 - measures) : last + 1]
      texts.append(sum(window, []))
      weights.append(_weights(len(texts[-1]) - len(window[-1]), len(texts[-1]), 0.0))
  return _examples(texts, weights, np.full(len(texts), STEPS, np.int32))


def text_windows(text: str, tokenizer: Tokenizer, length: int) -> Examples:
  """Text cut into pieces of `length` tokens; the rest is left out.

  Raises:
    ValueError: for a text shorter than one piece.
  """
  ids = np.array(tokenizer.encode(text), np.int32)
  if len(ids) < length:
    raise ValueError(f'The text has fewer than {length} tokens.')
  ids = ids[: len(ids) // length * length].reshape(-1, length)
  return Examples(ids, np.ones((len(ids), length - 1), np.float32), np.zeros(len(ids), np.int32))


def drum_vocabulary(tokenizer: Tokenizer, grids: Sequence[np.ndarray]) -> np.ndarray:
  """Sorted int32 ids that the texts of `grids` use, the letters of SEP and END among them."""
  used = {index for grid in grids for index in tokenizer.encode(to_text(grid))}
  return np.array(sorted(used | set(tokenizer.encode(SEP + END))), np.int32)


def padded(examples: Examples, multiple: int) -> Examples:
  """Longer rows, so that their length is a multiple: fewer shapes, fewer compilations."""
  more = -examples.ids.shape[1] % multiple
  wide = ((0, 0), (0, more))
  return Examples(np.pad(examples.ids, wide), np.pad(examples.weights, wide), examples.lines)


def _measure_tokens(grid: np.ndarray, tokenizer: Tokenizer) -> list[list[int]]:
  # No token crosses the end of a line, so that measures can be encoded apart.
  starts = range(0, len(grid) // STEPS * STEPS, STEPS)
  return [tokenizer.encode(to_text(grid[start : start + STEPS]) + SEP) for start in starts]


def _weights(before: int, length: int, prompt_weight: float) -> np.ndarray:
  weights = np.ones(length, np.float32)
  weights[:before] = prompt_weight
  return weights[1:]


def _examples(texts: list[list[int]], weights: list[np.ndarray], lines: np.ndarray) -> Examples:
  ids, lengths = pad(texts)
  wide = np.zeros((len(ids), ids.shape[1] - 1), np.float32)
  for row, values, length in zip(wide, weights, lengths, strict=True):
    row[: length - 1] = values
  return Examples(ids, wide, lines)
