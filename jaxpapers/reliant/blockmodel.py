"""The embedded graph: a stochastic block model with planted bias."""

import numpy as np

from jaxpapers.reliant.graph import symmetric_edges
from jaxpapers.reliant.splits import split_by_class


def block_model(seed: int, nodes: int = 1200, edges: int = 6000):
  """A graph whose labels, features and edges all depend on the sensitive attribute.

  s ~ Bernoulli(.45); y ~ Bernoulli(.60 if s else .35), so the labels' own gap is .25; 6 feature columns tell y, 4 tell
  s, 6 are noise; edges prefer equal y (.8 to .2) and equal s (.75 to .25).

  Args:
    seed: of everything.
    nodes: N.
    edges: distinct undirected edges.

  Returns:
    (x [N, 16] float32, senders, receivers with both directions and loops, labels [N], sensitive [N], Splits). The
    number of directed edges is 2 * edges + nodes for every seed.
  """
  if edges > nodes * (nodes - 1) // 8:
    raise ValueError(f'{edges} edges are too many for a sparse graph of {nodes} nodes.')
  rng = np.random.default_rng([seed, 4])
  sensitive = (rng.random(nodes) < 0.45).astype(np.int32)
  labels = (rng.random(nodes) < np.where(sensitive == 1, 0.60, 0.35)).astype(np.int32)
  x = rng.normal(size=(nodes, 16))
  x[:, :6] += 0.45 * (2 * labels[:, None] - 1)
  x[:, 6:10] += 0.8 * (2 * sensitive[:, None] - 1)
  found = np.zeros(0, np.int64)
  while len(found) < edges:
    i, j = rng.integers(0, nodes, (2, 4 * edges))
    accept = np.where(labels[i] == labels[j], 0.8, 0.2) * np.where(sensitive[i] == sensitive[j], 0.75, 0.25)
    kept = (rng.random(len(i)) < accept) & (i != j)
    pairs = np.minimum(i, j)[kept].astype(np.int64) * nodes + np.maximum(i, j)[kept]
    both = np.concatenate([found, pairs])
    _, first = np.unique(both, return_index=True)
    found = both[np.sort(first)][:edges]
  senders, receivers = symmetric_edges(found // nodes, found % nodes, nodes)
  return x.astype(np.float32), senders, receivers, labels, sensitive, split_by_class(labels, 0.3, 0.2)
