import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.emo import emo, segmentation
from jaxpapers.emo.model import EMO
from jaxpapers.emo.official import shapes

CLASSES = 5
TINY = EMO(
  depths=(1, 1, 1, 1),
  widths=(4, 6, 8, 8),
  expansions=(1.0, 1.0, 1.0, 1.0),
  head_widths=(4, 4, 4, 4),
  stem_width=4,
  num_classes=0,
)


def count(tree) -> int:
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  'name, deeplab, pspnet, semantic_fpn',
  [
    ('emo_1m', (5_653_188, 4_237_974, 223_382), 4_374_724, 5_280_302),
    ('emo_2m', (6_967_156, 4_475_542, 315_542), 5_557_620, 6_282_974),
    ('emo_5m', (10_355_828, 5_128_854, 407_702), 8_585_844, 8_969_182),
  ],
)
def test_parameter_counts_are_the_published_ones(name, deeplab, pspnet, semantic_fpn):
  backbone = emo(name, num_classes=0)

  def params(head, auxiliary):
    return shapes(segmentation.segmenter(backbone, head, 150, auxiliary), jnp.zeros((1, 64, 64, 3)))['params']

  found = params('deeplabv3', True)
  assert (count(found), count(found['head']), count(found['auxiliary'])) == deeplab
  assert count(params('pspnet', True)) == pspnet
  assert count(params('semantic_fpn', False)) == semantic_fpn


@pytest.mark.parametrize('head, stride', [('deeplabv3', 32), ('pspnet', 32), ('semantic_fpn', 4), ('segformer', 4)])
def test_logits_of_odd_sizes(head, stride):
  model = segmentation.segmenter(TINY, head, CLASSES, auxiliary=True, width=4)
  image = jax.ShapeDtypeStruct((2, 70, 45, 3), jnp.float32)
  key = jax.random.key(0)

  def run(image):
    variables = model.init({'params': key, 'dropout': key}, image)
    test = model.apply(variables, image)
    train, _ = model.apply(variables, image, train=True, rngs={'dropout': key}, mutable=['batch_stats'])
    return test, train

  test, train = jax.eval_shape(run, image)
  expected = (2, -(-70 // stride), -(-45 // stride), CLASSES)
  assert test.logits.shape == train.logits.shape == expected
  assert test.auxiliary is None and train.auxiliary.shape == (2, 5, 3, CLASSES)


def test_loss_weighs_the_auxiliary_head_and_ignores_255():
  rng = np.random.default_rng(0)
  logits, auxiliary = (jnp.asarray(rng.normal(size=(1, 2, 3, CLASSES)), jnp.float32) for _ in range(2))
  labels = rng.integers(0, CLASSES, (1, 8, 12))
  labels[:, :4] = 255
  alone = segmentation.segmentation_loss(segmentation.SegmentationOutput(logits, None), labels)
  other = segmentation.segmentation_loss(segmentation.SegmentationOutput(auxiliary, None), labels)
  both = segmentation.segmentation_loss(segmentation.SegmentationOutput(logits, auxiliary), labels)
  assert both == pytest.approx(float(alone + 0.4 * other), rel=1e-5)
  nothing = np.full((1, 8, 12), 255)
  value, gradient = jax.value_and_grad(
    lambda x: segmentation.segmentation_loss(segmentation.SegmentationOutput(x, x), nothing)
  )(logits)
  assert value == 0 and not gradient.any()


def test_dropout_drops_whole_channels_in_training_only():
  head = segmentation.Classify(CLASSES, dropout=0.5)
  x = jnp.ones((3, 4, 4, 16))
  variables = head.init(jax.random.key(0), x)
  dropped = head.apply(variables, x, train=True, rngs={'dropout': jax.random.key(1)})
  np.testing.assert_allclose(dropped, dropped[:, :1, :1] + jnp.zeros_like(dropped), atol=1e-6)
  assert not np.allclose(dropped[0], dropped[1])
  np.testing.assert_allclose(head.apply(variables, x)[0], head.apply(variables, x)[1])


def test_unknown_head():
  with pytest.raises(ValueError, match='deeplabv3, pspnet, semantic_fpn, segformer'):
    segmentation.segmenter(TINY, 'unet', CLASSES, auxiliary=False)
