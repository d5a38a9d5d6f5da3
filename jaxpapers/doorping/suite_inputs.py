"""Defences of the suite that stand before a victim, or before its training."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import denoiser, input_transform, strip
from jaxpapers.doorping.defence import Outcome, detection
from jaxpapers.doorping.suite_setting import Attacked, Setting, changed, over_lanes
from jaxpapers.doorping.trigger import stamp


def stripped(setting: Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  """STRIP: entropy under overlays of clean and triggered test images."""
  options = setting.options

  def one(setting, params, images, trigger):
    del images
    trusted = setting.trusted
    overlays = trusted.images[jax.random.permutation(key, len(trusted.images))[: options.overlays]]
    clean = trusted.test_images[: options.strip_images]
    both = jnp.concatenate([clean, stamp(clean, trigger, setting.mask)])
    entropy = strip.entropies(lambda x: setting.network.forward(params, x)[0], both, overlays, options.blend)
    return entropy[: len(clean)], entropy[len(clean) :]

  run = over_lanes(setting, one)

  def over(attacked):
    benign, triggered = run(attacked)
    limits = np.asarray([strip.threshold(lane) for lane in benign])
    both = [detection(-t, -b) for t, b in zip(triggered, benign, strict=True)]
    auroc, tpr = np.mean(both, axis=0)
    far = np.mean([strip.false_acceptance(t, limit) for t, limit in zip(triggered, limits, strict=True)])
    frr = np.mean([strip.false_rejection(b, limit) for b, limit in zip(benign, limits, strict=True)])
    return Outcome(
      'input',
      -triggered,
      -benign,
      float(auroc),
      float(tpr),
      float(1.0 - far),
      float(frr),
      details={'clean': benign, 'triggered': triggered, 'threshold': limits},
    )

  return over


def _before_victim(
  setting: Setting, change: Callable[[Setting, jax.Array], jax.Array]
) -> Callable[[Attacked], Outcome]:
  def one(setting, params, images, trigger):
    del images
    return setting.rates(params, lambda x: x, trigger), setting.rates(params, partial(change, setting), trigger)

  run = over_lanes(setting, one)
  return lambda attacked: changed('input', *run(attacked))


def denoised_inputs(setting: Setting, variables: dict) -> Callable[[Attacked], Outcome]:
  """A denoiser before the victim."""
  return _before_victim(setting, lambda given, x: given.normalise(denoiser.purify(variables, given.pixels(x))))


def median_filtered(setting: Setting) -> Callable[[Attacked], Outcome]:
  """A median filter before the victim."""
  return _before_victim(setting, lambda given, x: input_transform.median_filter(x))


def shrunk(setting: Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  """Shrinking and padding before the victim."""
  black = setting.normalise(jnp.zeros_like(setting.trusted.mean))
  return _before_victim(setting, lambda given, x: input_transform.shrink_and_pad(x, key, black))


def denoised_set(
  setting: Setting, variables: dict, retrain: Callable, labels: jax.Array, key: jax.Array
) -> Callable[[Attacked], Outcome]:
  """A denoiser before training: the target class of the distilled set is purified and a fresh victim trained."""
  suspects = (labels == setting.target)[:, None, None, None]

  def one(setting, params, images, trigger):
    purified = setting.normalise(denoiser.purify(variables, setting.pixels(images)))
    fresh = retrain(jnp.where(suspects, purified, images), labels, key)
    return setting.rates(params, lambda x: x, trigger), setting.rates(fresh, lambda x: x, trigger)

  run = over_lanes(setting, one)
  return lambda attacked: changed('input', *run(attacked))
