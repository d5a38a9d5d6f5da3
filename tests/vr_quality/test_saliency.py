"""Saliency on the sphere: unit mass, self-agreement, constants, rotation, an independent ROC, and the baselines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxpapers.vr_quality import saliency
from jaxpapers.vr_quality.sphere import pixel_directions, rotation_z, solid_angles

SHAPE = (32, 64)


def directions(seed, n, spread=0.3):
  points = np.random.default_rng(seed).normal(0, spread, (n, 3)) + [1, 0, 0]
  return points / np.linalg.norm(points, axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnames='planar')
def scores(x, reference, fixations, others, planar=False):
  return {
    'cc': saliency.correlation(x, reference, planar=planar),
    'sim': saliency.similarity(x, reference, planar=planar),
    'kl': saliency.divergence(x, reference, planar=planar),
    'nss': saliency.nss(x, fixations, planar=planar),
    'auc': saliency.auc(x, fixations, planar=planar),
    'sauc': saliency.shuffled_auc(x, fixations, others),
    'ig': saliency.information_gain(x, fixations, planar=planar),
  }


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def density(fixations, height, width, sigma):
  return saliency.vmf_map(fixations, height, width, sigma)


FIXATIONS = jnp.asarray(directions(0, 40), jnp.float32)
OTHERS = jnp.asarray(directions(1, 30, 2.0), jnp.float32)


@pytest.mark.parametrize('pixels', [2.0, 6.0])
def test_maps_integrate_to_one(pixels):
  poles = jnp.concatenate([FIXATIONS, jnp.asarray([[0.0, 0.0, 1.0], [0.1, 0.0, -0.995]])])
  found = density(poles, *SHAPE, pixels * np.pi / SHAPE[0])
  assert abs(float(np.sum(np.asarray(found) * solid_angles(*SHAPE))) - 1) < 1e-3


def test_a_map_agrees_with_itself_and_a_constant_with_nothing():
  x = density(FIXATIONS, *SHAPE, 0.2)
  own = scores(x, x, FIXATIONS, OTHERS)
  assert abs(own['cc'] - 1) < 1e-5 and abs(own['sim'] - 1) < 1e-5 and abs(own['kl']) < 1e-5
  assert own['nss'] > 1 and own['auc'] > 0.9 and own['ig'] > 0.5 and own['sauc'] > 0.7
  for value in (1.0, 0.3, 1e-6):
    flat = scores(jnp.full(SHAPE, value), x, FIXATIONS, OTHERS)
    assert flat['cc'] == 0 and flat['nss'] == 0 and abs(flat['auc'] - 0.5) < 1e-6 and abs(flat['sauc'] - 0.5) < 1e-6


def test_auc_is_the_weighted_roc_area_of_scikit_learn():
  rng = np.random.default_rng(2)
  x = np.round(rng.random(SHAPE), 1)
  index = np.asarray(saliency.pixel_index(FIXATIONS, *SHAPE))
  negative = np.setdiff1d(np.arange(x.size), index)
  weights = np.concatenate([np.ones(len(index)), solid_angles(*SHAPE).ravel()[negative]])
  labels = np.concatenate([np.ones(len(index)), np.zeros(len(negative))])
  want = roc_auc_score(labels, x.ravel()[np.concatenate([index, negative])], sample_weight=weights)
  got = scores(jnp.asarray(x, jnp.float32), jnp.ones(SHAPE), FIXATIONS, OTHERS)['auc']
  assert abs(float(got) - want) < 1e-5


def test_turning_map_and_fixations_together_changes_only_the_planar_scores():
  # A quarter turn about x carries the equator through the poles; the grid error is what is left.
  turn = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
  fixations = directions(3, 80) @ np.asarray(rotation_z(1.2)).T
  results = []
  for rotation in (np.eye(3), turn):
    points = jnp.asarray(fixations @ rotation.T, jnp.float32)
    other = jnp.asarray(np.asarray(OTHERS) @ rotation.T, jnp.float32)
    x, y = density(points[:40], *SHAPE, 0.25), density(points[40:], *SHAPE, 0.25)
    results.append((scores(x, y, points[:40], other), scores(x, y, points[:40], other, planar=True)))
  for name, tolerance in (('cc', 1e-2), ('sim', 1e-2), ('kl', 2e-2), ('nss', 5e-2), ('auc', 1e-2)):
    assert abs(results[0][0][name] - results[1][0][name]) < tolerance, name
  assert abs(results[0][1]['nss'] - results[1][1]['nss']) > 0.1


def test_baselines_are_densities_that_point_where_they_should():
  image = np.full((*SHAPE, 3), 0.4, np.float32)
  spot = pixel_directions(*SHAPE) @ np.array([0.0, 1.0, 0.0]) > 0.95
  image[spot] = (1.0, 0.2, 0.2)

  @jax.jit
  def build(image):
    return {
      'uniform': saliency.uniform(*SHAPE),
      'equator': saliency.equator(*SHAPE),
      'start': saliency.start_centred(*SHAPE, jnp.asarray([0.0, 1.0, 0.0])),
      'contrast': saliency.centre_surround(image),
      'blur': saliency.vmf_blur(jnp.ones((*SHAPE, 1)), 0.1)[..., 0] / (4 * np.pi),
    }

  found = {name: np.asarray(x) for name, x in build(jnp.asarray(image)).items()}
  for name, x in found.items():
    assert abs(np.sum(x * solid_angles(*SHAPE)) - 1) < 1e-3, name
  assert np.ptp(found['blur']) < 1e-6
  assert found['equator'][16, 0] > 10 * found['equator'][2, 0]
  assert pixel_directions(*SHAPE).reshape(-1, 3)[found['start'].argmax()][1] > 0.99
  assert found['contrast'][spot].mean() > 20 * found['contrast'][:, : SHAPE[1] // 4].mean()
