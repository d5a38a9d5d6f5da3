"""A small directed graph with self-loops, and a problem on it."""

import numpy as np

from jaxpapers.reliant.problem import Splits, make_problem

NODES, FEATURES = 24, 5


def edges(seed=0, nodes=NODES):
  rng = np.random.default_rng(seed)
  pairs = rng.permutation([(i, j) for i in range(nodes) for j in range(nodes) if i != j])[: 3 * nodes]
  loops = np.arange(nodes)
  return np.concatenate([pairs[:, 0], loops]), np.concatenate([pairs[:, 1], loops])


def arrays(seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(NODES, FEATURES)).astype(np.float32)
  s = np.tile([0, 1], NODES // 2)
  y = np.tile([0, 0, 1, 1], NODES // 4)
  return x, y, s


def problem(seed=0, **options):
  x, y, s = arrays(seed)
  splits = Splits(np.arange(0, 8), np.arange(8, 12), np.arange(12, NODES))
  return make_problem(x, *edges(seed), y, s, splits, **options)
