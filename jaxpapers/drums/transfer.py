"""What transfers from language? One network, equal steps, five starting points, several amounts of data and seeds.

The trainings take turns in one stage: run k has the steps k * steps .. (k + 1) * steps - 1, and its first step sets
the state anew. So memory holds one training, and a stopped study goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.data import ArraySource, batches
from jaxpapers.drums.training import Network, language_training
from jaxpapers.drums.windows import Examples
from jaxpapers.engine import Supervised, TrainState

ARMS = ('scratch', 'statistics', 'shuffled_embeddings', 'shuffled_text', 'pretrained')
"""Random weights; random ones with the pre-trained mean and deviation of every tensor; pre-trained ones whose token
embeddings are permuted; pre-trained on text whose words are permuted; pre-trained."""


class Run(NamedTuple):
  """One training of the study.

  Attributes:
    arm: one of ARMS.
    grooves: how many it is trained on.
    seed: of initial values, choice of grooves and order of windows.
  """

  arm: str
  grooves: int
  seed: int


class TransferState(flax.struct.PyTreeNode):
  """The training whose turn it is, and what all start from.

  Attributes:
    training: a TrainState.
    bases: {'pretrained': params, 'shuffled_text': params}, those that the arms need.
  """

  training: TrainState
  bases: Any


def plan(arms: Sequence[str], sizes: Sequence[int], seeds: int) -> list[Run]:
  """All trainings: sizes outermost, then seeds, then arms, so that a stopped study compares like with like.

  Raises:
    ValueError: for an unknown arm, or none.
  """
  unknown = sorted(set(arms) - set(ARMS))
  if unknown or not arms:
    raise ValueError(f'Unknown arms {unknown}; known: {", ".join(ARMS)}.')
  return [Run(arm, size, seed) for size in sizes for seed in range(seeds) for arm in arms]


def match_statistics(key: jax.Array, params: Any) -> Any:
  """Normal weights with the mean and deviation of every tensor of `params`; a layer's tensors are their own."""
  flat = flax.traverse_util.flatten_dict(params)
  result = {}
  for index, (path, value) in enumerate(sorted(flat.items())):
    axes = tuple(range(1, value.ndim)) if path[0] == 'blocks' else None
    mean, deviation = jnp.mean(value, axes, keepdims=True), jnp.std(value, axes, keepdims=True)
    result[path] = mean + deviation * jax.random.normal(jax.random.fold_in(key, index), value.shape)
  return flax.traverse_util.unflatten_dict(result)


def shuffle_embeddings(key: jax.Array, params: Any) -> Any:
  """The same weights with the rows of the token embedding in another order."""
  table = params['tokens']['embedding']
  return {**params, 'tokens': {'embedding': jax.random.permutation(key, table)}}


class TransferBatches:
  """Batch of a step of the study: windows of the first grooves of a permutation that the seed decides."""

  def __init__(
    self, windows: Callable[[Sequence[int]], Examples], runs: Sequence[Run], steps: int, batch_size: int, grooves: int
  ):
    """Plans the data.

    Args:
      windows: numbers of grooves -> examples.
      runs: of the study.
      steps: of each.
      batch_size: windows in a batch.
      grooves: how many there are.

    Raises:
      ValueError: if a run asks for more.
    """
    most = max(run.grooves for run in runs)
    if most > grooves:
      raise ValueError(f'There are {grooves} training grooves, not {most}.')
    self._windows, self._runs, self._steps = windows, list(runs), steps
    self._batch_size, self._grooves = batch_size, grooves
    self._pipelines: dict[tuple[int, int], Any] = {}

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """The arrays of Examples, and `arm` and `seed` of the run for every row."""
    run = self._runs[min(step // self._steps, len(self._runs) - 1)]
    batch = self._pipeline(run.grooves, run.seed)(step % self._steps)
    full = np.full(len(batch['ids']), 1, np.int32)
    return {**batch, 'arm': full * ARMS.index(run.arm), 'seed': full * run.seed}

  def _pipeline(self, size: int, seed: int) -> Any:
    if (size, seed) not in self._pipelines:
      chosen = np.random.default_rng(seed).permutation(self._grooves)[:size]
      source = ArraySource(self._windows(sorted(chosen.tolist())).arrays())
      self._pipelines = {(size, seed): batches(source, seed=seed, batch_size=self._batch_size)}
    return self._pipelines[size, seed]


def transfer_training(
  network: Network,
  optimizer: optax.GradientTransformation,
  steps: int,
  bases: Callable[[Mapping[str, Any]], dict[str, Any]],
  *,
  axis_name: str | None = None,
) -> Supervised:
  """Init and step of the study.

  Args:
    network: trained as a whole.
    optimizer: started anew for every run.
    steps: of a run.
    bases: states of the earlier stages -> TransferState.bases.
    axis_name: see `engine.supervised`.
  """
  inner = language_training(network, optimizer, axis_name=axis_name)

  def begin(start: TrainState, stored: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> TrainState:
    """The state that the run of `batch` starts from; `start` gives shapes."""
    key = jax.random.fold_in(jax.random.key(0), batch['seed'][0])
    pretrained = stored.get('pretrained', start.params)

    def fresh():
      return network.init({'params': key}, batch['ids'][:1])['params']

    branches = [
      fresh,
      lambda: match_statistics(key, pretrained),
      lambda: shuffle_embeddings(key, pretrained),
      lambda: stored.get('shuffled_text', pretrained),
      lambda: pretrained,
    ]
    params = jax.lax.switch(batch['arm'][0], branches)
    return start.replace(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

  def init(key: jax.Array, batch: Mapping[str, jax.Array], earlier: Mapping[str, Any]) -> TransferState:
    # The barrier keeps the compiler from computing statistics of downloaded weights, which are constants here.
    stored = jax.lax.optimization_barrier(jax.tree.map(jnp.copy, bases(earlier)))
    return TransferState(begin(inner.init(key, batch, {}), stored, batch), stored)

  def step(state: TransferState, batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[TransferState, Any]:
    current = jax.lax.cond(
      state.training.step == steps, lambda: begin(state.training, state.bases, batch), lambda: state.training
    )
    trained, metrics = inner.step(current, batch, key)
    return state.replace(training=trained), metrics

  return Supervised(init, step)


def outcomes(runs: Sequence[Run], steps: int, history: tuple[Sequence[int], Sequence[float]]) -> dict[Run, float]:
  """What the evaluation found at the end of every run that is through."""
  found = dict(zip(*history, strict=True))
  return {run: found[(k + 1) * steps] for k, run in enumerate(runs) if (k + 1) * steps in found}
