"""A whole DC iteration of CIFAR size as one program: one seed, and several under one vmap.

    python -m jaxpapers.doorping.scaling --seeds 1 8

Random images of 10 classes, DOORPING with the authors' recipe. Wall time of a call that waits for its result.
"""

import argparse
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import dc, model, trigger
from jaxpapers.doorping.lanes import over
from jaxpapers.engine.measure import Measurement, measure

CLASSES = 10
MEAN = STD = 0.5


def lanes(seeds: int, shape: tuple[int, int, int], pool: int, ipc: int, ratio: float, patch: int, max_steps: int):
  """What differs between the seeds: (states, attacks), every leaf with a leading axis [seeds].

  Args:
    seeds: how many.
    shape: (height, width, channels) of the images.
    pool: number of real images, labelled 0, 1, ..., 9, 0, ...
    ipc: distilled images per class.
    ratio: share of the real images that carry the trigger.
    patch: side of the trigger.
    max_steps: Adam steps of a trigger call.
  """
  labels = np.arange(pool) % CLASSES
  most = pool // CLASSES + trigger.poisoned_count(pool, ratio) + 1
  built = []
  for seed in range(seeds):
    poisoned = trigger.choose_poisoned(pool, ratio, seed)
    tables = dc.class_tables(np.where(poisoned, 0, labels), CLASSES, most)
    everywhere = np.full(shape[-1], np.inf, np.float32)
    attack = dc.Attack(tables, poisoned, np.int32(max_steps), -everywhere, everywhere)
    images = np.random.default_rng(seed).normal(size=(CLASSES * ipc, *shape)).astype(np.float32)
    start = trigger.random_trigger(shape, patch, np.full(shape[-1], MEAN), np.full(shape[-1], STD), seed)
    built.append((dc.Distilled(images, np.zeros_like(images), start), attack))
  return jax.tree.map(lambda *leaves: np.stack(leaves), *built)


def program(net: model.Network, shape: tuple[int, int, int], recipe: dc.Recipe, patch: int, at_once: int):
  """(states, attacks, keys, uint8 pool [images, height, width, channels]) -> (states, metrics) of one iteration.

  Args:
    net: the network.
    shape: of the images.
    recipe: see dc.Recipe.
    patch: side of the trigger.
    at_once: seeds under one vmap; 0 takes all, 1 takes one after the other.
  """
  mask = trigger.patch_mask(shape, patch)

  def run(states, attacks, keys, pixels):
    def one(state, attack, key):
      return dc.iteration(
        net.apply,
        functools.partial(net.apply, method='penultimate'),
        lambda key: model.init_params(net, key, shape),
        state,
        lambda index: trigger.normalise(pixels[index].astype(jnp.float32), MEAN, STD),
        attack,
        mask,
        recipe,
        key,
      )

    return over(one, at_once)(states, attacks, keys)

  return run


def cost(args: argparse.Namespace, seeds: int, classes_at_once: int) -> Measurement:
  """Of one iteration of `seeds` seeds; `args` as of the command."""
  shape = (args.size, args.size, args.channels)
  outer, inner = (args.outer, args.inner) if args.outer else dc.loops(args.ipc)
  options = trigger.PUBLISHED._replace(max_steps=args.trigger_steps)
  recipe = dc.Recipe(CLASSES, outer, inner, args.real, trigger=options, classes_at_once=classes_at_once)
  widths = {} if args.network == 'alexnet' else {'width': args.width, 'norm': args.norm}
  net = model.network(args.network, CLASSES, patches=args.patches, **widths)
  states, attacks = lanes(seeds, shape, args.pool, args.ipc, args.ratio, args.patch, args.trigger_steps)
  pixels = np.random.default_rng(0).integers(0, 256, (args.pool, *shape), np.uint8)
  run = program(net, shape, recipe, args.patch, args.seeds_at_once)
  keys = jax.random.split(jax.random.key(0), seeds)
  matched = seeds * outer * CLASSES * min(args.real, args.pool // CLASSES)
  name = f'{seeds} seeds, {classes_at_once} classes at once'
  return measure(name, run, jax.device_put((states, attacks, keys, pixels)), matched, args.repeats)


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and prints a table."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.doorping.scaling', description=__doc__.split('\n')[0])
  parser.add_argument('--seeds', type=int, nargs='+', default=[1, 8])
  parser.add_argument('--seeds-at-once', type=int, default=0, help='under one vmap; 0: all, 1: one after the other')
  parser.add_argument('--classes-at-once', type=int, nargs='+', default=[1, 10], help='classes under one vmap')
  parser.add_argument('--network', default='convnet', choices=model.NETWORKS)
  parser.add_argument('--norm', default='none', choices=model.NORMS)
  parser.add_argument('--width', type=int, default=128)
  parser.add_argument('--size', type=int, default=32, help='pixels')
  parser.add_argument('--channels', type=int, default=3)
  parser.add_argument('--ipc', type=int, default=10)
  parser.add_argument('--outer', type=int, default=0, help='with --inner; 0: what the authors pair with --ipc')
  parser.add_argument('--inner', type=int, default=0)
  parser.add_argument('--real', type=int, default=256, help='real images per class and outer step')
  parser.add_argument('--pool', type=int, default=50_000, help='real images')
  parser.add_argument('--ratio', type=float, default=0.01)
  parser.add_argument('--patch', type=int, default=2)
  parser.add_argument('--trigger-steps', type=int, default=1000, help='Adam steps at most in a call; 0: no calls')
  parser.add_argument('--patches', action='store_true', help='on CPU, convolutions as slices and a matmul')
  parser.add_argument('--precision', default='default', help="of matrix products, e.g. 'highest' or 'tensorfloat32'")
  parser.add_argument('--repeats', type=int, default=3)
  args = parser.parse_args(argv)
  device = jax.devices()[0]
  print(f'{args.network}, {args.size} x {args.size} x {args.channels}, IPC {args.ipc}, {device.device_kind}')
  columns = ('compile s', 'iteration s', 'of first', 'matched/s', 'TFLOP/s', 'MiB')
  print(f'{"program":32}' + ''.join(f'{name:>12}' for name in columns))
  with jax.default_matmul_precision(None if args.precision == 'default' else args.precision):
    for classes_at_once in args.classes_at_once:
      rows = [cost(args, seeds, classes_at_once) for seeds in args.seeds]
      for row in rows:
        print(
          f'{row.name:32}{row.compile_seconds:>12.1f}{row.seconds:>12.3f}{row.seconds / rows[0].seconds:>12.2f}'
          f'{row.examples / row.seconds:>12,.0f}{row.flops / row.seconds / 1e12:>12.2f}{row.memory / 2**20:>12.0f}',
          flush=True,
        )


if __name__ == '__main__':
  main()
