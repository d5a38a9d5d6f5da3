"""Defences of the suite that look at a victim: Neural Cleanse, ABS, fine-pruning."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import brain_stimulation, fine_pruning, neural_cleanse
from jaxpapers.doorping.defence import Outcome
from jaxpapers.doorping.suite_setting import Attacked, Setting, changed, others, over_lanes
from jaxpapers.doorping.trigger import stamp


def cleansed(setting: Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  """Neural Cleanse: the smallest patch that turns everything into a label, for every label."""
  options = setting.options
  pixels = np.asarray(setting.pixels(setting.trusted.images[: options.inversion_images]))
  batches, weights = (jnp.asarray(x) for x in neural_cleanse.mini_batches(pixels, 64))

  def one(setting, params, images, trigger):
    del images, trigger
    patches = neural_cleanse.invert_all(
      lambda x: setting.network.forward(params, setting.normalise(x))[0],
      batches,
      weights,
      setting.classes,
      key,
      at_once=options.labels_at_once or None,
      epochs=options.cleanse_epochs,
    )
    return patches, neural_cleanse.flag(patches.norm)

  run = over_lanes(setting, one, options.models)

  def over(attacked):
    patches, flags = run(attacked)
    # A model is as suspicious as its smallest patch is an outlier.
    small = np.where(patches.norm <= flags.median[:, None], flags.index, 0.0)
    return Outcome(
      'model',
      small.max(axis=1),
      np.zeros(0),
      flagged=float(flags.flagged[:, setting.target].mean()),
      false_flags=float(others(flags.flagged, setting.target).mean()),
      details={'norms': patches.norm, 'index': flags.index, 'masks': patches.mask, 'patterns': patches.pattern},
    )

  return over


def stimulated(setting: Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  """ABS: attack success of triggers inverted for the most excitable units."""
  options = setting.options

  def one(setting, params, images, trigger):
    del images, trigger
    pixels = setting.pixels(setting.trusted.images[: options.inversion_images])
    labels = setting.trusted.labels[: options.inversion_images]
    return brain_stimulation.stimulate(
      setting.network,
      params,
      pixels,
      labels,
      setting.normalise,
      key,
      max_size=options.abs_size,
      epochs=options.abs_epochs,
    )[1].rate

  run = over_lanes(setting, one, options.models)

  def over(attacked):
    rates = run(attacked)
    flagged = rates >= brain_stimulation.REASR_LIMIT
    return Outcome(
      'model',
      rates.max(axis=1),
      np.zeros(0),
      flagged=float(flagged[:, setting.target].mean()),
      false_flags=float(others(flagged, setting.target).mean()),
      details={'rates': rates},
    )

  return over


def pruned(setting: Setting) -> Callable[[Attacked], Outcome]:
  """Fine-pruning: clean accuracy and attack success before, along the pruning, and after tuning."""
  options = setting.options

  def one(setting, params, images, trigger):
    del images
    trusted = setting.trusted
    triggered = stamp(trusted.test_images, trigger, setting.mask)
    return fine_pruning.fine_prune(
      setting.network,
      params,
      trusted.images,
      trusted.labels,
      trusted.test_images,
      trusted.test_labels,
      triggered,
      setting.target,
      loss=options.prune_loss,
      epochs=options.tune_epochs,
    )

  run = over_lanes(setting, one)

  def over(attacked):
    result = run(attacked)
    return changed('model', result.curve[:, 0], result.tuned, curve=result.curve, pruned=result.pruned)

  return over
