"""Average precision and mean IoU of a state over a test set, in the form that the engine evaluates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers import engine
from jaxpapers.emo.segmentation import full_size
from jaxpapers.ops import coco_ap
from jaxpapers.ops import segmentation as segmentation_ops
from jaxpapers.ops.resize import bilinear_matrix

Outputs = Mapping[str, np.ndarray]


Step = Callable[[engine.TrainState, Mapping[str, jax.Array]], dict[str, jax.Array]]


def detection_step(detect: Callable[[Any, Any], Any], averaged: bool) -> Step:
  """(state, batch) -> detections and ground truth, in the coordinates of the original images.

  A test batch holds 'image', 'image_size', 'scale' and, in the coordinates of the original image of 'size', the ground
  truth 'boxes', 'labels', 'crowd', 'area', 'truth_valid'.

  Args:
    detect: (variables, batch) -> Detections.
    averaged: with the moving average.
  """

  def step(state: engine.TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    found = detect(state.variables(averaged), batch)
    back = 1 / batch['scale'][:, None, jnp.array([1, 0, 1, 0])]
    kept = ('size', 'scale', 'boxes', 'labels', 'crowd', 'area', 'truth_valid', 'valid')
    return {
      **{name: batch[name] for name in kept},
      'found_boxes': found.boxes * back,
      'found_scores': found.scores,
      'found_labels': found.labels,
      'found_valid': found.valid,
    }

  return step


class DetectionEvaluation:
  """COCO average precision of the outputs of `detection_step`.

  Attributes:
    step: what is compiled; stages share it, so that it is compiled once.
    batches: () -> a pass over the test set.
    names: of the classes.
    precision: of the last evaluation, or None.
    examples: outputs of its first batch, or None.
  """

  def __init__(self, step: Step, batches: Callable, names: Sequence[str]):
    """See the attributes."""
    self.step, self.batches, self.names = step, batches, names
    self.precision: coco_ap.AveragePrecision | None = None
    self.examples: Outputs | None = None

  def summarize(self, outputs: Iterable[Outputs]) -> dict[str, float]:
    """AP, AP50, AP75 and, where there are such objects, APs, APm, APl."""
    truths, found = [], []
    self.examples = None
    for output in outputs:
      if self.examples is None:
        self.examples = output
      for i in np.flatnonzero(output['valid']):
        here = output['truth_valid'][i]
        truths.append(
          {'size': output['size'][i], **{n: output[n][i][here] for n in ('boxes', 'labels', 'crowd', 'area')}}
        )
        found.append({n: output[f'found_{n}'][i] for n in ('boxes', 'scores', 'labels', 'valid')})
    result = coco_ap.evaluate(coco_ap.truth(truths, list(self.names)), coco_ap.detections(found))
    self.precision = result
    names = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')
    return {name: result.metrics[name] for name in names if not np.isnan(result.metrics[name])}


def segmentation_step(
  logits: Callable[[Any, jax.Array], jax.Array], classes: int, averaged: bool, on_host: bool
) -> Step:
  """(state, batch) -> confusion counts, or the logits and what is needed to count on the host.

  A test batch holds 'image' and either 'label' of its size; or, for the host, 'image_size' and 'index'.

  Args:
    logits: (variables, image) -> logits at the resolution of the head.
    classes: number of classes.
    averaged: with the moving average.
    on_host: resize to each original image on the host, as the published protocol does: shapes differ there.
  """

  def step(state: engine.TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    found = logits(state.variables(averaged), batch['image'])
    if on_host:
      canvas = jnp.asarray(batch['image'].shape[1:3])
      return {'logits': found, 'canvas': canvas, **{name: batch[name] for name in ('image_size', 'index', 'valid')}}
    prediction = jnp.argmax(full_size(found, batch['label'].shape[1:3]), axis=-1)
    label = batch['label'].astype(jnp.int32)
    return {'counts': segmentation_ops.confusion(prediction, label, classes, valid=batch['valid'])}

  return step


class SegmentationEvaluation:
  """Mean IoU over a confusion matrix of the whole set, from the outputs of `segmentation_step`.

  Attributes:
    step: what is compiled; stages share it, so that it is compiled once.
    batches: () -> a pass over the test set.
    names: of the classes.
    counts: [classes, classes] of the last evaluation, rows are labels; or None.
  """

  def __init__(
    self,
    step: Step,
    batches: Callable,
    names: Sequence[str],
    read_label: Callable[[int], np.ndarray] | None = None,
  ):
    """See the attributes; `read_label`: index -> uint8 label in the size of the original image."""
    self.step, self.batches, self.names, self._read_label = step, batches, names, read_label
    self.counts: np.ndarray | None = None

  def summarize(self, outputs: Iterable[Outputs]) -> dict[str, float]:
    """mIoU, mAcc and aAcc."""
    classes = len(self.names)
    total = np.zeros((classes, classes), np.int64)
    for output in outputs:
      if 'counts' in output:
        total += output['counts']
      else:
        for i in np.flatnonzero(output['valid']):
          label = self._read_label(int(output['index'][i]))
          prediction = predict_original(output['logits'][i], output['canvas'], output['image_size'][i], label.shape)
          known = label != segmentation_ops.IGNORE
          cells = label[known].astype(np.int64) * classes + prediction[known]
          total += np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    self.counts = total
    metrics = segmentation_ops.iou_metrics(total)
    return {name: float(metrics[name]) for name in ('mIoU', 'mAcc', 'aAcc')}


def predict_original(
  logits: np.ndarray, canvas: Sequence[int], covered: Sequence[int], original: tuple[int, int]
) -> np.ndarray:
  """Classes at the size of the original image: logits to the canvas, cut to the image, to the original, the largest.

  Args:
    logits: [rows, columns, classes], of the canvas.
    canvas: (height, width) of the network's input.
    covered: (height, width) of its top left part that the image covers.
    original: (height, width) of the image before it was resized.

  Returns:
    [*original] int.
  """
  # Both resizings are linear along each axis, so that one matrix does both.
  rows, columns = (
    bilinear_matrix(covered[axis], original[axis]) @ bilinear_matrix(logits.shape[axis], canvas[axis])[: covered[axis]]
    for axis in (0, 1)
  )
  wide = np.einsum('wj,ijc->iwc', columns, np.asarray(logits, np.float32), optimize=True)
  return np.einsum('hi,iwc->hwc', rows, wide, optimize=True).argmax(axis=-1)
