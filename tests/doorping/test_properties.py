"""What holds whatever the numbers: distances, stamping, trigger updates, meta-gradients, sizes of the networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpapers.doorping import dd, invisible, matching, model, transfer, trigger
from jaxpapers.engine.measure import program_flops

SEEDS = st.integers(0, 2**31 - 1)
SHAPE = (8, 8, 1)
MASK = trigger.patch_mask(SHAPE, 2)
NET = model.ConvNet(3, width=4, depth=2, patches=True)


def gradients(seed):
  """Like the gradients of a network: a convolution and a linear layer with biases, a layer norm; 11 rows."""
  rng = np.random.default_rng(seed)
  shapes = {'conv': (3, 3, 2, 4), 'linear': (6, 5), 'norm': (2, 3, 2)}
  tree = {
    name: {'kernel': rng.normal(size=shape), 'bias': rng.normal(size=shape[-1])} for name, shape in shapes.items()
  }
  return jax.tree.map(np.float32, tree)


distance = jax.jit(matching.gradient_distance)
ROWS = 11


@settings(max_examples=20, deadline=None, derandomize=True)
@given(SEEDS, st.floats(0.1, 100.0))
def test_distance_ignores_the_length_of_a_row_and_all_biases(seed, most):
  real, synthetic = gradients(seed), gradients(seed + 1)
  factors = np.random.default_rng(seed + 2).uniform(0.1, most, (4, ROWS)).astype(np.float32)
  want = distance(real, synthetic)
  for scaled in (real, synthetic):
    changed = {
      name: {'kernel': leaf['kernel'] * factors[i, : leaf['bias'].size], 'bias': leaf['bias'] * factors[3, 0] - 1.0}
      for i, (name, leaf) in enumerate(scaled.items())
    }
    got = distance(changed, synthetic) if scaled is real else distance(real, changed)
    np.testing.assert_allclose(got, want, atol=1e-3)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(SEEDS)
def test_distance_of_equal_and_of_opposite_gradients(seed):
  real = gradients(seed)
  np.testing.assert_allclose(distance(real, real), 0.0, atol=1e-4)
  np.testing.assert_allclose(distance(real, jax.tree.map(np.negative, real)), 2.0 * ROWS, atol=1e-4)
  assert 0.0 < distance(real, gradients(seed + 1)) < 2.0 * ROWS


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SEEDS, st.integers(2, 9), st.integers(2, 9), st.sampled_from([1, 3]), st.data())
def test_stamping_is_idempotent_and_touches_the_patch_alone(seed, height, width, channels, data):
  shape, rng = (height, width, channels), np.random.default_rng(seed)
  patch = data.draw(st.integers(1, min(height, width) - 1))
  mask = trigger.patch_mask(shape, patch)
  images = rng.normal(size=(3, *shape)).astype(np.float32)
  images[0, 0, 0, 0] = np.nan  # bit-equal, so even this stays
  image = rng.normal(size=(1, *shape)).astype(np.float32)
  once = np.asarray(trigger.stamp(images, image, mask))
  np.testing.assert_array_equal(trigger.stamp(once, image, mask), once)
  np.testing.assert_array_equal(once[:, mask == 0], images[:, mask == 0])
  np.testing.assert_array_equal(once[:, mask == 1], np.broadcast_to(image[:, mask == 1], (3, int(mask.sum()))))
  assert mask.sum() == patch**2 * channels and not mask[-1].any() and not mask[:, -1].any()
  pixels = rng.integers(0, 255, (3, *shape), np.uint8)
  stamped = trigger.stamp_pixels(pixels, patch)
  np.testing.assert_array_equal(stamped != pixels, np.broadcast_to(mask > 0, stamped.shape))


@functools.cache
def call(topk, clip):
  """A compiled trigger update of NET from parameters of a seed; alpha, the patch' value and the steps are arguments."""

  def update(params, image, alpha, limit):
    options = trigger.TriggerOptions(alpha, topk, 0.08, 1000, 0.5, clip)
    kernel = params['params']['hidden']['kernel']
    penultimate = functools.partial(NET.apply, method='penultimate')
    return trigger.update_trigger(
      penultimate, params, kernel, image, MASK, options, low=-1.0, high=2.0, max_steps=limit
    )

  return jax.jit(update)


@functools.cache
def params_of(seed):
  return model.init_params(NET, jax.random.key(seed), SHAPE)


def on_black(value):
  return jnp.where(MASK > 0, value, -0.5)[None].astype(jnp.float32)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 3), st.floats(2.0, 20.0), st.floats(-30.0, 30.0), st.integers(0, 12), st.booleans())
def test_trigger_stays_outside_the_mask_and_within_reach(seed, alpha, value, limit, clipped):
  image = on_black(value)
  got = call(20, 'step' if clipped else 'none')(params_of(seed), image, alpha, limit)
  moved = np.asarray(got.trigger - image)[0]
  np.testing.assert_array_equal(moved[MASK == 0], 0.0)
  assert got.steps <= limit
  if clipped and limit:
    assert np.all(np.abs(np.asarray(got.trigger)[0][MASK > 0] - 0.5) <= 1.5)
  else:
    # Cauchy-Schwarz: of up to 12 Adam steps none exceeds its rate by more than 6.3 %.
    assert np.abs(moved).max() <= 0.08 * int(got.steps) * 1.063 + 1e-6
  if np.square(alpha - 1.0) * np.mean(np.square(got.start)) < 0.499:
    # Clipping alone may move a patch that starts outside the range.
    assert got.steps == 0 and (clipped or not moved.any())


def test_dead_units_hold_the_trigger_and_calls_ratchet_upwards():
  dead = jax.tree.map(jnp.asarray, params_of(0))
  dead['params']['hidden'] = jax.tree.map(lambda x: -jnp.abs(x), dead['params']['hidden'])
  dead['params']['conv1'] = jax.tree.map(jnp.abs, dead['params']['conv1'])
  got = call(20, 'none')(dead, on_black(3.0), 10.0, 9)
  assert got.steps == 0 and float(jnp.abs(got.start).max()) == 0.0 and np.array_equal(got.trigger, on_black(3.0))
  image, starts = on_black(30.0), []
  for _ in range(3):
    got = call(20, 'none')(params_of(0), image, 10.0, 40)
    image = got.trigger
    starts.append(float(np.square(got.start).mean()))
  assert starts[0] < starts[1] < starts[2]
  assert float(jnp.abs(image).max()) > 31.0  # nothing clips it: the pixel range ends near 2


@pytest.fixture(scope='module')
def meta():
  """float64: (loss, gradient) of blocks as a compiled function, and random blocks."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    net = model.ConvNet(3, width=4, depth=1, patches=True)
    params = jax.tree.map(lambda x: x.astype(np.float64), model.init_params(net, jax.random.key(1), SHAPE))
    real, labels = rng.normal(size=(5, *SHAPE)), rng.integers(0, 3, 5)
    blocks = dd.Blocks(rng.normal(size=(2, 3, *SHAPE)), np.full((4, 1), dd.raw_rate(0.3)))

    def loss(blocks):
      return dd.meta_loss(net.apply, params, blocks, dd.block_labels(3, 1), real, labels)[0]

    yield jax.jit(jax.value_and_grad(loss)), blocks


def test_meta_gradient_is_that_of_finite_differences(meta):
  value_and_grad, blocks = meta
  with jax.enable_x64(True):
    gradient = value_and_grad(blocks)[1]
    for seed in range(2):
      rng = np.random.default_rng(seed)
      direction = jax.tree.map(lambda x, rng=rng: rng.normal(size=x.shape), blocks)
      ends = [value_and_grad(jax.tree.map(lambda x, d, e=e: x + e * d, blocks, direction))[0] for e in (1e-5, -1e-5)]
      want = float(ends[0] - ends[1]) / 2e-5
      got = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
      assert abs(want) > 1e-3
      np.testing.assert_allclose(got, want, rtol=1e-6)


def test_zero_learning_rates_give_no_image_gradient(meta):
  value_and_grad, blocks = meta
  with jax.enable_x64(True):
    still = blocks._replace(raw=np.full((4, 1), -np.inf))
    np.testing.assert_array_equal(value_and_grad(still)[1].images, 0.0)
    assert np.abs(value_and_grad(blocks)[1].images).max() > 1e-6


def forward_macs(net, channels):
  image = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
  params = jax.eval_shape(net.init, jax.random.key(0), image)
  return model.parameter_count(params), program_flops(net.apply, params, image) / 2


@pytest.mark.parametrize(
  ('net', 'channels', 'parameters', 'macs'),
  [
    (model.ConvNet(10), 3, 694_090, 51_120_000),
    (model.ConvNet(10), 1, 691_786, 61_607_808),
    (model.ConvNet(100), 3, 711_460, None),
    (model.AlexNet(10), 3, 1_756_426, 32_778_112),
    (model.AlexNet(10), 1, 1_753_226, 29_501_312),
    (model.AlexNet(100), 3, 1_773_796, None),
    (model.ConvNet(10, norm='instancenorm'), 3, 694_858, None),
    (model.ConvNet(10, norm='instancenorm', head='one'), 3, 320_010, None),
    (transfer.VGG11(10), 3, 9_231_114, None),
    (transfer.ResNet18(10), 3, 11_436_618, None),
  ],
)
def test_parameters_and_multiply_adds(net, channels, parameters, macs):
  counted, products = forward_macs(net, channels)
  assert counted == parameters
  assert macs is None or products == macs


@pytest.mark.parametrize(('net', 'rows'), [(model.ConvNet(10), 586), (model.AlexNet(10), 714)])
def test_rows_in_the_distance(net, rows):
  params = jax.eval_shape(lambda: model.init_params(net, jax.random.key(0), (32, 32, 3)))
  assert sum(leaf.shape[-1] for leaf in jax.tree.leaves(params) if leaf.ndim > 1) == rows


def test_invisible_raises_the_activation_and_pulls_what_is_far_from_black():
  mean, std = np.full(1, 0.3, np.float32), np.full(1, 0.05, np.float32)
  image = jax.random.normal(jax.random.key(3), (1, *SHAPE)).at[0, 0, 0].set(30.0)
  params = params_of(0)

  @jax.jit
  def update(image):
    kernel = params['params']['hidden']['kernel']
    penultimate = functools.partial(NET.apply, method='penultimate')
    options = invisible.DC._replace(topk=20)
    return invisible.update_invisible(penultimate, params, kernel, image, mean, std, options)

  got = update(image)
  # The published loss, whose target moves along, can only lower it.
  assert got.after.mean() > 1.5 * got.before.mean() > 0.0
  # The bright corner is 36 from black, and 20 are free at first.
  assert got.trigger[0, 0, 0, 0] < 25.0 and np.any(np.abs(got.trigger - image)[0, 4:] > 0.5)
  np.testing.assert_array_equal(invisible.add(jnp.ones((2, *SHAPE)), image), 1.0 + jnp.concatenate([image] * 2))
