"""Detection scores of a state on fixed scenes with every sensor, without cameras, without LiDAR, with cameras lost."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxpapers.cmt import metrics

Outputs = Mapping[str, np.ndarray]
KEPT = ('boxes', 'labels', 'boxes_mask', 'row', 'valid')
FOUND = ('boxes', 'scores', 'labels', 'valid')


class SensorEvaluation:
  """The nuScenes detection score of each row of the robustness table.

  Attributes:
    step: (state, batch) -> outputs, what is compiled; stages share it.
    rows: names of the rows.
    classes: names.
    outputs: {row: arrays over all scenes} of the last evaluation, or None.
    scores: {row: metrics.Scores} of the last evaluation, or None.
    scenes: int32 numbers of the scenes.
  """

  def __init__(
    self, step: Callable[[Any, Any], Any], rows: Sequence[str], classes: Sequence[str], scenes: Sequence[int], size: int
  ):
    """See the attributes.

    Args:
      step: outputs hold `KEPT` of the batch and found_boxes, found_scores, found_labels, found_valid.
      rows: names.
      classes: names.
      scenes: numbers of the scenes.
      size: scenes in a batch.
    """
    self.step, self.rows, self.classes = step, tuple(rows), tuple(classes)
    self.outputs: dict[str, dict[str, np.ndarray]] | None = None
    self.scores: dict[str, metrics.Scores] | None = None
    self.scenes, self._size = np.asarray(scenes, np.int32), size

  def batches(self) -> Iterator[dict[str, np.ndarray]]:
    """This host's share of all scenes in every row, padded; a batch holds one row."""
    share = self._size // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    for row in range(len(self.rows)):
      for start in range(0, len(self.scenes), self._size):
        places = np.arange(start, start + self._size)[mine]
        valid = places < len(self.scenes)
        yield {
          'scene': self.scenes[np.where(valid, places, 0)],
          'row': np.full(share, row, np.int32),
          'valid': valid,
        }

  def summarize(self, outputs: Iterable[Outputs]) -> dict[str, float]:
    """{row_mAP, row_NDS and row_mAOE: value}; keeps outputs and scores."""
    outputs = list(outputs)
    joined = {key: np.concatenate([o[key] for o in outputs]) for key in outputs[0]}
    self.outputs, self.scores = {}, {}
    for place, row in enumerate(self.rows):
      mine = joined['valid'] & (joined['row'] == place)
      self.outputs[row] = {key: value[mine] for key, value in joined.items()}
      self.scores[row] = scores_of(self.outputs[row], self.classes)
    return {
      f'{row}_{name}': float(value)
      for row, found in self.scores.items()
      for name, value in (('mAP', found.mean_ap), ('NDS', found.nds), ('mAOE', found.mean_errors[2]))
    }

  def ensure(self, state: Any) -> None:
    """Evaluates `state` unless an evaluation has been kept: a resumed run comes with its states only."""
    if self.outputs is None:
      step = jax.jit(self.step)
      self.summarize([jax.device_get(step(state, batch)) for batch in self.batches()])


def scores_of(outputs: Outputs, classes: Sequence[str]) -> metrics.Scores:
  """Scores of arrays over scenes; a box outside the range that is kept does not count."""
  truth = metrics.box_table(outputs['boxes'], outputs['labels'], outputs['boxes_mask'])
  found = metrics.box_table(
    outputs['found_boxes'], outputs['found_labels'], outputs['found_valid'], outputs['found_scores']
  )
  return metrics.evaluate(truth, found, metrics.nuscenes_rules(classes))


def look_alikes(outputs: Outputs, pair: Sequence[int], limit: float = 2.0) -> np.ndarray:
  """What stands in the place of two classes: int [2, 3], how often the best box near one is of either class, or none.

  Args:
    outputs: arrays over scenes.
    pair: labels of the two classes.
    limit: metres between the centres.
  """
  table = np.zeros((2, 3), np.int64)
  for scene in range(len(outputs['boxes'])):
    of_pair = np.isin(outputs['found_labels'][scene], pair) & outputs['found_valid'][scene]
    boxes, labels = outputs['found_boxes'][scene][of_pair], outputs['found_labels'][scene][of_pair]
    scores = outputs['found_scores'][scene][of_pair]
    for box, label, real in zip(*(outputs[k][scene] for k in ('boxes', 'labels', 'boxes_mask')), strict=True):
      if not real or label not in pair:
        continue
      near = np.hypot(*(boxes[:, :2] - box[:2]).T) < limit
      best = pair.index(labels[near][scores[near].argmax()]) if near.any() else 2
      table[pair.index(label), best] += 1
  return table
