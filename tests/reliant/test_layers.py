import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from jaxpapers.reliant import layers, model, propagation
from jaxpapers.reliant.graph import make_graph, symmetric_edges
from tests.reliant import toy


def permuted(problem, order):
  """The same graph with node i called order[i]."""
  graph = problem.graph
  inverse = np.argsort(order)
  fresh = make_graph(graph.nodes['x'][inverse], order[graph.senders], order[graph.receivers])
  extra = {k: graph.nodes[k][inverse] for k in ('start', 'clamped')}
  return fresh._replace(nodes={**fresh.nodes, **extra, 'id': inverse.astype(np.int32)})


MODELS = {
  'gcn': model.gcn(6),
  'sage': model.sage(6),
  'sage_mean': model.sage(6, aggregator='mean'),
  'gat': model.gat(3, 2),
  'appnp': model.appnp(6, steps=3),
  'sgc': model.sgc(),
  'mlp': model.mlp(6),
  'sgc_student': model.sgc_student(6),
  'plp': model.plp(6, 4),
  'plp_transductive': model.plp(6, 4, kind='transductive'),
}


@pytest.mark.parametrize('name', MODELS)
def test_relabelling_nodes_relabels_the_output(name):
  one, problem = MODELS[name], toy.problem()
  order = np.random.default_rng(1).permutation(toy.NODES)

  @jax.jit
  def run(graph, other):
    params = one.init(jax.random.key(0), toy.FEATURES, 2, toy.NODES)
    noisy = one.apply(params, graph, jax.random.key(2))
    return [x.logits for x in (one.apply(params, graph, None), one.apply(params, other, None), noisy)]

  want, got, noisy = run(problem.graph, permuted(problem, order))
  assert np.ptp(want) > 1e-3
  np.testing.assert_allclose(got[order], want, rtol=1e-4, atol=1e-5)
  assert (name == 'sgc') == bool(np.allclose(noisy, want))


def test_convolutions_against_dense_matrices():
  problem = toy.problem()
  graph = problem.graph
  a = np.zeros((toy.NODES, toy.NODES))
  np.add.at(a, (graph.receivers, graph.senders), 1.0)
  x, rng = graph.nodes['x'].astype(np.float64), np.random.default_rng(0)
  norm = np.diag(a.sum(1) ** -0.5) @ a @ np.diag(a.sum(0) ** -0.5)
  both_in = np.diag(a.sum(1) ** -0.5) @ a @ np.diag(a.sum(1) ** -0.5)
  for width in (3, 7):
    kernel, bias = rng.normal(size=(toy.FEATURES, width)), rng.normal(size=width)
    params = {'kernel': jnp.asarray(kernel, jnp.float32), 'bias': jnp.asarray(bias, jnp.float32)}
    got = layers.gcn_convolution(graph, jnp.asarray(graph.nodes['x']), params)
    np.testing.assert_allclose(got, norm @ x @ kernel + bias, rtol=1e-4, atol=1e-5)
    sage = (a @ x + x) / (a.sum(1, keepdims=True) + 1.0) @ kernel + bias
    got = layers.sage_convolution(graph, jnp.asarray(graph.nodes['x']), params)
    np.testing.assert_allclose(got, sage, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(layers.propagate_both_in(graph, graph.nodes['x']), both_in @ x, rtol=1e-4, atol=1e-5)
  jraph_layer = jraph.GraphConvolution(lambda n: n)
  got = jraph_layer(graph._replace(nodes=jnp.asarray(graph.nodes['x']))).nodes
  np.testing.assert_allclose(layers.propagate(graph, graph.nodes['x']), got, rtol=1e-4, atol=1e-5)


def plain_labels(graph, weights, own=None, steps=3):
  """Five lines of NumPy."""
  h, start, clamped = (graph.nodes[k].astype(np.float64) for k in ('start', 'start', 'clamped'))
  for _ in range(steps):
    h = own if own is not None else weights @ h
    h = np.where(clamped[:, None] > 0, start, np.maximum(h, 0.0))
  return h


def test_label_propagation_has_its_two_limits():
  problem = toy.problem()
  graph, student = problem.graph, model.plp(6, 4)
  params = jax.jit(student.init, static_argnums=(1, 2, 3))(jax.random.key(0), toy.FEATURES, 2, toy.NODES)
  a = np.zeros((toy.NODES, toy.NODES))
  np.add.at(a, (graph.receivers, graph.senders), 1.0)
  apply = jax.jit(student.apply)
  labels = {**params, 'attn_l': jnp.zeros(toy.FEATURES), 'lr_alpha': jnp.full(toy.NODES, 1e3)}
  want = plain_labels(graph, a / a.sum(1, keepdims=True))
  np.testing.assert_allclose(apply(labels, graph).logits, want, rtol=1e-5, atol=1e-6)
  features = {**params, 'lr_alpha': jnp.full(toy.NODES, -1e3)}
  own = np.asarray(propagation.perceptron(params, jnp.asarray(graph.nodes['x'])), np.float64)
  np.testing.assert_allclose(apply(features, graph).logits, plain_labels(graph, None, own), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('scale', [1.0, 30.0])
def test_factorised_attention_equals_the_edge_softmax_and_has_finite_gradients(scale):
  graph, rng = toy.problem().graph, np.random.default_rng(3)
  h = jnp.asarray(rng.random((toy.NODES, 2)), jnp.float32)
  e = jnp.asarray(scale * np.clip(rng.normal(size=toy.NODES), -1.3, 1.3), jnp.float32)

  def run(shift):
    return jax.jit(
      jax.value_and_grad(lambda e: jnp.sum(jnp.square(propagation.averaged_labels(graph, h, e, shift=shift))[:, 0]))
    )(e)

  (fast, fast_grad), (slow, slow_grad) = run('global'), run('receiver')
  np.testing.assert_allclose(fast, slow, rtol=1e-5)
  np.testing.assert_allclose(fast_grad, slow_grad, rtol=1e-3, atol=1e-6)
  with pytest.raises(ValueError, match="'local' is not known"):
    propagation.averaged_labels(graph, h, e, shift='local')


def test_attention_sums_to_one_at_every_receiver():
  graph = toy.problem().graph
  scores = jnp.asarray(np.random.default_rng(0).normal(size=len(graph.senders)) * 50, jnp.float32)
  np.testing.assert_allclose(layers.segment_sum(graph, layers.edge_softmax(graph, scores)), 1.0, rtol=1e-5)


def test_dropout_masks_are_fair_coins():
  keys = jax.random.split(jax.random.key(0), 300)
  mask = np.asarray(jax.jit(jax.vmap(lambda k: layers.keep_mask(k, (1500,), 0.8)))(keys)).astype(float)
  assert abs(mask.mean() - 0.2) < 0.003
  z = (mask - 0.2) / 0.4
  for rows in (z, z.T[:300]):
    correlation = rows @ rows.T / rows.shape[1]
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 6.0 / rows.shape[1] ** 0.5
    assert correlation.std() < 1.1 / rows.shape[1] ** 0.5
  x = jnp.ones((40, 50))
  assert layers.dropout(None, x, 0.5) is x
  np.testing.assert_allclose(np.unique(layers.dropout(keys[0], x, 0.5)), [0.0, 2.0])


def test_edges_become_symmetric_without_duplicates():
  senders, receivers = symmetric_edges(np.array([0, 0, 1, 2, 2]), np.array([1, 1, 0, 0, 2]), 4)
  pairs = list(zip(receivers.tolist(), senders.tolist(), strict=True))
  assert pairs == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 2), (3, 3)]
  senders, _ = symmetric_edges(np.array([0, 2]), np.array([1, 2]), 3, self_loops=False)
  assert len(senders) == 2
  for wrong in (4, -1):
    with pytest.raises(ValueError, match=f'{wrong}, but the nodes are 0..3'):
      symmetric_edges(np.array([0, wrong]), np.array([1, 1]), 4)


def test_the_order_of_edges_does_not_matter():
  problem, order = toy.problem(), np.random.default_rng(0).permutation(4 * toy.NODES)
  senders, receivers = toy.edges()
  other = make_graph(problem.graph.nodes['x'], senders[order], receivers[order])
  np.testing.assert_allclose(
    layers.propagate(other, problem.graph.nodes['x']),
    layers.propagate(problem.graph, problem.graph.nodes['x']),
    rtol=1e-5,
    atol=1e-6,
  )
