"""Which frames a learner may see: random masks, each a pure function of a key and the mask's number."""

import jax
import jax.numpy as jnp


def cells_of(length: int, block: int) -> int:
  """Cells along time when `block` frames share a cell; the last may be shorter.

  Raises:
    ValueError: if the block is longer than the trajectory.
  """
  if not 1 <= block <= length:
    raise ValueError(f'block={block} must lie between 1 and the trajectory length {length}.')
  return -(-length // block)


def check_chunk(count: int, chunk: int, antithetic: bool = False) -> None:
  """Whether `count` masks can be retrained `chunk` at a time.

  Raises:
    ValueError: naming the number that cannot be.
  """
  if count < 2:
    raise ValueError(f'masks={count}: N < 2 masks cannot be compared.')
  parts = 4 if antithetic else 2
  if chunk < parts or chunk % parts:
    raise ValueError(f'chunk={chunk} must be a multiple of {parts}: half of its masks go to each half map.')
  if count % chunk:
    raise ValueError(f'masks={count} must be a multiple of chunk={chunk}.')


def check_keep(p: float) -> float:
  """The keep probability `p`.

  Raises:
    ValueError: outside (0, 1).
  """
  if not 0.0 < p < 1.0:
    raise ValueError(f'p={p} must lie in (0, 1): it is the probability that a cell is kept.')
  return p


def threshold_masks(uniform: jax.Array, p: float) -> jax.Array:
  """A cell is kept where its uniform number is below p; the paper's 'degradation level' is this p."""
  return uniform < p


def expand_cells(cells: jax.Array, block: int, length: int) -> jax.Array:
  """[..., cells] -> [..., length]: every cell repeated over its `block` frames, the last cut to fit."""
  return jnp.repeat(cells, block, axis=-1, total_repeat_length=cells.shape[-1] * block)[..., :length]


def sample_cells(
  key: jax.Array, ids: jax.Array, episodes: int, cells: int, p: float, antithetic: bool = False
) -> jax.Array:
  """Masks over cells. Source: the paper's random masks, as in the authors' code.

  Args:
    key: of the whole set.
    ids: [n] int32, global numbers of the masks: a mask depends on key and number alone, in whatever chunks they come.
    episodes: E.
    cells: cells per trajectory.
    p: keep probability in (0, 1).
    antithetic: numbers 2j and 2j + 1 are complements; needs p = 0.5.

  Returns:
    [n, E, cells] bool, True where kept.

  Raises:
    ValueError: for p outside (0, 1), or antithetic masks with another p than 0.5.
  """
  check_keep(p)
  if antithetic and p != 0.5:
    raise ValueError(f'Antithetic masks need p=0.5, not p={p}.')

  def one(number):
    source = number // 2 if antithetic else number
    kept = threshold_masks(jax.random.uniform(jax.random.fold_in(key, source), (episodes, cells)), p)
    return kept ^ (number % 2 == 1) if antithetic else kept

  return jax.vmap(one)(jnp.asarray(ids, jnp.int32))


def sample_masks(
  key: jax.Array, n: int, episodes: int, length: int, block: int, p: float, antithetic: bool = False
) -> jax.Array:
  """Masks 0..n-1 over frames, [n, E, T] bool; see `sample_cells`.

  Source: the paper's random masks, as in the authors' code.

  Raises:
    ValueError: for n < 2 and as `sample_cells` and `cells_of`.
  """
  if n < 2:
    raise ValueError(f'N={n} masks: at least 2 are needed to compare.')
  cells = sample_cells(key, jnp.arange(n), episodes, cells_of(length, block), p, antithetic)
  return expand_cells(cells, block, length)


def smooth_masks(key: jax.Array, ids: jax.Array, episodes: int, length: int, block: int, p: float) -> jax.Array:
  """Soft masks as RISE makes them on images: linear between cells, shifted at random. They weigh frames in [0, 1].

  Source: RISE (Petsiuk et al., BMVC 2018).

  Returns:
    [n, E, T] float32.

  Raises:
    ValueError: as `sample_cells` and `cells_of`.
  """
  cells = cells_of(length, block)
  hard = sample_cells(key, ids, episodes, cells + 2, p).astype(jnp.float32)

  def one(number, grid):
    shift = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, number), 1), (episodes, 1))
    place = jnp.arange(length) / block + shift
    left = jnp.floor(place).astype(jnp.int32)
    part = place - left
    take = jnp.take_along_axis
    return take(grid, left, axis=1) * (1 - part) + take(grid, left + 1, axis=1) * part

  return jax.vmap(one)(jnp.asarray(ids, jnp.int32), hard)
