import math

import numpy as np

from jaxpapers.ops import anchors


def test_ssd_anchors_of_one_cell_by_hand():
  (found,) = anchors.ssd_anchors([(2, 3)], [16], [48], [100])
  assert found.shape == (2 * 3 * 6, 4)
  cell = found.reshape(2, 3, 6, 4)[1, 2]
  center = (cell[:, :2] + cell[:, 2:]) / 2
  np.testing.assert_allclose(center, np.tile([2.5 * 16, 1.5 * 16], (6, 1)), atol=1e-4)
  size = cell[:, 2:] - cell[:, :2]
  root2, root3, large = math.sqrt(2), math.sqrt(3), math.sqrt(48 * 100)
  # Ratios are height / width, in the order 1/2, 2, 1/3, 3.
  expected = [(48, 48), (large, large), (48 * root2, 48 / root2), (48 / root2, 48 * root2)]
  expected += [(48 * root3, 48 / root3), (48 / root3, 48 * root3)]
  np.testing.assert_allclose(size, expected, rtol=1e-4)


def test_retinanet_anchors_have_corner_centres_and_all_scales_of_a_ratio_together():
  (found,) = anchors.retinanet_anchors([(2, 2)], [8])
  cell = found.reshape(2, 2, 9, 4)[1, 0]
  np.testing.assert_allclose((cell[:, :2] + cell[:, 2:]) / 2, np.tile([0, 8], (9, 1)), atol=1e-4)
  width, height = (cell[:, 2:] - cell[:, :2]).T
  np.testing.assert_allclose(height / width, np.repeat([0.5, 1, 2], 3), rtol=1e-4)
  np.testing.assert_allclose(np.sqrt(height * width), np.tile(32 * 2 ** (np.arange(3) / 3), 3), rtol=1e-4)


def test_cells_follow_the_order_of_the_anchors():
  sizes, strides = [(2, 3), (1, 2)], [16, 32]
  boxes = np.concatenate(anchors.ssd_anchors(sizes, strides, [10, 20], [20, 30]))
  row, column, stride = anchors.cells(sizes, strides, 6).T
  np.testing.assert_allclose((boxes[:, 0] + boxes[:, 2]) / 2, (column + 0.5) * stride, atol=1e-4)
  np.testing.assert_allclose((boxes[:, 1] + boxes[:, 3]) / 2, (row + 0.5) * stride, atol=1e-4)
