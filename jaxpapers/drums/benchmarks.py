"""What writing with a cache saves, and the two measures of a groove, for `launch/benchmark.py` after the stages.

`python -m jaxpapers.drums.throughput` measures other sizes of network and text.
"""

import dataclasses

import jax
import numpy as np

from jaxpapers.drums import data, encoding, midi, structure, throughput
from jaxpapers.drums.architecture import Architecture, llama
from jaxpapers.drums.generation import generate
from jaxpapers.drums.model import Decoder
from jaxpapers.engine.benchmarks import Case
from jaxpapers.engine.measure import Measurement, measure, median_seconds

CASES = (Case(stages=('scratch',)),)
NETWORK = llama(256, layers=3, width=128, heads=4, kv_heads=4, hidden=344, context=512)
"""That of the default config, with room for the text that is written again and again without a cache."""
PROMPT, NEW, PROMPTS = 232, 232, 37
ENCODE, STABILITY = 'encode MIDI', 'stability'


def programs(repeats: int) -> tuple[list[Measurement], list[str]]:
  """Measurements, and lines that state their ratios."""
  rows, lines = writing(repeats)
  return [*rows, *symbols(repeats)], lines


def writing_name(prompts: int, new: int = NEW) -> str:
  """Row of `new` tokens for each of `prompts` prompts together."""
  return f'write {new} tokens, {prompts} prompt{"s" if prompts > 1 else ""}'


def random_prompts(count: int, length: int = PROMPT, vocabulary: int = 256) -> np.ndarray:
  """[count, length] int32 ids."""
  return np.random.default_rng(0).integers(0, vocabulary, (count, length), np.int32)


def writing(
  repeats: int, network: Architecture = NETWORK, prompt: int = PROMPT, new: int = NEW, prompts: int = PROMPTS
) -> tuple[list[Measurement], list[str]]:
  """Likeliest tokens with a cache, for one prompt and for many; examples are tokens.

  Args:
    repeats: timed calls.
    network: its size; the weights are random.
    prompt: tokens of a prompt.
    new: tokens that are written.
    prompts: how many together.
  """
  decoder, rows = Decoder(network), []
  variables = jax.jit(decoder.init)(jax.random.key(0), random_prompts(1, 1))

  def write(variables, ids):
    lengths = np.full(len(ids), prompt, np.int32)
    return generate(decoder, variables, ids, lengths, jax.random.key(0), max_new=new, temperature=0).ids

  for count in (1, prompts):
    ids = jax.device_put(random_prompts(count, prompt, network.vocabulary))
    row = measure(writing_name(count, new), write, (variables, ids), count * new, repeats)
    # The loop over tokens counts once in both.
    rows.append(dataclasses.replace(row, flops=None, traffic=None))
  _, wall = throughput.uncached_cost(decoder, variables, prompt, new, min(repeats, 3))
  name = f'write {new} tokens, no cache'
  one, many = (row.seconds / row.examples for row in rows)
  return [*rows, Measurement(name, new, wall, beside=rows[0].name)], [
    f'{new} tokens after {prompt}: with a cache {wall / new / one:.1f} times as fast as the whole prefix again; '
    f'{prompts} prompts together {one / many:.1f} times as fast as one by one'
  ]


def grooves(count: int = 32) -> tuple[list[np.ndarray], list[bytes]]:
  """Grids of test grooves, at most `count`, and their MIDI files."""
  grids = [groove.grid for groove in data.bundled() if groove.split == 'test'][:count]
  return grids, [midi.write(grid) for grid in grids]


def symbols(repeats: int, count: int = 32) -> list[Measurement]:
  """MIDI files to grids, and stability curves; examples are grooves."""
  grids, files = grooves(count)
  encode = median_seconds(lambda: [encoding.encode(file).grid for file in files], repeats)
  curves = median_seconds(lambda: structure.stability_curves(grids), repeats)
  return [Measurement(ENCODE, len(grids), encode), Measurement(STABILITY, len(grids), curves)]
