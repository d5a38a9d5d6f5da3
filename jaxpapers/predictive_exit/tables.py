"""What policies work on: logits of every exit, the work behind them, and the checks that name what is wrong."""

from typing import NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray


class ExitTable(NamedTuple):
  """Outputs of every exit for every sample; the last exit is the network's own classifier.

  Attributes:
    logits: [samples, exits, classes] float.
    labels: [samples] int.
  """

  logits: Array
  labels: Array


class Costs(NamedTuple):
  """Work between and in the exits. Segment k = the layers after tap k-1 up to tap k; head k = exit layer k.

  Attributes:
    segment_macs: [exits] multiply-adds.
    segment_bytes: [exits] bytes read and written, float32 maps and weights.
    head_macs: [exits] multiply-adds; the last is the classifier.
    head_bytes: [exits] bytes.
  """

  segment_macs: Array
  segment_bytes: Array
  head_macs: Array
  head_bytes: Array


def check_table(table: ExitTable, what: str = 'table') -> ExitTable:
  """The table itself, if its shapes fit.

  Raises:
    ValueError: for logits that are not [samples, exits, classes], an empty set, one exit, or other labels.
  """
  logits, labels = np.asarray(table.logits), np.asarray(table.labels)
  if logits.ndim != 3:
    raise ValueError(f'The {what} needs logits [samples, exits, classes], not an array of shape {logits.shape}.')
  if not len(logits):
    raise ValueError(f'The {what} set is empty.')
  if logits.shape[1] < 2:
    raise ValueError(f'The {what} has one exit, the classifier: there is nothing to leave early at.')
  if labels.shape != logits.shape[:1] or labels.dtype.kind not in 'iu':
    raise ValueError(
      f'The {what} needs one integer label per sample, {logits.shape[:1]}, not {labels.dtype} {labels.shape}.'
    )
  if labels.min() < 0 or labels.max() >= logits.shape[2]:
    raise ValueError(f'The {what} has labels outside 0..{logits.shape[2] - 1}.')
  return table


def check_costs(costs: Costs, exits: int) -> Costs:
  """The costs themselves, if there is one number per exit and none is negative or NaN.

  Raises:
    ValueError: naming the entry.
  """
  for name, value in costs._asdict().items():
    value = np.asarray(value)
    if value.shape != (exits,):
      raise ValueError(f'{name} needs one number for each of the {exits} exits, not shape {value.shape}.')
    if not np.all(np.isfinite(value)) or np.any(value < 0):
      raise ValueError(f'{name} holds a negative number or NaN.')
  if not np.any(np.asarray(costs.segment_macs) > 0):
    raise ValueError('segment_macs holds no work at all.')
  return costs


def check_thresholds(theta: Array, exits: int) -> Array:
  """The thresholds themselves, if they are one number or one per exit, and no NaN; infinities are allowed.

  Raises:
    ValueError: otherwise.
  """
  value = np.asarray(theta)
  if value.shape not in ((), (exits,)):
    raise ValueError(f'Thresholds are one number or one for each of the {exits} exits, not shape {value.shape}.')
  if np.any(np.isnan(value)):
    raise ValueError('A threshold is NaN.')
  return theta


def check_start(start: int, exits: int) -> int:
  """The start itself, if it is an exit.

  Raises:
    ValueError: outside 0..exits-1.
  """
  if not 0 <= start < exits:
    raise ValueError(f'The starting exit {start} is outside 0..{exits - 1}.')
  return start


def check_edges(edges: Array) -> Array:
  """Bin edges themselves, if they ascend (equal neighbours make an empty bin and are allowed).

  Raises:
    ValueError: otherwise.
  """
  value = np.asarray(edges)
  if value.ndim != 1 or np.any(np.isnan(value)) or np.any(np.diff(value) < 0):
    raise ValueError('The edges of the score bins must be a list of ascending numbers.')
  return edges
