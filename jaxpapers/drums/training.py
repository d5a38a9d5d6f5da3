"""Fine-tuning: what is trained, its loss, its optimizer, and nats per line as its evaluation."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.data import ArraySource, evaluation_batches
from jaxpapers.drums import lora
from jaxpapers.drums.losses import places_in, token_nats, weighted_mean
from jaxpapers.drums.model import Decoder, Output
from jaxpapers.drums.windows import Examples
from jaxpapers.engine import Evaluation, Supervised, supervised


@dataclasses.dataclass(frozen=True)
class Network:
  """A decoder as `engine.supervised` trains it: all weights, or low-rank updates of frozen ones.

  Attributes:
    decoder: the model.
    vocabulary: [n] sorted ids that the softmax is restricted to, or None.
    base: frozen parameters; then the trained 'params' are their low-rank updates. None trains everything.
    rank: of the updates.
    targets: which weights get one (see `lora.init_lora`).
  """

  decoder: Decoder
  vocabulary: np.ndarray | None = None
  base: Any = None
  rank: int = 8
  targets: str = lora.ATTENTION

  def init(self, rngs: Mapping[str, jax.Array], ids: jax.Array, train: bool = False) -> dict[str, Any]:
    """{'params': what is trained}."""
    if self.base is not None:
      return {'params': lora.init_lora(rngs['params'], self.base, self.rank, self.targets)}
    return self.decoder.init(rngs, ids[:, :1], train=train)

  def apply(self, variables: Mapping[str, Any], ids: jax.Array, **options: Any) -> Output:
    """The decoder's output for `ids` [batch, time]."""
    vocabulary = options.pop('vocabulary', self.vocabulary)
    return self.decoder.apply(self.full(variables), ids, vocabulary=vocabulary, **options)

  def full(self, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's own variables."""
    if self.base is None:
      return dict(variables)
    return {'params': self.base, 'lora': variables['params']}

  def nats(self, logits: jax.Array, ids: jax.Array, full: bool = False) -> jax.Array:
    """[batch, time - 1] losses of `logits` over the restricted vocabulary, or over the full one."""
    restricted = self.vocabulary is not None and not full
    return token_nats(logits, places_in(jnp.asarray(self.vocabulary), ids) if restricted else ids)


def adamw(
  rate: float, steps: int, *, warmup: int, weight_decay: float, final: float = 0.05
) -> optax.GradientTransformation:
  """AdamW with betas 0.9 and 0.95; the rate rises over `warmup` steps and falls to `final` of itself by a cosine."""
  warmup = min(warmup, max(steps - 1, 1))
  schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(steps, warmup + 1), rate * final)
  return optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=weight_decay)


def language_training(
  network: Network,
  optimizer: optax.GradientTransformation,
  *,
  start: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
  accumulate: int = 1,
  axis_name: str | None = None,
) -> Supervised:
  """Token cross-entropy, weighted and normalised by the sum of weights; gradients clipped to norm 1.

  Batches hold `ids` [batch, time] and `weights` [batch, time - 1]. `start` and the rest: see `engine.supervised`.
  """

  def loss(output: Output, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    return weighted_mean(network.nats(output.logits, batch['ids']), batch['weights']), {}

  return supervised(
    network,
    loss,
    optimizer,
    inputs=lambda batch: (batch['ids'],),
    clip_norm=1.0,
    accumulate=accumulate,
    axis_name=axis_name,
    start=start,
  )


def continued(training: Supervised, stage: str) -> Supervised:
  """The same training, started from the final parameters of the earlier `stage`."""

  def init(key: jax.Array, batch: Any, earlier: Mapping[str, Any]) -> Any:
    state = training.init(key, batch, earlier)
    return state.replace(params=jax.tree.map(jnp.copy, earlier[stage].params))

  return Supervised(init, training.step)


def nats_evaluation(
  name: str,
  examples: Examples,
  network: Network,
  batch_size: int,
  every: int = 0,
  variables_of: Callable[[Any], Mapping[str, Any]] = lambda state: state.variables(),
) -> Evaluation:
  """Nats per line over `examples`; with a restricted softmax also over the full vocabulary (`_full_vocabulary`)."""
  restricted = network.vocabulary is not None

  def step(state: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    ids, weights = batch['ids'], batch['weights']
    logits = network.apply(variables_of(state), ids, vocabulary=None).logits
    sums = {}
    if restricted:
      sums['full'] = jnp.sum(network.nats(logits, ids, full=True) * weights, axis=1)
      logits = logits[..., jnp.asarray(network.vocabulary)]
    sums['nats'] = jnp.sum(network.nats(logits, ids) * weights, axis=1)
    return {**sums, 'lines': batch['lines'], 'valid': batch['valid']}

  def summarize(outputs: Iterable[Any]) -> dict[str, float]:
    outputs = list(outputs)
    valid = np.concatenate([o['valid'] for o in outputs])
    lines = np.concatenate([o['lines'] for o in outputs])[valid].sum()
    names = {'nats': 'nats_per_line', 'full': 'nats_per_line_full_vocabulary'}
    return {
      label: float(np.concatenate([o[key] for o in outputs])[valid].astype(np.float64).sum() / lines)
      for key, label in names.items()
      if key in outputs[0]
    }

  return Evaluation(name, evaluation_batches(ArraySource(examples.arrays()), batch_size), step, summarize, every)
