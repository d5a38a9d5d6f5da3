"""Which epoch's weights and proxies a training keeps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph

from jaxpapers.reliant import losses
from jaxpapers.reliant.model import Model, Params
from jaxpapers.reliant.problem import Problem


class Selection(NamedTuple):
  """Which epoch's weights and proxies are kept as the best. Source: the authors' code, CPF's and GraphAKD's part.

  Attributes:
    by: 'accuracy' (highest on validation nodes, last of ties), 'loss' (lowest validation cross entropy, first of ties)
      or 'last'.
    patience: epochs without a new best after which nothing counts any more; 0 for ever.
  """

  by: str = 'accuracy'
  patience: int = 0


def first_best(params: Params) -> Params:
  """What is kept of the best epoch, before there is one."""
  return {'params': params, 'score': jnp.float32(-jnp.inf), 'epoch': jnp.int32(0)}


def updated_best(
  best: Params, params: Params, selection: Selection, accuracy: jax.Array, loss: jax.Array, epoch: jax.Array
) -> Params:
  """The better of `best` and these parameters (weights and proxies together)."""
  scores = {'accuracy': accuracy, 'loss': -loss, 'last': epoch.astype(jnp.float32)}
  if selection.by not in scores:
    raise ValueError(f'selection={selection.by!r} is not known; it is one of {", ".join(scores)}.')
  score = scores[selection.by]
  better = score > best['score'] if selection.by == 'loss' else score >= best['score']
  if selection.patience:
    better = better & (epoch - best['epoch'] <= selection.patience)
  new = {'params': params, 'score': score, 'epoch': epoch}
  return jax.tree.map(lambda x, y: jnp.where(better, x, y), new, best)


def validate(
  model: Model,
  weights: Params,
  graph: jraph.GraphsTuple,
  problem: Problem,
  best: Params,
  kept: Params,
  selection: Selection,
  done: jax.Array,
) -> tuple[dict[str, jax.Array], Params]:
  """Validation metrics in evaluation mode, and the best so far.

  Args:
    model: teacher or student.
    weights: its parameters.
    graph: what it sees, proxies included.
    problem: labels [N] and validation mask [N].
    best: see `first_best`.
    kept: what is kept if this epoch is the best: weights, and proxies where there are some.
    selection: what the best is.
    done: int32, epochs done.

  Returns:
    ({'val_accuracy', 'val_loss'}, best); no metrics where the last epoch is the best.
  """
  if selection.by == 'last':
    nothing = jnp.zeros(())
    return {}, updated_best(best, kept, selection, nothing, nothing, done)
  logits = model.apply(weights, graph, None).logits
  accuracy = losses.masked_accuracy(logits, problem.labels, problem.val)
  loss = losses.negative_log_likelihood(logits, problem.labels, problem.val)
  metrics = {'val_accuracy': accuracy, 'val_loss': loss}
  return metrics, updated_best(best, kept, selection, accuracy, loss, done)
