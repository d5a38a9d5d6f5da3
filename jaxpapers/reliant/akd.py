"""GraphAKD: three discriminators that the student learns to deceive (He et al., KDD 2022)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import jraph
import optax

from jaxpapers.reliant.losses import masked_mean, negative_log_likelihood
from jaxpapers.reliant.model import Output, Params, torch_linear


class Judged(NamedTuple):
  """One side (teacher or student) as the discriminators see it.

  Attributes:
    logits: [N, C]; log-probabilities of the teacher, raw logits of the student.
    embedding: [N, H].
  """

  logits: jax.Array
  embedding: jax.Array


def init_discriminators(key: jax.Array, width: int, classes: int) -> Params:
  """Parameters of the three, for embeddings of `width` H and C classes: {'logits', 'edges', 'graph'}."""
  first, second = jax.random.split(key)
  return {
    'logits': {'lin': torch_linear(first, classes, classes), 'lin2': torch_linear(second, classes, classes + 1, False)},
    'edges': {'d': jnp.ones(width), 'scale': jnp.full(1, 0.5)},
    'graph': {'d': jnp.ones(width), 'scale': jnp.full(1, 0.5)},
  }


def judge_logits(params: Params, z: jax.Array) -> jax.Array:
  """z [N, C] -> [N, C + 1]: a class head, and last the logit for coming from the teacher."""
  return jax.nn.relu(z + z @ params['lin']['kernel'] + params['lin']['bias']) @ params['lin2']['kernel']


def unit_rows(x: jax.Array) -> jax.Array:
  """Rows divided by their Euclidean norm, at least 1e-12; the gradient at a zero row is zero."""
  squares = jnp.sum(jnp.square(x), axis=1, keepdims=True)
  nonzero = squares > 0.0
  norm = jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squares, 1.0)), 0.0)
  return x / jnp.maximum(norm, 1e-12)


def judge_edges(params: Params, graph: jraph.GraphsTuple, embedding: jax.Array) -> jax.Array:
  """Score of every edge, self-loops included, [E]: scale * sum_f d_f e_uf e_vf."""
  e = unit_rows(embedding)
  return params['scale'] * ((e * params['d'])[graph.senders] * e[graph.receivers]).sum(axis=1)


def summary(embedding: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """c = sigmoid(mean over nodes of the raw embedding), [H]; over masked nodes if there is a mask [N]."""
  if mask is None:
    return jax.nn.sigmoid(embedding.mean(axis=0))
  return jax.nn.sigmoid((embedding * mask[:, None]).sum(axis=0) / mask.sum())


def judge_graph(params: Params, embedding: jax.Array, c: jax.Array) -> jax.Array:
  """Score of every node against a summary [H], [N]: scale * sum_f d_f e_if c_f."""
  return params['scale'] * (unit_rows(embedding) @ (params['d'] * c))


class Nodes(NamedTuple):
  """What the losses need beside both sides; masks are 1 where a node or edge is no padding.

  Attributes:
    labels: [N] int32.
    train: [N] mask of training nodes.
    real: [N] mask.
    real_edges: [E] mask.
  """

  labels: jax.Array
  train: jax.Array
  real: jax.Array
  real_edges: jax.Array


def _towards(scores: jax.Array, target: float, mask: jax.Array) -> jax.Array:
  """Mean cross entropy of sigmoid(scores) to `target`, over the mask."""
  values = optax.sigmoid_binary_cross_entropy(scores, jnp.full_like(scores, target))
  return masked_mean(values, mask)


def discriminator_loss(
  params: Params, graph: jraph.GraphsTuple, teacher: Judged, student: Judged, nodes: Nodes
) -> jax.Array:
  """What the discriminators minimise; the caller keeps the student fixed."""
  chex.assert_equal_shape([teacher.embedding, student.embedding])
  real, edges = nodes.real, nodes.real_edges
  from_teacher, from_student = (
    judge_logits(params['logits'], teacher.logits),
    judge_logits(params['logits'], student.logits),
  )
  c_t, c_s = summary(teacher.embedding, real), summary(student.embedding, real)

  def head(scores):
    return negative_log_likelihood(scores[:, :-1], nodes.labels, nodes.train)

  logits_part = 0.5 * (
    _towards(from_teacher[:, -1], 1.0, real)
    + _towards(from_student[:, -1], 0.0, real)
    + head(from_teacher)
    + head(from_student)
  )
  edges_part = _towards(judge_edges(params['edges'], graph, teacher.embedding), 1.0, edges) + _towards(
    judge_edges(params['edges'], graph, student.embedding), 0.0, edges
  )
  graph_part = sum(
    _towards(judge_graph(params['graph'], side.embedding, c), target, real)
    for side, c, target in ((teacher, c_t, 1.0), (student, c_t, 0.0), (teacher, c_s, 0.0), (student, c_s, 1.0))
  )
  return logits_part + edges_part + graph_part


def student_loss(
  params: Params, graph: jraph.GraphsTuple, teacher: Judged, student: Output | Judged, nodes: Nodes
) -> jax.Array:
  """What the student minimises beside the gap; the caller keeps the discriminators fixed."""
  real = nodes.real
  judged = judge_logits(params['logits'], student.logits)
  c_t, c_s = summary(teacher.embedding, real), summary(student.embedding, real)
  l1 = jnp.sum(jnp.abs(student.logits - teacher.logits) * real[:, None]) / real.sum()
  graph_part = (
    _towards(judge_graph(params['graph'], student.embedding, c_t), 1.0, real)
    + _towards(judge_graph(params['graph'], teacher.embedding, c_s), 0.0, real)
    + _towards(judge_graph(params['graph'], student.embedding, c_s), 1.0, real)
  )
  return (
    negative_log_likelihood(student.logits, nodes.labels, nodes.train)
    + 0.5 * (negative_log_likelihood(judged[:, :-1], nodes.labels, nodes.train) + _towards(judged[:, -1], 1.0, real))
    + l1
    + _towards(judge_edges(params['edges'], graph, student.embedding), 1.0, nodes.real_edges)
    + graph_part
  )
