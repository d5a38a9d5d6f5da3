"""What one training sees: a graph, labels, groups and index sets, as arrays of static shape."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jraph
import numpy as np

from jaxpapers.reliant.fairness import group_contrast
from jaxpapers.reliant.graph import make_graph

METRICS = ('sp', 'eo')


class Splits(NamedTuple):
  """Node indices, int; disjoint."""

  train: np.ndarray
  val: np.ndarray
  test: np.ndarray


class Problem(NamedTuple):
  """A pytree of arrays; masks are float32, 1 where a node (or edge) counts. Padding counts nowhere.

  Attributes:
    graph: nodes 'x', 'in_degree', 'out_degree', 'id', 'start' [N, C] (labels of training nodes, else 1 / C) and
      'clamped' [N] bool (training nodes).
    labels: [N] int32.
    sensitive: [N] int32.
    train: [N].
    val: [N].
    test: [N].
    student_contrast: [M, N], one row per metric: the gap in the student's loss.
    proxy_contrast: [M, N]: the gap in the proxies' loss.
    real: [N].
    real_edges: [E].
  """

  graph: jraph.GraphsTuple
  labels: jax.Array
  sensitive: jax.Array
  train: jax.Array
  val: jax.Array
  test: jax.Array
  student_contrast: jax.Array
  proxy_contrast: jax.Array
  real: jax.Array
  real_edges: jax.Array


def check_splits(splits: Splits, nodes: int) -> Splits:
  """The index sets as int64, if they can be.

  Raises:
    ValueError: for an empty split, an index outside the graph, one that is no whole number, or one in two splits.
  """
  parts = {}
  for name, values in splits._asdict().items():
    values = np.asarray(values)
    if values.ndim != 1 or not values.size:
      raise ValueError(f'Split {name!r} is empty.')
    whole = values.astype(np.int64)
    if np.any(whole != values):
      raise ValueError(f'Split {name!r} holds {values[whole != values][0]}, which is no node number.')
    if whole.min() < 0 or whole.max() >= nodes:
      wrong = whole[(whole < 0) | (whole >= nodes)][0]
      raise ValueError(f'Split {name!r} holds node {wrong}, but the nodes are 0..{nodes - 1}.')
    parts[name] = whole
  names = list(parts)
  for i, first in enumerate(names):
    for second in names[i + 1 :]:
      both = np.intersect1d(parts[first], parts[second])
      if both.size:
        raise ValueError(f'Node {both[0]} is in split {first!r} and in split {second!r} ({both.size} such nodes).')
  return Splits(**parts)


def check_labels(labels: np.ndarray, classes: int, splits: Splits) -> np.ndarray:
  """Labels as int32; nodes in no split may have any, others must be 0..C-1.

  Raises:
    ValueError: naming a labelled node whose label is none.
  """
  labels = np.asarray(labels)
  for name, members in splits._asdict().items():
    values = labels[members]
    wrong = ~np.isin(values, np.arange(classes))
    if wrong.any():
      node, value = members[wrong][0], values[wrong][0]
      raise ValueError(
        f'Node {node} of split {name!r} has label {value}: nodes of a split need a label in 0..{classes - 1}.'
      )
  return np.where(np.isin(labels, np.arange(classes)), labels, 0).astype(np.int32)


def make_problem(
  x: np.ndarray,
  senders: np.ndarray,
  receivers: np.ndarray,
  labels: np.ndarray,
  sensitive: np.ndarray,
  splits: Splits,
  *,
  classes: int = 2,
  metrics: Sequence[str] = ('sp',),
  framework: str = 'cpf',
  eo_labels: str = 'all',
  positive: int = 1,
) -> Problem:
  """All arrays of a full-batch training, NumPy, edges sorted by receiver.

  Args:
    x: [N, F].
    senders: [E], with self-loops in the list.
    receivers: [E].
    labels: [N] int.
    sensitive: [N] int; values other than 0 and 1 belong to neither group.
    splits: node indices.
    classes: C.
    metrics: rows of the contrasts, of 'sp' and 'eo'.
    framework: 'cpf' takes the gaps over all but training nodes; 'akd' over training nodes for the student and over all
      nodes for the proxies.
    eo_labels: 'all' looks at the true labels of every node, as the authors do, though those of validation and test
      nodes leak into training; 'train' at those of training nodes only, over which the gap is then taken.
    positive: class whose true-positive rates 'eo' compares.

  Raises:
    ValueError: for splits, labels, edges or groups that cannot be.
  """
  nodes = len(x)
  splits = check_splits(splits, nodes)
  labels = check_labels(labels, classes, splits)
  masks = {name: np.zeros(nodes, bool) for name in splits._fields}
  for name, members in splits._asdict().items():
    masks[name][members] = True
  train, everyone = masks['train'], np.ones(nodes, bool)
  sets = {
    'cpf': (('the nodes outside the training split', ~train),) * 2,
    'akd': (('the training split', train), ('the graph', everyone)),
  }
  if framework not in sets:
    raise ValueError(f"framework={framework!r} is not known; it is 'cpf' or 'akd'.")
  if eo_labels not in ('all', 'train'):
    raise ValueError(f"eo_labels={eo_labels!r} is not known; it is 'all' or 'train'.")

  def contrasts(name: str, members: np.ndarray) -> np.ndarray:
    rows = []
    for metric in metrics:
      if metric not in METRICS:
        raise ValueError(f'metric={metric!r} is not known; it is one of {", ".join(METRICS)}.')
      if metric == 'sp':
        rows.append(group_contrast(sensitive, members, name=name))
      elif eo_labels == 'train':
        rows.append(group_contrast(sensitive, train, labels, positive=positive, name='the training split'))
      else:
        rows.append(group_contrast(sensitive, members, labels, positive=positive, name=name))
    return np.stack(rows) if rows else np.zeros((0, nodes), np.float32)

  graph = make_graph(x, senders, receivers)
  start = np.full((nodes, classes), 1.0 / classes, np.float32)
  start[splits.train] = np.eye(classes, dtype=np.float32)[labels[splits.train]]
  graph = graph._replace(nodes={**graph.nodes, 'start': start, 'clamped': train})
  (student_set, proxy_set) = sets[framework]
  return Problem(
    graph=graph,
    labels=labels,
    sensitive=np.asarray(sensitive, np.int32),
    **{name: mask.astype(np.float32) for name, mask in masks.items()},
    student_contrast=contrasts(*student_set),
    proxy_contrast=contrasts(*proxy_set),
    real=np.ones(nodes, np.float32),
    real_edges=np.ones(len(graph.senders), np.float32),
  )


def stacked(problems: Sequence[Problem]) -> Problem:
  """One batch of several problems of one size: every leaf gets a leading axis.

  Raises:
    ValueError: if their shapes differ.
  """
  shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(p)] for p in problems]
  if any(s != shapes[0] for s in shapes):
    raise ValueError('Problems stacked in one batch must have equal shapes.')
  return jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
