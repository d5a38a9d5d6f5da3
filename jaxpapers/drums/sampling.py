"""From logits to a token: temperature, then top-k, then top-p, then a draw."""

import jax
import jax.numpy as jnp


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
  """Refuses settings that mean nothing.

  Raises:
    ValueError: for a temperature below 0, k below 1, or p outside (0, 1].
  """
  if not temperature >= 0:
    raise ValueError(f'The temperature must be at least 0, not {temperature}.')
  if top_k is not None and top_k < 1:
    raise ValueError(f'top_k must be at least 1, not {top_k}.')
  if top_p is not None and not 0 < top_p <= 1:
    raise ValueError(f'top_p must lie in (0, 1], not {top_p}.')


def filter_logits(
  logits: jax.Array, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> jax.Array:
  """Logits of the distribution that is drawn from: -inf where a token is left out.

  Source: top-p is Holtzman et al., ICLR 2020.

  Args:
    logits: [..., ids] float32; -inf is never drawn.
    temperature: above 0; logits are divided by it.
    top_k: keep the k largest (and their equals); None or more than there are keeps all.
    top_p: keep the fewest of the likeliest whose probabilities reach p together; at least one. None keeps all.

  Returns:
    [..., ids] float32.

  Raises:
    ValueError: see `check_sampling`; also for a temperature of 0, which has no distribution.
  """
  check_sampling(temperature, top_k, top_p)
  if temperature == 0:
    raise ValueError('A temperature of 0 takes the likeliest token: there is no distribution.')
  logits = logits.astype(jnp.float32) / temperature
  if top_k is not None and top_k < logits.shape[-1]:
    least = jax.lax.top_k(logits, top_k)[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if top_p is not None and top_p < 1:
    order = jnp.argsort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.put_along_axis(jnp.zeros(logits.shape, bool), order, before < top_p, axis=-1, inplace=False)
    # The likeliest stays even where rounding says otherwise.
    kept |= jnp.arange(logits.shape[-1]) == order[..., :1]
    logits = jnp.where(kept, logits, -jnp.inf)
  return logits


def draw(
  keys: jax.Array, logits: jax.Array, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> jax.Array:
  """One index a row.

  Args:
    keys: [batch] PRNG keys, one a row, so that a row's draw does not depend on its neighbours.
    logits: [batch, ids].
    temperature: 0 takes the likeliest.
    top_k: see `filter_logits`.
    top_p: see `filter_logits`.

  Returns:
    [batch] int32.
  """
  check_sampling(temperature, top_k, top_p)
  if temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  filtered = filter_logits(logits, temperature, top_k, top_p)
  return jax.vmap(jax.random.categorical)(keys, filtered).astype(jnp.int32)
