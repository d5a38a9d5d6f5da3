"""Parameterised label propagation, the student of CPF (Yang et al., WWW 2021, equations 3-8).

Labels flow along edges with an attention that depends on the sender only, are mixed with an MLP of the node's own
features, and the labels of training nodes are written back after every step.
"""

import chex
import jax
import jax.numpy as jnp
import jraph

from jaxpapers.reliant.layers import dropout, edge_softmax, keep_mask, linear, segment_sum, split

Params = dict[str, jax.Array | dict[str, dict[str, jax.Array]]]


def sender_scores(params: Params, x: jax.Array, ids: jax.Array) -> jax.Array:
  """Score of every node as a sender, [N]: x . attn_l, or a free number per node ('fc_emb')."""
  if 'attn_l' in params:
    return x @ params['attn_l']
  return params['fc_emb'][ids]


def attention(params: Params, graph: jraph.GraphsTuple) -> jax.Array:
  """Attention of every edge in evaluation mode, [E]: the softmax of the senders' scores over a receiver's in-edges."""
  scores = sender_scores(params, graph.nodes['x'], graph.nodes['id'])
  return edge_softmax(graph, scores[graph.senders])


def perceptron(params: Params, x: jax.Array, rate: float = 0.0, key: jax.Array | None = None) -> jax.Array:
  """The MLP's share [N, C]: dropout -> linear, with relu between layers."""
  layers = params['mlp']
  keys = split(key, len(layers))
  for index in range(len(layers)):
    x = linear(dropout(keys[index], x, rate), layers[f'layer_{index}'])
    x = jax.nn.relu(x) if index + 1 < len(layers) else x
  return x


def averaged_labels(
  graph: jraph.GraphsTuple,
  h: jax.Array,
  scores: jax.Array,
  *,
  attention_dropout: float = 0.0,
  key: jax.Array | None = None,
  shift: str = 'global',
) -> jax.Array:
  """sum_j a_ji h_j without forming the attention: A(exp(e) h) / A(exp(e)).

  Dropout acts after the softmax, so its mask touches the numerator only.

  Source: the attention of CPF (Yang et al., WWW 2021).

  Args:
    graph: edges sorted by receiver.
    h: [N, C].
    scores: e [N] of the senders.
    attention_dropout: rate.
    key: None in evaluation mode.
    shift: what is subtracted from e before exp. 'global': the largest e, quick, for scores within 80 of each other.
      'receiver': the largest among each receiver's in-edges, for any range.

  Returns:
    [N, C]; zero at nodes without in-edges (padding).
  """
  chex.assert_rank([h, scores], [2, 1])
  if shift not in ('global', 'receiver'):
    raise ValueError(f"shift={shift!r} is not known; it is 'global' or 'receiver'.")
  if shift == 'receiver':
    weights = edge_softmax(graph, scores[graph.senders])
    weights = dropout(key, weights, attention_dropout)
    return segment_sum(graph, weights[:, None] * h[graph.senders])
  # exp(-85) is still a normal float32.
  weights = jnp.exp(jnp.maximum(scores - jax.lax.stop_gradient(scores.max()), -85.0))[:, None]
  rows = jnp.concatenate([weights * h, weights], axis=1)[graph.senders]
  if graph.edges is not None:
    rows = rows * graph.edges[:, None]
  if key is not None and attention_dropout > 0.0:
    kept = keep_mask(key, graph.senders.shape, attention_dropout)
    factor = jnp.where(kept, 1.0 / (1.0 - attention_dropout), 0.0)[:, None]
    rows = jnp.concatenate([rows[:, :-1] * factor, rows[:, -1:]], axis=1)
  sums = segment_sum(graph, rows)
  total = jnp.where(sums[:, -1:] > 0.0, sums[:, -1:], 1.0)
  # The gradient of a quotient squares the divisor, which underflows where all neighbours score low: scaled to 1 first.
  scale = jax.lax.stop_gradient(total)
  return (sums[:, :-1] / scale) / (total / scale)


def label_propagation(
  params: Params,
  graph: jraph.GraphsTuple,
  *,
  steps: int,
  feature_dropout: float = 0.0,
  attention_dropout: float = 0.0,
  key: jax.Array | None = None,
  shift: str = 'global',
) -> jax.Array:
  """The student's output h [N, C]; its "logits", although they are non-negative and label-like.

  Args:
    params: 'lr_alpha' [N]; 'attn_l' [F] or 'fc_emb' [N]; 'mlp' {'layer_i': {'kernel', 'bias'}}, absent for no MLP.
    graph: nodes also hold 'start' [N, C], the labels to begin with, and 'clamped' [N] bool, whose rows keep them.
    steps: propagations, all with the same weights; the authors' num_layers - 1.
    feature_dropout: rate on features (scores and MLP, masks of their own) and hidden units, fresh in every step.
    attention_dropout: rate on the attention.
    key: None in evaluation mode; then scores and MLP are computed once.
    shift: see `averaged_labels`.
  """
  nodes = graph.nodes
  x, ids, start = nodes['x'], nodes['id'], nodes['start']
  chex.assert_rank([x, start], 2)
  clamped = nodes['clamped'][:, None]
  has_mlp = bool(params.get('mlp'))

  def mixed(averaged, own):
    if own is None:
      return averaged
    gate = params['lr_alpha'][ids][:, None]
    return jax.nn.sigmoid(gate) * averaged + jax.nn.sigmoid(-gate) * own

  if key is None:
    scores = sender_scores(params, x, ids)
    own = perceptron(params, x) if has_mlp else None

    def step(h, _):
      h = jax.nn.relu(mixed(averaged_labels(graph, h, scores, shift=shift), own))
      return jnp.where(clamped, start, h), None

    return jax.lax.scan(step, start, None, length=steps)[0]

  def noisy_step(h, key):
    score_key, edge_key, own_key = jax.random.split(key, 3)
    if 'attn_l' in params:
      scores = sender_scores(params, dropout(score_key, x, feature_dropout), ids)
    else:
      scores = dropout(score_key, sender_scores(params, x, ids), feature_dropout)
    averaged = averaged_labels(graph, h, scores, attention_dropout=attention_dropout, key=edge_key, shift=shift)
    own = perceptron(params, x, feature_dropout, own_key) if has_mlp else None
    return jnp.where(clamped, start, jax.nn.relu(mixed(averaged, own))), None

  return jax.lax.scan(noisy_step, start, jax.random.split(key, steps))[0]
