"""Graph layers as pure functions on `jraph.GraphsTuple`, exactly as DGL 0.9 computes them.

Edges are sorted by receiver (`graph.make_graph`), self-loops are in the list, and `graph.nodes` holds the degrees of
the whole graph, so that a sampled subgraph normalises as the whole one does. No layer adds a self-loop.
"""

import math

import chex
import jax
import jax.numpy as jnp
import jraph

from jaxpapers.reliant.graph import node_count


def dropout(key: jax.Array | None, x: jax.Array, rate: float) -> jax.Array:
  """Inverted dropout; no key or rate 0 changes nothing."""
  if key is None or rate == 0.0:
    return x
  return jnp.where(keep_mask(key, x.shape, rate), x / (1.0 - rate), 0.0)


def keep_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
  """Boolean mask, each entry True with probability 1 - rate, as a keyed hash of its position.

  JAX's own generator costs 30 times as much on CPU, where it was three quarters of a student's step. Two rounds of
  MurmurHash3's finaliser, each after one word of the key, leave no bias or correlation that a mask could show.
  """
  first, second = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)[-2:]
  x = jax.lax.iota(jnp.uint32, math.prod(shape)) * jnp.uint32(0x9E3779B9)
  for word in (first, second):
    x = x ^ word
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    x = x ^ (x >> 16)
  return (x >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))).reshape(shape)


def split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
  """`count` keys, or as many None in evaluation mode."""
  return [None] * count if key is None else list(jax.random.split(key, count))


def segment_sum(graph: jraph.GraphsTuple, values: jax.Array) -> jax.Array:
  """Sum of edge values [E, ...] at their receivers [N, ...]."""
  return jraph.segment_sum(values, graph.receivers, node_count(graph), indices_are_sorted=True)


def aggregate(graph: jraph.GraphsTuple, x: jax.Array) -> jax.Array:
  """sum_{j in N(i)} w_ji x_j for x [N, ...]; weights are 1 where graph.edges is None."""
  values = x[graph.senders]
  if graph.edges is not None:
    values = values * graph.edges.reshape(-1, *[1] * (values.ndim - 1))
  return segment_sum(graph, values)


def propagate(graph: jraph.GraphsTuple, x: jax.Array) -> jax.Array:
  """D_in^-1/2 A D_out^-1/2 x for x [N, F]: senders by their out-degree, receivers by their in-degree.

  Source: the symmetric normalisation of DGL's GraphConv.
  """
  out = jax.lax.rsqrt(graph.nodes['out_degree'])[:, None]
  return aggregate(graph, x * out) * jax.lax.rsqrt(graph.nodes['in_degree'])[:, None]


def propagate_both_in(graph: jraph.GraphsTuple, x: jax.Array) -> jax.Array:
  """D_in^-1/2 A D_in^-1/2 x: in-degrees on both sides, as the SGC layers do.

  Source: DGL's SGConv and the authors' code.
  """
  scale = jax.lax.rsqrt(graph.nodes['in_degree'])[:, None]
  return aggregate(graph, x * scale) * scale


def linear(x: jax.Array, params: dict[str, jax.Array]) -> jax.Array:
  """x [..., in] times kernel [in, out], plus bias [out] where there is one."""
  y = x @ params['kernel']
  return y + params['bias'] if 'bias' in params else y


def gcn_convolution(graph: jraph.GraphsTuple, x: jax.Array, params: dict[str, jax.Array]) -> jax.Array:
  """One GCN layer (Kipf and Welling, ICLR 2017, equation 2): [N, in] -> [N, out]; kernel [in, out], bias [out].

  The product with the kernel comes first where it narrows the features: the sum over edges is the costly part.
  """
  chex.assert_rank([x, params['kernel']], 2)
  kernel = params['kernel']
  y = propagate(graph, x @ kernel) if kernel.shape[0] > kernel.shape[1] else propagate(graph, x) @ kernel
  return y + params['bias']


def sage_convolution(graph: jraph.GraphsTuple, x: jax.Array, params: dict[str, jax.Array]) -> jax.Array:
  """One GraphSAGE layer: [N, in] -> [N, out]. Source: GraphSAGE (Hamilton et al., NeurIPS 2017), as DGL has it.

  With 'own' [in, out] in `params`, aggregator `mean`: x own + mean_N(x) kernel + bias. Without, aggregator `gcn`:
  (sum_N x + x_i) / (d_in + 1) kernel + bias, where a node in its own neighbourhood counts twice.
  """
  chex.assert_rank([x, params['kernel']], 2)
  degree = graph.nodes['in_degree'][:, None]
  kernel = params['kernel']
  # The product with the kernel and the sum over edges commute; the narrower side is summed.
  first = kernel.shape[0] > kernel.shape[1]
  y = x @ kernel if first else x
  if 'own' in params:
    y = aggregate(graph, y) / degree
    y = (y if first else y @ kernel) + x @ params['own']
  else:
    y = (aggregate(graph, y) + y) / (degree + 1.0)
    y = y if first else y @ kernel
  return y + params['bias']


def edge_softmax(graph: jraph.GraphsTuple, scores: jax.Array) -> jax.Array:
  """Softmax of edge scores [E, ...] over the in-edges of each receiver; sampled edges count by their weight."""
  top = jraph.segment_max(scores, graph.receivers, node_count(graph), indices_are_sorted=True)
  weights = jnp.exp(scores - jax.lax.stop_gradient(top)[graph.receivers])
  if graph.edges is not None:
    weights = weights * graph.edges.reshape(-1, *[1] * (weights.ndim - 1))
  total = segment_sum(graph, weights)
  return weights / jnp.where(total > 0.0, total, 1.0)[graph.receivers]


def gat_convolution(
  graph: jraph.GraphsTuple,
  x: jax.Array,
  params: dict[str, jax.Array],
  *,
  feature_dropout: float = 0.0,
  attention_dropout: float = 0.0,
  key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """One GAT layer (Velickovic et al., ICLR 2018, equations 1-4), without output bias.

  Args:
    graph: edges sorted by receiver.
    x: [N, in].
    params: kernel [in, H * D], attn_l and attn_r [H, D] for senders and receivers.
    feature_dropout: rate on x.
    attention_dropout: rate on the attention after its softmax.
    key: None in evaluation mode.

  Returns:
    (values [N, H, D], attention [E, H]).
  """
  heads, width = params['attn_l'].shape
  feature_key, attention_key = split(key, 2)
  z = (dropout(feature_key, x, feature_dropout) @ params['kernel']).reshape(-1, heads, width)
  left, right = (z * params['attn_l']).sum(-1), (z * params['attn_r']).sum(-1)
  scores = jax.nn.leaky_relu(left[graph.senders] + right[graph.receivers], 0.2)
  attention = edge_softmax(graph, scores)
  dropped = dropout(attention_key, attention, attention_dropout)
  return segment_sum(graph, dropped[..., None] * z[graph.senders]), attention


def appnp_propagation(
  graph: jraph.GraphsTuple,
  x: jax.Array,
  *,
  teleport: float = 0.1,
  steps: int = 10,
  edge_dropout: float = 0.0,
  key: jax.Array | None = None,
) -> jax.Array:
  """h <- (1 - teleport) A_hat h + teleport x, `steps` times (Gasteiger et al., ICLR 2019, equation 4).

  Edge weights are dropped anew in every step. x and the result are [N, C].
  """

  def step(h, key):
    weights = jnp.ones(graph.senders.shape) if graph.edges is None else graph.edges
    current = graph if key is None else graph._replace(edges=dropout(key, weights, edge_dropout))
    return (1.0 - teleport) * propagate(current, h) + teleport * x, None

  keys = None if key is None else jax.random.split(key, steps)
  return jax.lax.scan(step, x, keys, length=steps)[0]
