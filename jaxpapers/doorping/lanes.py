"""Lanes: one attack, or none, on one seed each, stacked so that one program distils them all."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import dc, trigger
from jaxpapers.doorping.data import Images

CLEAN = 'clean'
ATTACKS = (CLEAN, 'naive', 'doorping', 'doorping_clipped')
STARTS = ('noise', 'real', 'clean')


class Lane(NamedTuple):
  """Attack (one of ATTACKS) and seed of a lane."""

  attack: str
  seed: int


class Lanes(NamedTuple):
  """What differs between the lanes; every leaf has a leading axis [lanes].

  Attributes:
    attack: see dc.Attack.
    trigger: [lanes, 1, height, width, channels], before the first iteration.
    start: int32 [lanes, classes, images per class], the real images that 'real' and 'clean' distilled sets start from.
    seed: int32 [lanes]; lanes of one seed share all draws and networks.
  """

  attack: dc.Attack
  trigger: np.ndarray
  start: np.ndarray
  seed: np.ndarray


def lane_list(attacks: Sequence[str], seeds: int) -> list[Lane]:
  """All pairs, seeds within attacks.

  Raises:
    ValueError: for an unknown attack, one given twice, or no seed.
  """
  unknown = [name for name in attacks if name not in ATTACKS]
  if unknown or not attacks or len(set(attacks)) < len(attacks):
    raise ValueError(f'The attacks must be different names of {", ".join(ATTACKS)}, not {", ".join(attacks)!r}.')
  if seeds < 1:
    raise ValueError(f'At least one seed is needed, not {seeds}.')
  return [Lane(attack, seed) for attack in attacks for seed in range(seeds)]


def poisoned_labels(images: Images, poisoned: np.ndarray, target: int) -> np.ndarray:
  """Training labels [images] in which the poisoned ones are the target."""
  return np.where(poisoned, target, images.y_train).astype(np.int32)


def first_trigger(attack: str, images: Images, patch: int, mask: np.ndarray, seed: int) -> np.ndarray:
  """Trigger [1, height, width, channels] before the first iteration: white for NAIVEATTACK, random for DOORPING."""
  shape = images.x_train.shape[1:]
  if attack.startswith('doorping'):
    return trigger.random_trigger(shape, patch, images.mean, images.std, seed)
  return trigger.normalise(255.0 * mask, images.mean, images.std)[None].astype(np.float32)


def build(
  lanes: Sequence[Lane],
  images: Images,
  *,
  ratio: float,
  patch: int,
  mask: np.ndarray,
  target: int,
  ipc: int,
  max_steps: int,
  start: str = 'clean',
  seed: int = 0,
) -> Lanes:
  """The data of every lane; which images carry a trigger depends on the seed alone, not on the attack.

  Args:
    lanes: see Lane.
    images: the dataset.
    ratio: share of the training images that an attack poisons.
    patch: side of the trigger.
    mask: [height, width, channels], 1 where NAIVEATTACK's trigger is.
    target: label of poisoned images.
    ipc: distilled images per class.
    max_steps: Adam steps that a DOORPING call may take.
    start: 'real' draws the start from the classes as the attacker has them, others from the original ones.
    seed: added to that of a lane.

  Raises:
    ValueError: for a ratio, patch or target that cannot be, or a class without images.
  """
  trigger.check_target(target, images.classes)
  low, high = trigger.pixel_range(images.mean, images.std)
  everywhere = np.full_like(low, np.inf)
  total = len(images.x_train)
  none = np.zeros(total, bool)
  original = dc.class_tables(images.y_train, images.classes)
  built = []
  for lane in lanes:
    number = seed + lane.seed
    poisoned = none if lane.attack == CLEAN else trigger.choose_poisoned(total, ratio, number)
    tables = dc.class_tables(poisoned_labels(images, poisoned, target), images.classes, total)
    clipped = lane.attack == 'doorping_clipped'
    attack = dc.Attack(
      tables,
      poisoned,
      np.int32(max_steps if lane.attack.startswith('doorping') else 0),
      low if clipped else -everywhere,
      high if clipped else everywhere,
    )
    first = _start(tables if start == 'real' else original, ipc, number)
    built.append(Lanes(attack, first_trigger(lane.attack, images, patch, mask, number), first, np.int32(lane.seed)))
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *built)
  # Tables as long as the longest class of any lane: equally long draws, and no more padding than that.
  longest = int(stacked.attack.tables.count.max())
  tables = stacked.attack.tables
  tables = tables._replace(index=tables.index[:, :, :longest])
  return stacked._replace(attack=stacked.attack._replace(tables=tables))


def copied(lanes: Sequence[Lane], built: Lanes, target: int) -> dict[str, float]:
  """{attack: share of the target's distilled images that start as copies of stamped ones}, for 'real' starts."""
  rows = np.take_along_axis(np.asarray(built.attack.poisoned), built.start[:, target], 1).mean(1)
  attacks = dict.fromkeys(lane.attack for lane in lanes if lane.attack != CLEAN)
  return {
    name: float(np.mean([r for r, lane in zip(rows, lanes, strict=True) if lane.attack == name])) for name in attacks
  }


def real_start(images: Images, ipc: int, seeds: Sequence[int], seed: int = 0) -> np.ndarray:
  """int32 [seeds, classes, ipc], numbers of clean real images; those that 'clean' distilled sets start from."""
  tables = dc.class_tables(images.y_train, images.classes)
  rows = [_start(tables, ipc, seed + number) for number in seeds]
  return np.stack(rows) if rows else np.zeros((0, images.classes, ipc), np.int32)


def _start(tables: dc.ClassTables, ipc: int, seed: int) -> np.ndarray:
  """`ipc` image numbers per class, all different where the class has as many."""
  rng = np.random.default_rng(seed)
  rows = [row[np.resize(rng.permutation(count), ipc)] for row, count in zip(tables.index, tables.count, strict=True)]
  return np.stack(rows).astype(np.int32)


def over(function: Callable[..., Any], at_once: int) -> Callable[..., Any]:
  """`function` over the leading axis of its arguments: `at_once` lanes under one vmap; 0 takes all, 1 one by one."""
  if at_once == 0:
    return jax.vmap(function)
  return lambda *arguments: jax.lax.map(lambda a: function(*a), arguments, batch_size=at_once if at_once > 1 else None)


def triggered(images: jax.Array, poisoned: jax.Array, patch: jax.Array, mask: jax.Array) -> jax.Array:
  """`images` [batch, ...] of which the poisoned ones (bool [batch]) carry the trigger."""
  return jnp.where(poisoned[:, None, None, None], trigger.stamp(images, patch, mask), images)
