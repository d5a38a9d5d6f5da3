"""A scripted player of Atari Breakout that looks at the pixels: a stand-in for the paper's demonstrator."""

import jax
import jax.numpy as jnp

# In the 84 x 84 frame: rows between the bricks and the paddle, columns between the walls, a row of the paddle.
_ROWS, _COLUMNS, _PADDLE = (38, 75), (5, 79), 76
NOOP, FIRE, RIGHT, LEFT = 0, 1, 2, 3
_SLACK = 2.5  # pixels: the paddle is about eight wide


def _place(frames: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(row [n], column [n], whether there is any) of the mean of the bright pixels of frames [n, H, W]."""
  light = (frames > 16).astype(jnp.float32)
  count = light.sum(axis=(1, 2))
  some = jnp.maximum(count, 1.0)
  rows = (light.sum(axis=2) @ jnp.arange(frames.shape[1], dtype=jnp.float32)) / some
  columns = (light.sum(axis=1) @ jnp.arange(frames.shape[2], dtype=jnp.float32)) / some
  return rows, columns, count > 0


def breakout_expert(observations: jax.Array) -> jax.Array:
  """Serves while no ball is in sight, else moves to where a falling ball will land, or below a rising one.

  Args:
    observations: [copies, 84, 84, 4] uint8, the newest frame last.

  Returns:
    [copies] int32 of the game's four actions.
  """
  field = observations[:, _ROWS[0] : _ROWS[1], _COLUMNS[0] : _COLUMNS[1]]
  row, column, seen = _place(field[..., -1])
  row_before, column_before, seen_before = _place(field[..., -2])
  paddle = _place(observations[:, _PADDLE : _PADDLE + 1, _COLUMNS[0] : _COLUMNS[1], -1])[1]
  down, right = row - row_before, column - column_before
  falling = seen & seen_before & (down > 0.2)
  width, height = _COLUMNS[1] - _COLUMNS[0] - 1, _PADDLE - _ROWS[0]
  landing = column + right * (height - row) / jnp.maximum(down, 0.2)
  # Between the walls the column is a triangle wave.
  landing = width - jnp.abs(landing % (2 * width) - width)
  target = jnp.where(falling, landing, column)
  move = jnp.where(target > paddle + _SLACK, RIGHT, jnp.where(target < paddle - _SLACK, LEFT, NOOP))
  return jnp.where(seen, move, FIRE).astype(jnp.int32)
