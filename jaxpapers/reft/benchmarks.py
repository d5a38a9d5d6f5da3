"""What consulting support costs: the published model plain and with cached support, one pass for many classes, a step.

`launch/benchmark.py` runs it after the stages of the config. All timings of a ratio are of one run on one machine.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.engine.benchmarks import Case
from jaxpapers.engine.measure import Measurement, measure, median_seconds
from jaxpapers.reft import fewshapes, lanes, shapes_batches, training
from jaxpapers.reft.mini import mini_reft
from jaxpapers.reft.model import Mask2Former, RefT, Support, mask2former_r50
from jaxpapers.reft.optimizer import mask2former_optimizer
from jaxpapers.reft.references import SupportTokens

CASES = (Case(stages=('few_shot',)),)
CLASSES, SHOTS = 80, 10
SIZES = (256, 512)
POINTS = 12544


class Network(NamedTuple):
  """RefT around the published model, and random variables of it."""

  model: RefT
  variables: dict[str, Any]

  def plain(self) -> dict[str, Any]:
    """Variables of the model without references."""
    return {name: tree['base'] for name, tree in self.variables.items()}


def programs(repeats: int) -> tuple[list[Measurement], list[str]]:
  """Measurements, and lines that state their ratios."""
  net = network()
  parts = [
    forwards(repeats, net),
    published_step(repeats, net),
    many_classes(repeats, net),
    encoding(repeats),
    steps(repeats),
  ]
  return [row for rows, _ in parts for row in rows], [line for _, lines in parts for line in lines]


def network(base: Mask2Former | None = None, classes: int = CLASSES) -> Network:
  """The published network, unless another base is given."""
  model = RefT(base or mask2former_r50(classes), classes)
  return Network(model, random_variables(_shapes(model)))


def _shapes(model: RefT, side: int = 64) -> dict[str, Any]:
  def whole(module, images, masks, classes):
    return module(images, module.support(images, masks, classes))

  args = jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side)), jnp.zeros(1, jnp.int32)
  return jax.eval_shape(lambda: model.init(jax.random.key(0), *args, method=whole))


def random_variables(shapes: Mapping[str, Any]) -> dict[str, Any]:
  """Variables of these shapes: no program's time depends on them, and an initialisation takes long to compile."""
  rng, variables = np.random.default_rng(0), {}
  for path, leaf in flax.traverse_util.flatten_dict(dict(shapes)).items():
    if leaf.ndim < 2:
      value = np.full(leaf.shape, path[-1] in ('scale', 'var'), np.float32)
    else:
      value = rng.standard_normal(leaf.shape, np.float32) / np.sqrt(np.prod(leaf.shape[:-1], dtype=np.float32))
    variables[path] = jax.device_put(value)
  return flax.traverse_util.unflatten_dict(variables)


def forward_name(size: int) -> str:
  """Row of the published model at an image size."""
  return f'Mask2Former R-50, {size}'


def step_name(size: int) -> str:
  """Row of its training step."""
  return f'Mask2Former R-50 step, {size}'


def forwards(repeats: int, net: Network, sizes: tuple[int, ...] = SIZES) -> tuple[list[Measurement], list[str]]:
  """The published Mask2Former, one image; at the first size also with the support of all classes, encoded before."""
  model, plain = net.model, net.plain()
  rows = []
  for size in sizes:
    images = jnp.asarray(example(size)['images'])
    rows.append(measure(forward_name(size), model.base.apply, (plain, images), 1, repeats))
  images = jnp.asarray(example(sizes[0])['images'])
  support = random_support(model, model.classes, SHOTS)
  row = measure(f'RefT, cached support, {sizes[0]}', model.apply, (net.variables, images, support), 1, repeats)
  ratio = row.seconds / rows[0].seconds
  line = f'RefT with cached support of {model.classes} classes x {SHOTS} takes {ratio:.2f} of the plain time'
  return [*rows, row], [line]


def example(size: int, objects: int = 5) -> dict[str, np.ndarray]:
  """A random image with rectangles as objects, a batch of one.

  Args:
    size: side of the image.
    objects: how many, each of another class.

  Returns:
    'images' [1, size, size, 3] float32, 'masks' [1, objects, size, size] bool, 'classes' [1, objects] int32.
  """
  rng = np.random.default_rng(0)
  masks = np.zeros((1, objects, size, size), bool)
  for mask in masks[0]:
    top, left = rng.integers(0, size // 2, 2)
    mask[top : top + size // 3, left : left + size // 4] = True
  classes = np.arange(objects, dtype=np.int32)[None]
  return {'images': rng.standard_normal((1, size, size, 3), np.float32), 'masks': masks, 'classes': classes}


def published_step(
  repeats: int, net: Network, size: int = SIZES[0], points: int = POINTS
) -> tuple[list[Measurement], list[str]]:
  """A training step of the published Mask2Former on one image: loss of all layers on sampled points, AdamW."""
  step, state, batch = published_update(net, size, points)
  return [measure(step_name(size), step, (state, batch, jax.random.key(0)), 1, repeats)], []


def published_update(net: Network, size: int, points: int = POINTS) -> tuple[Any, Any, Mapping[str, jax.Array]]:
  """(step, state, batch) of `published_step`."""

  def prepared(batch, key):
    del key
    return batch

  loss = training.Loss(points, average=False)
  objective = training.plain_objective(net.model, jnp.ones(net.model.classes, bool), prepared, loss)
  optimizer, plain = mask2former_optimizer(1e-4), net.plain()
  state = training.fresh_state(plain['params'], optimizer, {'frozen': plain['frozen']})
  return training.gradient_step(objective, optimizer), state, jax.tree.map(jnp.asarray, example(size))


def random_support(model: RefT, classes: int, shots: int) -> Support:
  """Support of the right shapes, without encoding any image."""
  width, keys = model.base.decoder.width, jax.random.split(jax.random.key(2), 3)
  centers = tuple(jax.random.normal(k, (model.classes, width)) for k in jax.random.split(keys[0], 3))
  tokens = jax.random.normal(keys[1], (classes * shots, model.top_k, width))
  known = jnp.arange(classes * shots, dtype=jnp.int32) % classes
  present = jnp.arange(model.classes) < classes
  return Support(centers, present, SupportTokens(tokens, known), jax.random.normal(keys[2], (model.classes, width)))


def many_classes(
  repeats: int, net: Network, classes: int = 20, size: int = SIZES[0]
) -> tuple[list[Measurement], list[str]]:
  """One pass that knows all classes beside a pass for each class alone."""
  model, variables = net
  images = jnp.asarray(example(size)['images'])
  support = random_support(model, classes, SHOTS)
  together = measure(f'{classes} classes, one pass', model.apply, (variables, images, support), 1, repeats)
  apply = jax.jit(model.apply)

  def alone(c):
    tokens = SupportTokens(support.tokens.queries[:SHOTS], jnp.full(SHOTS, c, jnp.int32))
    return support._replace(present=jnp.arange(model.classes) == c, tokens=tokens)

  each = [alone(c) for c in range(classes)]
  jax.block_until_ready(apply(variables, images, each[0]))
  # So many passes are a mean already.
  seconds = median_seconds(lambda: [apply(variables, images, one) for one in each], 1, warmup=0)
  loop = Measurement(f'{classes} classes, a pass each', 1, seconds, beside=together.name)
  return [together, loop], [
    f'one pass for {classes} classes is {seconds / together.seconds:.1f} times as fast as a pass each'
  ]


def encoding(repeats: int, count: int = 24) -> tuple[list[Measurement], list[str]]:
  """Support examples of the mini model encoded as one batch beside one after the other."""
  model, scenes = mini_reft(), fewshapes.shots(0, -(-count // len(fewshapes.NAMES)))
  args = tuple(jnp.asarray(x) for x in (scenes.images, scenes.masks[:, 0].astype('float32'), scenes.classes[:, 0]))
  variables = random_variables(_shapes(model))

  def encode(variables, *args):
    return model.apply(variables, *args, method='support')

  together = measure('mini support, one batch', encode, (variables, *args), count, repeats)
  one = jax.jit(encode)
  rows = [tuple(x[i : i + 1] for x in args) for i in range(count)]
  seconds = median_seconds(lambda: [one(variables, *row) for row in rows], repeats)
  loop = Measurement('mini support, in a loop', count, seconds, beside=together.name)
  return [together, loop], [
    f'{count} support images in one batch: {seconds / together.seconds:.1f} times as fast as in a loop'
  ]


def steps(repeats: int, batch_size: int = 16) -> tuple[list[Measurement], list[str]]:
  """A training step of the mini model, plain and with one support example of each base class."""
  model, optimizer, loss = mini_reft(), optax.adamw(1e-3), training.Loss()
  scenes = fewshapes.base_set(0, 256)
  pool = shapes_batches.pool_of(scenes)
  batch = shapes_batches.episode_batches(pool, batch_size, fewshapes.BASE, 0)(0)
  batch = jax.tree.map(jnp.asarray, batch)
  active = lanes.active_classes(fewshapes.BASE)

  params = random_variables(_shapes(model))['params']

  def episode(variables, batch, key):
    first, second = jax.random.split(key)
    prepared = shapes_batches.prepare_episode(shapes_batches.split_support(batch, len(fewshapes.BASE)), first)
    return training.episode_loss(model, variables, prepared, active, second, loss)

  plain = training.plain_objective(model, active, shapes_batches.augment, loss)
  own = {name: batch[name] for name in ('images', 'masks', 'classes')}
  rows = []
  for name, objective, start, part in (
    ('mini step, plain', plain, params['base'], own),
    ('mini step, RefT', episode, params, batch),
  ):
    state = training.fresh_state(start, optimizer)
    step = training.gradient_step(objective, optimizer)
    rows.append(measure(name, step, (state, part, jax.random.key(0)), batch_size, repeats))
  ratio = rows[1].seconds / rows[0].seconds
  return rows, [
    f'a RefT step of {batch_size} + {len(fewshapes.BASE)} images takes {ratio:.2f} of a plain step of {batch_size}'
  ]
