"""Learners: many at once equal one at a time, masked frames do not matter, and gradients are those of the formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from jaxpapers import r2rise
from jaxpapers.r2rise import bco, forks, gail, learners, retrain
from jaxpapers.r2rise.bc import Validation
from jaxpapers.r2rise.model import Mlp
from tests.r2rise import corridor

ACTIONS = corridor.FORKS['num_actions']


def make(name):
  game = corridor.problem()[0]
  mlp = Mlp((8,), ACTIONS, nn.tanh)
  if name == 'bc':
    return r2rise.behaviour_cloning(mlp, optax.adam(1e-2), r2rise.BcOptions(12, 4, 'permute'))
  if name == 'bco':
    options = bco.BcoOptions(2, 3, 8, 4, 8)
    return bco.bco(Mlp((), ACTIONS), Mlp((), ACTIONS), game, optax.adam(1e-2), options)
  nets = gail.GailNets(Mlp((), ACTIONS), Mlp((), 1), Mlp((4,), 1, nn.tanh))
  return gail.gail(nets, game, gail.GailOptions(ACTIONS, cg_steps=2, line_steps=2), 2, 2, 8)


@pytest.mark.parametrize('name', ['bc', 'bco', 'gail'])
def test_eight_learners_at_once_are_eight_single_ones(name):
  learner, frames = make(name), corridor.frames()
  keys, weights = jax.random.split(jax.random.key(0), 8), jnp.asarray(corridor.half_masks(8))

  @jax.jit
  def both(keys, weights):
    return [learners.train_masked(learner, keys, frames, weights, batching) for batching in ('vmap', 'map')]

  at_once, single = (jax.tree.leaves(x) for x in both(keys, weights))
  for got, want in zip(at_once, single, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert len(np.unique(np.asarray(got).reshape(8, -1).sum(axis=1))) == 8  # eight learners, not one


@pytest.mark.parametrize('sampling', ['iid', 'permute', 'full'])
def test_dropped_frames_do_not_matter(sampling):
  network = Mlp((), ACTIONS)
  learner = r2rise.behaviour_cloning(network, optax.adam(1e-2), r2rise.BcOptions(10, 4, sampling))
  frames, weights = corridor.frames(), jnp.asarray(corridor.half_masks(1, seed=3)[0])
  spoilt = jnp.where(weights == 0, (frames.actions + 1) % ACTIONS, frames.actions)
  assert (spoilt != frames.actions).any()
  train = jax.jit(lambda actions: learner.train(jax.random.key(1), frames._replace(actions=actions), weights))
  for a, b in zip(jax.tree.leaves(train(frames.actions)), jax.tree.leaves(train(spoilt)), strict=True):
    np.testing.assert_array_equal(a, b)


def test_validation_keeps_the_best_or_the_last_parameters():
  network, frames = Mlp((), ACTIONS), corridor.frames()
  # Labels without any rule: what is held out can only get worse.
  frames = frames._replace(actions=jnp.asarray([0, 1, 2, 0, 2, 1, 0, 1]))
  weights, key = jnp.ones(8), jax.random.key(2)

  @jax.jit
  def both():
    rules = [Validation(0.5, 4, 2, keep) for keep in ('last', 'best')]
    options = [r2rise.BcOptions(40, 4, 'permute', rule) for rule in rules]
    return [r2rise.behaviour_cloning(network, optax.adam(0.3), o).train(key, frames, weights) for o in options]

  last, best = (np.abs(x['output']['kernel']).max() for x in both())
  assert best < last < 4.0  # and it stopped long before 40 updates of .3


def test_every_epoch_walks_through_each_kept_frame_once():
  kept = jnp.asarray([True, False, True, True, False, True, True])
  step = jax.jit(lambda s: learners.walk_frames(jax.random.key(0), kept, s, 2))
  walk = np.concatenate([step(s) for s in range(10)])
  for epoch in walk.reshape(4, 5):
    assert sorted(epoch.tolist()) == [0, 2, 3, 5, 6]
  assert len({tuple(epoch) for epoch in walk.reshape(4, 5).tolist()}) > 1


def test_draws_follow_the_weights():
  weights = jnp.asarray([0.0, 1.0, 0.0, 0.5, 0.5])
  drawn = jax.jit(lambda: learners.draw_frames(jax.random.key(0), weights, 4000))()
  drawn = np.bincount(drawn, minlength=5) / 4000
  np.testing.assert_allclose(drawn, [0, 0.5, 0, 0.25, 0.25], atol=0.03)


def toy_gail(options):
  nets = gail.GailNets(Mlp((3,), ACTIONS, nn.tanh), Mlp((3,), 1, nn.tanh), Mlp((3,), 1, nn.tanh))
  rng = np.random.default_rng(0)

  def pairs(*shape):
    weights = jnp.asarray(rng.random(shape) < 0.7, jnp.float32)
    return gail.Pairs(
      jnp.asarray(rng.normal(size=(*shape, 2)), jnp.float32), jnp.asarray(rng.integers(0, 3, shape)), weights
    )

  expert, play = pairs(7), pairs(2, 4)
  params = nets.discriminator.init(jax.random.key(0), jnp.zeros((1, 2 + ACTIONS)))['params']
  return nets, params, expert, play, options


def test_the_discriminator_loss_is_a_logistic_regression_and_its_gradient_exact():
  nets, params, expert, play, options = toy_gail(gail.GailOptions(ACTIONS))

  def loss(params):
    return sum(gail.discriminator_losses(nets, params, expert, play, options))

  check_grads(jax.jit(loss), (params,), order=1, modes=['rev'], atol=1e-2, rtol=1e-2)
  # Against log-probabilities of a classifier in which 1 is 'not the expert'.
  z = [np.asarray(gail.judge(nets, params, p, options), np.float64) for p in (expert, play)]
  want = -np.average(np.log(1 - 1 / (1 + np.exp(-z[0]))), weights=expert.weights)
  want -= np.average(np.log(1 / (1 + np.exp(-z[1]))), weights=play.weights)
  np.testing.assert_allclose(loss(params), want, rtol=1e-5)
  np.testing.assert_allclose(gail.costs(nets, params, play, options), np.log1p(np.exp(-z[1])), rtol=1e-5)


def test_returns_and_advantages_are_the_sums_that_define_them():
  rng = np.random.default_rng(1)
  weights = np.asarray([[1, 1, 1, 0], [1, 1, 1, 1.0]])
  cost, values = rng.normal(size=(2, 2, 4))
  run = jax.jit(lambda *x: gail.returns_and_advantages(*x, 0.9, 0.8))
  returns, advantages = run(cost, values, weights)
  want_returns, raw = np.zeros((2, 2, 4))
  for e, length in enumerate((3, 4)):
    for t in range(length):
      want_returns[e, t] = sum(0.9 ** (k - t) * cost[e, k] for k in range(t, length))
      following = [values[e, k + 1] if k + 1 < length else 0.0 for k in range(length)]
      raw[e, t] = sum(
        (0.9 * 0.8) ** (k - t) * (cost[e, k] + 0.9 * following[k] - values[e, k]) for k in range(t, length)
      )
  np.testing.assert_allclose(returns, want_returns, atol=1e-6)
  used = raw[weights > 0]
  want = np.where(weights > 0, (raw - used.mean()) / used.std(ddof=1), 0.0)
  np.testing.assert_allclose(advantages, want, atol=1e-5)


def test_a_transition_needs_both_frames_or_the_first():
  frames = corridor.frames()
  weights = jnp.asarray([1, 1, 0, 1, 1, 0, 1, 1.0])
  assert bco.pair_weights(frames, weights, 'first').tolist() == [1, 1, 0, 1, 1, 0, 1, 0]
  assert bco.pair_weights(frames, weights, 'both').tolist() == [1, 0, 0, 1, 0, 0, 1, 0]


def test_the_full_policy_reaches_its_closed_form():
  game = corridor.problem()[0]
  learner, frames = corridor.cloning(60), corridor.frames()
  weights = jnp.ones((64, len(frames.actions)))
  run = jax.jit(lambda k, w: retrain.retrain(learner, game, frames, k, w, episodes=32, epsilon=0.2))
  result = run(jax.random.split(jax.random.key(0), 64), weights)
  want = forks.full_data_return(4, ACTIONS, 0.2)
  assert abs(result.returns.mean() - want) < 4 * float(result.returns.std()) / np.sqrt(result.returns.size)
  assert (result.kept == 8).all()


def test_the_retraining_curve_follows_the_map():
  game, _, truth = corridor.problem()
  setting = (game, corridor.frames(), np.arange(8), truth * 1.0, (0.5,), jax.random.key(0))
  points = r2rise.retrain_curve(corridor.cloning(), *setting, learners=8, episodes=4)
  means = {point.order: point.mean for point in points}
  assert means['top'] == 4.0 and means['bottom'] < 1.5 and means['bottom'] < means['random'] < 4.0
