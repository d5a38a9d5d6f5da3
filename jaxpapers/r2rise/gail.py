"""Generative adversarial imitation with TRPO, on features: one iteration as pure functions over parameter trees.

An expert pair gets the label 0 by the discriminator, whose cost -log D the policy ascends. All means take weights, so
that padding and masked frames do not count.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg

from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.learners import Frames, Learner
from jaxpapers.r2rise.model import as_input


class GailNets(NamedTuple):
  """Networks on features: policy [n, A], value [n, 1], discriminator [n, 1] (a logit)."""

  policy: nn.Module
  value: nn.Module
  discriminator: nn.Module


class GailOptions(NamedTuple):
  """Settings of an iteration; defaults are the authors'.

  Attributes:
    num_actions: A.
    gamma, lam: discount and GAE's lambda.
    epsilon: size of the value step.
    max_kl: trust region of the policy.
    damping: of the policy's curvature.
    value_damping: of the value's; the authors have none, and in float32 their step then runs wild where few states were
      seen.
    cg_steps: conjugate-gradient steps.
    line_steps: halvings of the line search.
    rate: of the discriminator's Adam and of the causal-entropy step.
    double_sigmoid: the authors' defect: the loss takes a sigmoid of the sigmoid.
    scalar_action: the authors' input: the action as one number, instead of one-hot.
  """

  num_actions: int
  gamma: float = 0.99
  lam: float = 0.99
  epsilon: float = 0.01
  max_kl: float = 0.01
  damping: float = 0.1
  cg_steps: int = 10
  line_steps: int = 10
  rate: float = 1e-3
  double_sigmoid: bool = False
  scalar_action: bool = False
  value_damping: float = 0.0


class Pairs(NamedTuple):
  """State-action pairs: features [..., D], actions [...] int32, weights [...] (0 for padding and dropped frames)."""

  features: jax.Array
  actions: jax.Array
  weights: jax.Array


class GailState(NamedTuple):
  """Parameters {'policy', 'value', 'discriminator'} and the discriminator's optimizer state."""

  params: dict[str, Any]
  opt_state: Any


def weighted_mean(x: jax.Array, weights: jax.Array) -> jax.Array:
  """Mean with weights; 0 where there are none."""
  return jnp.sum(x * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def judge(nets: GailNets, params: Any, pairs: Pairs, options: GailOptions) -> jax.Array:
  """Discriminator logits [...] of pairs; low for what looks like the expert."""
  dtype = pairs.features.dtype
  if options.scalar_action:
    action = pairs.actions[..., None].astype(dtype)
  else:
    action = jax.nn.one_hot(pairs.actions, options.num_actions, dtype=dtype)
  inputs = jnp.concatenate([pairs.features, action], axis=-1)
  flat = inputs.reshape(-1, inputs.shape[-1])
  return nets.discriminator.apply({'params': params}, flat)[:, 0].reshape(pairs.actions.shape)


def discriminator_losses(
  nets: GailNets, params: Any, expert: Pairs, policy: Pairs, options: GailOptions
) -> tuple[jax.Array, jax.Array]:
  """(loss on expert pairs, label 0; loss on the policy's, label 1).

  On logits z: softplus(z) and softplus(-z). With `double_sigmoid` z is replaced by sigmoid(z), as the authors do.
  """
  z = [judge(nets, params, pairs, options) for pairs in (expert, policy)]
  if options.double_sigmoid:
    z = [jax.nn.sigmoid(x) for x in z]
  losses = jax.nn.softplus(z[0]), jax.nn.softplus(-z[1])
  return weighted_mean(losses[0], expert.weights), weighted_mean(losses[1], policy.weights)


def costs(nets: GailNets, params: Any, pairs: Pairs, options: GailOptions) -> jax.Array:
  """-log sigmoid(z) [...], what the policy ascends."""
  return jax.nn.softplus(-judge(nets, params, pairs, options))


def returns_and_advantages(
  cost: jax.Array, values: jax.Array, weights: jax.Array, gamma: float, lam: float
) -> tuple[jax.Array, jax.Array]:
  """Discounted returns-to-go and GAE with value 0 after the end, advantages standardised (unbiased deviation).

  Args:
    cost: [episodes, T].
    values: [episodes, T].
    weights: [episodes, T], 1 before an episode's end and 0 behind.
    gamma: discount.
    lam: GAE's lambda.

  Returns:
    (returns [episodes, T], standardised advantages [episodes, T]), 0 where the weight is 0.
  """
  cost, values = cost * weights, values * weights
  following = jnp.concatenate([values[:, 1:], jnp.zeros_like(values[:, :1])], axis=1)
  deltas = (cost + gamma * following - values) * weights

  def body(carry, x):
    value, advantage = carry
    c, d = x
    carry = (c + gamma * value, d + gamma * lam * advantage)
    return carry, carry

  zero = jnp.zeros_like(cost[:, 0])
  _, (returns, raw) = jax.lax.scan(body, (zero, zero), (cost.T, deltas.T), reverse=True)
  returns, raw = returns.T * weights, raw.T * weights
  count = jnp.maximum(weights.sum(), 2.0)
  mean = raw.sum() / count
  deviation = jnp.sqrt(jnp.sum(weights * (raw - mean) ** 2) / (count - 1))
  return returns, (raw - mean) / jnp.maximum(deviation, 1e-12) * weights


def _dot(a: Any, b: Any) -> jax.Array:
  return optax.tree.vdot(a, b)


def _scaled(tree: Any, scale: jax.Array) -> Any:
  return jax.tree.map(lambda x: scale * x, tree)


def _add(a: Any, b: Any) -> Any:
  return jax.tree.map(jnp.add, a, b)


def _solve(hessian: Any, gradient: Any, steps: int) -> Any:
  """Conjugate gradients; zero where they break down.

  They stop where the squared residual falls below 1e-10, or below what rounding leaves of it: the value's curvature is
  singular where few features were seen, and going on would divide by its zeros.
  """
  rounding = 100 * float(jnp.finfo(jax.tree.leaves(gradient)[0].dtype).eps)
  # Zeros hidden from the compiler: features @ (a constant matrix), fused for CPU, is garbage in jaxlib 0.10 to 0.12.
  start = _scaled(gradient, jnp.zeros(()))
  solution = cg(hessian, gradient, x0=start, tol=rounding, atol=1e-5, maxiter=steps)[0]
  finite = jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(solution)]))
  return jax.tree.map(lambda x: jnp.where(finite, x, 0.0), solution)


def _scale(size: float, solution: Any, curved: Any) -> jax.Array:
  quadratic = _dot(solution, curved)
  return jnp.where(quadratic > 0, jnp.sqrt(2 * size / jnp.where(quadratic > 0, quadratic, 1.0)), 0.0)


class Step(NamedTuple):
  """A natural-gradient step: new parameters, gradient, conjugate-gradient solution, and the step taken."""

  params: Any
  gradient: Any
  solution: Any
  step: Any


def value_step(
  nets: GailNets, params: Any, features: jax.Array, returns: jax.Array, weights: jax.Array, options: GailOptions
) -> Step:
  """Ascends -mean((V - G)^2) within the ellipsoid s'Hs = 2 epsilon, H the Hessian of mean((V_old - V)^2)."""

  def value(params):
    return nets.value.apply({'params': params}, features.reshape(-1, features.shape[-1]))[:, 0].reshape(returns.shape)

  old = jax.lax.stop_gradient(value(params))
  gradient = jax.grad(lambda p: -weighted_mean((value(p) - returns) ** 2, weights))(params)

  def curve(v):
    product = jax.jvp(jax.grad(lambda p: weighted_mean((old - value(p)) ** 2, weights)), (params,), (v,))[1]
    return jax.tree.map(lambda h, x: h + options.value_damping * x, product, v)

  solution = _solve(curve, gradient, options.cg_steps)
  step = _scaled(solution, _scale(options.epsilon, solution, curve(solution)))
  return Step(_add(params, step), gradient, solution, step)


def policy_step(
  nets: GailNets, params: Any, pairs: Pairs, advantages: jax.Array, options: GailOptions
) -> tuple[Step, jax.Array]:
  """A TRPO step with line search, then a step along the causal entropy.

  Args:
    nets: networks.
    params: of the policy.
    pairs: [episodes, T] of the policy's own play; time counts from 0 in each row.
    advantages: [episodes, T].
    options: settings.

  Returns:
    (step, failed bool). `step.step` is the accepted step of the line search, 0 if it failed. The entropy's gradient is
    taken at the parameters that the line search tried last, also when it rejected them (as the authors' program does).
  """
  time = jnp.arange(pairs.actions.shape[1])
  flat = pairs.features.reshape(-1, pairs.features.shape[-1])

  def log_policy(params):
    return jax.nn.log_softmax(nets.policy.apply({'params': params}, flat)).reshape(*pairs.actions.shape, -1)

  def log_chosen(params):
    return jnp.take_along_axis(log_policy(params), pairs.actions[..., None], axis=-1)[..., 0]

  old, old_chosen = jax.lax.stop_gradient((log_policy(params), log_chosen(params)))

  def surrogate(p):
    return weighted_mean(advantages * jnp.exp(log_chosen(p) - old_chosen), pairs.weights)

  def divergence(p):
    return weighted_mean(jnp.sum(jnp.exp(old) * (old - log_policy(p)), axis=-1), pairs.weights)

  before, gradient = jax.value_and_grad(surrogate)(params)

  def curve(v):
    product = jax.jvp(jax.grad(divergence), (params,), (v,))[1]
    return jax.tree.map(lambda h, x: h + options.damping * x, product, v)

  solution = _solve(curve, gradient, options.cg_steps)
  full = _scaled(solution, _scale(options.max_kl, solution, curve(solution)))
  slope = _dot(gradient, full)

  def going(carry):
    tries, accepted = carry
    return ~accepted & (tries < options.line_steps)

  def attempt(carry):
    tries, _ = carry
    scale = 0.5**tries
    tried = _add(params, _scaled(full, scale))
    gain, predicted = surrogate(tried) - before, scale * slope
    ratio = gain / jnp.where(predicted == 0, 1.0, predicted)
    return tries + 1, (ratio > 0.1) & (gain > 0) & (divergence(tried) < options.max_kl)

  tries, accepted = jax.lax.while_loop(going, attempt, (jnp.zeros((), jnp.int32), jnp.zeros((), bool)))
  last = _scaled(full, 0.5 ** (tries - 1))
  taken = _scaled(last, jnp.where(accepted, 1.0, 0.0))

  def entropy(p):
    return weighted_mean(-(options.gamma**time) * log_chosen(p), pairs.weights)

  extra = jax.grad(entropy)(_add(params, last))
  new = jax.tree.map(lambda p, t, e: p + t + options.rate * e, params, taken, extra)
  return Step(new, gradient, solution, taken), ~accepted


def gail_optimizer(options: GailOptions) -> optax.GradientTransformation:
  """Adam of the discriminator."""
  return optax.adam(options.rate)


class Iteration(NamedTuple):
  """What one iteration did: the new state, both losses, returns, advantages, and the two steps."""

  state: GailState
  expert_loss: jax.Array
  policy_loss: jax.Array
  returns: jax.Array
  advantages: jax.Array
  value: Step
  policy: Step
  failed: jax.Array


def gail_iteration(nets: GailNets, state: GailState, expert: Pairs, play: Pairs, options: GailOptions) -> Iteration:
  """One discriminator, value and policy step on the policy's episodes.

  Args:
    nets: networks.
    state: parameters and optimizer state.
    expert: [n] kept demonstration pairs (weight 0 drops one).
    play: [episodes, T] pairs of the policy, padded with weight 0.
    options: settings.
  """
  params = state.params
  cost = costs(nets, params['discriminator'], play, options)
  flat = play.features.reshape(-1, play.features.shape[-1])
  values = nets.value.apply({'params': params['value']}, flat)[:, 0].reshape(cost.shape)
  returns, advantages = returns_and_advantages(cost, values, play.weights, options.gamma, options.lam)

  def objective(d):
    losses = discriminator_losses(nets, d, expert, play, options)
    return losses[0] + losses[1], losses

  grads, losses = jax.grad(objective, has_aux=True)(params['discriminator'])
  updates, opt_state = gail_optimizer(options).update(grads, state.opt_state, params['discriminator'])
  value = value_step(nets, params['value'], play.features, returns, play.weights, options)
  policy, failed = policy_step(nets, params['policy'], play, advantages, options)
  new = {
    'policy': policy.params,
    'value': value.params,
    'discriminator': optax.apply_updates(params['discriminator'], updates),
  }
  return Iteration(GailState(new, opt_state), *losses, returns, advantages, value, policy, failed)


def flat_features(observations: jax.Array) -> jax.Array:
  """[n, ...] observations -> [n, D]: what GAIL sees of small observations, without a network."""
  return as_input(observations).reshape(observations.shape[0], -1)


def gail(
  nets: GailNets,
  environment: Environment,
  options: GailOptions,
  iterations: int,
  episodes: int,
  horizon: int,
  features: Callable[[jax.Array], jax.Array] = flat_features,
) -> Learner:
  """The learner; its parameters are those of the policy, which acts by sampling.

  Args:
    nets: networks on features.
    environment: that the learner plays while it learns.
    options: settings.
    iterations: updates.
    episodes: played per iteration.
    horizon: decisions after which a training episode is cut.
    features: observations [n, ...] -> [n, D]; a frozen network for pixels.
  """

  def act(params: Any, observations: jax.Array, key: jax.Array) -> jax.Array:
    logits = nets.policy.apply({'params': params}, features(observations))
    return jax.random.categorical(key, logits).astype(jnp.int32)

  def play(params: Any, key: jax.Array) -> Pairs:
    reset_key, act_key = jax.random.split(key)

    def body(carry, time):
      state, alive = carry
      observations = environment.observe(state)
      actions = act(params, observations, jax.random.fold_in(act_key, time))
      state, _, done = environment.step(state, actions)
      return (state, alive & ~done), (features(observations), actions, alive.astype(jnp.float32))

    start = environment.reset(jax.random.split(reset_key, episodes))
    _, pairs = jax.lax.scan(body, (start, jnp.ones(episodes, bool)), jnp.arange(horizon))
    return Pairs(*(jnp.swapaxes(x, 0, 1) for x in pairs))

  def train(key: jax.Array, frames: Frames, weights: jax.Array) -> Any:
    count = len(weights)
    expert = Pairs(features(frames.observations[:count]), frames.actions, weights)
    keys = jax.random.split(key, 4)
    size = expert.features.shape[1]
    judged = size + (1 if options.scalar_action else options.num_actions)
    inputs = {'policy': size, 'value': size, 'discriminator': judged}
    params = {
      name: getattr(nets, name).init(k, jnp.zeros((1, inputs[name])))['params']
      for name, k in zip(inputs, keys[:3], strict=True)
    }
    state = GailState(params, gail_optimizer(options).init(params['discriminator']))

    def body(state, number):
      pairs = play(state.params['policy'], jax.random.fold_in(keys[3], number))
      return gail_iteration(nets, state, expert, pairs, options).state, None

    return jax.lax.scan(body, state, jnp.arange(iterations))[0].params['policy']

  return Learner('gail', train, act)
