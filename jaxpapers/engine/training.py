"""The usual init and step of a Flax model, a loss and an optax optimizer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxpapers.engine.experiment import Batch, Key, Metrics, PyTree


class TrainState(flax.struct.PyTreeNode):
  """What supervised training carries from step to step.

  Attributes:
    step: int32 scalar, updates done.
    params: trainable parameters.
    model_state: the model's other collections, e.g. {'batch_stats': ...}; {} where it has none.
    opt_state: of the optimizer.
    ema: {'params': ..., 'model_state': ...} averages, or None.
  """

  step: jax.Array
  params: PyTree
  model_state: PyTree
  opt_state: PyTree
  ema: PyTree

  def variables(self, ema: bool = False) -> dict[str, PyTree]:
    """What `model.apply` takes; the averaged ones if `ema`."""
    if ema:
      if self.ema is None:
        raise ValueError('This state keeps no moving average: train with ema_decay.')
      return {'params': self.ema['params'], **self.ema['model_state']}
    return {'params': self.params, **self.model_state}


@dataclasses.dataclass(frozen=True)
class Supervised:
  """`init` and `step` for a Stage."""

  init: Callable[..., TrainState]
  step: Callable[[TrainState, Batch, Key], tuple[TrainState, Metrics]]


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
  """Mean over the devices of a pmap axis; the tree itself where there is none (None)."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def supervised(
  model: nn.Module,
  loss: Callable[[PyTree, Batch], tuple[jax.Array, Metrics]],
  optimizer: optax.GradientTransformation,
  *,
  inputs: Callable[[Batch], tuple] = lambda batch: (batch['image'],),
  augment: Callable[[Batch, Key], Batch] | None = None,
  clip_norm: float | None = None,
  ema_decay: float | None = None,
  accumulate: int = 1,
  axis_name: str | None = None,
  start: Callable[[dict[str, PyTree]], dict[str, PyTree]] | None = None,
  frozen: Callable[[PyTree], PyTree] | None = None,
) -> Supervised:
  """Builds init and step of ordinary gradient training.

  Args:
    model: called as model.apply(variables, *inputs(batch), train=bool) with a 'dropout' rng stream.
    loss: (model outputs, batch) -> (scalar mean loss, further scalar metrics).
    optimizer: applied to the gradients after clipping.
    inputs: batch -> positional inputs of the model.
    augment: (batch, key) -> batch, inside the compiled step (mixup, cutmix, noise).
    clip_norm: global norm that gradients are clipped to; the metric `grad_norm` is the norm before.
    ema_decay: decay of the moving average over parameters and model state, from step 0; None keeps none.
    accumulate: the batch is split into so many parts whose gradients are averaged: one update, less memory.
    axis_name: the pmap axis, or None under jit.
    start: variables after initialisation -> variables to start from (imported weights).
    frozen: params -> pytree of bool, True where a leaf must not change: its gradient and update are zero.

  Returns:
    Supervised(init, step); the metrics hold `loss`, `grad_norm` and what `loss` returns, all float32 scalars.
  """

  def init(key: Key, batch: Batch, earlier: Mapping[str, Any]) -> TrainState:
    del earlier
    params_key, dropout_key = jax.random.split(key)
    example = jax.tree.map(lambda x: x[:1], inputs(batch))
    variables = dict(model.init({'params': params_key, 'dropout': dropout_key}, *example, train=False))
    if start is not None:
      variables = start(variables)
    params = variables.pop('params')
    ema = None
    if ema_decay is not None:
      ema = jax.tree.map(jnp.copy, {'params': params, 'model_state': variables})
    return TrainState(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params), ema)

  def value_and_grad(params: PyTree, model_state: PyTree, batch: Batch, key: Key):
    def objective(params):
      outputs, updates = model.apply(
        {'params': params, **model_state},
        *inputs(batch),
        train=True,
        rngs={'dropout': key},
        mutable=list(model_state),
      )
      value, metrics = loss(outputs, batch)
      return value, (updates, {'loss': value, **metrics})

    (_, (updates, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return grads, {**model_state, **updates}, metrics

  def accumulated(params: PyTree, model_state: PyTree, batch: Batch, key: Key):
    # Part i takes rows i, i + k, i + 2k, ...: a device then splits the rows it holds, and none move between devices.
    parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

    def body(carry, part):
      total, model_state, index = carry
      grads, model_state, metrics = value_and_grad(params, model_state, part, jax.random.fold_in(key, index))
      return (jax.tree.map(jnp.add, total, grads), model_state, index + 1), metrics

    zeros = jax.tree.map(jnp.zeros_like, params)
    (total, model_state, _), metrics = jax.lax.scan(body, (zeros, model_state, 0), parts)
    return jax.tree.map(lambda x: x / accumulate, total), model_state, jax.tree.map(jnp.mean, metrics)

  def step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
    model_key, augment_key = jax.random.split(key)
    if augment is not None:
      batch = augment(batch, augment_key)
    compute = value_and_grad if accumulate == 1 else accumulated
    grads, model_state, metrics = compute(state.params, state.model_state, batch, model_key)
    grads, model_state, metrics = pmean((grads, model_state, metrics), axis_name)
    if frozen is not None:
      held = frozen(state.params)
      grads = jax.tree.map(lambda g, h: jnp.zeros_like(g) if h else g, grads, held)
    norm = optax.tree.norm(grads)
    if clip_norm is not None:
      scale = jnp.minimum(1.0, clip_norm / (norm + 1e-6))
      grads = jax.tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    if frozen is not None:
      updates = jax.tree.map(lambda u, h: jnp.zeros_like(u) if h else u, updates, held)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema_decay is not None:
      ema = jax.tree.map(
        lambda old, new: ema_decay * old + (1.0 - ema_decay) * new.astype(old.dtype),
        ema,
        {'params': params, 'model_state': model_state},
      )
    metrics = {name: jnp.asarray(value, jnp.float32) for name, value in {**metrics, 'grad_norm': norm}.items()}
    return TrainState(state.step + 1, params, model_state, opt_state, ema), metrics

  return Supervised(init, step)
