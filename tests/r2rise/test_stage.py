"""Which cells a stage's curve keeps, and the plan of its steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.r2rise import retrain, summary
from jaxpapers.r2rise.results import Curve
from jaxpapers.r2rise.stage import MaskPlan, Numbers, Plan


def keep(orders, value, fraction, truth=None, ids=None):
  count = len(orders)
  maps = jnp.broadcast_to(jnp.asarray(value), (count, len(value)))
  ids = jnp.arange(count) if ids is None else jnp.asarray(ids)
  fractions = jnp.full(count, fraction)
  return np.asarray(retrain.curve_cells(jax.random.key(0), maps, orders, jnp.arange(count), fractions, ids, truth))


def test_curves_keep_the_cells_that_they_name():
  value = [0.5, 3.0, np.nan, -1.0, 2.0, 0.0]
  truth = np.asarray([True, False, False, True, False, False])
  top, bottom, random, everything, planted = keep(('top', 'bottom', 'random', 'all', 'truth'), value, 0.5, truth)
  assert top.tolist() == [1, 1, 0, 0, 1, 0]
  assert bottom.tolist() == [0, 0, 1, 1, 0, 1]  # NaN is least important
  assert random.sum() == 3 and everything.all() and planted.tolist() == [1, 0, 0, 1, 0, 0]
  draws = keep(('random',) * 40, value, 0.5, ids=np.arange(40))
  assert len({tuple(row) for row in draws.tolist()}) > 10 and (draws.sum(axis=1) == 3).all()
  assert abs(draws.mean(axis=0) - 0.5).max() < 0.3
  with pytest.raises(ValueError, match="order='best' is not known"):
    keep(('best',), value, 0.5)
  with pytest.raises(ValueError, match='needs planted cells'):
    keep(('truth',), value, 0.5)


def plan(**changes):
  masks = MaskPlan(2, 7, 3)
  return Plan(masks, 16, 2, 8, (('top', 0.5), ('all', 1.0)), 3)._replace(**changes)


def test_every_number_is_retrained_once_and_every_host_has_its_part():
  whole = Numbers(plan())
  steps = [whole(step) for step in range(plan().steps)]
  assert plan().map_steps == 4 and plan().steps == 6
  assert np.concatenate([s['id'] for s in steps[:4]]).tolist() == list(range(32))
  curve = np.concatenate([s['id'] for s in steps[4:]])
  assert curve[:12].tolist() == list(range(12)) and all(s['curve'].all() for s in steps[4:])
  for step in range(6):
    parts = [Numbers(plan(), None, 2, host)(step) for host in (0, 1)]
    for name, value in steps[step].items():
      np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), value)
  with pytest.raises(ValueError, match='chunk of 8 cannot be shared by 3 hosts'):
    Numbers(plan(), None, 3)


def test_a_chunk_is_known_as_a_whole_or_not_at_all():
  known = {i: (float(i), 1.0) for i in range(12)}
  first, second = (Numbers(plan(), known)(step) for step in (0, 1))
  assert first['known'].all() and first['return'].tolist() == list(range(8))
  assert not second['known'].any() and not second['return'].any()


def test_a_last_short_block_is_a_cell_and_soft_masks_have_a_cell_per_frame():
  masks = MaskPlan(2, 7, 3)
  assert masks.shape == (2, 3)
  assert masks.expand().reshape(2, 7).tolist() == [[0, 0, 0, 1, 1, 1, 2], [3, 3, 3, 4, 4, 4, 5]]
  soft = masks._replace(smooth=True)
  assert soft.shape == (2, 7) and soft.expand().tolist() == list(range(14))
  truth = np.asarray([[True, False, True], [False, False, True]])
  np.testing.assert_array_equal(soft.truth(truth), truth[:, [0, 0, 0, 1, 1, 1, 2]])


def test_curve_metrics_are_means_errors_and_areas():
  rng = np.random.default_rng(0)
  orders = ('top', 'top', 'bottom', 'bottom', 'random', 'random', 'all')
  fractions = np.asarray([0.25, 0.5, 0.25, 0.5, 0.25, 0.5, 1.0])
  returns = rng.normal(size=(3, 7, 4)) + np.asarray([4, 6, 0, 1, 2, 3, 5])[:, None]
  values = summary.curve_metrics(Curve(orders, fractions, returns))
  means = returns[:, 1].mean(axis=1)
  assert values['share'] == 0.5
  np.testing.assert_allclose(values['top'], means.mean())
  np.testing.assert_allclose(values['top_se'], means.std(ddof=1) / np.sqrt(3))
  np.testing.assert_allclose(values['insertion_area'], returns[:, :2].mean(axis=(0, 2)).mean())
  np.testing.assert_allclose(values['area'], values['insertion_area'] - values['deletion_area'])
  random = returns[:, 5].mean(axis=1)
  spread = np.hypot(values['top_se'], random.std(ddof=1) / np.sqrt(3))
  np.testing.assert_allclose(values['top_over_random'], (means.mean() - random.mean()) / spread)
  one = summary.curve_metrics(Curve(orders, fractions, returns[:1]))
  np.testing.assert_allclose(one['top_se'], returns[0, 1].std(ddof=1) / 2)
