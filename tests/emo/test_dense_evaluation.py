import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.emo import dense_evaluation
from jaxpapers.engine import TrainState
from jaxpapers.ops import resize
from jaxpapers.ops.nms import Detections

NAMES = ('a', 'b')


def state():
  return TrainState(jnp.zeros((), int), {'scale': jnp.ones(())}, {}, (), None)


def test_detections_return_to_the_original_image_and_padding_does_not_count():
  truth = np.zeros((2, 3, 4), np.float32)
  truth[:, 0] = 10, 20, 30, 60
  batch = {
    'image': np.zeros((2, 8, 8, 3), np.uint8),
    'scale': np.array([[0.5, 2.0]] * 2, np.float32),
    'size': np.array([[100, 80]] * 2),
    'boxes': truth,
    'labels': np.ones((2, 3), int),
    'crowd': np.zeros((2, 3), bool),
    'area': np.full((2, 3), 800.0),
    'truth_valid': np.array([[True, False, False]] * 2),
    'valid': np.array([True, False]),
  }

  def detect(variables, batch):
    scale = jnp.array([2.0, 0.5, 2.0, 0.5])  # (x, y, x, y): what the network saw
    boxes = jnp.asarray(truth[:, :2]) * scale
    flags = jnp.array([[True, False], [False, False]])
    return Detections(boxes, jnp.full((2, 2), 0.9), jnp.ones((2, 2), int), flags)

  evaluation = dense_evaluation.DetectionEvaluation(
    dense_evaluation.detection_step(detect, False), lambda: [batch], NAMES
  )
  metrics = evaluation.summarize([evaluation.step(state(), batch)])
  assert metrics['AP'] == pytest.approx(1) and metrics['APs'] == pytest.approx(1)
  assert 'APl' not in metrics
  assert np.isnan(evaluation.precision.per_class[0])
  np.testing.assert_allclose(evaluation.examples['found_boxes'][0, 0], truth[0, 0])


def test_counting_on_the_host_equals_counting_in_the_step():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 4, 5, 2)).astype(np.float32)
  labels = rng.integers(0, 2, (3, 16, 20)).astype(np.uint8)
  labels[rng.random(labels.shape) < 0.1] = 255
  batch = {'image': np.zeros((3, 16, 20, 3), np.uint8), 'valid': np.array([True, True, False])}

  def model(variables, image):
    return jnp.asarray(logits)

  inside = dense_evaluation.segmentation_step(model, 2, False, on_host=False)
  counted = dense_evaluation.SegmentationEvaluation(inside, None, NAMES)
  metrics = counted.summarize([inside(state(), {**batch, 'label': labels})])
  outside = dense_evaluation.segmentation_step(model, 2, False, on_host=True)
  on_host = dense_evaluation.SegmentationEvaluation(outside, None, NAMES, lambda index: labels[index])
  sizes = {'image_size': np.array([[16, 20]] * 3), 'index': np.arange(3)}
  assert on_host.summarize([outside(state(), {**batch, **sizes})]) == pytest.approx(metrics)
  np.testing.assert_array_equal(on_host.counts, counted.counts)
  known = labels[:2] != 255
  assert counted.counts.sum() == known.sum()


def test_prediction_in_the_size_of_the_original_equals_two_resizings():
  logits = np.random.default_rng(1).normal(size=(4, 6, 3)).astype(np.float32)
  canvas = resize.bilinear(logits[None], (32, 48))[:, :30, :41]
  want = resize.bilinear(canvas, (57, 80))[0]
  got = dense_evaluation.predict_original(logits, (32, 48), (30, 41), (57, 80))
  best, second = np.sort(np.asarray(want), axis=-1)[..., ::-1][..., :2].transpose(2, 0, 1)
  clear = best - second > 1e-4
  np.testing.assert_array_equal(got[clear], np.asarray(want.argmax(-1))[clear])
  assert clear.mean() > 0.99
