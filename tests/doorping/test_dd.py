"""DD of lanes: batches, idle attacks, published places of the trigger, learned step sizes, victims and pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from jaxpapers.doorping import data, dd, dd_distilling, dd_report, distilling, lanes, model, trigger
from jaxpapers.engine.report import Report

CLASSES, SHAPE = 3, (8, 8, 1)
NET = model.ConvNet(CLASSES, width=4, depth=1, patches=True)
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), 6)
PIXELS = RNG.integers(0, 255, (18, *SHAPE), np.uint8)
IMAGES = data.Images(
  'tiny', PIXELS, LABELS, PIXELS, LABELS, CLASSES, np.full(1, 0.5, np.float32), np.full(1, 0.3, np.float32)
)
OPTIONS = trigger.TriggerOptions(topk=20, max_steps=4)
RECIPE = dd_distilling.DdRecipe(
  CLASSES, per_class=2, blocks=2, epochs=2, start_rate=0.3, rate=0.05, epoch_steps=3, trigger=OPTIONS
)
NAMES = lanes.lane_list(['clean', 'naive', 'doorping'], 1)
PROBLEM = distilling.Problem(
  NET.apply,
  functools.partial(NET.apply, method='penultimate'),
  lambda key: model.init_params(NET, key, SHAPE),
  lambda index: trigger.normalise(jnp.asarray(PIXELS)[index].astype(jnp.float32), IMAGES.mean, IMAGES.std),
  trigger.patch_mask(SHAPE, 2),
  (trigger.patch_slice(8, 2),) * 2,
  None,
)


@functools.cache
def stacked():
  return lanes.build(NAMES, IMAGES, ratio=0.3, patch=2, target=0, ipc=1, max_steps=4, mask=PROBLEM.mask)


@functools.cache
def step():
  return jax.jit(lambda state, lane, real, key: dd_distilling.step(PROBLEM, RECIPE, state, lane, real, key, 1))


@functools.cache
def begun():
  state = jax.jit(lambda key: dd_distilling.start(PROBLEM, RECIPE, stacked(), key, 3))(jax.random.key(0))
  # A bright trigger, whose units are awake.
  return state._replace(trigger=state.trigger.at[2].set(jnp.where(PROBLEM.mask > 0, 30.0, -1.0)))


def batches():
  return dd_distilling.RealBatches(LABELS, 7, stacked().seed)


@pytest.fixture(scope='module')
def run():
  """States after 0 to 3 iterations, and the metrics of the last."""
  states, lane, order = [begun()], stacked(), batches()
  for i in range(3):
    state, metrics = step()(states[-1], lane, order(i), jax.random.key(i))
    states.append(state)
  return states, metrics


def test_an_epoch_shows_every_image_once_and_fills_its_last_batch():
  order = dd_distilling.RealBatches(LABELS, 7, np.asarray([0, 1, 0]), seed=3)
  assert order.per_epoch == 3
  shown = [order(i) for i in range(6)]
  for lane in range(3):
    for epoch in (shown[:3], shown[3:]):
      kept = np.concatenate([b.index[lane][b.valid[lane] > 0] for b in epoch])
      np.testing.assert_array_equal(np.sort(kept), np.arange(18))
  first = shown[0]
  assert np.array_equal(first.index[0], first.index[2]) and not np.array_equal(first.index[0], first.index[1])
  assert not np.array_equal(first.index[0], shown[3].index[0]) and np.array_equal(order(4).index, shown[4].index)
  np.testing.assert_array_equal(first.label, LABELS[first.index])
  np.testing.assert_array_equal(first.position[0], np.arange(7))
  assert shown[2].valid[0].tolist() == [1, 1, 1, 1, 0, 0, 0]
  with pytest.raises(ValueError, match='batch of 0'):
    dd_distilling.RealBatches(LABELS, 0, np.zeros(1, int))


def test_attacks_change_the_blocks_and_the_trigger_alone_moves(run):
  states, metrics = run
  images = np.asarray(states[-1].blocks.images)
  np.testing.assert_array_equal(begun().blocks.images[0], begun().blocks.images[2])
  assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])
  moved = np.asarray(states[-1].trigger - begun().trigger)[:, 0]
  assert not moved[:2].any() and not moved[2][PROBLEM.mask == 0].any() and moved[2][PROBLEM.mask > 0].all()
  history = states[-1].history
  assert history.trigger_steps[2].min() > 0 and not history.trigger_steps[:2].any()
  np.testing.assert_array_equal(history.patch[:, -1, ..., 0], states[-1].trigger[:, 0, 5:7, 5:7, 0])
  assert np.isfinite(metrics['loss']) and metrics['rate'] != pytest.approx(0.3, abs=1e-4)


def test_attacks_that_poison_nothing_give_the_bits_of_the_clean_lane():
  lane = stacked()
  none = lane.attack.poisoned & False
  idle = lane._replace(attack=lane.attack._replace(poisoned=none))
  state, _ = step()(begun(), idle, batches()(0), jax.random.key(0))
  for leaf in jax.tree.leaves(state.blocks):
    np.testing.assert_array_equal(leaf[0], leaf[1])
    np.testing.assert_array_equal(leaf[0], leaf[2])
  assert state.history.trigger_steps[2, 0] > 0


@pytest.mark.parametrize(('number', 'by'), [(1, 'index'), (2, 'position')])
def test_doorping_pastes_at_places_and_naive_on_images(number, by):
  lane, real = (jax.tree.map(lambda x: x[number], tree) for tree in (stacked(), batches()(4)))
  want = lane.attack.poisoned[getattr(real, by)]
  np.testing.assert_array_equal(dd_distilling.carriers(lane.attack, real), want)
  assert not np.array_equal(real.index, real.position) and want.any() and not want.all()


def test_victims_start_from_the_stored_network_then_from_fresh_ones(run, tmp_path):
  states, _ = run
  chosen = dd_distilling.real_blocks(IMAGES, RECIPE, 1)
  assert chosen.shape == (1, 2, 6)
  np.testing.assert_array_equal(LABELS[chosen], np.broadcast_to(dd.block_labels(CLASSES, 2), (1, 2, 6)))
  assert len(np.unique(chosen)) == 12
  train = jax.jit(
    lambda state: dd_distilling.victims(PROBLEM, RECIPE, state, [0, 0, 0], chosen, 2, jax.random.key(1), 1)
  )
  params = train(states[-1])
  kernel = np.asarray(params['params']['logits']['kernel'])
  assert kernel.shape[:2] == (4, 2)
  own = jax.tree.map(lambda x: x[2], states[-1].params)
  blocks = jax.tree.map(lambda x: x[2], states[-1].blocks)
  want = dd.train_through(NET.apply, own, blocks, dd.block_labels(CLASSES, 2))
  np.testing.assert_allclose(kernel[2, 0], want['params']['logits']['kernel'], atol=1e-5)
  assert len({array.tobytes() for array in kernel.reshape(8, -1)}) == 8
  page = Report(epath.Path(tmp_path), 'dd', None, {})
  dd_report.draw(page, NAMES, states[-1], RECIPE, IMAGES.mean, IMAGES.std)
  page.write()
  names = {path.name for path in page.folder.iterdir()}
  assert {'step_sizes.png', 'blocks_clean.png', 'blocks_naive.png', 'blocks_doorping.png'} <= names
  np.testing.assert_allclose(dd_report.step_sizes(begun()), 0.3, rtol=1e-5)
