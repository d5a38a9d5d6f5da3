import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.ops import mix

IMAGES = jnp.stack([jnp.full((12, 10, 3), float(i)) for i in range(6)])
LABELS = jax.nn.one_hot(jnp.arange(6), 8)


@pytest.mark.parametrize('function', [mix.mixup, mix.cutmix, mix.mixup_or_cutmix])
def test_labels_sum_to_one_and_match_the_pixels(function):
  """Image i is constant i, so that its mean tells how much of the partner came in."""
  run = jax.jit(function)
  for seed in range(8):
    images, labels = run(IMAGES, LABELS, jax.random.key(seed))
    assert images.shape == IMAGES.shape and labels.shape == LABELS.shape
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(images.mean((1, 2, 3)), labels @ jnp.arange(8.0), atol=1e-4)


def test_mixup_is_the_convex_combination():
  images, labels = mix.mixup(IMAGES, LABELS, jax.random.key(1), alpha=1.0)
  share = labels[0, 0]
  assert 0.01 < share < 0.99
  np.testing.assert_allclose(images, share * IMAGES + (1 - share) * IMAGES[::-1], atol=1e-6)


def test_cutmix_pastes_one_rectangle_whose_area_is_the_label_weight():
  areas = []
  run = jax.jit(mix.cutmix)
  for seed in range(40):
    images, labels = run(IMAGES, LABELS, jax.random.key(seed))
    pasted = np.asarray(images[0, :, :, 0] == 5.0)
    areas.append(pasted.mean())
    np.testing.assert_allclose(labels[0, 5], pasted.mean(), atol=1e-6)
    if pasted.any():
      rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
      assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
  assert min(areas) < 0.1 and max(areas) > 0.5


def test_mixup_or_cutmix_chooses():
  kinds = {'none': 0, 'mixup': 0, 'cutmix': 0}
  run = jax.jit(lambda key: mix.mixup_or_cutmix(IMAGES, LABELS, key, cutmix_probability=0.5, probability=0.6)[0])
  for seed in range(60):
    values = np.unique(run(jax.random.key(seed))[0])
    kinds['none' if (values == 0).all() else 'cutmix' if set(values) <= {0.0, 5.0} else 'mixup'] += 1
  assert all(count >= 6 for count in kinds.values())


def test_gradients_are_finite():
  gradient = jax.grad(lambda x: mix.mixup_or_cutmix(x, LABELS, jax.random.key(0))[0].sum())(IMAGES)
  np.testing.assert_allclose(gradient, 1, atol=1e-6)


@pytest.mark.parametrize(
  ('images', 'labels', 'alpha', 'message'),
  [
    (IMAGES, LABELS[:3], 0.2, '6 images.*3 rows'),
    (IMAGES, LABELS.astype(int), 0.2, 'one-hot'),
    (IMAGES.astype(jnp.uint8), LABELS, 0.2, 'uint8'),
    (IMAGES, LABELS, 0.0, 'above 0'),
  ],
)
def test_bad_input(images, labels, alpha, message):
  for function in (mix.mixup, mix.cutmix):
    with pytest.raises(ValueError, match=message):
      function(images, labels, jax.random.key(0), alpha)
