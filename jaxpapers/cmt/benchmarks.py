"""What the room saves: attention by blocks beside scores written out, and the score beside nested loops.

`launch/benchmark.py` runs it after the stages of the config. All timings of a ratio are of one run on one machine.
"""

import functools

import jax
import numpy as np

from jaxpapers.cmt import metrics
from jaxpapers.cmt.attention import attention
from jaxpapers.engine.benchmarks import Case
from jaxpapers.engine.measure import Measurement, measure, median_seconds

CASES = (Case('default', stages=('masked',), dtypes=('float32', 'bfloat16')),)


def programs(repeats: int) -> tuple[list[Measurement], list[str]]:
  """Measurements, and lines that state their ratios."""
  parts = [attentions(repeats), scores(repeats)]
  return [row for rows, _ in parts for row in rows], [line for _, lines in parts for line in lines]


def attentions(
  repeats: int, queries: int = 900, tokens: int = 22_384, heads: int = 8, depth: int = 32
) -> tuple[list[Measurement], list[str]]:
  """Cross-attention of a layer of CMT-R50 over all tokens of a scene, with both ways and JAX's own."""
  keys = jax.random.split(jax.random.key(0), 3)
  arguments = tuple(
    jax.random.normal(key, (1, count, heads, depth)) for key, count in zip(keys, (queries, tokens, tokens), strict=True)
  )
  ways = {
    'attention by blocks': attention,
    'attention, whole scores': functools.partial(attention, block=None),
    "attention, jax.nn's": jax.nn.dot_product_attention,
  }
  ours = 'attention by blocks'
  rows = [measure(name, way, arguments, 1, repeats, beside=ours if name != ours else '') for name, way in ways.items()]
  blocks, whole, usual = rows
  line = (
    f'attention of {queries} queries to {tokens} tokens: by blocks {whole.seconds / blocks.seconds:.2f} times as fast '
    f'as with whole scores and {usual.seconds / blocks.seconds:.2f} times as jax.nn.dot_product_attention, in '
    f'{blocks.memory / whole.memory:.2f} and {blocks.memory / usual.memory:.2f} of their memory'
  )
  return rows, [line]


def scores(
  repeats: int, samples: int = 150, boxes: int = 300, objects: int = 23
) -> tuple[list[Measurement], list[str]]:
  """The detection score of random boxes beside its matching written as nested loops over samples and boxes."""
  rng = np.random.default_rng(0)
  truth = _table(rng, samples, objects)
  found = _table(rng, samples, boxes)
  found = found._replace(score=rng.random(len(found.label)))
  rules = metrics.nuscenes_rules()
  ours = Measurement(
    'score', samples, median_seconds(lambda: metrics.evaluate(truth, found, rules).nds, max(1, repeats // 2))
  )
  loops = Measurement(
    'matching in loops', samples, median_seconds(lambda: looped(truth, found, rules), 1, warmup=0), beside=ours.name
  )
  line = (
    f'score of {samples} samples with {boxes} boxes: whole score {loops.seconds / ours.seconds:.0f} times as fast as '
    'the matching alone in loops'
  )
  return [ours, loops], [line]


def looped(truth: metrics.BoxTable, found: metrics.BoxTable, rules: metrics.Rules) -> np.ndarray:
  """Matches [thresholds, predictions] as the rule is worded: best first, each takes the nearest object still free."""
  matched = np.full((len(rules.thresholds), len(found.label)), -1)
  groups: dict[tuple[int, int], list[int]] = {}
  for row, key in enumerate(zip(truth.sample.tolist(), truth.label.tolist(), strict=True)):
    groups.setdefault(key, []).append(row)
  centers, places = truth.center[:, :2].tolist(), found.center[:, :2].tolist()
  keys = list(zip(found.sample.tolist(), found.label.tolist(), strict=True))
  for place, threshold in enumerate(rules.thresholds):
    taken: set[int] = set()
    for row in np.argsort(-found.score, kind='stable').tolist():
      best, distance = -1, np.inf
      for candidate in groups.get(keys[row], ()):
        gap = np.hypot(centers[candidate][0] - places[row][0], centers[candidate][1] - places[row][1])
        if candidate not in taken and gap < distance:
          best, distance = candidate, gap
      if distance < threshold:
        taken.add(best)
        matched[place, row] = best
  return matched


def _table(rng: np.random.Generator, samples: int, count: int) -> metrics.BoxTable:
  rows = samples * count
  center = np.concatenate([rng.uniform(-50, 50, (rows, 2)), rng.normal(0, 1, (rows, 1))], axis=1)
  return metrics.BoxTable(
    np.repeat(np.arange(samples), count),
    center,
    rng.uniform(0.5, 4, (rows, 3)),
    rng.uniform(-np.pi, np.pi, rows),
    rng.normal(0, 2, (rows, 2)),
    rng.integers(0, len(metrics.CLASSES), rows),
    np.zeros(rows, np.int64),
  )
