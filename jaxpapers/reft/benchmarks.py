"""What consulting support costs: the published model plain and with cached support, one pass for many classes, a step.

`launch/benchmark.py` runs it after the stages of the config. All timings of a ratio are of one run on one machine.
"""

import jax
import jax.numpy as jnp
import optax

from jaxpapers.engine.measure import Measurement, measure, median_seconds
from jaxpapers.reft import fewshapes, lanes, shapes_batches, training
from jaxpapers.reft.mini import mini_reft
from jaxpapers.reft.model import Mask2Former, RefT, Support, mask2former_r50
from jaxpapers.reft.references import SupportTokens

CLASSES, SHOTS = 80, 10


def programs(repeats: int) -> tuple[list[Measurement], list[str]]:
  """Measurements, and lines that state their ratios."""
  parts = [forwards(repeats), cached_support(repeats), many_classes(repeats), encoding(repeats), steps(repeats)]
  return [row for rows, _ in parts for row in rows], [line for _, lines in parts for line in lines]


def forwards(repeats: int, sizes: tuple[int, ...] = (256, 512)) -> tuple[list[Measurement], list[str]]:
  """The published Mask2Former, ResNet-50, one image."""
  model = mask2former_r50(CLASSES)
  rows = []
  for size in sizes:
    images = jnp.zeros((1, size, size, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    rows.append(measure(f'Mask2Former R-50, {size}', model.apply, (variables, images), 1, repeats))
  return rows, []


def cached_support(
  repeats: int, size: int = 256, base: Mask2Former | None = None
) -> tuple[list[Measurement], list[str]]:
  """Plain Mask2Former beside RefT with the support of 80 classes, 10 examples each, encoded before."""
  model = RefT(base or mask2former_r50(CLASSES), CLASSES)
  images = jax.random.normal(jax.random.key(1), (1, size, size, 3))
  support = random_support(model, CLASSES, SHOTS)
  variables = jax.jit(model.init)(jax.random.key(0), images, support)
  plain = {name: tree['base'] for name, tree in variables.items()}
  rows = [
    measure(f'Mask2Former, {size}', model.base.apply, (plain, images), 1, repeats),
    measure(f'RefT, cached support, {size}', model.apply, (variables, images, support), 1, repeats),
  ]
  ratio = rows[1].seconds / rows[0].seconds
  return rows, [f'RefT with cached support of {CLASSES} classes x {SHOTS} takes {ratio:.2f} of the plain time']


def random_support(model: RefT, classes: int, shots: int) -> Support:
  """Support of the right shapes, without encoding any image."""
  width, keys = model.base.decoder.width, jax.random.split(jax.random.key(2), 3)
  centers = tuple(jax.random.normal(k, (model.classes, width)) for k in jax.random.split(keys[0], 3))
  tokens = jax.random.normal(keys[1], (classes * shots, model.top_k, width))
  known = jnp.arange(classes * shots, dtype=jnp.int32) % classes
  present = jnp.arange(model.classes) < classes
  return Support(centers, present, SupportTokens(tokens, known), jax.random.normal(keys[2], (model.classes, width)))


def many_classes(
  repeats: int, classes: int = 20, size: int = 256, base: Mask2Former | None = None
) -> tuple[list[Measurement], list[str]]:
  """One pass that knows all classes beside a pass for each class alone."""
  model = RefT(base or mask2former_r50(classes), classes)
  images = jax.random.normal(jax.random.key(1), (1, size, size, 3))
  support = random_support(model, classes, SHOTS)
  variables = jax.jit(model.init)(jax.random.key(0), images, support)
  together = measure(f'{classes} classes, one pass', model.apply, (variables, images, support), 1, repeats)
  apply = jax.jit(model.apply)

  def alone(c):
    tokens = SupportTokens(support.tokens.queries[:SHOTS], jnp.full(SHOTS, c, jnp.int32))
    return support._replace(present=jnp.arange(classes) == c, tokens=tokens)

  each = [alone(c) for c in range(classes)]
  seconds = median_seconds(lambda: [apply(variables, images, one) for one in each], min(repeats, 3))
  loop = Measurement(f'{classes} classes, a pass each', 1, seconds)
  return [together, loop], [
    f'one pass for {classes} classes is {seconds / together.seconds:.1f} times as fast as a pass each'
  ]


def encoding(repeats: int, count: int = 24) -> tuple[list[Measurement], list[str]]:
  """Support examples of the mini model encoded as one batch beside one after the other."""
  model, scenes = mini_reft(), fewshapes.shots(0, -(-count // len(fewshapes.NAMES)))
  args = tuple(jnp.asarray(x) for x in (scenes.images, scenes.masks[:, 0].astype('float32'), scenes.classes[:, 0]))
  variables = jax.jit(lambda *a: model.init(jax.random.key(0), *a, method='support'))(*(x[:1] for x in args))

  def encode(variables, *args):
    return model.apply(variables, *args, method='support')

  together = measure('mini support, one batch', encode, (variables, *args), count, repeats)
  one = jax.jit(encode)
  rows = [tuple(x[i : i + 1] for x in args) for i in range(count)]
  seconds = median_seconds(lambda: [one(variables, *row) for row in rows], repeats)
  loop = Measurement('mini support, in a loop', count, seconds)
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

  def whole(module, images, masks, classes):
    return module(images, module.support(images, masks, classes))

  example = (batch[name][:1] for name in ('images', 'support_masks', 'support_classes'))
  params = jax.jit(lambda *a: model.init(jax.random.key(0), *a, method=whole))(*example)['params']

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
