"""All defences on all attacks, many victims at once."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import denoiser, suite_datasets, suite_inputs, suite_models
from jaxpapers.doorping.defence import Network, Outcome, class_rows, detection
from jaxpapers.doorping.suite_setting import Attacked, Options, Setting, Trusted

__all__ = ['CLEAN', 'Attacked', 'Options', 'Trusted', 'defend']

CLEAN = 'clean'


def defend(
  network: Network,
  attacks: Mapping[str, Attacked],
  trusted: Trusted,
  distilled_labels: np.ndarray,
  mask: jax.Array,
  target: int,
  key: jax.Array,
  options: Options | None = None,
  retrain: Callable[[jax.Array, jax.Array, jax.Array], Any] | None = None,
) -> dict[str, dict[str, Outcome]]:
  """Runs the defence suite. Source: the paper's evaluation of defences, and further ones.

  Args:
    network: of the victims.
    attacks: by name; 'clean' must be among them, since thresholds of the model defences come from its victims.
    trusted: the defender's clean data and the test set.
    distilled_labels: [images] of all distilled sets, equally many per class.
    mask: [height, width, channels], 1 in the patch.
    target: the attacked label.
    key: random key.
    options: how much is done.
    retrain: (images [images, height, width, channels], labels [images], key) -> params of a fresh victim; without it
      the distilled set is not purified.

  Returns:
    {defence: {attack: Outcome}}.

  Raises:
    ValueError: without clean victims, for a target that is no class, or classes of different sizes.
  """
  if CLEAN not in attacks:
    raise ValueError(f'The defences need victims of a clean set under the name {CLEAN!r}, not only {list(attacks)}.')
  options = options or Options()
  rows = class_rows(distilled_labels)
  if not 0 <= target < len(rows):
    raise ValueError(f'Target {target} is not a class: it must lie between 0 and {len(rows) - 1}.')
  trusted = Trusted(*(jnp.asarray(x) for x in trusted))
  setting = Setting(network, trusted, rows, jnp.asarray(mask), target, options)
  keys = jax.random.split(key, 8)
  # The denoiser is the same for all attacks and victims: it sees the trusted images only.
  variables = jax.jit(partial(denoiser.fit, steps=options.denoiser_steps))(setting.pixels(trusted.images), keys[0])
  defences: dict[str, Callable] = {
    'neural cleanse': partial(suite_models.cleansed, key=keys[1]),
    'ABS': partial(suite_models.stimulated, key=keys[2]),
    'fine-pruning': suite_models.pruned,
    'STRIP': partial(suite_inputs.stripped, key=keys[3]),
    'denoiser (inputs)': partial(suite_inputs.denoised_inputs, variables=variables),
    'median filter': suite_inputs.median_filtered,
    'shrink and pad': partial(suite_inputs.shrunk, key=keys[4]),
    'spectral signatures': suite_datasets.by_spectral_signatures,
    'SPECTRE': suite_datasets.by_spectre,
    'SCAn': partial(suite_datasets.by_scan, key=keys[5]),
    'activation clustering': suite_datasets.by_clustering,
  }
  if retrain is not None:
    labels = jnp.asarray(distilled_labels)
    defences['denoiser (distilled set)'] = partial(
      suite_inputs.denoised_set, variables=variables, retrain=retrain, labels=labels, key=keys[6]
    )
  return {name: _timed(defence, setting, attacks) for name, defence in defences.items()}


def _timed(defence: Callable, setting: Setting, attacks: Mapping[str, Attacked]) -> dict[str, Outcome]:
  """One defence on every attack; the program is compiled once, for the first of them."""
  over = defence(setting)
  outcomes = {}
  for name, attacked in attacks.items():
    started = time.perf_counter()
    outcomes[name] = over(attacked)._replace(seconds=time.perf_counter() - started)
  if outcomes[CLEAN].level == 'model' and outcomes[CLEAN].scores.size:
    clean = outcomes[CLEAN].scores
    for name, outcome in outcomes.items():
      auroc, tpr = detection(outcome.scores, clean)
      outcomes[name] = outcome._replace(clean_scores=clean, auroc=auroc, tpr=tpr)
  return outcomes
