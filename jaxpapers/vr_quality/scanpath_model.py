"""A scanpath predictor: recent displacements -> GRU -> mixture density of the next one.

Everything is relative to the gaze: positions enter as tangent vectors at the current direction, so that the model knows
no absolute longitude. It is trained on recorded paths and samples new ones in closed loop.
"""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.vr_quality.mixture import SIZE, Mixture, from_outputs, log_density, sample
from jaxpapers.vr_quality.sphere import exp_map, log_map

Look = Callable[[jax.Array], jax.Array]
"""Unit vectors [..., 3] -> [..., features] of what is seen there, e.g. pooled features of a viewport."""


class ScanpathPredictor(nn.Module):
  """Mixture density of the next displacement. Source: this library's own.

  Attributes:
    hidden: units of the GRU.
    components: of the mixture.
    history: K, recent positions that are seen.
    unit: typical displacement in radians; inputs and outputs are multiples of it.
    horizon: steps that count as time 1.
  """

  hidden: int = 64
  components: int = 5
  history: int = 5
  unit: float = 0.2
  horizon: float = 15.0

  def setup(self):
    """Makes the recurrent cell and the output layer."""
    self.cell = nn.GRUCell(self.hidden)
    self.over_time = nn.RNN(self.cell)
    self.head = nn.Dense(self.components * SIZE)

  def __call__(self, path: jax.Array, seen: jax.Array | None = None, train: bool = False) -> Mixture:
    """The mixtures of displacements 1 .. time - 1 of recorded paths.

    Args:
      path: [batch, time, 3] unit vectors.
      seen: [batch, time, features] of what is seen at the points; None: nothing.
      train: without effect; the model behaves the same in training.

    Returns:
      Leaves [batch, time - 1, ...].
    """
    chex.assert_shape(path, (None, None, 3))
    time = path.shape[1]
    ages = jnp.maximum(jnp.arange(time)[:, None] - jnp.arange(self.history + 1), 0)
    features = self.features(path[:, ages], path[:, :1], jnp.arange(time))
    if seen is not None:
      features = jnp.concatenate([features, seen], axis=-1)
    return self.mixture(self.over_time(features[:, :-1]))

  def features(self, recent: jax.Array, start: jax.Array, time: jax.Array) -> jax.Array:
    """[..., 2 history + 5]: tangent vectors to recent points and the start, sine of the latitude up, speed, time.

    Args:
      recent: [..., history + 1, 3], the newest first; before the start it stays there.
      start: [..., 3].
      time: [...] steps since the start.
    """
    now = recent[..., 0, :]
    back = log_map(now[..., None, :], recent[..., 1:, :]) / self.unit
    offset = log_map(now, jnp.broadcast_to(start, now.shape)) / self.unit
    speed = jnp.linalg.norm(back[..., 0, :] + 1e-12, axis=-1)
    clock = jnp.broadcast_to(time / self.horizon, now.shape[:-1])
    scalars = jnp.stack([now[..., 2], speed, clock], axis=-1)
    return jnp.concatenate([back.reshape(*back.shape[:-2], -1), offset, scalars], axis=-1)

  def mixture(self, hidden: jax.Array) -> Mixture:
    """The mixture that a state of the GRU [..., hidden] predicts."""
    return from_outputs(self.head(hidden), self.components, self.unit)

  def step(self, carry: jax.Array, features: jax.Array) -> tuple[jax.Array, Mixture]:
    """One step of the closed loop: (state [hidden], features) -> (state, mixture)."""
    carry, hidden = self.cell(carry, features)
    return carry, self.mixture(hidden)


def negative_log_likelihood(mixture: Mixture, path: jax.Array, length: jax.Array) -> jax.Array:
  """Nats per step [batch] of recorded paths. Source: this library's own.

  Args:
    mixture: of `ScanpathPredictor`, leaves [batch, time - 1, ...].
    path: [batch, time, 3].
    length: [batch], points that count, at least 2.
  """
  moves = log_map(path[:, :-1], path[:, 1:])
  counted = jnp.arange(1, path.shape[1]) < length[:, None]
  return -jnp.sum(jnp.where(counted, log_density(mixture, moves), 0), axis=1) / jnp.sum(counted, axis=1)


def sample_path(
  key: jax.Array,
  model: ScanpathPredictor,
  variables: Any,
  start: jax.Array,
  steps: int,
  look: Look | None = None,
) -> jax.Array:
  """A new path [steps, 3] from the unit vector `start` [3]; one scan; `vmap` over keys and starts for many.

  Source: this library's own.

  Args:
    key: decides the path.
    model: its description.
    variables: its parameters.
    start: [3].
    steps: points, the start included.
    look: what the model was shown in training as `seen`.
  """

  def step(carry, inputs):
    state, recent = carry
    time, key = inputs
    features = model.apply(variables, recent, start, time, method='features')
    if look is not None:
      features = jnp.concatenate([features, look(recent[0])])
    state, mixture = model.apply(variables, state, features, method='step')
    new = exp_map(recent[0], sample(key, mixture))
    new = new / jnp.linalg.norm(new)
    return (state, jnp.concatenate([new[None], recent[:-1]])), new

  first = (jnp.zeros(model.hidden, start.dtype), jnp.tile(start, (model.history + 1, 1)))
  _, path = jax.lax.scan(step, first, (jnp.arange(steps - 1), jax.random.split(key, steps - 1)))
  return jnp.concatenate([start[None], path])
