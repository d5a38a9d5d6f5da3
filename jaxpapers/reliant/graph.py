"""Graphs as `jraph.GraphsTuple`: built once on the host, edges sorted by receiver, degrees beside the features."""

import jax
import jraph
import numpy as np
from scipy import sparse


def symmetric_edges(
  senders: np.ndarray, receivers: np.ndarray, nodes: int, *, self_loops: bool = True
) -> tuple[np.ndarray, np.ndarray]:
  """Both directions of every edge, once each, and one self-loop per node.

  Args:
    senders: [E] int.
    receivers: [E] int.
    nodes: N.
    self_loops: False removes loops instead of adding them.

  Returns:
    (senders, receivers), int32, sorted by receiver, then sender.

  Raises:
    ValueError: for an index outside 0..N-1.
  """
  check_edges(senders, receivers, nodes)
  pattern = sparse.coo_array((np.ones(len(senders), bool), (receivers, senders)), shape=(nodes, nodes)).tocsr()
  pattern = sparse.csr_array(pattern + pattern.T)
  identity = sparse.eye_array(nodes, dtype=bool, format='csr')
  pattern = pattern + identity
  if not self_loops:
    pattern = sparse.csr_array(pattern.astype(np.int8) - identity.astype(np.int8))
    pattern.eliminate_zeros()
  pattern.sort_indices()
  counts = np.diff(pattern.indptr)
  return pattern.indices.astype(np.int32), np.repeat(np.arange(nodes, dtype=np.int32), counts)


def check_edges(senders: np.ndarray, receivers: np.ndarray, nodes: int) -> None:
  """Refuses edges that point outside the graph.

  Raises:
    ValueError: naming the first such edge.
  """
  senders, receivers = np.asarray(senders), np.asarray(receivers)
  if senders.shape != receivers.shape or senders.ndim != 1:
    raise ValueError(f'Senders {senders.shape} and receivers {receivers.shape} must be lists of the same length.')
  for name, ends in (('sender', senders), ('receiver', receivers)):
    wrong = np.flatnonzero((ends < 0) | (ends >= nodes))
    if wrong.size:
      raise ValueError(
        f'Edge {wrong[0]} has {name} {ends[wrong[0]]}, but the nodes are 0..{nodes - 1} ({wrong.size} such edges).'
      )


def receiver_order(receivers: np.ndarray) -> np.ndarray:
  """Permutation [E] that sorts edges by receiver and keeps their order otherwise."""
  return np.argsort(receivers, kind='stable')


def make_graph(x: np.ndarray, senders: np.ndarray, receivers: np.ndarray) -> jraph.GraphsTuple:
  """One graph, edges sorted by receiver as every layer here expects them.

  Args:
    x: [N, F] features.
    senders: [E]; a message flows from sender to receiver. Self-loops are part of the list: no layer adds any.
    receivers: [E].

  Returns:
    GraphsTuple of NumPy arrays with nodes {'x' [N, F] float32, 'in_degree' [N] float32, 'out_degree' [N] float32 (both
    at least 1), 'id' [N] int32} and edges None (all of weight 1) or [E] weights, as sampling gives them.

  Raises:
    ValueError: for edges outside the graph.
  """
  count = len(x)
  check_edges(senders, receivers, count)
  order = receiver_order(receivers)
  senders, receivers = np.asarray(senders)[order].astype(np.int32), np.asarray(receivers)[order].astype(np.int32)
  nodes = {
    'x': np.asarray(x, np.float32),
    'in_degree': np.maximum(np.bincount(receivers, minlength=count), 1).astype(np.float32),
    'out_degree': np.maximum(np.bincount(senders, minlength=count), 1).astype(np.float32),
    'id': np.arange(count, dtype=np.int32),
  }
  return jraph.GraphsTuple(
    nodes=nodes,
    edges=None,
    senders=senders,
    receivers=receivers,
    globals=None,
    n_node=np.array([count], np.int32),
    n_edge=np.array([len(senders)], np.int32),
  )


def with_features(graph: jraph.GraphsTuple, x: jax.Array) -> jraph.GraphsTuple:
  """The graph with other node features [N, F]."""
  return graph._replace(nodes={**graph.nodes, 'x': x})


def node_count(graph: jraph.GraphsTuple) -> int:
  """N, padding included."""
  return graph.nodes['x'].shape[0]
