"""Neighbour-sampled minibatches of static shape, for graphs whose full batch does not fit.

A sampled in-edge of a node of degree d of which k were drawn weighs d / k, so that every sum over in-edges is unbiased;
degrees are those of the whole graph. The drawn subgraph is padded with `jraph.pad_with_graphs`.
"""

from collections.abc import Sequence

import jraph
import numpy as np

from jaxpapers.reliant.fairness import group_contrast
from jaxpapers.reliant.problem import Problem


class Sampler:
  """`sampler(step)` is a padded Problem around `batch_size` drawn nodes: a pure function of (seed, step).

  Nodes are drawn by epochs of random permutations. Losses and gaps are over the drawn nodes alone; a gap whose groups
  are not both among them is zero in that step.
  """

  def __init__(
    self,
    problem: Problem,
    candidates: np.ndarray,
    batch_size: int,
    fanouts: Sequence[int],
    *,
    seed: int = 0,
    metrics: Sequence[str] = ('sp',),
    framework: str = 'cpf',
  ):
    """Indexes the in-edges of `problem`; `candidates` [n] are the nodes that batches are drawn from.

    Raises:
      ValueError: for sizes that cannot be.
    """
    if not 0 < batch_size <= len(candidates):
      raise ValueError(f'batch_size={batch_size} must lie in 1..{len(candidates)}, the nodes to draw from.')
    if not fanouts or min(fanouts) < 1:
      raise ValueError(f'fanouts={tuple(fanouts)} must hold at least one positive number of neighbours.')
    graph = problem.graph
    self._problem, self._candidates, self._seed = problem, np.asarray(candidates), seed
    self._batch_size, self._fanouts = batch_size, tuple(fanouts)
    self._metrics, self._framework = metrics, framework
    counts = np.bincount(graph.receivers, minlength=len(problem.labels))
    self._starts = np.concatenate([[0], np.cumsum(counts)])
    layers = np.cumprod([batch_size, *fanouts])
    # One node and one edge more than can be drawn, for the padding; a node that was no receiver takes its loop along.
    self.max_nodes = min(int(layers.sum()), len(problem.labels)) + 1
    self.max_edges = min(int(layers[1:].sum()) + int(layers[-1]), len(graph.senders) + len(problem.labels)) + 1

  def __call__(self, step: int) -> Problem:
    """Problem of `step`, leaves without a leading axis."""
    epoch, place = divmod(step, len(self._candidates) // self._batch_size)
    order = np.random.default_rng([self._seed, epoch, 0]).permutation(len(self._candidates))
    chosen = self._candidates[order[place * self._batch_size : (place + 1) * self._batch_size]]
    return self.around(chosen, np.random.default_rng([self._seed, step, 1]))

  def around(self, chosen: np.ndarray, rng: np.random.Generator) -> Problem:
    """The padded problem around given nodes."""
    problem, graph = self._problem, self._problem.graph
    known = np.asarray(chosen)
    frontier, picked, weights = known, [], []
    for fanout in self._fanouts:
      edges, weight = self._draw(frontier, fanout, rng)
      picked.append(edges)
      weights.append(weight)
      frontier = np.setdiff1d(graph.senders[edges], known)
      known = np.concatenate([known, frontier])
    # Nodes of the last layer receive nothing more than themselves, at the weight of all their in-edges.
    senders = np.concatenate([graph.senders[np.concatenate(picked)], frontier])
    receivers = np.concatenate([graph.receivers[np.concatenate(picked)], frontier])
    weight = np.concatenate([*weights, graph.nodes['in_degree'][frontier]])
    local = np.full(len(problem.labels), -1)
    local[known] = np.arange(len(known))
    senders, receivers = local[senders], local[receivers]
    by_receiver = np.argsort(receivers, kind='stable')
    nodes = {name: leaf[known] for name, leaf in graph.nodes.items()}
    small = jraph.GraphsTuple(
      nodes=nodes,
      edges=weight[by_receiver].astype(np.float32),
      senders=senders[by_receiver].astype(np.int32),
      receivers=receivers[by_receiver].astype(np.int32),
      globals=None,
      n_node=np.array([len(known)], np.int32),
      n_edge=np.array([len(senders)], np.int32),
    )
    return self._padded(small, known, len(chosen))

  def _draw(self, receivers: np.ndarray, fanout: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Up to `fanout` in-edges of each receiver without replacement: (edge numbers, weights)."""
    degree = self._starts[receivers + 1] - self._starts[receivers]
    owner = np.repeat(np.arange(len(receivers)), degree)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(degree) - degree, degree)
    order = np.lexsort((rng.random(len(owner)), owner))
    kept = order[offset < fanout]
    edges = self._starts[receivers][owner[kept]] + offset[kept]
    weight = (degree / np.maximum(np.minimum(degree, fanout), 1))[owner[kept]]
    return edges, weight

  def _padded(self, small: jraph.GraphsTuple, known: np.ndarray, drawn: int) -> Problem:
    problem, size, extra = self._problem, self.max_nodes, self.max_nodes - len(known)
    padded = jraph.pad_with_graphs(small, self.max_nodes, self.max_edges, 2)
    padded = jraph.GraphsTuple(*(_to_numpy(part) for part in padded))
    for name in ('in_degree', 'out_degree'):
      padded.nodes[name][len(known) :] = 1.0
    chosen = np.arange(size) < drawn

    def rows(values):
      return np.concatenate([values[known], np.zeros(extra, values.dtype)])

    labels, sensitive = rows(problem.labels), rows(problem.sensitive)
    masks = {name: rows(getattr(problem, name)) * chosen.astype(np.float32) for name in ('train', 'val', 'test')}
    outside = chosen & (masks['train'] == 0.0)
    sets = (outside, outside) if self._framework == 'cpf' else (masks['train'] > 0.0, chosen)

    def contrast(members):
      found = [
        group_contrast(sensitive, members, labels if metric == 'eo' else None, allow_empty=True)
        for metric in self._metrics
      ]
      return np.stack(found)

    return Problem(
      graph=padded,
      labels=labels,
      sensitive=sensitive,
      **masks,
      student_contrast=contrast(sets[0]),
      proxy_contrast=contrast(sets[1]),
      real=chosen.astype(np.float32),
      real_edges=(np.arange(self.max_edges) < len(small.senders)).astype(np.float32),
    )


def _to_numpy(part):
  if isinstance(part, dict):
    return {name: np.array(value) for name, value in part.items()}
  return None if part is None else np.array(part)
