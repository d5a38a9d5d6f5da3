"""A graph from a table: rows nearly as close as a row's closest are its neighbours."""

import numpy as np
from sklearn.metrics import pairwise_distances_chunked


def similarity_edges(rows: np.ndarray, threshold: float, *, working_memory: int = 256) -> tuple[np.ndarray, np.ndarray]:
  """Directed edges i -> j where 1 / (1 + |r_i - r_j|) exceeds `threshold` times the largest of i to another row.

  Args:
    rows: [N, D] raw table rows.
    threshold: .6 for bail, .7 for credit.
    working_memory: MiB of distances held at once.

  Returns:
    (i, j), int32, in order of i, then j; no loops.

  Raises:
    ValueError: for fewer than two rows or values that are no numbers.
  """
  rows = np.asarray(rows, np.float64)
  if rows.ndim != 2 or len(rows) < 2:
    raise ValueError(f'Similarity needs a table of at least 2 rows, not an array of shape {rows.shape}.')
  if not np.isfinite(rows).all():
    raise ValueError(f'Row {np.argwhere(~np.isfinite(rows))[0][0]} of the table holds a value that is no number.')
  first, second, done = [], [], 0
  for distances in pairwise_distances_chunked(rows, working_memory=working_memory):
    own = np.arange(len(distances))
    similarity = 1.0 / (1.0 + distances)
    similarity[own, done + own] = 0.0
    i, j = np.nonzero(similarity > threshold * similarity.max(axis=1, keepdims=True))
    first.append(i + done)
    second.append(j)
    done += len(distances)
  return np.concatenate(first).astype(np.int32), np.concatenate(second).astype(np.int32)
