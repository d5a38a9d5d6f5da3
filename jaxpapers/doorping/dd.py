"""DD: distillation by back-propagation through training (Wang et al., 2018)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.doorping.dc import Apply, cross_entropy


class Blocks(NamedTuple):
  """What DD learns.

  Attributes:
    images: [blocks, classes * images per class, height, width, channels], normalised.
    raw: [steps, 1]; the learning rates are softplus(raw).
  """

  images: jax.Array
  raw: jax.Array


def raw_rate(rate: float) -> float:
  """log(exp(rate) - 1): the raw value whose softplus is `rate`."""
  return float(np.log(np.expm1(rate)))


def block_labels(classes: int, per_class: int) -> np.ndarray:
  """int32 [classes * per_class]: 0..0, 1..1, ..., the labels of every block."""
  return np.repeat(np.arange(classes, dtype=np.int32), per_class)


def train_through(apply: Apply, params: Any, blocks: Blocks, labels: jax.Array) -> Any:
  """Plain gradient descent over the steps, block t mod blocks at step t with its own learning rate.

  Each step is checkpointed: reverse mode keeps the parameters of every step, not its maps.

  Source: the inner loop of DD (Wang et al., 2018), as in the authors' code.

  Args:
    apply: (params, images) -> logits.
    params: start.
    blocks: see Blocks.
    labels: [classes * images per class].

  Returns:
    params after the last step.
  """
  chex.assert_rank(blocks.images, 5)
  rates = jax.nn.softplus(blocks.raw[:, 0])
  count = len(blocks.images)

  @jax.checkpoint
  def step(params, inputs):
    index, rate = inputs
    images = jax.lax.dynamic_index_in_dim(blocks.images, index % count, keepdims=False)
    grads = jax.grad(lambda p: cross_entropy(apply(p, images), labels))(params)
    return jax.tree.map(lambda p, g: p - rate * g, params, grads), None

  return jax.lax.scan(step, params, (jnp.arange(len(rates)), rates))[0]


def meta_loss(
  apply: Apply, params: Any, blocks: Blocks, labels: jax.Array, real: jax.Array, real_labels: jax.Array
) -> tuple[jax.Array, Any]:
  """(cross entropy of the trained network on a real batch, its params); differentiate with respect to `blocks`.

  Source: the outer loss of DD (Wang et al., 2018).
  """
  final = train_through(apply, params, blocks, labels)
  return cross_entropy(apply(final, real), real_labels), final


def meta_gradient(
  apply: Apply,
  params: Any,
  blocks: Blocks,
  labels: jax.Array,
  poison: Callable[[Any], tuple[jax.Array, jax.Array, Any]],
  valid: jax.Array | None = None,
) -> tuple[jax.Array, Blocks, Any, Any]:
  """Exact gradient of the outer loss where the real batch may depend on the trained network (DOORPING).

  Source: DD (Wang et al., 2018); DOORPING's place in it as in the authors' code.

  Args:
    apply: (params, images) -> logits.
    params: start of the inner training.
    blocks: see Blocks.
    labels: of every block.
    poison: trained params -> (real images, labels, anything); constant for the gradient.
    valid: [batch], 1 for real images that count; None: all.

  Returns:
    (loss, gradient, trained params, the third output of `poison`).
  """

  def objective(blocks):
    final = train_through(apply, params, blocks, labels)
    real, real_labels, extra = poison(jax.lax.stop_gradient(final))
    loss = cross_entropy(apply(final, jax.lax.stop_gradient(real)), real_labels, valid)
    return loss, (final, extra)

  (loss, (final, extra)), gradient = jax.value_and_grad(objective, has_aux=True)(blocks)
  return loss, gradient, final, extra


def meta_optimizer(
  rate: float = 0.01, b1: float = 0.5, b2: float = 0.999, decay_epochs: int = 40, epoch_steps: int = 1
) -> optax.GradientTransformation:
  """Adam whose rate halves every `decay_epochs`; the first batch of an epoch still has the rate of the one before.

  Args:
    rate: at the start.
    b1: decay of the first moment.
    b2: decay of the second.
    decay_epochs: epochs between halvings.
    epoch_steps: iterations per epoch.
  """

  def schedule(step):
    epoch, within = step // epoch_steps, step % epoch_steps
    return rate * 0.5 ** ((epoch + (within > 0)) // decay_epochs)

  return optax.adam(schedule, b1=b1, b2=b2, eps=1e-8)
