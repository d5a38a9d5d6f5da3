"""The parts of a run that cost time, at the size of the embedded digits: what `throughput` and `benchmarks` measure."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import dc, model, neural_cleanse, trigger, victims


class Sizes(NamedTuple):
  """Of the parts.

  Attributes:
    image: side of the grey images, in pixels.
    classes: number of classes.
    ipc: synthetic images per class.
    real: real images per class.
    width: of the ConvNet.
    net_steps: network steps on the synthetic set.
    trigger_steps: Adam steps of a trigger call.
    cleanse_steps: steps of Neural Cleanse for each label, 64 images each.
    victims: that are trained at once.
    victim_epochs: of their training.
  """

  image: int = 16
  classes: int = 10
  ipc: int = 10
  real: int = 64
  width: int = 16
  net_steps: int = 20
  trigger_steps: int = 300
  cleanse_steps: int = 30
  victims: int = 3
  victim_epochs: int = 20


CLEANSE_BATCH = 64
OUTER, NETWORK, TRIGGER = 'outer step', 'network steps', 'trigger update'
CLEANSE, CLEANSE_EACH, CLEANSE_RUNS = 'cleanse, one vmap', 'cleanse, one by one', 'cleanse, a run per label'
VICTIMS, VICTIMS_EACH, VICTIM = 'victims, one vmap', 'victims, one by one', 'one victim'


class Data(NamedTuple):
  """Random numbers for all parts; images are [.., height, width, channels].

  Attributes:
    real: [classes, real, height, width, 1].
    synthetic: [classes, ipc, height, width, 1].
    pixels: [64, height, width, 1] in [0, 1].
    trigger: [1, height, width, 1], a patch on black.
    mask: [height, width, 1].
  """

  real: np.ndarray
  synthetic: np.ndarray
  pixels: np.ndarray
  trigger: np.ndarray
  mask: np.ndarray


def data(sizes: Sizes) -> Data:
  """The same for every library."""
  rng, shape = np.random.default_rng(0), (sizes.image, sizes.image, 1)
  normal = functools.partial(rng.standard_normal, dtype=np.float32)
  return Data(
    normal((sizes.classes, sizes.real, *shape)),
    normal((sizes.classes, sizes.ipc, *shape)),
    rng.random((CLEANSE_BATCH, *shape), np.float32),
    trigger.random_trigger(shape, 2, np.full(1, 0.3), np.full(1, 0.35), 0),
    trigger.patch_mask(shape, 2),
  )


def ours(sizes: Sizes) -> dict[str, functools.partial]:
  """{part: call}; a call compiles when it is first made, and returns arrays."""
  given = jax.tree.map(jnp.asarray, data(sizes))
  net = model.ConvNet(sizes.classes, sizes.width, patches=True)
  shape = given.mask.shape
  params = jax.jit(lambda key: model.init_params(net, key, shape))(jax.random.key(0))
  flat = given.synthetic.reshape(-1, *shape)
  labels = jnp.repeat(jnp.arange(sizes.classes), sizes.ipc)
  key = jax.random.key(1)
  recipe = victims.VictimRecipe(sizes.victim_epochs - 1)
  # Below zero the loss never falls: all steps are taken.
  options = trigger.PUBLISHED._replace(max_steps=sizes.trigger_steps, threshold=-1.0)

  def outer(params, synthetic):
    found = dc.match(net.apply, params, synthetic, given.real)
    return dc.momentum_step(synthetic, jnp.zeros_like(synthetic), found.gradient, 0.1, 0.5)

  def network(params, images):
    return dc.train_network(net.apply, params, images, labels, 0.01, sizes.net_steps, key)

  def update(params, image):
    kernel = params['params']['hidden']['kernel']
    return trigger.update_trigger(
      functools.partial(net.apply, method='penultimate'), params, kernel, image, given.mask, options
    )

  batches, weights = neural_cleanse.mini_batches(np.asarray(given.pixels), CLEANSE_BATCH)
  patches = jax.random.uniform(key, (sizes.classes, *shape)), jax.random.uniform(key, (sizes.classes, *shape[:2]))

  def cleanse(params, pattern, mask, label):
    return neural_cleanse.invert(
      functools.partial(net.apply, params),
      pattern,
      mask,
      jnp.asarray(batches),
      jnp.asarray(weights),
      label,
      epochs=sizes.cleanse_steps,
      patience=sizes.cleanse_steps + 1,
    )

  def train(params, images):
    return victims.train(net.apply, params, images, labels, recipe, key)

  several = jax.tree.map(lambda x: jnp.stack([x] * sizes.victims), params)
  label = jnp.arange(sizes.classes)
  one = jax.jit(cleanse)
  programs = {
    OUTER: (jax.jit(outer), (params, given.synthetic)),
    NETWORK: (jax.jit(network), (params, flat)),
    TRIGGER: (jax.jit(update), (params, given.trigger)),
    CLEANSE: (jax.jit(jax.vmap(cleanse, (None, 0, 0, 0))), (params, *patches, label)),
    CLEANSE_EACH: (jax.jit(lambda p, *x: jax.lax.map(lambda a: cleanse(p, *a), x)), (params, *patches, label)),
    CLEANSE_RUNS: (lambda p, *x: [one(p, *(a[i] for a in x)) for i in range(len(x[0]))], (params, *patches, label)),
    VICTIM: (jax.jit(train), (params, flat)),
    VICTIMS: (jax.jit(jax.vmap(train, (0, None))), (several, flat)),
    VICTIMS_EACH: (jax.jit(lambda p, x: jax.lax.map(lambda q: train(q, x), p)), (several, flat)),
  }
  return {name: functools.partial(program, *arguments) for name, (program, arguments) in programs.items()}


def processor_seconds(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
  """Median processor seconds of the process in each call, which a busy machine inflates less than wall time.

  The calls take turns, so that all of them meet the same neighbours.
  """
  times: dict[str, list[float]] = {name: [] for name in calls}
  for index in range(repeats + 1):
    for name, call in calls.items():
      started = time.process_time()
      jax.block_until_ready(call())
      if index:
        times[name].append(time.process_time() - started)
  return {name: statistics.median(values) for name, values in times.items()}


def examples(sizes: Sizes) -> dict[str, int]:
  """Images that a call of each part looks at."""
  synthetic = sizes.classes * sizes.ipc
  cleanse = sizes.classes * sizes.cleanse_steps * CLEANSE_BATCH
  one = synthetic * sizes.victim_epochs
  return {
    OUTER: sizes.classes * sizes.real + synthetic,
    NETWORK: synthetic * sizes.net_steps,
    TRIGGER: sizes.trigger_steps,
    CLEANSE: cleanse,
    CLEANSE_EACH: cleanse,
    CLEANSE_RUNS: cleanse,
    VICTIM: one,
    VICTIMS: one * sizes.victims,
    VICTIMS_EACH: one * sizes.victims,
  }
