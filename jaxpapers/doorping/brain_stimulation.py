"""ABS, artificial brain stimulation: units that force a label, and triggers that drive them (Liu et al., CCS 2019)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxpapers.doorping.defence import Network
from jaxpapers.doorping.neural_cleanse import stamp

REASR_LIMIT = 0.88
_MASK_START = -2.5  # entries of .007: below what counts as a mask entry, so that the inversion starts at no cost


class Candidates(NamedTuple):
  """The best unit of every label.

  Attributes:
    unit: [labels] int32.
    value: [labels] how far its elevation of the label exceeds every other's; -inf where no unit points to the label.
  """

  unit: jax.Array
  value: jax.Array


class Stimulus(NamedTuple):
  """An inverted trigger.

  Attributes:
    pattern: [..., height, width, channels] in [0, 1].
    mask: [..., height, width] in [0, 1].
    rate: [...] share of clean images that the trigger sends to the label (REASR).
  """

  pattern: jax.Array
  mask: jax.Array
  rate: jax.Array


def elevations(head: Callable[[jax.Array], jax.Array], features: jax.Array) -> jax.Array:
  """How far setting one unit raises each logit.

  Args:
    head: features [images, units] -> logits [images, labels].
    features: [images, units] of clean images.

  Returns:
    [units, images, labels]: the largest logit over v in {a/2, a, 2a} less that at v = 0; a is the largest activation.
  """
  chex.assert_rank(features, 2)
  levels = features.max() * jnp.asarray([0.0, 0.5, 1.0, 2.0], features.dtype)

  def unit(j):
    logits = jax.vmap(lambda v: head(features.at[:, j].set(v)))(levels)
    return logits[1:].max(axis=0) - logits[0]

  return jax.lax.map(unit, jnp.arange(features.shape[1]))


def candidates(elevation: jax.Array, image_labels: jax.Array) -> Candidates:
  """Picks the best unit per label.

  Args:
    elevation: [units, images, labels].
    image_labels: [images] int, true labels.

  Returns:
    Of the units whose most frequent best label is y, the one with the largest smallest gap (best less second best
    label) over the images that are not of label y. An image where another label wins counts with a negative gap.
  """
  chex.assert_rank([elevation, image_labels], [3, 1])
  labels = elevation.shape[-1]
  votes = jax.nn.one_hot(jnp.argmax(elevation, axis=-1), labels).sum(axis=1)
  chosen = jnp.argmax(votes, axis=-1)

  def gap(rows, label):
    own = rows[:, label]
    other = jnp.where(jnp.arange(labels) == label, -jnp.inf, rows).max(axis=-1)
    return jnp.min(jnp.where(image_labels == label, jnp.inf, own - other))

  gaps = jax.vmap(gap)(elevation, chosen)
  table = jnp.where(chosen[:, None] == jnp.arange(labels), gaps[:, None], -jnp.inf)
  return Candidates(jnp.argmax(table, axis=0), table.max(axis=0))


def mask_cost(mask: jax.Array, max_size: int) -> jax.Array:
  """0.01 |M| while at most `max_size` entries exceed 0.01, 50 |M| above that, 100 |M| above 1.2 times that."""
  entries = jnp.sum(mask > 0.01)
  weight = jnp.where(entries <= max_size, 0.01, jnp.where(entries <= 1.2 * max_size, 50.0, 100.0))
  return weight * jnp.sum(jnp.abs(mask))


def invert(
  forward: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
  images: jax.Array,
  unit: jax.Array,
  label: jax.Array,
  key: jax.Array,
  *,
  max_size: int,
  learning_rate: float = 0.4,
  epochs: int = 50,
) -> Stimulus:
  """A trigger that drives one unit and with it one label.

  Args:
    forward: images in pixel space -> (logits [batch, labels], features [batch, units]).
    images: clean [batch, height, width, channels] in [0, 1]; one step of Adam on all of them is an epoch.
    unit: int32.
    label: int32.
    key: random key of the start.
    max_size: mask entries that cost little.
    learning_rate: of Adam.
    epochs: number of steps.
  """
  chex.assert_rank(images, 4)
  optimizer = optax.adam(learning_rate)
  height, width, channels = images.shape[1:]
  pattern_key, mask_key = jax.random.split(key)
  free = (
    0.1 * jax.random.normal(pattern_key, (height, width, channels)),
    _MASK_START + 0.1 * jax.random.normal(mask_key, (height, width)),
  )

  def squash(free):
    return tuple(jnp.tanh(x) / 2.0 + 0.5 for x in free)

  def objective(free, step):
    pattern, mask = squash(free)
    logits, features = forward(stamp(images, pattern, mask))
    wanted = features[:, unit].mean()
    others = features.sum(axis=-1).mean() - wanted
    weight = jnp.where(step * 2 < epochs, 1.0, 3.0)
    return -wanted + 1e-4 * others - weight * logits[:, label].mean() + mask_cost(mask, max_size)

  def one(carry, step):
    free, state = carry
    updates, state = optimizer.update(jax.grad(objective)(free, step), state)
    return (optax.apply_updates(free, updates), state), None

  (free, _), _ = jax.lax.scan(one, (free, optimizer.init(free)), jnp.arange(epochs))
  pattern, mask = squash(free)
  predicted = jnp.argmax(forward(stamp(images, pattern, mask))[0], axis=-1)
  return Stimulus(pattern, mask, jnp.mean(predicted == label))


def stimulate(
  network: Network,
  params: Any,
  pixels: jax.Array,
  labels: jax.Array,
  normalise: Callable[[jax.Array], jax.Array],
  key: jax.Array,
  *,
  max_size: int,
  epochs: int = 50,
) -> tuple[Candidates, Stimulus]:
  """The scan of one victim: the best unit of each label, and the trigger inverted for it.

  Source: ABS (Liu et al., CCS 2019).

  Args:
    network: of the victim.
    params: of the victim.
    pixels: clean images [N, height, width, channels] in [0, 1].
    labels: [N] int.
    normalise: pixels -> what the network takes.
    key: random key.
    max_size: mask entries that cost little.
    epochs: of the inversion.

  Returns:
    (candidates, triggers with a leading axis [labels]); a label to which no unit points has rate 0.
  """
  features = network.forward(params, normalise(pixels))[1]
  found = candidates(elevations(lambda x: network.head(params, x), features), labels)
  classes = found.unit.shape[0]

  def one(args):
    return invert(lambda x: network.forward(params, normalise(x)), pixels, *args, max_size=max_size, epochs=epochs)

  stimuli = jax.lax.map(one, (found.unit, jnp.arange(classes), jax.random.split(key, classes)))
  return found, stimuli._replace(rate=jnp.where(jnp.isfinite(found.value), stimuli.rate, 0.0))
