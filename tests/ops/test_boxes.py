import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpapers.ops import boxes

STD = (0.1, 0.1, 0.2, 0.2)


def random_boxes(rng, count, size=100.0, smallest=1.0):
  corner = rng.uniform(0, size * 0.7, (count, 2))
  return np.concatenate([corner, corner + rng.uniform(smallest, size * 0.3, (count, 2))], axis=1).astype(np.float32)


def iou_reference(a, b):
  """float64, pair by pair."""
  result = np.zeros((len(a), len(b)))
  for i, p in enumerate(a.astype(np.float64)):
    for j, q in enumerate(b.astype(np.float64)):
      w, h = min(p[2], q[2]) - max(p[0], q[0]), min(p[3], q[3]) - max(p[1], q[1])
      overlap = max(w, 0) * max(h, 0)
      union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - overlap
      result[i, j] = overlap / union if union > 0 else 0
  return result


def test_iou_equals_reference():
  rng = np.random.default_rng(0)
  a, b = random_boxes(rng, 20), random_boxes(rng, 31)
  np.testing.assert_allclose(boxes.iou_matrix(a, b), iou_reference(a, b), atol=1e-6)


def test_iou_of_degenerate_boxes_is_zero_with_finite_gradient():
  point = jnp.array([[3.0, 3.0, 3.0, 3.0]])
  other = jnp.array([[0.0, 0.0, 10.0, 10.0]])
  assert boxes.iou_matrix(point, point)[0, 0] == 0
  assert boxes.iou_matrix(point, other)[0, 0] == 0
  gradient = jax.grad(lambda p: boxes.iou_matrix(p, p).sum())(point)
  assert np.all(np.isfinite(gradient))


def test_iou_over_first_is_the_share_inside():
  inner, crowd = jnp.array([[2.0, 2.0, 4.0, 4.0]]), jnp.array([[0.0, 0.0, 3.0, 10.0]])
  assert boxes.iou_matrix(inner, crowd, over='first')[0, 0] == pytest.approx(0.5)
  with pytest.raises(ValueError, match="'union' or 'first'"):
    boxes.iou_matrix(inner, crowd, over='second')


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.floats(0.1, 10), st.floats(-50, 50))
def test_iou_is_symmetric_and_invariant_to_scale_and_shift(seed, scale, shift):
  rng = np.random.default_rng(seed)
  a, b = random_boxes(rng, 4), random_boxes(rng, 3)
  iou = np.asarray(boxes.iou_matrix(a, b))
  np.testing.assert_allclose(iou, np.asarray(boxes.iou_matrix(b, a)).T, atol=1e-6)
  moved = boxes.iou_matrix(a * scale + shift, b * scale + shift)
  np.testing.assert_allclose(moved, iou, atol=1e-3)
  assert np.all((iou >= 0) & (iou <= 1 + 1e-6))


def test_decode_inverts_encode():
  rng = np.random.default_rng(1)
  truth, anchors = random_boxes(rng, 50), random_boxes(rng, 50)
  codes = boxes.encode(truth, anchors, STD)
  np.testing.assert_allclose(boxes.decode(codes, anchors, STD), truth, atol=1e-3)


def test_encode_by_hand():
  code = boxes.encode(jnp.array([1.0, 2.0, 5.0, 10.0]), jnp.array([0.0, 0.0, 2.0, 4.0]), STD)
  np.testing.assert_allclose(code, [(3 - 1) / 2 / 0.1, (6 - 2) / 4 / 0.1, np.log(2) / 0.2, np.log(2) / 0.2], rtol=1e-5)


def test_decode_bounds_the_size():
  anchor = jnp.array([0.0, 0.0, 2.0, 2.0])
  huge = boxes.decode(jnp.array([0.0, 0.0, 100.0, -100.0]), anchor)
  assert huge[2] - huge[0] == pytest.approx(2 * 1000 / 16, rel=1e-5)
  assert huge[3] - huge[1] == pytest.approx(2 * 16 / 1000, rel=1e-5)


def test_clip_area_and_xywh():
  box = np.array([[-5.0, 2.0, 20.0, 30.0]], np.float32)
  clipped = boxes.clip(jnp.asarray(box), jnp.array([10.0, 15.0]))
  np.testing.assert_allclose(clipped, [[0, 2, 15, 10]])
  assert boxes.area(clipped)[0] == 15 * 8
  assert boxes.area(jnp.array([3.0, 3.0, 1.0, 5.0])) == 0
  xywh = boxes.xyxy_to_xywh(box)
  assert isinstance(xywh, np.ndarray)
  np.testing.assert_allclose(xywh, [[-5, 2, 25, 28]])
  np.testing.assert_allclose(boxes.xywh_to_xyxy(jnp.asarray(xywh)), box)
