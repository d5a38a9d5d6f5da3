"""The models that teach and learn, as pairs of pure functions on `jraph.GraphsTuple`.

`init` reads no more of a graph than shapes; `apply` reads the number of layers off the parameters. A user's own pair of
functions of the same signatures takes any model's place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph

from jaxpapers.reliant import layers
from jaxpapers.reliant.propagation import label_propagation

Params = dict[str, Any]


class Output(NamedTuple):
  """What a model says of every node.

  Attributes:
    logits: [N, C].
    embedding: [N, H], the hidden layer that GraphAKD compares; see each model.
  """

  logits: jax.Array
  embedding: jax.Array


class Model(NamedTuple):
  """A pair of pure functions.

  Attributes:
    init: (key, features F, classes C, nodes N) -> parameters.
    apply: (parameters, graph, key or None) -> Output; with a key dropout is active.
  """

  init: Callable[[jax.Array, int, int, int], Params]
  apply: Callable[[Params, jraph.GraphsTuple, jax.Array | None], Output]


def glorot_uniform(key: jax.Array, shape: tuple[int, int], gain: float = 1.0) -> jax.Array:
  """Uniform within +-gain * sqrt(6 / (in + out))."""
  limit = gain * (6.0 / sum(shape)) ** 0.5
  return jax.random.uniform(key, shape, jnp.float32, -limit, limit)


def glorot_normal(key: jax.Array, shape: tuple[int, ...], fans: int, gain: float = 2.0**0.5) -> jax.Array:
  """Normal of deviation gain * sqrt(2 / fans); `fans` is fan-in plus fan-out."""
  return gain * (2.0 / fans) ** 0.5 * jax.random.normal(key, shape)


def torch_linear(key: jax.Array, fan_in: int, fan_out: int, bias: bool = True) -> dict[str, jax.Array]:
  """Kernel [in, out] and bias, uniform within +-1 / sqrt(in): PyTorch's default."""
  limit = fan_in**-0.5
  kernel_key, bias_key = jax.random.split(key)
  params = {'kernel': jax.random.uniform(kernel_key, (fan_in, fan_out), jnp.float32, -limit, limit)}
  if bias:
    params['bias'] = jax.random.uniform(bias_key, (fan_out,), jnp.float32, -limit, limit)
  return params


def _stack(params: Params) -> list[Params]:
  return [params[f'layer_{i}'] for i in range(len(params))]


def _named(parts: list[Params]) -> Params:
  return {f'layer_{i}': part for i, part in enumerate(parts)}


def _layered(key: jax.Array, widths: list[int], make: Callable[[jax.Array, int, int], Params]) -> Params:
  keys = jax.random.split(key, len(widths) - 1)
  return _named([make(k, a, b) for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)])


def _glorot_layers(hidden: int, depth: int) -> Callable[[jax.Array, int, int, int], Params]:
  """Init of `depth` layers of Glorot kernels and zero biases."""

  def make(key, fan_in, fan_out):
    return {'kernel': glorot_uniform(key, (fan_in, fan_out)), 'bias': jnp.zeros(fan_out)}

  def init(key, features, classes, nodes):
    del nodes
    return _layered(key, [features, *[hidden] * (depth - 1), classes], make)

  return init


def gcn(hidden: int = 64, depth: int = 3, dropout: float = 0.8) -> Model:
  """GCN teacher: relu after all layers but the last, dropout before all but the first. Embedding: first layer, relu.

  Source: the authors' code (Kipf and Welling, ICLR 2017).
  """

  def apply(params, graph, key=None):
    stack = _stack(params)
    keys = layers.split(key, len(stack))
    h, embedding = graph.nodes['x'], None
    for i, layer in enumerate(stack):
      h = layers.gcn_convolution(graph, layers.dropout(keys[i], h, dropout) if i else h, layer)
      h = jax.nn.relu(h) if i + 1 < len(stack) else h
      embedding = h if i == 0 else embedding
    return Output(h, embedding)

  return Model(_glorot_layers(hidden, depth), apply)


def sage(hidden: int = 128, depth: int = 4, dropout: float = 0.5, aggregator: str = 'gcn') -> Model:
  """GraphSAGE teacher: dropout on the input and after every relu. Embedding: first layer before its relu.

  Source: the authors' code (Hamilton et al., NeurIPS 2017).

  Args:
    hidden: width.
    depth: layers.
    dropout: rate.
    aggregator: 'gcn' or 'mean'; see `layers.sage_convolution`.

  Raises:
    ValueError: for another aggregator.
  """
  if aggregator not in ('gcn', 'mean'):
    raise ValueError(f"aggregator={aggregator!r} is not known; it is 'gcn' or 'mean'.")

  def make(key, fan_in, fan_out):
    kernel_key, own_key = jax.random.split(key)
    params = {'kernel': glorot_uniform(kernel_key, (fan_in, fan_out), 2.0**0.5), 'bias': jnp.zeros(fan_out)}
    if aggregator == 'mean':
      params['own'] = glorot_uniform(own_key, (fan_in, fan_out), 2.0**0.5)
    return params

  def init(key, features, classes, nodes):
    del nodes
    return _layered(key, [features, *[hidden] * (depth - 1), classes], make)

  def apply(params, graph, key=None):
    stack = _stack(params)
    keys = layers.split(key, len(stack))
    h, embedding = graph.nodes['x'], None
    for i, layer in enumerate(stack):
      h = layers.sage_convolution(graph, layers.dropout(keys[i], h, dropout), layer)
      embedding = h if i == 0 else embedding
      h = jax.nn.relu(h) if i + 1 < len(stack) else h
    return Output(h, embedding)

  return Model(init, apply)


def gat(hidden: int = 8, heads: int = 8, dropout: float = 0.6) -> Model:
  """GAT teacher of two layers: `heads` concatenated, then one head. Embedding: first layer after relu.

  Source: the authors' code (Velickovic et al., ICLR 2018).
  """

  def make(key, fan_in, count, width):
    keys = jax.random.split(key, 3)
    shape, fans = (count, width), count * width + width
    return {
      'kernel': glorot_normal(keys[0], (fan_in, count * width), fan_in + count * width),
      'attn_l': glorot_normal(keys[1], shape, fans),
      'attn_r': glorot_normal(keys[2], shape, fans),
    }

  def init(key, features, classes, nodes):
    del nodes
    first, second = jax.random.split(key)
    return _named([make(first, features, heads, hidden), make(second, heads * hidden, 1, classes)])

  def apply(params, graph, key=None):
    keys = layers.split(key, 2)
    options = {'feature_dropout': dropout, 'attention_dropout': dropout}
    first, _ = layers.gat_convolution(graph, graph.nodes['x'], params['layer_0'], key=keys[0], **options)
    h = jax.nn.relu(first).reshape(first.shape[0], -1)
    logits, _ = layers.gat_convolution(graph, h, params['layer_1'], key=keys[1], **options)
    return Output(logits.mean(axis=1), h)

  return Model(init, apply)


def appnp(hidden: int = 64, dropout: float = 0.5, edge_dropout: float = 0.5, steps: int = 10) -> Model:
  """APPNP teacher: an MLP, then personalised propagation. Embedding: hidden layer after relu.

  Source: the authors' code (Gasteiger et al., ICLR 2019).
  """

  def init(key, features, classes, nodes):
    del nodes
    return _layered(key, [features, hidden, classes], torch_linear)

  def apply(params, graph, key=None):
    keys = layers.split(key, 3)
    x = layers.dropout(keys[0], graph.nodes['x'], dropout)
    hidden_units = jax.nn.relu(layers.linear(x, params['layer_0']))
    h = layers.linear(layers.dropout(keys[1], hidden_units, dropout), params['layer_1'])
    return Output(layers.appnp_propagation(graph, h, steps=steps, edge_dropout=edge_dropout, key=keys[2]), hidden_units)

  return Model(init, apply)


def sgc(steps: int = 2) -> Model:
  """SGC teacher: one linear map, without bias, of features propagated `steps` times. Embedding: those features.

  Source: the authors' code (Wu et al., ICML 2019).
  """

  def init(key, features, classes, nodes):
    del nodes
    return {'layer_0': torch_linear(key, features, classes, bias=False)}

  def apply(params, graph, key=None):
    del key
    x = graph.nodes['x']
    for _ in range(steps):
      x = layers.propagate_both_in(graph, x)
    return Output(layers.linear(x, params['layer_0']), x)

  return Model(init, apply)


def mlp(hidden: int = 64, depth: int = 2, dropout: float = 0.2) -> Model:
  """MLP, which sees no edges; dropout before every layer. Embedding: the last hidden layer, or the features.

  Source: the authors' code.
  """

  def init(key, features, classes, nodes):
    del nodes
    return _layered(key, [features, *[hidden] * (depth - 1), classes], torch_linear)

  def apply(params, graph, key=None):
    stack = _stack(params)
    keys = layers.split(key, len(stack))
    h = embedding = graph.nodes['x']
    for i, layer in enumerate(stack):
      embedding = h
      h = layers.linear(layers.dropout(keys[i], h, dropout), layer)
      h = jax.nn.relu(h) if i + 1 < len(stack) else h
    return Output(h, embedding)

  return Model(init, apply)


def logistic_regression() -> Model:
  """One linear map of the features. Source: the authors' code."""
  return mlp(depth=1, dropout=0.0)


def sgc_student(hidden: int = 64, depth: int = 3, dropout: float = 0.5) -> Model:
  """GraphAKD's student: layers of one propagation and a linear map, relu and dropout between them.

  Embedding: the last relu's output, before its dropout.

  Source: GraphAKD's student in the authors' code (He et al., KDD 2022).
  """

  def apply(params, graph, key=None):
    stack = _stack(params)
    keys = layers.split(key, len(stack))
    h = embedding = graph.nodes['x']
    for i, layer in enumerate(stack):
      embedding = h
      h = layers.propagate_both_in(graph, layers.dropout(keys[i], h, dropout) if i else h)
      h = layers.linear(h, layer)
      h = jax.nn.relu(h) if i + 1 < len(stack) else h
    return Output(h, embedding)

  return Model(_glorot_layers(hidden, depth), apply)


def plp(
  hidden: int = 64,
  num_layers: int = 10,
  mlp_layers: int = 2,
  feature_dropout: float = 0.8,
  attention_dropout: float = 0.2,
  kind: str = 'inductive',
  shift: str = 'global',
) -> Model:
  """CPF's student: parameterised label propagation. Embedding: its output.

  Args:
    hidden: width of the MLP.
    num_layers: the authors' K, which makes K - 1 propagations.
    mlp_layers: 0 for no MLP.
    feature_dropout: rate.
    attention_dropout: rate.
    kind: 'inductive' scores senders by their features, 'transductive' by a free number per node.
    shift: see `propagation.averaged_labels`.

  Raises:
    ValueError: for another kind, or a K below 2.
  """
  if kind not in ('inductive', 'transductive'):
    raise ValueError(f"kind={kind!r} is not known; it is 'inductive' or 'transductive'.")
  if num_layers < 2:
    raise ValueError(f'num_layers={num_layers} makes no propagation: it must be at least 2.')

  def init(key, features, classes, nodes):
    score_key, mlp_key = jax.random.split(key)
    count = features if kind == 'inductive' else nodes
    params = {
      'lr_alpha': jnp.zeros(nodes),
      'attn_l' if kind == 'inductive' else 'fc_emb': glorot_normal(score_key, (count,), count + 1),
    }
    if mlp_layers:
      params['mlp'] = _layered(mlp_key, [features, *[hidden] * (mlp_layers - 1), classes], torch_linear)
    return params

  def apply(params, graph, key=None):
    h = label_propagation(
      params,
      graph,
      steps=num_layers - 1,
      feature_dropout=feature_dropout,
      attention_dropout=attention_dropout,
      key=key,
      shift=shift,
    )
    return Output(h, h)

  return Model(init, apply)


def parameter_count(params: Params) -> int:
  """Numbers in a tree of parameters (arrays or shapes)."""
  return sum(x.size for x in jax.tree.leaves(params))
