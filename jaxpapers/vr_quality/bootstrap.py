"""Bootstrap over videos of the statistics of a 2 x 2 design, as a stage: one compiled step, many draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.engine import Stage
from jaxpapers.vr_quality.correlation import srcc
from jaxpapers.vr_quality.effects import anova_f, contrasts

PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


class Statistics(NamedTuple):
  """What is replicated.

  Attributes:
    mean: [4] mean score per condition, in the order of the columns.
    contrast: [3] start, time, interaction.
    partial_eta2: [3] of the same.
    srcc: [6] Spearman correlations of the pairs of conditions PAIRS.
  """

  mean: jax.Array
  contrast: jax.Array
  partial_eta2: jax.Array
  srcc: jax.Array


def statistics(mos: jax.Array) -> Statistics:
  """The statistics of scores [videos, 4] (7A, 7B, 15A, 15B), under jit and vmap."""
  design = mos.reshape(-1, 2, 2).transpose(0, 2, 1)
  f = anova_f(design)
  first, second = (mos[:, np.array(side)].T for side in zip(*PAIRS, strict=True))
  return Statistics(
    jnp.mean(mos, axis=0),
    jnp.mean(contrasts(design), axis=0),
    f / (f + len(mos) - 1),
    jax.vmap(srcc)(first, second),
  )


def replicate(key: jax.Array, mos: jax.Array) -> Statistics:
  """The statistics of as many videos drawn with replacement."""
  return statistics(mos[jax.random.randint(key, (len(mos),), 0, len(mos))])


def stage(mos: np.ndarray, *, steps: int, batch_size: int, evaluations: tuple = ()) -> Stage:
  """A stage named `bootstrap` whose state is Statistics with leaves [steps * batch_size, ...], filled step by step.

  Args:
    mos: [videos, 4].
    steps: how many.
    batch_size: replicates a step, divided over the devices.
    evaluations: of the stage.
  """
  scores = np.asarray(mos, np.float32)

  def init(key, batch, earlier):
    del key, batch, earlier
    shapes = jax.eval_shape(statistics, scores)
    empty = jax.tree.map(lambda x: jnp.zeros((steps * batch_size, *x.shape), x.dtype), shapes)
    return {'replicates': empty, 'done': jnp.zeros((), jnp.int32)}

  def step(state, batch, key):
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch['replicate'])
    new = jax.vmap(replicate, in_axes=(0, None))(keys, jnp.asarray(scores))
    filled = jax.tree.map(
      lambda all_, part: jax.lax.dynamic_update_slice_in_dim(all_, part, state['done'], 0), state['replicates'], new
    )
    metrics = {'interaction': jnp.mean(new.contrast[:, 2]), 'interaction_sd': jnp.std(new.contrast[:, 2])}
    return {'replicates': filled, 'done': state['done'] + batch_size}, metrics

  numbers = np.arange(batch_size, dtype=np.int32)
  return Stage('bootstrap', steps, lambda _: {'replicate': numbers}, init, step, evaluations)


def interval(replicates: np.ndarray, level: float = 0.95) -> np.ndarray:
  """[2, ...] percentile limits of replicates [draws, ...]."""
  tail = (1.0 - level) / 2.0
  return np.quantile(np.asarray(replicates, np.float64), (tail, 1.0 - tail), axis=0)
