"""Index sets drawn as the authors draw them."""

import random

import numpy as np

from jaxpapers.reliant.problem import Splits


def class_lists(labels: np.ndarray, seed: int = 20) -> list[list[int]]:
  """Nodes of class 0, then of class 1, each shuffled by Python's `random` after one `random.seed(seed)`."""
  source = random.Random(seed)
  lists = []
  for value in (0, 1):
    nodes = np.flatnonzero(labels == value).tolist()
    source.shuffle(nodes)
    lists.append(nodes)
  return lists


def split_by_class(labels: np.ndarray, train: float, val: float, *, seed: int = 20, train_per_class: int = 0) -> Splits:
  """Shares of each class for training and validation, the rest for testing.

  Args:
    labels: [N], 0 or 1; other nodes are in no split.
    train: share, .3 for bail and .5 for DBLP.
    val: share, .2 and .25.
    seed: of the shuffles.
    train_per_class: that many training nodes of each class instead of a share (credit: 500); validation and test then
      take .25 of each class (from the middle and from the last quarter), and some nodes are in no split.

  Raises:
    ValueError: for a class without nodes.
  """
  parts: list[list[int]] = [[], [], []]
  for value, nodes in enumerate(class_lists(labels, seed)):
    if not nodes:
      raise ValueError(f'No node has label {value}: a split needs both classes.')
    count = len(nodes)
    if train_per_class:
      cuts = (min(train_per_class, count // 2), int(0.5 * count), int(0.75 * count))
      pieces = (nodes[: cuts[0]], nodes[cuts[1] : cuts[2]], nodes[cuts[2] :])
    else:
      cuts = (int(train * count), int((train + val) * count))
      pieces = (nodes[: cuts[0]], nodes[cuts[0] : cuts[1]], nodes[cuts[1] :])
    for part, piece in zip(parts, pieces, strict=True):
      part += piece
  return Splits(*(np.asarray(part) for part in parts))
