"""A corridor small enough for tests, and learners of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers import r2rise
from jaxpapers.r2rise.model import Table

FORKS = {'forks': 4, 'fillers': 1, 'num_actions': 3}


@functools.cache
def problem():
  """(game, demonstrations, truth) of 8 positions, shown once."""
  return r2rise.make_forks(1, **FORKS), *r2rise.forks_demonstrations(1, 1, **FORKS)


def cloning(steps=20, sampling='full', batch=1):
  """Behaviour cloning by a table of logits."""
  options = r2rise.BcOptions(steps, batch, sampling)
  return r2rise.behaviour_cloning(Table(FORKS['num_actions']), optax.sgd(20.0), options)


def votes():
  """A learner of one's own: kept frames vote for their action; where none was seen, action 0."""

  def train(key, frames, weights):
    del key
    shown = jax.nn.one_hot(frames.actions, FORKS['num_actions']) * weights[:, None]
    return frames.observations[: len(weights)].reshape(len(weights), -1).astype(jnp.float32).T @ shown

  def act(params, observations, key):
    del key
    return jnp.argmax(observations.reshape(len(observations), -1).astype(jnp.float32) @ params, axis=-1)

  return r2rise.Learner('votes', train, act)


def explain(learner=None, seed=0, **options):
  """`r2rise.explain` on the corridor."""
  game, demos, _ = problem()
  options = {'masks': 512, 'chunk': 128, 'episodes': 4, 'epsilon': 0.05} | options
  return r2rise.explain(learner or votes(), game, demos, jax.random.key(seed), **options)


def frames():
  """The demonstrations as a learner reads them, on the device."""
  return jax.tree.map(jnp.asarray, r2rise.make_frames(problem()[1]))


def half_masks(count, seed=0):
  """[count, n] float32 random weights of frames."""
  return np.random.default_rng(seed).integers(0, 2, (count, problem()[2].size)).astype(np.float32)
