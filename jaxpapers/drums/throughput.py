"""Cost of writing text: with a cache against the whole prefix again for every token, all prompts at once against each.

    python -m jaxpapers.drums.throughput --tokens 900 --prompts 37

Random weights; compilation is not timed. Times are processor seconds of the whole process, which a busy machine
inflates less than wall time.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.drums.architecture import Architecture, gpt2, llama
from jaxpapers.drums.generation import generate
from jaxpapers.drums.model import Decoder

BUCKET = 128


def architecture(family: str, tokens: int, prompt: int, layers: int, width: int) -> Architecture:
  """A byte-level network with heads of 32 dimensions and positions for `tokens` more than a prompt."""
  context = -(-(prompt + tokens) // BUCKET) * BUCKET
  heads = width // 32
  if family == 'gpt2':
    return gpt2(256, layers, width, heads, context)
  return llama(256, layers, width, heads, heads, width * 8 // 3 // 8 * 8, context)


def uncached_cost(decoder: Decoder, variables: Any, length: int, max_new: int, repeats: int = 3) -> tuple[float, float]:
  """(processor, wall) seconds of writing `max_new` tokens by the model over the whole prefix, padded to buckets.

  A pass over each bucket is timed, and counted for every token that it would write.
  """
  processor = wall = 0.0
  for padded in range(BUCKET, length + max_new + BUCKET, BUCKET):
    count = len(range(max(length, padded - BUCKET + 1), min(length + max_new - 1, padded) + 1))
    if count:
      ids = np.zeros((1, padded), np.int32)
      costs = [seconds(lambda ids=ids: _next(decoder, variables, ids, 0)) for _ in range(repeats)]
      processor += count * sorted(cost[0] for cost in costs)[repeats // 2]
      wall += count * sorted(cost[1] for cost in costs)[repeats // 2]
  return processor, wall


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
  """(processor, wall) seconds of the second call."""
  jax.block_until_ready(work())
  started = time.process_time(), time.perf_counter()
  jax.block_until_ready(work())
  return time.process_time() - started[0], time.perf_counter() - started[1]


def cached_cost(decoder: Decoder, variables: Any, prompts: np.ndarray, max_new: int) -> tuple[float, float]:
  """(processor, wall) seconds of `generate` for `prompts` [batch, time] together."""
  lengths = np.full(len(prompts), prompts.shape[1], np.int32)
  key = jax.random.key(0)
  return seconds(lambda: generate(decoder, variables, prompts, lengths, key, max_new=max_new, temperature=0).ids)


@jax.jit(static_argnums=0)
def _next(decoder: Decoder, variables: Any, ids: jax.Array, place: int) -> jax.Array:
  return jnp.argmax(decoder.apply(variables, ids).logits[0, place])


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.drums.throughput', description=__doc__.split('\n')[0])
  parser.add_argument('--family', choices=('gpt2', 'llama'), default='llama')
  parser.add_argument('--tokens', type=int, default=900)
  parser.add_argument('--prompts', type=int, default=37)
  parser.add_argument('--prompt', type=int, default=232, help='tokens of a prompt: two measures as bytes')
  parser.add_argument('--layers', type=int, default=2)
  parser.add_argument('--width', type=int, default=128)
  args = parser.parse_args(argv)
  decoder = Decoder(architecture(args.family, args.tokens, args.prompt, args.layers, args.width))
  prompts = np.random.default_rng(0).integers(0, 256, (args.prompts, args.prompt)).astype(np.int32)
  variables = decoder.init(jax.random.key(0), jnp.asarray(prompts[:1]))
  one = cached_cost(decoder, variables, prompts[:1], args.tokens)
  rerun = uncached_cost(decoder, variables, args.prompt, args.tokens)
  together = cached_cost(decoder, variables, prompts, args.tokens)
  rows = [
    ('1 prompt, cache', one),
    ('1 prompt, whole prefix again', rerun),
    (f'{args.prompts} prompts together, cache', together),
    (f'{args.prompts} prompts one by one, cache', tuple(args.prompts * x for x in one)),
  ]
  size = f'{args.layers} layers of width {args.width}'
  print(f'{args.family}, {size}: {args.tokens} tokens after a prompt of {args.prompt}')
  for name, (processor, wall) in rows:
    print(f'{name:36} {processor:8.2f} processor s {wall:8.2f} wall s')
  print(f'cache against the prefix again: {rerun[0] / one[0]:.1f}x')
  print(f'{args.prompts} together against one by one: {args.prompts * one[0] / together[0]:.1f}x')


if __name__ == '__main__':
  main()
