"""Scanpaths to learn from: recorded ones by video, or synthetic observers of synthetic scenes with known attractors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.vr_quality import scanpath_files
from jaxpapers.vr_quality.saliency import pixel_index, vmf_map
from jaxpapers.vr_quality.scanpath_model import Look
from jaxpapers.vr_quality.sphere import exp_map, unit_vector

MAP_HEIGHT = 32
MAP_SIGMA = 15.0 / 180.0 * np.pi


class Scene(NamedTuple):
  """One video and those who watched it.

  Attributes:
    name: of the video.
    paths: [observers, time, 3] float32 unit vectors, padded.
    length: [observers] int32.
    attractors: [n, 3] float32, what draws the gaze; [0, 3] where it is not known.
  """

  name: str
  paths: np.ndarray
  length: np.ndarray
  attractors: np.ndarray


def synthetic(seed: int, scenes: int, observers: int, steps: int, attractors: int = 5) -> list[Scene]:
  """Scenes with attractors near the equator, watched by observers who dwell with momentum and now and then jump.

  All observers of a scene share the start. A jump leads most of the way to an attractor, near ones more likely; in
  between the gaze drifts with damped velocity and a pull to the equator.

  Args:
    seed: of everything.
    scenes: how many.
    observers: per scene.
    steps: points per path.
    attractors: per scene.
  """
  rng = np.random.default_rng([seed, 11])

  def near_equator(*shape):
    lon, lat = rng.uniform(-np.pi, np.pi, shape), rng.normal(0.0, 0.25, shape)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)

  targets, start = near_equator(scenes, attractors), near_equator(scenes, 1)
  now = np.repeat(start, observers, axis=1)
  velocity, points = np.zeros((scenes, observers, 2)), [now]
  for _ in range(steps - 1):
    # Tangent vectors in NumPy: this loop is not worth a compilation.
    lat = np.arcsin(np.clip(now[..., 2], -1.0, 1.0))
    lon = np.arctan2(now[..., 1], now[..., 0])
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=-1)
    north = np.cross(now, east)
    cosine = np.clip(np.einsum('soi,sai->soa', now, targets), -1.0, 1.0)
    preference = np.exp(4.0 * cosine)
    preference = np.cumsum(preference / preference.sum(axis=-1, keepdims=True), axis=-1)
    chosen = (rng.random((scenes, observers, 1)) > preference[..., :-1]).sum(axis=-1)
    goal = np.take_along_axis(targets, chosen[..., None], axis=1)
    along = np.stack([np.sum(goal * east, axis=-1), np.sum(goal * north, axis=-1)], axis=-1)
    size = np.linalg.norm(along, axis=-1, keepdims=True)
    angle = np.arctan2(size, np.sum(goal * now, axis=-1, keepdims=True))
    jump = along / np.maximum(size, 1e-9) * angle * rng.uniform(0.6, 1.0, angle.shape)
    jump = jump + rng.normal(0.0, 0.05, jump.shape)
    drift = 0.7 * velocity + rng.normal(0.0, 0.06, velocity.shape)
    drift[..., 1] -= 0.1 * lat
    jumping = rng.random((scenes, observers, 1)) < 0.25
    move = np.where(jumping, jump, drift)
    velocity = np.where(jumping, 0.0, drift)
    length = np.linalg.norm(move, axis=-1, keepdims=True)
    step = move[..., :1] * east + move[..., 1:] * north
    now = np.cos(length) * now + np.sinc(length / np.pi) * step
    now = now / np.linalg.norm(now, axis=-1, keepdims=True)
    points.append(now)
  paths = np.stack(points, axis=2).astype(np.float32)
  full = np.full(observers, steps, np.int32)
  return [Scene(f'scene {i}', paths[i], full, targets[i].astype(np.float32)) for i in range(scenes)]


def recorded(found: scanpath_files.Scanpaths) -> list[Scene]:
  """One scene per video of recorded scanpaths; paths of a single point are refused.

  Raises:
    UserError: naming a video and subject with fewer than two points.
  """
  short = np.flatnonzero(found.length < 2)
  if len(short):
    video, subject = str(found.video[short[0]]), str(found.subject[short[0]])
    raise UserError(f'The path of subject {subject!r} for {video!r} has one point; two are needed to learn a step.')
  lon, lat = found.lonlat[..., 0], found.lonlat[..., 1]
  paths = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1).astype(np.float32)
  nothing = np.zeros((0, 3), np.float32)
  return [
    Scene(str(video), paths[found.video == video], found.length[found.video == video].astype(np.int32), nothing)
    for video in dict.fromkeys(found.video.tolist())
  ]


def split_scenes(scenes: list[Scene], seed: int, share: float = 0.25) -> tuple[list[Scene], list[Scene]]:
  """(training scenes, test scenes): whole videos, at least one of each.

  Raises:
    UserError: for fewer than two scenes.
  """
  if len(scenes) < 2:
    raise UserError(f'Scanpaths of two videos at least are needed, to train and to test, not of {len(scenes)}.')
  order = np.random.default_rng([seed, 13]).permutation(len(scenes))
  tests = min(max(1, round(share * len(scenes))), len(scenes) - 1)
  return [scenes[i] for i in order[tests:]], [scenes[i] for i in order[:tests]]


def scene_maps(scenes: list[Scene]) -> jax.Array:
  """[scenes, height, width] log densities of what draws the gaze, in units in which a uniform map is 0."""
  attractors = jnp.asarray(np.stack([scene.attractors for scene in scenes]))
  density = jax.vmap(lambda x: vmf_map(x, MAP_HEIGHT, 2 * MAP_HEIGHT, MAP_SIGMA))(attractors)
  return jnp.log(4 * jnp.pi * density + 0.05)


def look_at_map(values: jax.Array, radius: float = 0.4, around: int = 8) -> Look:
  """What a viewer sees of a map [height, width]: its values at the gaze and at two rings of `around` points about it.

  Args:
    values: e.g. one of `scene_maps`, or any saliency map.
    radius: of the inner ring in radians; the outer is twice as wide.
    around: points on a ring.

  Returns:
    directions [..., 3] -> [..., 1 + 2 around].
  """
  angle = np.arange(around) / around * 2 * np.pi
  ring = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  offsets = jnp.asarray(np.concatenate([np.zeros((1, 2)), ring, 2 * ring]), jnp.float32)

  def look(directions):
    points = exp_map(jnp.broadcast_to(directions[..., None, :], (*directions.shape[:-1], len(offsets), 3)), offsets)
    index = pixel_index(points.reshape(-1, 3), *values.shape)
    return values.reshape(-1)[index].reshape(points.shape[:-1])

  return look


def equator_starts(seed: int, n: int) -> np.ndarray:
  """[n, 3] float32 directions on the equator: where chance begins."""
  lon = np.random.default_rng([seed, 17]).uniform(-np.pi, np.pi, n)
  return np.asarray(unit_vector(jnp.asarray(lon), jnp.zeros(n)), np.float32)
