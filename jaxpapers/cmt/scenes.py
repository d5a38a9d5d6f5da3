"""Synthetic surround scenes: boxes on a plane, a spinning LiDAR and a ring of cameras, ray-cast as a pure function.

The two vehicle classes differ in size. The two posts have one shape and differ in colour, so that LiDAR alone cannot
tell them apart, while cameras alone judge distance poorly. The upper half of every box's front has yellow reflecting
paint, so that a heading shows to both.
"""

import dataclasses
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

CLASSES = ('small_vehicle', 'large_vehicle', 'red_post', 'green_post')
LOOK_ALIKE = (2, 3)
SIZES = ((2.4, 1.2, 1.0), (3.6, 1.5, 1.8), (0.7, 0.7, 1.3), (0.7, 0.7, 1.3))  # length, width, height in metres
COLOURS = ((210, 120, 50), (150, 150, 170), (40, 40, 220), (50, 200, 40))  # BGR
PAINT = (60, 235, 250)
CAMERAS = ('front', 'front right', 'front left', 'back', 'back left', 'back right')
CAMERA_DEGREES = (90, 30, 150, 270, 210, 330)  # counter-clockwise from +x; forward is +y
FRONT = 0
_FACE_SHADE = (0.95, 0.45, 0.75, 0.75, 1.0, 0.3)  # front, back, left, right, top, bottom
_AGES = (0.0, 0.5)  # seconds
_TRIES = 24
_FAR = 1e6


@dataclasses.dataclass(frozen=True)
class Surround:
  """What a scene is made of.

  Attributes:
    pc_range: lowest x, y, z and highest x, y, z in metres; scenes fill it.
    objects: at most so many, and at least two where they find room.
    height: of an image in pixels.
    width: of an image in pixels.
    field: horizontal field of view of a camera in degrees.
    beams: of the LiDAR, from -35 to +4 degrees.
    azimuths: rays of a beam in one turn.
  """

  pc_range: tuple[float, ...] = (-8.0, -8.0, -1.0, 8.0, 8.0, 3.0)
  objects: int = 4
  height: int = 24
  width: int = 48
  field: float = 72.0
  beams: int = 12
  azimuths: int = 96

  @property
  def points(self) -> int:
    """Points of a cloud, misses included."""
    return self.beams * self.azimuths * len(_AGES)


class Hits(NamedTuple):
  """Where rays end.

  Attributes:
    distance: [rays] float32, 1e6 where nothing is hit.
    box: [rays] int32 index, -1 for the ground or nothing.
    face: [rays] int32, 0 front, 1 back, 2 left, 3 right, 4 top, 5 bottom of that box.
    height: [rays] float32, of the hit as a part of the box's height, 0 to 1.
    cosine: [rays] float32, between the ray and the surface's normal, 0 to 1.
  """

  distance: jax.Array
  box: jax.Array
  face: jax.Array
  height: jax.Array
  cosine: jax.Array


def scenes(setting: Surround, indices: jax.Array, seed: int) -> dict[str, jax.Array]:
  """The scenes `indices` [batch] of the series `seed` as a batch of the room; see `scene`."""
  chex.assert_rank(indices, 1)
  key = jax.random.key(seed)
  return jax.vmap(lambda index: scene(setting, jax.random.fold_in(key, index)))(indices)


def scene(setting: Surround, key: jax.Array) -> dict[str, jax.Array]:
  """One scene, all of it random. Source: this library's own.

  Args:
    setting: sizes.
    key: decides everything.

  Returns:
    points [points, 5] float32: x, y, z (m), intensity (0 to 255), age (s); zeros where a ray missed.
    points_mask [points] bool.
    images [6, height, width, 3] float32: BGR, 0 to 255.
    lidar2img, img2lidar [6, 4, 4] float32.
    boxes [objects, 9] float32: bottom centre, length, width, height, yaw, velocity; the valid ones first, else zeros.
    labels [objects] int32.
    boxes_mask [objects] bool: a box without a LiDAR return at age 0 is not valid.
    has_lidar [] bool and has_camera [6] bool: true.
  """
  for_boxes, for_cloud, for_images = jax.random.split(key, 3)
  boxes, labels, present = place(setting, for_boxes)
  points, points_mask, returns = _cloud(setting, boxes, present, for_cloud)
  images = _images(setting, boxes, labels, present, for_images)
  lidar2img, img2lidar = rig(setting)
  valid = present & (returns > 0)
  order = jnp.argsort(~valid, stable=True)
  valid = valid[order]
  return {
    'points': points,
    'points_mask': points_mask,
    'images': images,
    'lidar2img': jnp.asarray(lidar2img),
    'img2lidar': jnp.asarray(img2lidar),
    'boxes': jnp.where(valid[:, None], boxes[order], 0.0),
    'labels': jnp.where(valid, labels[order], 0),
    'boxes_mask': valid,
    'has_lidar': jnp.ones((), bool),
    'has_camera': jnp.ones(len(CAMERAS), bool),
  }


@functools.cache
def rig(setting: Surround) -> tuple[np.ndarray, np.ndarray]:
  """(lidar2img, img2lidar), each [6, 4, 4] float32: pinhole cameras 1.2 m above the ground, 0.3 m from the LiDAR.

  The inverse is taken in float64.
  """
  focal = setting.width / 2 / np.tan(np.radians(setting.field) / 2)
  intrinsic = np.eye(4)
  # The horizon lies above the middle: near the ground there is more to see.
  intrinsic[:3, :3] = [[focal, 0, setting.width / 2], [0, focal, 0.35 * setting.height], [0, 0, 1]]
  matrices = []
  for degrees in CAMERA_DEGREES:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.array([[sin, -cos, 0], [0, 0, -1], [cos, sin, 0]])  # right, down, ahead
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = rotation
    extrinsic[:3, 3] = -rotation @ _camera_position(degrees)
    matrices.append(intrinsic @ extrinsic)
  matrices = np.stack(matrices)
  return matrices.astype(np.float32), np.linalg.inv(matrices).astype(np.float32)


def place(setting: Surround, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Boxes on the ground that do not touch each other, nor the sensors.

  Returns:
    boxes [objects, 9], labels [objects], present [objects] bool.
  """
  count, tries = setting.objects, _TRIES
  # One draw of all numbers: each call of the generator is a loop that takes its time to compile.
  draws = jax.random.uniform(key, (tries + 1, 9))
  fewest = min(2, count)
  wanted = fewest + jnp.floor(draws[tries, 0] * (count + 1 - fewest)).astype(jnp.int32)
  kind, x, y, turn, pace, moving, *jitter = draws[:tries].T
  labels = jnp.floor(kind * len(CLASSES)).astype(jnp.int32)
  size = jnp.asarray(SIZES)[labels] * jnp.exp(0.08 * _normal(jnp.stack(jitter, axis=-1)))
  reach = jnp.hypot(size[:, 0], size[:, 1]) / 2
  low, high = jnp.asarray(setting.pc_range[:2]), jnp.asarray(setting.pc_range[3:5])
  centre = jnp.stack([x, y], axis=-1) * (high - low - 2) + low + 1
  yaw = (2 * turn - 1) * jnp.pi
  ahead = jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], axis=-1)
  velocity = ahead * jnp.where(moving < 0.5, 0.5 + 2.5 * pace, 0.0)[:, None]
  clear = jnp.hypot(*centre.T) > reach + 1.0
  gap = jnp.linalg.norm(centre[:, None] - centre[None], axis=-1) - reach[:, None] - reach[None]

  def accept(taken: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
    free = clear[index] & jnp.all((gap[index] > 0) | ~taken) & (taken.sum() < wanted)
    return taken.at[index].set(free), None

  taken, _ = jax.lax.scan(accept, jnp.zeros(tries, bool), jnp.arange(tries))
  chosen = jnp.argsort(~taken, stable=True)[:count]
  boxes = jnp.concatenate([centre, jnp.zeros((tries, 1)), size, yaw[:, None], velocity], axis=-1)
  return boxes[chosen], labels[chosen], taken[chosen]


def cast(origin: jax.Array, direction: jax.Array, boxes: jax.Array, present: jax.Array) -> Hits:
  """The first thing on each ray: a box, by the slab test in its own frame, or the ground z = 0.

  Source: this library's own.

  Args:
    origin: [rays, 3] float32.
    direction: [rays, 3] float32, of length 1.
    boxes: [boxes, 9] float32, bottom centre.
    present: [boxes] bool.
  """
  chex.assert_shape([origin, direction], (None, 3))
  cos, sin = jnp.cos(boxes[:, 6]), jnp.sin(boxes[:, 6])

  def turned(vector: jax.Array) -> jax.Array:  # [rays, boxes, 3] into the boxes' frames
    x, y = vector[..., 0], vector[..., 1]
    return jnp.stack([cos * x + sin * y, cos * y - sin * x, vector[..., 2]], axis=-1)

  half = boxes[:, 3:6] / 2
  centre = boxes[:, :3] + half * jnp.array([0.0, 0.0, 1.0])
  start = turned(origin[:, None] - centre)
  along = turned(jnp.broadcast_to(direction[:, None], start.shape))
  along = jnp.where(jnp.abs(along) < 1e-9, 1e-9, along)
  one, other = (-half - start) / along, (half - start) / along
  entry, leave = jnp.minimum(one, other), jnp.maximum(one, other).min(-1)
  first = entry.max(-1)
  distance = jnp.where(present & (first < leave) & (first > 0), first, _FAR)
  box = distance.argmin(-1)

  def of_box(values: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, box.reshape(-1, *[1] * (values.ndim - 1)), axis=1)[:, 0]

  nearest, along, start = of_box(distance), of_box(along), of_box(start)
  axis = of_box(entry).argmax(-1)
  through = jnp.take_along_axis(along, axis[:, None], axis=1)[:, 0]
  face = 2 * axis + (through > 0)
  height = (start[:, 2] + nearest * along[:, 2]) / boxes[box, 5] + 0.5
  down = direction[:, 2]
  ground = jnp.where(down < -1e-6, -origin[:, 2] / jnp.minimum(down, -1e-6), _FAR)
  hit = nearest < ground
  cosine = jnp.where(hit, jnp.abs(through), jnp.abs(down))
  return Hits(jnp.minimum(nearest, ground), jnp.where(hit, box, -1), face, height, cosine)


def _normal(uniform: jax.Array) -> jax.Array:
  """Standard normal numbers from uniform ones in [0, 1)."""
  return jnp.sqrt(2.0) * jax.lax.erf_inv(jnp.clip(2 * uniform - 1, -1 + 1e-6, 1 - 1e-6))


def _painted(hits: Hits) -> jax.Array:
  """[rays] bool, on the upper half of a front."""
  return (hits.box >= 0) & (hits.face == FRONT) & (hits.height > 0.5)


def _camera_position(degrees: float) -> np.ndarray:
  return np.array([0.3 * np.cos(np.radians(degrees)), 0.3 * np.sin(np.radians(degrees)), 1.2])


def _cloud(
  setting: Surround, boxes: jax.Array, present: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(points, mask, returns of each box at age 0)."""
  rays = setting.beams * setting.azimuths
  draws = jax.random.uniform(key, (len(_AGES), rays + 1))
  elevation = jnp.radians(jnp.linspace(-35.0, 4.0, setting.beams))[:, None]
  turn = 2 * jnp.pi / setting.azimuths

  def sweep(age: jax.Array, phase: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    azimuth = turn * (jnp.arange(setting.azimuths) + phase)
    parts = (
      jnp.cos(elevation) * jnp.cos(azimuth),
      jnp.cos(elevation) * jnp.sin(azimuth),
      jnp.broadcast_to(jnp.sin(elevation), (setting.beams, setting.azimuths)),
    )
    direction = jnp.stack(parts, axis=-1).reshape(-1, 3)
    origin = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.2]), direction.shape)
    moved = boxes.at[:, :2].add(-age * boxes[:, 7:9])
    hits = cast(origin, direction, moved, present)
    place = origin + direction * (hits.distance + 0.02 * noise)[:, None]
    low, high = jnp.asarray(setting.pc_range[:3]), jnp.asarray(setting.pc_range[3:])
    seen = jnp.all((place >= low) & (place < high), axis=-1)
    reflected = jnp.where(hits.box < 0, 0.2, jnp.where(_painted(hits), 1.0, 0.4))
    intensity = 255 * reflected * hits.cosine
    row = jnp.concatenate([place, intensity[:, None], jnp.full_like(intensity, age)[:, None]], axis=-1)
    return jnp.where(seen[:, None], row, 0.0), seen, jnp.where(seen, hits.box, -1)

  ages = jnp.asarray(_AGES)
  points, seen, box = jax.vmap(sweep)(ages, draws[:, rays], _normal(draws[:, :rays]))
  returns = (box[0][:, None] == jnp.arange(len(boxes))).sum(0)
  return points.reshape(-1, 5), seen.reshape(-1), returns


@functools.cache
def _pixel_rays(setting: Surround) -> tuple[np.ndarray, np.ndarray]:
  """(origins, directions) [6 * height * width, 3] through the middles of the pixels."""
  focal = setting.width / 2 / np.tan(np.radians(setting.field) / 2)
  down, right = np.mgrid[: setting.height, : setting.width] + 0.5
  right, down = (right - setting.width / 2) / focal, (down - 0.35 * setting.height) / focal
  origins, directions = [], []
  for degrees in CAMERA_DEGREES:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    ray = np.stack([cos + right * sin, sin - right * cos, -down], axis=-1)
    directions.append(ray / np.linalg.norm(ray, axis=-1, keepdims=True))
    origins.append(np.broadcast_to(_camera_position(degrees), ray.shape))
  return tuple(np.stack(x).reshape(-1, 3).astype(np.float32) for x in (origins, directions))


def _images(setting: Surround, boxes: jax.Array, labels: jax.Array, present: jax.Array, key: jax.Array) -> jax.Array:
  """[6, height, width, 3] BGR."""
  origin, direction = _pixel_rays(setting)
  draws = jax.random.uniform(key, (len(origin) + len(boxes), 1))
  hits = cast(jnp.asarray(origin), jnp.asarray(direction), boxes, present)
  light = 0.8 + 0.35 * draws[len(origin) :]
  colour = (jnp.asarray(COLOURS, jnp.float32)[labels] * light)[hits.box]
  colour = jnp.where(_painted(hits)[:, None], jnp.asarray(PAINT, jnp.float32), colour)
  colour *= jnp.asarray(_FACE_SHADE)[hits.face][:, None]
  road = 70 + 60 * jnp.exp(-hits.distance / 8)[:, None]
  sky = jnp.array([200.0, 170.0, 150.0])
  colour = jnp.where((hits.box >= 0)[:, None], colour, jnp.where((hits.distance < _FAR)[:, None], road, sky))
  colour += 4 * _normal(draws[: len(origin)])
  return jnp.clip(colour, 0, 255).reshape(len(CAMERAS), setting.height, setting.width, 3)
