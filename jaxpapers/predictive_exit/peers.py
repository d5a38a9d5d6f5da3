"""Policies as Python loops, and the default's network in eager PyTorch.

For `launch/benchmark.py --peer=loop` and `--peer=torch`, the latter with `--config.seeds=1`.
"""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement, median_seconds
from jaxpapers.predictive_exit import benchmarks, data, engines, loops, scores
from jaxpapers.predictive_exit.experiment import experiment
from jaxpapers.predictive_exit.model import network
from jaxpapers.predictive_exit.torch_network import torch_network

_THRESHOLDS, _WALKS = 4, 1000  # that a call of a loop looks at


def loop_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """The sweep of `benchmarks` at a few of its thresholds and the official walk of a few of its samples, in loops.

  Over arrays as one writes them first, and over lists of numbers, which Python is far faster with.

  Args:
    config: not used.
    repeats: timed calls, three at most: a loop takes seconds, and varies little.
    threads: not used: a loop has one.
  """
  del config, threads
  found, repeats = benchmarks.given(), min(repeats, 3)
  places = np.linspace(0, len(found.thetas) - 1, _THRESHOLDS).astype(int)
  count = len(places) * len(found.test.labels)
  few = found._replace(test=jax.tree.map(lambda x: x[:_WALKS], found.test))
  calls = {
    'sweep, loops over arrays': (looped_sweep(found, places, lists=False), count, benchmarks.SWEEP),
    'sweep, loops over lists': (looped_sweep(found, places), count, benchmarks.SWEEP),
    'official walk, loops over lists': (looped_walk(few), _WALKS, benchmarks.WALK),
  }
  return [
    Measurement(name, examples, median_seconds(call, repeats), beside=beside)
    for name, (call, examples, beside) in calls.items()
  ]


def looped_sweep(
  found: benchmarks.Given, places: np.ndarray, lists: bool = True
) -> Callable[[], dict[str, list[loops.Row]]]:
  """A call of `loops.sweep` at the thresholds `places`; scores and bin edges are computed before."""
  sets = []
  for table in (found.calibration, found.test):
    right = np.argmax(table.logits, axis=-1) == table.labels[:, None]
    sets.append(loops.Known(np.asarray(scores.max_prob(table.logits)), right))
  edges = engines.score_edges(scores.max_prob(found.calibration.logits), benchmarks.BINS)
  thetas, work = np.asarray(found.thetas)[places], found.costs
  arrays = (*sets, thetas, edges, benchmarks.Q, work.segment_macs, work.head_macs)
  arguments = jax.tree.map(lambda x: np.asarray(x).tolist() if lists else np.asarray(x), arrays)
  return lambda: loops.sweep(*arguments)


def looped_walk(found: benchmarks.Given) -> Callable[[], list[tuple[int, list[int], int]]]:
  """A call of `loops.official_walk` on the samples of `found.test`."""
  logits, levels = np.asarray(found.test.logits).tolist(), np.asarray(found.levels).tolist()
  return lambda: loops.official_walk(logits, levels, benchmarks.BETA, benchmarks.START)


def torch_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """Every stage's training step (Adam, noise on digits) and its pass over an evaluation batch, in eager PyTorch.

  Args:
    config: the room's settings, with one seed.
    repeats: timed calls.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if PyTorch is not installed, for several seeds, a frozen backbone, or a network that is not plain.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError('--peer=torch needs PyTorch: pip install -e ".[torch]".') from error
  if config.seeds != 1 or config.freeze_backbone:
    raise UserError('--peer=torch trains one whole network: use --config.seeds=1 --config.freeze_backbone=False.')
  if threads:
    torch.set_num_threads(threads)
  device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  rows = []
  for stage in experiment(config).stages:
    evaluation = stage.evaluations[0]
    train, check = stage.batch(0), next(iter(evaluation.batches()))
    try:
      net = torch_network(torch, network(config.network, data.CLASSES[config.data.name]), train['image'].shape[-1])
    except ValueError as error:
      raise UserError(f'config.network={config.network!r}: {error}') from error
    calls = torch_calls(
      torch,
      net.to(device),
      *(_tensors(torch, batch, device) for batch in (train, check)),
      rate=config[stage.name].learning_rate,
      noise=data.NOISE if config.data.name == 'digits' else 0.0,
      with_exits=stage.name == 'exits',
    )
    for name, batch, call in zip(('train', evaluation.name), (train, check), calls, strict=True):
      shown = name if name == 'train' else 'eval'
      seconds = median_seconds(call, repeats)
      examples = len(batch['label'])
      rows.append(Measurement(f'torch {stage.name} {shown}', examples, seconds, beside=f'{stage.name} {name}'))
  return rows


def _tensors(torch, batch, device):
  images = torch.tensor(np.ascontiguousarray(np.moveaxis(batch['image'], -1, 1)), device=device)
  return images, torch.tensor(batch['label'], dtype=torch.long, device=device)


def torch_calls(
  torch, net, train, check, *, rate: float, noise: float, with_exits: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
  """(a training step on `train`, counting right answers on `check`), both (images, labels), finished on return."""
  optimizer = torch.optim.Adam(net.parameters(), rate)

  def finish() -> None:
    if train[0].is_cuda:
      torch.cuda.synchronize()

  def step() -> None:
    net.train()
    images, labels = train
    if noise:
      images = images + noise * torch.rand(len(images), 1, 1, 1, device=images.device) * torch.randn_like(images)
    logits = net(images, with_exits)
    optimizer.zero_grad(set_to_none=True)
    sum(torch.nn.functional.cross_entropy(logits[:, k], labels) for k in range(logits.shape[1])).backward()
    optimizer.step()
    finish()

  def evaluate() -> None:
    net.eval()
    images, labels = check
    with torch.inference_mode():
      (net(images, with_exits).argmax(-1) == labels[:, None]).sum(0)
    finish()

  return step, evaluate


PEERS: dict[str, Callable[..., list[Measurement]]] = {'loop': loop_peer, 'torch': torch_peer}
