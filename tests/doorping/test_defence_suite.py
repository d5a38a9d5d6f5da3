"""The suite as a whole, on a network with a planted backdoor beside its clean twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.doorping import defence_report
from jaxpapers.doorping.defence_suite import Attacked, Options, Trusted, defend
from jaxpapers.engine.report import Report
from tests.doorping.test_defences import planted, quadrants

OPTIONS = Options(
  inversion_images=8, cleanse_epochs=5, abs_epochs=3, abs_size=2, overlays=3, strip_images=20, denoiser_steps=5,
  dimensions=2,
)  # fmt: skip


@pytest.fixture(scope='module')
def scene():
  network, backdoored = planted()
  clean = {**backdoored, 'head': backdoored['head'].at[4].set(0.0)}
  images, labels = quadrants(40)
  distilled = quadrants(16)[0]
  trusted = Trusted(images, labels, images, labels, np.zeros(1, np.float32), np.ones(1, np.float32))
  mask = np.zeros((6, 6, 1), np.float32)
  mask[5, 5] = 1.0

  def lanes(tree):
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), tree)

  poisoned = distilled.copy()
  poisoned[2] = mask + distilled[0]  # one image of class 2 is a stamped one of class 0
  attacks = {
    'clean': Attacked(lanes(clean), lanes(distilled), lanes(mask)),
    'naive': Attacked(lanes(backdoored), lanes(poisoned), lanes(mask)),
  }
  return network, attacks, trusted, np.arange(16) % 4, mask


@pytest.fixture(scope='module')
def outcomes(scene):
  network, attacks, *rest = scene

  def retrain(images, labels, key):
    del images, labels, key
    return jax.tree.map(lambda x: x[0], attacks['clean'].params)

  return defend(network, attacks, *rest, 2, jax.random.key(0), OPTIONS, retrain)


def test_every_defence_judges_every_attack(outcomes):
  assert len(outcomes) == 12
  for row in outcomes.values():
    assert list(row) == ['clean', 'naive']
    for outcome in row.values():
      assert outcome.seconds > 0.0
      assert not np.isnan([outcome.auroc, outcome.cta[1]]).all()


def test_what_is_planted_is_found_and_removed(outcomes):
  assert outcomes['STRIP']['naive'].auroc > 0.9 > outcomes['STRIP']['clean'].auroc
  assert outcomes['spectral signatures']['naive'].auroc > outcomes['spectral signatures']['clean'].auroc
  pruned = outcomes['fine-pruning']
  assert pruned['naive'].asr[0] == 1.0 and pruned['naive'].asr[1] < 0.3 and pruned['naive'].cta[1] == 1.0
  np.testing.assert_allclose(pruned['clean'].asr, 0.25)
  assert outcomes['median filter']['naive'].asr[1] < 1.0  # a corner pixel is four of nine with repeated borders
  assert outcomes['denoiser (distilled set)']['naive'].asr == (1.0, 0.25)
  # Model defences have the clean victims as their negatives.
  cleanse = outcomes['neural cleanse']
  np.testing.assert_array_equal(cleanse['naive'].clean_scores, cleanse['clean'].scores)


def test_report_of_the_defences(outcomes, tmp_path):
  page = Report(tmp_path, 'defences', None, {})
  defence_report.draw(page, outcomes, 2)
  page.write()
  names = {path.name for path in page.folder.iterdir()}
  assert {'defences.png', 'strip.png', 'neural_cleanse.png', 'spectral.png', 'scan.png', 'pruning.png'} <= names
  assert 'SPECTRE (dataset)' in (page.folder / 'index.html').read_text()
  assert '"tpr_at_1_percent_fpr"' in (page.folder / 'results.json').read_text()


@pytest.mark.parametrize(
  ('attacks', 'labels', 'target', 'words'),
  [
    ({'naive': None}, np.arange(16) % 4, 2, "under the name 'clean'"),
    ({'clean': None}, np.arange(16) % 4, 4, 'Target 4 is not a class'),
    ({'clean': None}, np.arange(15) % 4, 2, 'equally many distilled images'),
  ],
)
def test_settings_that_cannot_be(scene, attacks, labels, target, words):
  network, _, trusted, _, mask = scene
  with pytest.raises(ValueError, match=words):
    defend(network, attacks, trusted, labels, mask, target, jax.random.key(0))
