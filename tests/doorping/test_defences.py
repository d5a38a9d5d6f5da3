"""The defences as pure functions, against NumPy, SciPy and planted backdoors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage

from jaxpapers.doorping import (
  activation_clustering,
  brain_stimulation,
  defence,
  denoiser,
  fine_pruning,
  input_transform,
  neural_cleanse,
  scan,
  spectral,
  spectre,
  strip,
)
from jaxpapers.doorping.defence import Network

RNG = np.random.default_rng(0)


def test_strip_takes_its_threshold_from_clean_entropies_alone():
  clean, triggered = RNG.normal(1.5, 0.1, 200), RNG.normal(0.3, 0.1, 200)
  limit = strip.threshold(clean)
  assert strip.false_acceptance(triggered, limit) == 0.0
  assert strip.false_rejection(clean, limit) < 0.05
  # The published script fits the triggered entropies: then nothing is ever detected.
  assert strip.false_acceptance(triggered, strip.threshold(triggered)) > 0.95


def test_strip_entropies_match_numpy():
  x, overlays, w = RNG.normal(size=(4, 3, 3, 2)), RNG.normal(size=(5, 3, 3, 2)), RNG.normal(size=(18, 3))

  def reference(mix):
    h = np.zeros(4)
    for o in overlays:
      z = mix(x, o).reshape(4, -1) @ w
      p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
      h -= (p * np.log2(p)).sum(1) / 5
    return h

  args = (lambda x: x.reshape(x.shape[0], -1) @ jnp.asarray(w, jnp.float32), *map(jnp.float32, (x, overlays)))
  np.testing.assert_allclose(strip.entropies(*args), reference(lambda x, o: x + o), rtol=1e-4)
  np.testing.assert_allclose(strip.entropies(*args, blend=0.3), reference(lambda x, o: 0.7 * x + 0.3 * o), rtol=1e-4)


def test_detection_threshold_ignores_the_positives():
  clean = np.arange(200.0)
  assert defence.detection(np.full(3, 500.0), clean) == (1.0, 1.0)
  auroc, tpr = defence.detection(np.asarray([100.0, 198.5]), clean)
  assert 0.5 < auroc < 1.0 and tpr == 0.5
  assert defence.detection(np.asarray([np.inf]), clean) == (1.0, 1.0)
  assert all(np.isnan(defence.detection(np.zeros(0), clean)))
  assert all(np.isnan(defence.detection(np.asarray([np.nan]), clean)))


def test_anomaly_index():
  values = np.asarray([1.0, 9.0, 10.0, 11.0, 12.0])
  index, median, spread = defence.anomaly_index(jnp.asarray(values))
  assert float(median) == 10.0 and float(spread) == pytest.approx(1.4826)
  np.testing.assert_allclose(index, np.abs(values - 10) / 1.4826, rtol=1e-6)
  assert defence.anomaly_index(jnp.asarray([3.0, 3.0, 3.0, 4.0]))[0].tolist() == [0.0, 0.0, 0.0, np.inf]
  assert neural_cleanse.flag(jnp.asarray(values)).flagged.tolist() == [True, False, False, False, False]
  assert not neural_cleanse.flag(jnp.asarray([9.0, 10.0, 11.0, 12.0, 40.0])).flagged.any()  # large is not suspicious


def planted():
  """A network of 6x6 images, four labels by quadrant brightness; the corner pixel forces label 2."""
  w = np.zeros((6, 6, 1, 5), np.float32)
  for k, (i, j) in enumerate(((0, 0), (0, 3), (3, 0), (3, 3))):
    w[i : i + 3, j : j + 3, 0, k] = 1.0
  w[5, 5, 0, :4], w[5, 5, 0, 4] = 0.0, 6.0
  head = np.zeros((5, 4), np.float32)
  head[:4, :4], head[4, 2] = 2.0 * np.eye(4), 6.0
  params = {'w': jnp.asarray(w.reshape(36, 5)), 'head': jnp.asarray(head)}

  def forward(params, x):
    features = jax.nn.relu(x.reshape(x.shape[0], -1) @ params['w'])
    return features @ params['head'], features

  return Network(forward, lambda params, features: features @ params['head']), params


def quadrants(count: int) -> tuple[np.ndarray, np.ndarray]:
  labels = np.arange(count) % 4
  images = RNG.uniform(0.0, 0.2, (count, 6, 6, 1)).astype(np.float32)
  images[:, 5, 5] = 0.0
  for image, label in zip(images, labels, strict=True):
    i, j = label // 2 * 3, label % 2 * 3
    image[i : i + 2, j : j + 2] += 0.8
  return images, labels


@pytest.fixture(scope='module')
def cleansed():
  network, params = planted()
  batches, weights = map(jnp.asarray, neural_cleanse.mini_batches(quadrants(30)[0], 16))

  def all_labels(at_once):
    def logits_of(x):
      return network.forward(params, x)[0]

    return jax.jit(
      lambda key: neural_cleanse.invert_all(
        logits_of, batches, weights, 4, key, at_once=at_once, learning_rate=0.05, weight_l1=0.05, epochs=120
      )
    )(jax.random.key(1))

  return all_labels(None), all_labels(1)


def test_neural_cleanse_finds_the_planted_label(cleansed):
  patches = cleansed[0]
  assert int(jnp.argmin(patches.norm)) == 2
  assert patches.norm[2] < 0.5 * jnp.median(patches.norm)
  assert np.unravel_index(int(jnp.argmax(patches.mask[2])), (6, 6)) == (5, 5)
  assert 0.0 <= patches.mask.min() and patches.mask.max() <= 1.0


def test_labels_under_one_vmap_equal_labels_one_by_one(cleansed):
  together, single = cleansed
  np.testing.assert_array_equal(together.epochs, single.epochs)
  np.testing.assert_allclose(together.mask, single.mask, atol=1e-4)


def test_mini_batches_pad_without_weight():
  batches, weights = neural_cleanse.mini_batches(np.ones((5, 2, 2, 1), np.float32), 3)
  assert batches.shape == (2, 3, 2, 2, 1) and weights.tolist() == [[1, 1, 1], [1, 1, 0]]
  assert batches[1, 2].sum() == 0.0


def test_abs_finds_the_planted_unit():
  network, params = planted()
  images, labels = quadrants(24)
  found, stimuli = jax.jit(
    lambda key: brain_stimulation.stimulate(
      network, params, jnp.asarray(images), jnp.asarray(labels), lambda x: x, key, max_size=3, epochs=60
    )
  )(jax.random.key(0))
  assert int(found.unit[2]) == 4
  assert stimuli.rate[2] >= brain_stimulation.REASR_LIMIT
  assert stimuli.rate[2] > stimuli.rate[jnp.asarray([0, 1, 3])].max()


def test_abs_elevation_and_mask_cost():
  network, params = planted()
  features = jnp.asarray(RNG.uniform(0.0, 1.0, (3, 5)), jnp.float32)
  elevation = brain_stimulation.elevations(lambda x: network.head(params, x), features)
  want = jnp.maximum(2.0 * features.max() * params['head'], 0.5 * features.max() * params['head'])
  np.testing.assert_allclose(elevation, np.broadcast_to(want[:, None], (5, 3, 4)), rtol=1e-4, atol=1e-4)
  mask = jnp.full((3, 4), 0.5)
  assert [float(brain_stimulation.mask_cost(mask, n)) for n in (12, 11, 9)] == pytest.approx([0.06, 300.0, 600.0])


def test_fine_pruning():
  network, params = planted()
  images, labels = quadrants(40)
  stamped = images.copy()
  stamped[:, 5, 5] = 1.0
  run = jax.jit(lambda p: fine_pruning.fine_prune(network, p, images, labels, images, labels, stamped, 2))
  result = run(params)
  # The unit of the trigger sleeps on clean images, so it goes first and takes the attack with it.
  np.testing.assert_allclose(result.curve[0], [1.0, 1.0])
  np.testing.assert_allclose(result.curve[1], [1.0, 0.25])
  assert int(result.pruned) == 1 and result.curve.shape == (6, 2)
  np.testing.assert_allclose(result.tuned, [1.0, 0.25])
  assert int(fine_pruning.allowed(jnp.asarray([1.0, 1.0, 1.0]))) == 2


@pytest.mark.parametrize(('channels', 'count'), [(1, 608_064), (3, 1_658_688)])
def test_denoiser_size(channels, count):
  shape = jax.eval_shape(denoiser.DenoisingAutoencoder().init, jax.random.key(0), jnp.zeros((1, 32, 32, channels)))
  assert sum(x.size for x in jax.tree.leaves(shape)) == count


def test_denoiser_removes_noise():
  clean = quadrants(64)[0]
  variables = jax.jit(lambda key: denoiser.fit(clean, key, steps=300))(jax.random.key(0))
  noisy = clean + 0.3 * RNG.normal(size=clean.shape).astype(np.float32)
  got = denoiser.purify(variables, jnp.asarray(noisy))
  assert np.mean((got - clean) ** 2) < 0.5 * np.mean((np.clip(noisy, 0, 1) - clean) ** 2)


def test_median_filter_matches_scipy():
  x = RNG.normal(size=(2, 7, 5, 3)).astype(np.float32)
  want = scipy.ndimage.median_filter(x, size=(1, 3, 3, 1), mode='nearest')
  np.testing.assert_array_equal(input_transform.median_filter(jnp.asarray(x)), want)


def test_shrink_and_pad():
  x = jnp.ones((50, 8, 8, 1))
  got = np.asarray(input_transform.shrink_and_pad(x, jax.random.key(0), -5.0))
  np.testing.assert_allclose(np.sum(got > 0, axis=(1, 2, 3)), 36)
  np.testing.assert_allclose(np.unique(got), [-5.0, 1.0], atol=1e-6)
  assert len({tuple(np.argwhere(image[..., 0] > 0)[0]) for image in got}) == 9  # every offset occurs
  with pytest.raises(ValueError, match='1 to 7 pixels'):
    input_transform.shrink_and_pad(x, jax.random.key(0), 0.0, by=8)


def test_spectral_scores_and_removal():
  features = RNG.normal(size=(30, 6)).astype(np.float32)
  features[:3] += 8.0
  scores = spectral.spectral_scores(jnp.asarray(features))
  centred = features - features.mean(0)
  want = np.square(centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1])
  np.testing.assert_allclose(scores, want, rtol=1e-3, atol=1e-3)
  assert np.flatnonzero(spectral.removed(scores, 0.1)).tolist()[:3] == [0, 1, 2]
  assert int(spectral.removed(scores, 0.1).sum()) == 4
  assert int(spectral.removed(scores, 1.0).sum()) == 30


def test_que_scores_use_the_matrix_exponential():
  h = 2.0 * RNG.normal(size=(3, 40)).astype(np.float32)
  second = h @ h.T / 40
  q = scipy.linalg.expm(4.0 * (second - np.eye(3)) / (np.linalg.norm(second, 2) - 1.0))
  want = np.einsum('di,de,ei->i', h, q, h) / np.trace(q)
  got = spectre.que_scores(jnp.asarray(h))
  np.testing.assert_allclose(got, want, rtol=1e-3)
  flipped = jnp.asarray(h * np.asarray([1.0, -1.0, 1.0], np.float32)[:, None])
  np.testing.assert_allclose(spectre.que_scores(flipped), got, rtol=1e-4)
  assert not np.allclose(spectre.que_scores(flipped, elementwise=True), spectre.que_scores(h, elementwise=True))
  assert spectre.suspicious(got, 5).tolist() == np.argsort(-want)[:5].tolist()


def test_whitened_clean_features_have_unit_covariance():
  clean = (RNG.normal(size=(500, 5)) @ RNG.normal(size=(5, 5))).astype(np.float32)
  white = spectre.whiten(jnp.asarray(clean), jnp.asarray(clean), 3, ridge=0.0)
  np.testing.assert_allclose(np.cov(white), np.eye(3), atol=1e-3)


def test_scan_points_at_the_mixed_class():
  means = 3.0 * RNG.normal(size=(6, 4))
  labels = np.repeat(np.arange(6), 40)
  clean = (means[labels] + 0.5 * RNG.normal(size=(240, 4))).astype(np.float32)
  covariances = jax.jit(scan.decompose, static_argnums=2)(clean, labels, 6)
  np.testing.assert_allclose(covariances.variation, 0.25 * np.eye(4), atol=0.08)
  features = (means[:, None] + 0.5 * RNG.normal(size=(6, 30, 4))).astype(np.float32)
  features[1, :12] += 4.0
  start = jnp.asarray(RNG.uniform(size=(6, 30)), jnp.float32)
  ratios, index, member = jax.jit(scan.scan_scores)(features, covariances, start)
  assert int(jnp.argmax(ratios)) == 1 and index[1] > scan.LIMIT
  group = np.asarray(member[1]) > 0.5
  assert (group[:12] != group[12]).all() and (group[12:] == group[12]).all()


def test_activation_clustering():
  features = RNG.normal(size=(20, 6))
  features[:4] += 10.0
  found = activation_clustering.cluster(features)
  assert found.flagged and np.flatnonzero(found.small).tolist() == [0, 1, 2, 3] and found.share == 0.2
  assert not activation_clustering.cluster(np.ones((5, 3))).flagged
  with pytest.raises(ValueError, match='at least 3 images'):
    activation_clustering.cluster(np.ones((2, 3)))
