import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score

from jaxpapers.reliant import losses, metrics
from jaxpapers.reliant import proxies as proxies_module
from jaxpapers.reliant.fairness import gap, group_contrast, soft_step
from tests.reliant import toy

unfair = jax.jit(gap)


def test_the_step_polynomial():
  p = jnp.linspace(0.0, 1.0, 101)
  f = np.asarray(soft_step(p), np.float64)
  np.testing.assert_allclose(f[[0, 50, 100]], [0.07421875, 0.5, 0.92578125], atol=1e-6)
  assert (np.diff(f) > 0).all()
  np.testing.assert_allclose(f + f[::-1], 1.0, atol=1e-6)
  projection = np.asarray(soft_step(p, 'projection'))
  assert projection.min() < -0.11 and projection.max() > 1.11
  with pytest.raises(ValueError, match='linear'):
    soft_step(p, 'linear')


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([2, 3]))
def test_the_gap_against_numpy(seed, classes):
  rng = np.random.default_rng(seed)
  p = rng.dirichlet(np.ones(classes), 40)
  s, y = rng.permutation(np.arange(40) % 3), np.arange(40) % 2
  members = rng.random(40) < 0.8
  members[:12] = True
  for labels in (None, y):
    counted = members if labels is None else members & (y == 1)
    if not all((counted & (s == g)).any() for g in (0, 1)):
      continue
    contrast = group_contrast(s, members, labels)
    f = np.asarray(soft_step(jnp.asarray(p)), np.float64)
    want = np.sum((f[counted & (s == 0)].mean(0) - f[counted & (s == 1)].mean(0)) ** 2)
    np.testing.assert_allclose(unfair(p, contrast), want, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(unfair(p, -contrast), unfair(p, contrast), rtol=1e-6)
    swapped = group_contrast(np.select([s == 0, s == 1], [1, 0], s), members, labels)
    np.testing.assert_allclose(unfair(p, swapped), unfair(p, contrast), rtol=1e-5)


def test_equal_groups_have_no_gap():
  p = np.tile(np.random.default_rng(0).dirichlet([1, 1], 10), (2, 1))
  contrast = group_contrast(np.repeat([0, 1], 10), np.ones(20, bool))
  assert unfair(p, contrast) < 1e-13


def test_an_empty_group_is_named():
  s = np.zeros(6, int)
  with pytest.raises(ValueError, match='validation has no nodes with sensitive value 1'):
    group_contrast(s, np.ones(6, bool), name='validation')
  with pytest.raises(ValueError, match='nodes of class 1 with sensitive value 0'):
    group_contrast(np.array([0, 1]), np.ones(2, bool), np.array([0, 1]))
  assert not group_contrast(s, np.ones(6, bool), allow_empty=True).any()


def test_labels_outside_training_can_be_kept_out():
  x, y, s = toy.arrays()
  for framework in ('cpf', 'akd'):
    hidden = toy.problem(metrics=('eo',), eo_labels='train', framework=framework)
    for contrast in (hidden.student_contrast, hidden.proxy_contrast):
      assert not contrast[0][hidden.train == 0].any() and contrast[0].any()
    leaking = toy.problem(metrics=('eo',), framework=framework)
    assert leaking.proxy_contrast[0][leaking.test == 1].any()


def test_metrics_against_confusion_matrices():
  rng = np.random.default_rng(0)
  p, y, s = rng.dirichlet([1, 1, 1], 200), rng.integers(0, 3, 200), rng.integers(0, 3, 200)
  predicted = metrics.predictions(p)
  for positive in (0, 1, 2):
    rates, truths = [], []
    for group in (0, 1):
      table = confusion_matrix(y[s == group] == positive, predicted[s == group] == positive)
      rates.append(table[:, 1].sum() / table.sum())
      truths.append(table[1, 1] / table[1].sum())
    got = metrics.summary(p, y, s, positive)
    np.testing.assert_allclose(got['dsp'], abs(rates[0] - rates[1]), atol=1e-12)
    np.testing.assert_allclose(got['deo'], abs(truths[0] - truths[1]), atol=1e-12)
    np.testing.assert_allclose(got['f1'], f1_score(y == positive, predicted == positive))
  assert metrics.predictions([[0.0, 0.0]]) == 0
  assert metrics.agreement(p, p) == 1.0


def test_shares_of_a_group_against_confusion_matrices():
  rng = np.random.default_rng(1)
  p, y, s = rng.dirichlet([1, 1, 1], 200), rng.integers(0, 3, 200), rng.integers(0, 3, 200)
  for positive in (0, 2):
    shares = metrics.group_confusion(p, y, s, positive)
    for group in (0, 1):
      mine = s == group
      want = confusion_matrix(y[mine] == positive, p[mine].argmax(axis=1) == positive, normalize='all')
      np.testing.assert_allclose(shares[group], want, atol=1e-12)
    gaps = metrics.summary(p, y, s, positive)
    np.testing.assert_allclose(abs(np.diff(shares[:, :, 1].sum(axis=1))[0]), gaps['dsp'], atol=1e-12)
  with pytest.warns(metrics.MissingGroupWarning, match='sensitive value 1'):
    assert np.isnan(metrics.group_confusion(p, y, np.zeros(200))[1]).all()


def test_a_missing_group_is_nan_with_a_warning():
  with pytest.warns(metrics.MissingGroupWarning, match='sensitive value 1'):
    assert np.isnan(metrics.statistical_parity_gap([0, 1], [0, 0]))
  with pytest.warns(metrics.MissingGroupWarning, match='dEO'):
    assert np.isnan(metrics.equal_opportunity_gap([0, 1], [1, 0], [0, 1]))
  with pytest.warns(metrics.MissingGroupWarning, match='one class'):
    assert np.isnan(metrics.auc([1, 1], [0.1, 0.2]))


def test_the_distance_of_equal_outputs_has_a_finite_gradient():
  p = jnp.full((3, 2), 0.5)
  value, grad = jax.value_and_grad(losses.frobenius)(p, p, jnp.ones(3))
  assert value == 0.0 and not np.asarray(grad).any()
  with pytest.raises(ValueError, match='wasserstein'):
    losses.distance('wasserstein', p, p, jnp.ones(3))


def test_proxies_enter_as_asked():
  graph = toy.problem().graph
  rows = proxies_module.fixed_proxies(toy.arrays()[2])
  appended = proxies_module.add_proxies(graph, rows, 'append').nodes['x']
  replaced = proxies_module.add_proxies(graph, rows, 'replace_last').nodes['x']
  np.testing.assert_array_equal(appended[:, : toy.FEATURES], graph.nodes['x'])
  np.testing.assert_array_equal(replaced[:, :-2], graph.nodes['x'][:, :-2])
  np.testing.assert_array_equal(appended[:, -2:], replaced[:, -2:])
  np.testing.assert_array_equal(rows.sum(axis=1), 1.0)
  assert [proxies_module.input_width(5, k, c) for k, c in (('none', 'append'), ('learned', 'append'))] == [5, 7]
  for kind, columns, width, words in (
    ('random', 'append', 5, 'random'),
    ('learned', 'first', 5, 'first'),
    ('learned', 'replace_last', 2, 'at least 3'),
  ):
    with pytest.raises(ValueError, match=words):
      proxies_module.input_width(width, kind, columns)
