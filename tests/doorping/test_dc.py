"""One DC iteration: an attack that poisons nothing gives the clean bits; triggers move only in the patch, if at all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.doorping import dc, matching, model, official, transfer, trigger
from jaxpapers.doorping.model import ConvNet

CLASSES, IPC, SHAPE = 3, 2, (8, 8, 1)
NET = ConvNet(CLASSES, width=4, depth=1, patches=True)
MASK = trigger.patch_mask(SHAPE, 2)
# Twenty units: a single one may be dead, and then nothing moves.
OPTIONS = trigger.TriggerOptions(topk=20, max_steps=5)
RECIPE = dc.Recipe(CLASSES, outer=3, inner=2, real_batch=4, net_rate=0.1, trigger=OPTIONS)


@functools.cache
def compiled(recipe):
  pool = jnp.asarray(np.random.default_rng(0).normal(size=(18, *SHAPE)), jnp.float32)
  penultimate = functools.partial(NET.apply, method='penultimate')

  def init(key):
    return NET.init(key, jnp.zeros((1, *SHAPE)))

  return jax.jit(
    lambda state, attack, key: dc.iteration(
      NET.apply, penultimate, init, state, lambda index: pool[index], attack, MASK, recipe, key
    )
  )


def state(brightness=3.0):
  images = jax.random.normal(jax.random.key(1), (CLASSES * IPC, *SHAPE))
  return dc.Distilled(images, jnp.zeros_like(images), jnp.asarray(MASK[None] * brightness, jnp.float32))


def attack(ratio, steps):
  labels = np.repeat(np.arange(CLASSES), 6)
  poisoned = trigger.choose_poisoned(len(labels), ratio, 0)
  labels = np.where(poisoned, 0, labels)
  return dc.Attack(
    dc.class_tables(labels, CLASSES, 18), poisoned, jnp.int32(steps), jnp.full(1, -jnp.inf), jnp.full(1, jnp.inf)
  )


def test_an_attack_that_poisons_nothing_gives_the_bits_of_the_clean_run():
  step, key = compiled(RECIPE), jax.random.key(2)
  clean, _ = step(state(), attack(0.0, 0), key)
  idle, _ = step(state(30.0), attack(0.0, 5), key)
  attacked, metrics = step(state(30.0), attack(0.3, 5), key)
  np.testing.assert_array_equal(clean.images, idle.images)
  assert not np.array_equal(clean.images, attacked.images)
  assert np.isfinite(metrics['loss']) and metrics['trigger_steps'] > 0
  moved = np.asarray(attacked.trigger - state(30.0).trigger)[0]
  assert np.any(moved[MASK > 0]) and not np.any(moved[MASK == 0])


def test_one_outer_step_leaves_the_trigger_alone():
  out, metrics = compiled(RECIPE._replace(outer=1))(state(30.0), attack(0.3, 5), jax.random.key(2))
  np.testing.assert_array_equal(out.trigger, state(30.0).trigger)
  assert metrics['trigger_steps'] == 0


def test_distance_bounds_scaling_and_dead_units():
  rng = np.random.default_rng(3)
  tree = {'kernel': jnp.asarray(rng.normal(size=(3, 3, 2, 5))), 'bias': jnp.asarray(rng.normal(size=5))}
  negative = jax.tree.map(jnp.negative, tree)
  scaled = {'kernel': tree['kernel'] * jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0]), 'bias': tree['bias'] + 7}
  assert abs(matching.gradient_distance(tree, tree)) < 1e-4
  np.testing.assert_allclose(matching.gradient_distance(tree, negative), 10.0, atol=1e-4)
  np.testing.assert_allclose(matching.gradient_distance(tree, scaled), 0.0, atol=1e-4)
  dead = {'kernel': tree['kernel'].at[..., 0].set(0.0), 'bias': tree['bias']}
  value, grad = jax.value_and_grad(lambda s: matching.gradient_distance(tree, s))(dead)
  np.testing.assert_allclose(value, 1.0, atol=1e-4)
  # Large (the real row over 1e-6), as in the authors' algebra, but finite: a dead unit then multiplies it by zero.
  assert np.all(np.isfinite(grad['kernel']))


def shapes(net, size):
  return jax.eval_shape(lambda: model.init_params(net, jax.random.key(0), (size, size, 3)))


def weights(bias=CLASSES, drop=''):
  """A state dict of NET, with a bias of another length or without an entry."""
  state = official.export_official(NET.init(jax.random.key(0), jnp.zeros((1, *SHAPE))), NET)
  state['classifier.2.bias'] = np.zeros(bias)
  return {key: value for key, value in state.items() if key != drop}


@pytest.mark.parametrize(
  ('call', 'said'),
  [
    (lambda: dc.loops(7), 'ipc=7'),
    (lambda: trigger.patch_slice(8, 8), 'patch of 8'),
    (lambda: trigger.check_target(10, 10), 'label 10'),
    (lambda: trigger.poisoned_count(10, 1.5), '1.5'),
    (lambda: trigger.poisoned_count(10, 0.01), 'none of 10'),
    (lambda: dc.class_tables(np.zeros(4, int), 2), 'Every class'),
    (lambda: matching.gradient_distance({}, {}, 'far'), "'far'"),
    (lambda: model.network('vgg', 10), "Unknown network 'vgg'; known: convnet, alexnet"),
    (lambda: transfer.victim_network('vgg', 10), "Unknown network 'vgg'; known: .*vgg11, resnet18"),
    (lambda: shapes(ConvNet(10, norm='instance'), 32), "Unknown norm 'instance'"),
    (lambda: shapes(ConvNet(10, init_name='zeros'), 32), "Unknown initialisation 'zeros'"),
    (lambda: shapes(ConvNet(10, depth=4), 12), 'too small for 4 poolings'),
    (lambda: shapes(model.AlexNet(10), 28), 'AlexNet takes images of 32 x 32 pixels, not 28 x 28'),
    (lambda: shapes(transfer.VGG11(10), 28), 'VGG11 takes images of 32 pixels'),
    (lambda: official.import_official(weights(bias=5), NET, SHAPE), r'classifier.2.bias has shape \(5,\), not \(3,\)'),
    (lambda: official.import_official(weights(drop='features.0.weight'), NET, SHAPE), 'features.0.weight is missing'),
    (lambda: official.import_flat(np.zeros(7), NET, SHAPE), 'flat_w holds 7 values'),
    (lambda: official.import_images(np.zeros((2, 3, 8, 8)), SHAPE), r'shape \(2, 3, 8, 8\) are not \[batch, 1, 8, 8\]'),
    (lambda: official.import_images(np.full((2, 1, 8, 8), np.nan), SHAPE), 'NaN or infinite values in 2 of 2 images'),
  ],
)
def test_bad_input_is_named(call, said):
  with pytest.raises(ValueError, match=said):
    call()
