"""A small brick-breaker on a 10 x 10 grid, its scripted expert, and noisy demonstrations of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpapers.r2rise.environments import Environment, restart

SIZE = 10
BRICK_ROWS = (1, 2, 3)
STAY, LEFT, RIGHT = 0, 1, 2
_FLOOR = SIZE - 1


class BreakoutState(NamedTuple):
  """One game per entry.

  Attributes:
    row, column: of the ball, int32.
    down, right: +1 or -1, the ball's direction, int32.
    trail_row, trail_column: where the ball was before.
    paddle: column of the paddle, int32.
    bricks: [copies, 3, 10] bool.
  """

  row: jax.Array
  column: jax.Array
  down: jax.Array
  right: jax.Array
  trail_row: jax.Array
  trail_column: jax.Array
  paddle: jax.Array
  bricks: jax.Array


def _reset(keys: jax.Array) -> BreakoutState:
  """The ball starts at row 3 at the left or the right border, falling inward."""
  side = jax.vmap(jax.random.bernoulli)(keys)
  column = jnp.where(side, SIZE - 1, 0)
  right = jnp.where(side, -1, 1)
  row, one = jnp.full_like(column, 3), jnp.ones_like(column)
  bricks = jnp.ones((len(keys), len(BRICK_ROWS), SIZE), bool)
  return BreakoutState(row, column, one, right, row, column, jnp.full_like(column, SIZE // 2 - 1), bricks)


def _observe(state: BreakoutState) -> jax.Array:
  """[copies, 10, 10, 4] bool: paddle, ball, trail, bricks."""
  grid = jnp.arange(SIZE)

  def dot(row: jax.Array, column: jax.Array) -> jax.Array:
    return (grid == row[:, None])[:, :, None] & (grid == column[:, None])[:, None]

  paddle = dot(jnp.full_like(state.paddle, _FLOOR), state.paddle)
  bricks = jnp.pad(state.bricks, ((0, 0), (BRICK_ROWS[0], SIZE - 1 - BRICK_ROWS[-1]), (0, 0)))
  ball, trail = dot(state.row, state.column), dot(state.trail_row, state.trail_column)
  return jnp.stack([paddle, ball, trail, bricks], axis=-1)


def _step(state: BreakoutState, actions: jax.Array) -> tuple[BreakoutState, jax.Array, jax.Array]:
  paddle = jnp.clip(state.paddle + (actions == RIGHT) - (actions == LEFT), 0, SIZE - 1)
  column = state.column + state.right
  right = jnp.where((column < 0) | (column >= SIZE), -state.right, state.right)
  column = jnp.clip(column, 0, SIZE - 1)
  row = state.row + state.down

  ceiling = row < 0
  cells = (row[:, None] == jnp.asarray(BRICK_ROWS))[:, :, None] & (column[:, None] == jnp.arange(SIZE))[:, None]
  struck = cells & state.bricks
  hit = struck.any(axis=(1, 2))
  floor = row == _FLOOR
  under, ahead = floor & (paddle == state.column), floor & (paddle == column)
  # The ball keeps its row when it bounces off a brick or the paddle: it does not enter the cell.
  down = jnp.where(ceiling | hit | under | ahead, -state.down, state.down)
  right = jnp.where(ahead & ~under, -right, right)
  row = jnp.where(ceiling, 0, jnp.where(hit | under | ahead, state.row, row))
  bricks = state.bricks & ~struck
  bricks = bricks | ~bricks.any(axis=(1, 2), keepdims=True)
  new = BreakoutState(row, column, down, right, state.row, state.column, paddle, bricks)
  return new, hit.astype(jnp.float32), floor & ~under & ~ahead


def _expert(state: BreakoutState) -> jax.Array:
  """Moves to where the ball will be above the floor; follows its column while it rises.

  Between walls the column is a triangle wave of period 20 in the unfolded coordinate, so that no simulation is needed.
  """
  left = jnp.maximum(_FLOOR - 1 - state.row, 0)
  unfolded = jnp.where(state.right > 0, state.column, 2 * SIZE - 1 - state.column)
  later = (unfolded + left) % (2 * SIZE)
  landing = jnp.where(later < SIZE, later, 2 * SIZE - 1 - later)
  target = jnp.where(state.down > 0, landing, state.column)
  return jnp.where(target > state.paddle, RIGHT, jnp.where(target < state.paddle, LEFT, STAY)).astype(jnp.int32)


def make_breakout10(max_steps: int = 200) -> Environment:
  """The game: +1 for a brick, three new rows when all are gone, over when the ball passes the paddle.

  Source: this library's own.

  Args:
    max_steps: an episode is cut after so many decisions.
  """
  return Environment('breakout10', 3, (SIZE, SIZE, 4), max_steps, _reset, _observe, _step, _expert)


def noisy_expert(
  environment: Environment, key: jax.Array, episodes: int, length: int, noise: float = 0.15
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Demonstrations that hold states to recover from: a random action is played now and then, the expert's is recorded.

  Source: this library's own.

  Args:
    environment: with an expert.
    key: of noise and starts.
    episodes: E trajectories; in each, games follow one another.
    length: T frames a trajectory.
    noise: probability of playing a uniformly random action.

  Returns:
    observations [E, T, ...], actions [E, T] int32, rewards [E, T] float32, first [E, T] bool (a game starts here).

  Raises:
    ValueError: if the environment has no expert.
  """
  if environment.expert is None:
    raise ValueError(f'{environment.name} has no scripted expert: give demonstrations.')

  def body(carry, step_key):
    state, first = carry
    actions = environment.expert(state)
    draw_key, reset_key = jax.random.split(step_key)
    uniform = jax.random.uniform(draw_key, (episodes,))
    random = jnp.floor(uniform / max(noise, 1e-9) * environment.num_actions).astype(jnp.int32)
    played = jnp.where(uniform < noise, jnp.minimum(random, environment.num_actions - 1), actions)
    new, reward, done = environment.step(state, played)
    new = restart(environment, jax.random.split(reset_key, episodes), new, done)
    return (new, done), (environment.observe(state), actions, reward, first)

  start_key, loop_key = jax.random.split(key)
  start = environment.reset(jax.random.split(start_key, episodes))
  carry = (start, jnp.ones(episodes, bool))
  _, outputs = jax.lax.scan(body, carry, jax.random.split(loop_key, length))
  return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)
