"""What the proxies were at a few epochs of a training, kept beside its state for the pictures."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxpapers.reliant.training import Training


def moments(epochs: int, count: int = 4) -> tuple[int, ...]:
  """`count` epochs from 0 to the last, in equal distances."""
  return tuple(round(i * epochs / (count - 1)) for i in range(count))


def traced(training: Training, at: Sequence[int]) -> Training:
  """The same training, whose state.model_state also holds 'trace' [len(at), N, 2]: the proxies after those epochs.

  Args:
    training: with learned proxies.
    at: epochs done; 0 is the start. Moments that have not come yet show the start.
  """

  def init(key, problem, targets):
    state = training.init(key, problem, targets)
    proxies = state.params['proxy']
    trace = jnp.broadcast_to(proxies, (len(at), *proxies.shape))
    return state.replace(model_state={**state.model_state, 'trace': trace})

  def epoch(state, problem, key, knobs):
    trace = state.model_state['trace']
    state, metrics = training.epoch(state, problem, key, knobs)
    reached = jnp.asarray(at) == state.step
    trace = jnp.where(reached[:, None, None], state.params['proxy'], trace)
    return state.replace(model_state={**state.model_state, 'trace': trace}), metrics

  return Training(init, epoch)
