"""Evaluation steps and their summaries, for one training and for several side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxpapers.engine import Evaluation, TrainState
from jaxpapers.xdeepint import metrics
from jaxpapers.xdeepint.embeddings import Fields, global_ids
from jaxpapers.xdeepint.model import PinHead
from jaxpapers.xdeepint.optimizers import GroupFtrl
from jaxpapers.xdeepint.training import table_rows, weights_table

Logits = Callable[[TrainState, jax.Array], jax.Array]


def xdeepint_logits(fields: Fields, head: PinHead, options: GroupFtrl, mesh: Mesh | None) -> Logits:
  """(state of `row_sparse`, ids [batch, F]) -> logits [batch]."""

  def logits(state: TrainState, ids: jax.Array) -> jax.Array:
    x0 = table_rows(state, global_ids(ids, fields), options, mesh)
    return head.apply({'params': state.params['pin']}, x0)

  return logits


def model_logits(model: nn.Module) -> Logits:
  """(state of `supervised`, ids [batch, F]) -> logits [batch]."""
  return lambda state, ids: model.apply(state.variables(), ids)


def collect(logits: Logits) -> Callable[[TrainState, Mapping[str, jax.Array]], dict[str, jax.Array]]:
  """An evaluation step: {'logits' [replicas, batch], 'label' [batch], 'valid' [batch]}; one training is one replica."""

  def step(state: TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    if state.step.ndim:
      values = jax.vmap(logits, (0, None))(state, batch['ids'])
    else:
      values = logits(state, batch['ids'])[None]
    return {'logits': values, 'label': batch['label'], 'valid': batch['valid']}

  return step


def joined(outputs: Iterable[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
  """Outputs of `collect` over a pass -> (logits [replicas, rows], labels [rows])."""
  logits, labels = [], []
  for out in outputs:
    logits.append(out['logits'][:, out['valid']])
    labels.append(out['label'][out['valid']])
  return np.concatenate(logits, axis=1), np.concatenate(labels)


def summarize(outputs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
  """Means over the replicas, and for several of them the standard deviation (`auc_sd`, `logloss_sd`)."""
  logits, labels = joined(outputs)
  each = [metrics.summary(labels, row) for row in logits]
  result = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
  if len(each) > 1:
    result |= {f'{name}_sd': float(np.std([one[name] for one in each], ddof=1)) for name in ('auc', 'logloss')}
  return result


def summarize_each(names: Sequence[str]) -> Callable[[Iterable[Mapping[str, np.ndarray]]], dict[str, float]]:
  """A summary that keeps the replicas apart: `auc_<name>` and `logloss_<name>`."""

  def summary(outputs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    logits, labels = joined(outputs)
    out = {}
    for name, row in zip(names, logits, strict=True):
      one = metrics.summary(labels, row)
      out |= {f'auc_{name}': one['auc'], f'logloss_{name}': one['logloss']}
    return out

  return summary


def sparsity(state: TrainState, fields: Fields, options: GroupFtrl) -> dict[str, jax.Array]:
  """Shares of exact zeros.

  Returns:
    {'zero_rows': of all levels, 'zero_kernels': of kernel entries} and, where the state has its optimizer's part
    (imported weights have none), {'zero_seen': of the levels seen in training, those with n > 0; 'seen': their number}.
  """
  kernels = state.params['pin']['kernels']
  zero = ~jnp.any(weights_table(state, options)[: fields.rows] != 0, axis=1)
  shares = {'zero_rows': jnp.mean(zero), 'zero_kernels': jnp.mean(kernels == 0) if kernels.size else jnp.zeros(())}
  if state.opt_state:
    seen = jnp.any(state.opt_state['embedding'].n[: fields.rows] > 0, axis=1)
    shares |= {'zero_seen': jnp.sum(zero & seen) / jnp.maximum(jnp.sum(seen), 1), 'seen': jnp.sum(seen) * 1.0}
  return shares


def tables(
  name: str, fields: Fields, options: GroupFtrl, batch_size: int, every: int, names: Sequence[str] = ()
) -> Evaluation:
  """An evaluation that looks at the tables alone: `sparsity`, averaged over replicas or, with `names`, kept apart."""

  def step(state: TrainState, batch: Any) -> dict[str, jax.Array]:
    del batch
    if state.step.ndim:
      return jax.vmap(lambda one: sparsity(one, fields, options))(state)
    return jax.tree.map(lambda x: x[None], sparsity(state, fields, options))

  def summary(outputs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    (out,) = outputs
    if not names:
      return {key: float(np.mean(value)) for key, value in out.items()}
    return {
      f'{key}_{label}': float(value[i])
      for i, label in enumerate(names)
      for key, value in out.items()
      if key.startswith('zero')
    }

  def batches() -> list[dict[str, np.ndarray]]:
    # The engine wants a batch that divides over the devices; nothing in it is looked at.
    return [{'valid': np.ones(batch_size // jax.process_count(), bool)}]

  return Evaluation(name, batches, step, summary, every)
