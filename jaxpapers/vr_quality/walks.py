"""Simple scanpath models to compare with: stay, constant velocity, a fitted random walk."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.vr_quality.sphere import exp_map, log_map


class Walk(NamedTuple):
  """The next displacement (east, north) is Gaussian about damping * (the last one) - (0, pull * latitude).

  Attributes:
    damping: 0 stays, 1 keeps the velocity.
    pull: towards the equator, per step.
    covariance: [2, 2] of the displacement about its mean, radians².
  """

  damping: jax.Array
  pull: jax.Array
  covariance: jax.Array


def last_displacement(before: jax.Array, now: jax.Array) -> jax.Array:
  """The step that led from `before` to `now`, carried to the tangent plane at `now`, [..., 2] of [..., 3]."""
  return -log_map(now, before)


def mean_displacement(walk: Walk, before: jax.Array, now: jax.Array) -> jax.Array:
  """Mean [..., 2] of the next displacement at `now` [..., 3], reached from `before`."""
  latitude = jnp.arcsin(jnp.clip(now[..., 2], -1.0, 1.0))
  pull = jnp.stack([jnp.zeros_like(latitude), walk.pull * latitude], axis=-1)
  return walk.damping * last_displacement(before, now) - pull


def log_likelihood(walk: Walk, path: jax.Array) -> jax.Array:
  """Log density [time - 1] in nats of every displacement of a path [time, 3]; it is at rest before it starts."""
  before = jnp.concatenate([path[:1], path[:-1]])[:-1]
  error = log_map(path[:-1], path[1:]) - mean_displacement(walk, before, path[:-1])
  return jax.scipy.stats.multivariate_normal.logpdf(error, jnp.zeros(2, path.dtype), walk.covariance)


def sample_path(key: jax.Array, walk: Walk, start: jax.Array, steps: int) -> jax.Array:
  """A path [steps, 3] from the unit vector `start` [3], closed loop in one scan."""
  root = jnp.linalg.cholesky(walk.covariance)

  def step(carry, key):
    before, now = carry
    move = mean_displacement(walk, before, now) + root @ jax.random.normal(key, (2,), now.dtype)
    new = exp_map(now, move)
    return (now, new / jnp.linalg.norm(new)), new / jnp.linalg.norm(new)

  _, path = jax.lax.scan(step, (start, start), jax.random.split(key, steps - 1))
  return jnp.concatenate([start[None], path])


def fit(paths: np.ndarray, length: np.ndarray | None = None) -> dict[str, Walk]:
  """{'stay', 'constant velocity', 'random walk'} with covariances (and, for the last, coefficients) from paths.

  Args:
    paths: [paths, time, 3] unit vectors.
    length: [paths], points that count; None: all.
  """
  moves, last, latitude = (np.asarray(x, np.float64) for x in _regressors(jnp.asarray(paths)))
  counted = np.arange(1, paths.shape[1]) < (paths.shape[1] if length is None else np.asarray(length)[:, None])
  moves, last, latitude = (x[np.broadcast_to(counted, x.shape[:2])] for x in (moves, last, latitude))
  pull = np.stack([np.zeros_like(latitude), -latitude], axis=-1)
  design = np.stack([last.ravel(), pull.ravel()], axis=1)
  fitted = np.linalg.lstsq(design, moves.ravel(), rcond=None)[0]
  walks = {}
  for name, (damping, weight) in (('stay', (0, 0)), ('constant velocity', (1, 0)), ('random walk', fitted)):
    error = moves - damping * last - weight * pull
    covariance = error.T @ error / len(error) + 1e-8 * np.eye(2)
    walks[name] = Walk(*(jnp.asarray(x, paths.dtype) for x in (damping, weight, covariance)))
  return walks


@jax.jit
def _regressors(paths: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  now, before = paths[:, :-1], jnp.concatenate([paths[:, :1], paths[:, :-2]], axis=1)
  latitude = jnp.arcsin(jnp.clip(now[..., 2], -1.0, 1.0))
  return log_map(now, paths[:, 1:]), last_displacement(before, now), latitude
