"""Output heads: for every decoder layer, task and output a small network of its own, all computed at once."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

OUTPUTS = {'center': 2, 'height': 1, 'dim': 3, 'rot': 2, 'vel': 2}
"""Channels of the outputs other than `cls_logits`."""

_PRIOR = -2.19  # of the class bias: a probability of 0.1


class Weights(NamedTuple):
  """Of one output in all layers.

  Attributes:
    kernel_0: [layers, taps, width, hidden].
    scale: [layers, hidden].
    bias_0: [layers, hidden].
    kernel_1: [layers, taps, hidden, out].
    bias_1: [layers, out].
  """

  kernel_0: jax.Array
  scale: jax.Array
  bias_0: jax.Array
  kernel_1: jax.Array
  bias_1: jax.Array


class OutputWeights(nn.Module):
  """Holds the parameters of one output; `TaskHeads` computes with all of them together.

  Attributes:
    layers: of the decoder.
    width: of the queries.
    hidden: channels between the two convolutions.
    out: channels of the output.
    kernel: taps over neighbouring queries, 1 or 3.
    prior: start of the last bias.
  """

  layers: int
  width: int
  hidden: int
  out: int
  kernel: int
  prior: float = 0.0

  @nn.compact
  def __call__(self) -> Weights:
    """The parameters; their start is Kaiming-normal over the outputs of all layers, as the published program draws."""

    def conv(name, inputs, outputs):
      std = (2.0 / (outputs * self.layers * self.kernel)) ** 0.5
      return self.param(name, nn.initializers.normal(std), (self.layers, self.kernel, inputs, outputs))

    return Weights(
      conv('kernel_0', self.width, self.hidden),
      self.param('scale', nn.initializers.ones, (self.layers, self.hidden)),
      self.param('bias_0', nn.initializers.zeros, (self.layers, self.hidden)),
      conv('kernel_1', self.hidden, self.out),
      self.param('bias_1', nn.initializers.constant(self.prior), (self.layers, self.out)),
    )


def _taps(x: jax.Array, kernel: int) -> jax.Array:
  """Neighbours along the queries side by side, zeros beyond the ends. [..., queries, c] -> [..., queries, kernel c]."""
  if kernel == 1:
    return x
  half, queries = kernel // 2, x.shape[-2]
  padded = jnp.pad(x, ((0, 0),) * (x.ndim - 2) + ((half, half), (0, 0)))
  return jnp.concatenate([padded[..., i : i + queries, :] for i in range(kernel)], axis=-1)


def _widened(x: jax.Array, width: int) -> jax.Array:
  return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, width - x.shape[-1]),))


class TaskHeads(nn.Module):
  """Raw outputs of all layers, tasks and outputs: convolution, norm, ReLU, convolution over the query axis.

  Attributes:
    tasks: classes of each task.
    hidden: channels between.
    kernel: 1, or 3 to look at neighbouring queries: then results depend on their order.
    eps: of the norm over `hidden`.
  """

  tasks: Sequence[int] = (10,)
  hidden: int = 64
  kernel: int = 1
  eps: float = 1e-6

  @nn.compact
  def __call__(self, states: jax.Array, query_mask: jax.Array | None = None) -> tuple[dict[str, jax.Array], ...]:
    """Reads the queries.

    Args:
      states: [layers, batch, queries, width].
      query_mask: [queries] bool, False for queries that count as padding to their neighbours; only with kernel 3.

    Returns:
      Per task a dict of [layers, batch, queries, channels] with the names of OUTPUTS and `cls_logits`.
    """
    chex.assert_rank(states, 4)
    layers, width = states.shape[0], states.shape[-1]
    states = states.astype(jnp.float32)

    def keep(x):
      return x if query_mask is None or self.kernel == 1 else jnp.where(query_mask[:, None], x, 0.0)

    held = {}
    for task, classes in enumerate(self.tasks):
      for name, out in {**OUTPUTS, 'cls_logits': classes}.items():
        prior = _PRIOR if name == 'cls_logits' else 0.0
        module = OutputWeights(layers, width, self.hidden, out, self.kernel, prior, name=f'task{task}_{name}')
        held[task, name] = module()
    first = jnp.concatenate([w.kernel_0.reshape(layers, -1, self.hidden) for w in held.values()], axis=-1)
    y = jnp.einsum('lbqc,lco->lbqo', _taps(keep(states), self.kernel), first)
    y = y.reshape(*y.shape[:3], len(held), self.hidden)
    y = y - y.mean(axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + self.eps)

    def stack(values):
      return jnp.stack(values, axis=1)[:, None, None]

    y = nn.relu(y * stack([w.scale for w in held.values()]) + stack([w.bias_0 for w in held.values()]))
    y = _taps(keep(y.reshape(*y.shape[:3], -1)), self.kernel)
    y = y.reshape(*y.shape[:3], self.kernel, len(held), self.hidden)
    # Outputs of different width are padded to one: a single product for all of them.
    widest = max(w.bias_1.shape[-1] for w in held.values())
    second = jnp.stack([_widened(w.kernel_1, widest) for w in held.values()], axis=2)
    bias = jnp.stack([_widened(w.bias_1, widest) for w in held.values()], axis=1)
    y = jnp.einsum('lbqknc,lknco->lbqno', y, second) + bias[:, None, None]
    outputs = tuple({} for _ in self.tasks)
    for index, ((task, name), w) in enumerate(held.items()):
      outputs[task][name] = y[..., index, : w.bias_1.shape[-1]]
    return outputs
