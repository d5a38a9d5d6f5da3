"""What happens to a batch inside the compiled programs: rendering, lost sensors, noised queries, loss, detections."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpapers.cmt import coder, losses, modality
from jaxpapers.cmt.camera import MEAN, normalise
from jaxpapers.cmt.denoising import Denoising, draw_noise, noised_queries, num_slots
from jaxpapers.cmt.gridmask import grid_mask
from jaxpapers.cmt.matching import CODE_WEIGHTS
from jaxpapers.cmt.model import CMT, Output
from jaxpapers.cmt.scenes import Surround, scenes

Batch = Mapping[str, jax.Array]
COUNTS = ('dropped_points', 'dropped_boxes')
"""What static shapes had no room for, as the reader counts it."""


@dataclasses.dataclass(frozen=True)
class Detector:
  """A CMT that takes a whole batch, as `engine.supervised` calls a model.

  Attributes:
    model: the network.
    groups: of denoising queries; used where a batch has `noise`.
    fixed_order: see `coder.box_code`.
    heading: weight of the two entries of the heading in cost and loss, 1 in the paper.
  """

  model: CMT
  groups: int = 10
  fixed_order: bool = True
  heading: float = 1.0

  def init(self, rngs: Any, batch: Batch, train: bool = False) -> dict[str, Any]:
    """Variables; every sensor of the model must be in the batch."""
    return self.model.init(rngs, **self.arguments(batch), train=train)

  def apply(self, variables: Any, batch: Batch, **options: Any) -> Output:
    """The network's output; `options` are those of `flax.linen.Module.apply` and `train`."""
    return self.model.apply(variables, **self.arguments(batch), denoising=self.denoising(batch), **options)

  def denoising(self, batch: Batch) -> Denoising | None:
    """Queries made of the batch's ground truth and `noise`; None without noise."""
    if 'noise' not in batch:
      return None
    head = self.model.head
    return noised_queries(
      batch['noise'],
      batch['boxes'],
      batch['labels'],
      batch['boxes_mask'],
      num_queries=head.num_queries,
      num_classes=sum(head.tasks),
      pc_range=head.pc_range,
      groups=self.groups,
    )

  def noise(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    """The batch with `noise` [batch, slots, 3] for denoising queries."""
    count, most = batch['boxes_mask'].shape
    slots = num_slots(self.model.head.num_queries, most, self.groups)
    return {**batch, 'noise': draw_noise(key, count, slots)}

  def loss(self, output: Output, batch: Batch, axis_name: str | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, its terms and the counts of what static sizes have cost)."""
    value, metrics = losses.total_loss(
      output.head,
      self.denoising(batch),
      batch['boxes'],
      batch['labels'],
      batch['boxes_mask'],
      fixed_order=self.fixed_order,
      code_weights=(*CODE_WEIGHTS[:6], self.heading, self.heading, *CODE_WEIGHTS[8:]),
      axis_name=axis_name,
    )
    lost = {**output.lost, **{name: batch[name] for name in COUNTS if name in batch}}
    return value, {**metrics, **{name: count.sum().astype(jnp.float32) for name, count in lost.items()}}

  def detect(self, variables: Any, batch: Batch, max_num: int, post_center_range: Sequence[float]) -> coder.Detections:
    """The best boxes of every scene, see `coder.decode`."""
    output = self.apply(variables, batch)
    return coder.decode(
      output.head.tasks, max_num=max_num, post_center_range=post_center_range, fixed_order=self.fixed_order
    )

  def arguments(self, batch: Batch) -> dict[str, jax.Array]:
    """The arguments of the network, each sensor that it has a branch for."""
    given = {}
    if self.model.lidar is not None:
      given = {name: batch[name] for name in ('points', 'points_mask', 'has_lidar')}
    if self.model.camera is not None:
      given |= {name: batch[name] for name in ('lidar2img', 'img2lidar', 'has_camera')}
      given['images'] = normalise(batch['images'])
    return given


def rendered(setting: Surround, batch: Batch, seed: int) -> dict[str, jax.Array]:
  """The batch that the numbers `scene` [batch] stand for; a batch that is already one stays."""
  if 'scene' not in batch:
    return dict(batch)
  return {**scenes(setting, batch['scene'], seed), **{k: v for k, v in batch.items() if k != 'scene'}}


def training_batch(
  detector: Detector,
  batch: Batch,
  key: jax.Array,
  *,
  masked: bool = False,
  cut: bool = False,
) -> dict[str, jax.Array]:
  """What a training step sees.

  Args:
    detector: whose denoising queries are drawn.
    batch: rendered or read.
    key: randomness.
    masked: zero one sensor in half of the scenes (see `modality.masked_modal`), where the reader has not.
    cut: GridMask.
  """
  for_noise, for_sensors, for_grid = jax.random.split(key, 3)
  batch = detector.noise(batch, for_noise)
  if masked:
    draw = jax.random.uniform(for_sensors, batch['has_lidar'].shape)
    points, images = modality.masked_modal(draw, batch['points'], batch['images'])
    batch = {**batch, 'points': points, 'images': images}
  if cut:
    # On raw pictures the cut is the mean colour, which is 0 once they are normalised.
    mean = jnp.asarray(MEAN)
    batch = {**batch, 'images': grid_mask(for_grid, batch['images'] - mean) + mean}
  return batch


def sensor_rows(cameras: int) -> dict[str, Callable[[Batch], Batch]]:
  """The rows of the robustness table: name -> function of a batch; an absent sensor is dropped, or zeroed."""
  rows = {}
  for mode in modality.MODES:
    for name, change in modality.protocol(mode, cameras).items():
      if mode == 'drop' and name not in ('lidar_only', 'camera_only'):
        rows[name] = change
      elif name in ('lidar_only', 'camera_only'):
        rows[f'{name}_{mode}'] = change
  return rows


def chosen_row(rows: Mapping[str, Callable[[Batch], Batch]], batch: Batch) -> dict[str, jax.Array]:
  """The batch with the row `row` [batch] int32, one for all its scenes, applied: one program serves all rows."""
  row, batch = batch['row'], {k: v for k, v in batch.items() if k != 'row'}
  changed = jax.lax.switch(row[0], [lambda b, change=change: dict(change(b)) for change in rows.values()], batch)
  return {**changed, 'row': row}


def found(detections: coder.Detections) -> dict[str, jax.Array]:
  """Detections as arrays of an evaluation's output."""
  return {f'found_{name}': value for name, value in detections._asdict().items()}
