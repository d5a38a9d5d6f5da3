import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.emo import detection, emo
from jaxpapers.emo import detection_targets as targets_of
from jaxpapers.emo.official import shapes

ANCHORS = targets_of.ssdlite_anchors((4, 4), (16, 32), (20, 40), (40, 60))
CLASSES = 3


def count(tree) -> int:
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  'name, ssd, retina',
  [
    ('emo_1m', (2_311_980, 372_288, 747_860), (10_479_244, 2_824_192, 6_463_220)),
    ('emo_2m', (3_342_716, 380_480, 786_164), (11_555_644, 2_916_352, 6_463_220)),
    ('emo_5m', (6_076_540, 403_008, 854_260), (14_440_508, 3_158_016, 6_463_220)),
  ],
)
def test_parameter_counts_are_the_published_ones(name, ssd, retina):
  backbone = emo(name, num_classes=0)
  for model, expected in ((detection.ssdlite(backbone, 80), ssd), (detection.retinanet(backbone, 80), retina)):
    params = shapes(model, jnp.zeros((1, 64, 64, 3)))['params']
    assert (count(params), count(params['neck']), count(params['head'])) == expected


def test_published_anchor_counts():
  anchors = targets_of.ssdlite_anchors()
  assert anchors.boxes.shape == (3234, 4)
  assert [size[0] for size in anchors.sizes] == [20, 10, 5, 3, 2, 1]
  assert targets_of.retinanet_anchors((100, 168)).sizes == ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))


def outputs(batch=2, classes=CLASSES + 1, seed=0, anchors=ANCHORS):
  rng = np.random.default_rng(seed)
  number = len(anchors.boxes)
  return (
    jnp.asarray(rng.normal(size=(batch, number, classes)), jnp.float32),
    jnp.asarray(rng.normal(0, 0.3, size=(batch, number, 4)), jnp.float32),
  )


def truth(valid):
  boxes = jnp.tile(jnp.array([[10.0, 10, 30, 30], [20, 30, 60, 60]]), (2, 1, 1))
  return boxes, jnp.tile(jnp.array([0, 2]), (2, 1)), jnp.asarray(valid)


@pytest.mark.parametrize('family', [targets_of.SSDLITE, targets_of.RETINANET], ids=['ssd', 'retinanet'])
def test_without_ground_truth(family):
  ssd = family is targets_of.SSDLITE
  logits, codes = outputs(classes=CLASSES + ssd)
  everywhere = jnp.ones((2, len(ANCHORS.boxes)), bool)
  targets = family.targets(ANCHORS, everywhere, *truth([[False] * 2] * 2), CLASSES)
  assert np.all(targets.labels == CLASSES) and np.all(targets.label_weights == 1)

  def loss(logits, codes):
    classification, box = family.losses(logits, codes, targets, ANCHORS.counts)
    return classification.sum() + box.sum(), (classification, box)

  (_, (classification, box)), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(logits, codes)
  assert not np.any(box)
  assert np.any(classification) != ssd  # SSD: exactly 0
  assert all(np.all(np.isfinite(g)) for g in gradients)


def test_one_image_without_ground_truth_adds_nothing_but_to_n():
  logits, codes = outputs()
  everywhere = jnp.ones((2, len(ANCHORS.boxes)), bool)
  targets = targets_of.SSDLITE.targets(ANCHORS, everywhere, *truth([[True] * 2, [False] * 2]), CLASSES)
  classification, box = targets_of.SSDLITE.losses(logits, codes, targets, ANCHORS.counts)
  assert classification[1] == 0 and box[1] == 0
  assert classification[0] > 0 and box[0] > 0
  assert targets_of.positives(targets) == targets.positive[0].sum() + 1


def test_anchors_beyond_the_image_have_no_gradient():
  logits, codes = outputs()
  valid = ANCHORS.valid(np.array([[64, 64], [32, 17]]))
  assert valid[0].all() and 0 < valid[1].sum() < valid[0].sum()
  targets = targets_of.SSDLITE.targets(ANCHORS, valid, *truth([[True] * 2] * 2), CLASSES)

  def loss(logits, codes):
    return sum(part.sum() for part in targets_of.SSDLITE.losses(logits, codes, targets, ANCHORS.counts))

  gradients = jax.grad(loss, argnums=(0, 1))(logits, codes)
  for gradient in gradients:
    assert not np.asarray(gradient)[~np.asarray(valid)].any()
    assert np.asarray(gradient)[1].any()


def test_ignored_anchors_have_no_classification_gradient_in_retinanet():
  anchors = targets_of.retinanet_anchors((8, 8), (8, 16))
  logits, codes = outputs(classes=CLASSES, anchors=anchors)
  everywhere = jnp.ones((2, len(anchors.boxes)), bool)
  boxes, labels, valid = truth([[True] * 2] * 2)
  targets = targets_of.RETINANET.targets(anchors, everywhere, boxes + 4, labels, valid, CLASSES)
  ignored = np.asarray(targets.label_weights) == 0
  assert ignored.any()
  gradient = jax.grad(lambda x: targets_of.RETINANET.losses(x, codes, targets, anchors.counts)[0].sum())(logits)
  assert not np.asarray(gradient)[ignored].any()
  assert np.all(np.abs(np.asarray(gradient)[~ignored]).sum(-1) > 0)


def test_perfect_outputs_are_found_again():
  boxes, labels, valid = truth([[True, True], [True, False]])
  everywhere = jnp.ones((2, len(ANCHORS.boxes)), bool)
  targets = targets_of.SSDLITE.targets(ANCHORS, everywhere, boxes, labels, valid, CLASSES)
  logits = 12.0 * jax.nn.one_hot(targets.labels, CLASSES + 1)
  detect = jax.jit(lambda logits, codes, size: targets_of.SSDLITE.detect(logits, codes, ANCHORS, size))
  found = detect(logits, targets.codes, jnp.full((2, 2), 64.0))
  np.testing.assert_array_equal(found.valid.sum(axis=1), [2, 1])
  for i, n in enumerate((2, 1)):
    order = np.argsort(found.labels[i, :n])
    np.testing.assert_array_equal(found.labels[i, :n][order], labels[i, :n])
    np.testing.assert_allclose(found.boxes[i, :n][order], boxes[i, :n], atol=1e-2)


def test_codes_that_overflow_stay_finite():
  logits, codes = outputs()
  found = targets_of.SSDLITE.detect(logits, codes * 1e4, ANCHORS, jnp.full((2, 2), 64.0))
  assert np.all(np.isfinite(found.boxes))
  assert np.all((np.asarray(found.boxes) >= 0) & (np.asarray(found.boxes) <= 64))


def test_the_prior_of_retinanet():
  head = detection.RetinaNetHead(CLASSES, width=4, depth=1)
  (logits, codes), _ = head.init_with_output(jax.random.key(0), [jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 1, 2, 4))])
  assert logits.shape == (1, 8 * 9, CLASSES) and codes.shape == (1, 8 * 9, 4)
  np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.01, rtol=1e-5)


def test_outputs_are_in_the_order_of_the_anchors():
  """A change of one pixel of a level moves only anchors of its neighbourhood."""
  head = detection.SSDLiteHead(CLASSES)
  levels = [jnp.zeros((1, 4, 4, 5)), jnp.zeros((1, 2, 2, 6))]
  variables = head.init(jax.random.key(0), levels)
  run = jax.jit(functools.partial(head.apply, variables))
  before = run(levels)
  after = run([levels[0].at[0, 0, 3].set(5.0), levels[1]])
  changed = np.asarray(jnp.abs(before.codes - after.codes).sum((0, 2)) > 0)
  cells = changed[: ANCHORS.counts[0]].reshape(4, 4, 6).any(-1)
  want = np.zeros((4, 4), bool)
  want[:2, 2:] = True
  np.testing.assert_array_equal(cells, want)
  assert not changed[ANCHORS.counts[0] :].any()
