"""What every defence of the suite works on: victims in lanes, the defender's data, and how much is done."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping.defence import Network, Outcome, success_rates
from jaxpapers.doorping.trigger import stamp


class Attacked(NamedTuple):
  """What an attack (or its absence) left behind, over `lanes` victims.

  Attributes:
    params: of the victims, every leaf with a leading axis [lanes].
    images: distilled sets that they were trained on [lanes, images, height, width, channels], normalised.
    trigger: [lanes, height, width, channels] normalised; for the clean case a trigger that serves as control.
  """

  params: Any
  images: jax.Array
  trigger: jax.Array


class Trusted(NamedTuple):
  """What the defender holds, and what the outcome is measured on; images are normalised.

  Attributes:
    images: clean real images of the defender [N, height, width, channels], some hundred.
    labels: [N] int32.
    test_images: [T, height, width, channels].
    test_labels: [T] int32.
    mean: [channels] of the normalisation.
    std: [channels].
  """

  images: jax.Array
  labels: jax.Array
  test_images: jax.Array
  test_labels: jax.Array
  mean: jax.Array
  std: jax.Array


class Options(NamedTuple):
  """How much every defence does.

  Attributes:
    lanes_at_once: victims under one vmap; 1 takes one after the other.
    models: victims that the model defences with inversion look at, at most.
    inversion_images: clean images for Neural Cleanse and ABS.
    cleanse_epochs: of Neural Cleanse, 64 images a step.
    labels_at_once: labels of Neural Cleanse under one vmap; 0 takes all. One by one takes a third of the time on CPU.
    abs_epochs: steps of the inversion of ABS.
    abs_size: mask entries of ABS that cost little.
    overlays: of STRIP.
    strip_images: clean and triggered images that STRIP looks at.
    blend: share of the overlay in STRIP; None adds it.
    prune_loss: clean accuracy that pruning may cost.
    tune_epochs: of fine-pruning.
    denoiser_steps: of training.
    dimensions: directions that SPECTRE keeps.
    ratio: expected share of attacked images in a class, which sets how many spectral signatures remove.
  """

  lanes_at_once: int = 1
  models: int = 6
  inversion_images: int = 64
  cleanse_epochs: int = 100
  labels_at_once: int = 1
  abs_epochs: int = 50
  abs_size: int = 16
  overlays: int = 10
  strip_images: int = 200
  blend: float | None = None
  prune_loss: float = 0.04
  tune_epochs: int = 10
  denoiser_steps: int = 600
  dimensions: int = 4
  ratio: float = 0.1


class Setting(NamedTuple):
  """One call of the suite.

  Attributes:
    network: of the victims.
    trusted: the defender's data, and the test set.
    rows: [classes, images per class] distilled row numbers by class.
    mask: [height, width, channels], 1 in the patch.
    target: the attacked label.
    options: how much is done.
  """

  network: Network
  trusted: Trusted
  rows: np.ndarray
  mask: jax.Array
  target: int
  options: Options

  @property
  def classes(self) -> int:
    """Their number."""
    return len(self.rows)

  def normalise(self, pixels: jax.Array) -> jax.Array:
    """Pixels in 0..1 as the victims take them."""
    return (pixels - self.trusted.mean) / self.trusted.std

  def pixels(self, images: jax.Array) -> jax.Array:
    """Normalised images as pixels in 0..1."""
    return jnp.clip(images * self.trusted.std + self.trusted.mean, 0.0, 1.0)

  def predict(self, params: Any, images: jax.Array) -> jax.Array:
    """Labels [batch] int32 of normalised images."""
    return jnp.argmax(self.network.forward(params, images)[0], axis=-1)

  def rates(self, params: Any, change: Callable[[jax.Array], jax.Array], trigger: jax.Array) -> jax.Array:
    """(CTA, ASR) where `change` stands before the victim."""
    test, labels = self.trusted.test_images, self.trusted.test_labels
    triggered = self.predict(params, change(stamp(test, trigger, self.mask)))
    return success_rates(self.predict(params, change(test)), labels, triggered, self.target)


def over_lanes(setting: Setting, one: Callable[..., Any], limit: int = 0) -> Callable[[Attacked], Any]:
  """Compiles `one(setting, params, images, trigger)` for all victims of an Attacked, or its first `limit`."""

  @jax.jit
  def run(trusted, attacked):
    # The data are arguments of the program: as constants, the compiler would work on them for minutes.
    given = setting._replace(trusted=trusted)
    if limit:
      attacked = jax.tree.map(lambda x: x[:limit], attacked)
    return jax.lax.map(lambda lane: one(given, *lane), attacked, batch_size=setting.options.lanes_at_once)

  return lambda attacked: jax.tree.map(np.asarray, run(setting.trusted, Attacked(*attacked)))


def changed(level: str, before: np.ndarray, after: np.ndarray, **details: np.ndarray) -> Outcome:
  """Outcome of a defence that changes rates; `before` and `after` are [lanes, 2]."""
  (cta, asr), (cta_after, asr_after) = before.mean(axis=0), after.mean(axis=0)
  return Outcome(
    level,
    np.zeros(0),
    np.zeros(0),
    cta=(float(cta), float(cta_after)),
    asr=(float(asr), float(asr_after)),
    details={'before': before, 'after': after, **details},
  )


def others(values: np.ndarray, target: int) -> np.ndarray:
  """The entries of the last axis but the target's."""
  return np.delete(values, target, axis=-1)
