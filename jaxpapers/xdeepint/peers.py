"""The baselines beside DeepCTR-Torch, and xDeepInt's step beside eager PyTorch, on batches of equal rows.

For `launch/benchmark.py --peer=deepctr_torch` and `--peer=torch`, with `--config.seeds=1`. DeepCTR-Torch has no
xDeepInt. PyTorch has no FTRL either: its step here rewrites whole tables, as the authors' program does.
"""

import importlib.util
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement, median_seconds
from jaxpapers.xdeepint import data
from jaxpapers.xdeepint.baselines import DcnV2, Dnn
from jaxpapers.xdeepint.embeddings import Fields, global_ids
from jaxpapers.xdeepint.experiment import BASELINE_RATES, experiment
from jaxpapers.xdeepint.model import PinHead, XDeepInt
from jaxpapers.xdeepint.optimizers import GroupFtrl

# Stage -> DeepCTR-Torch's model of the same function.
DEEPCTR = {'lr': 'WDL wide', 'fm': 'FM of DeepFM', 'dnn': 'WDL deep', 'dcnv2': 'DCN matrix'}


class Batches(NamedTuple):
  """What a run sees first.

  Attributes:
    fields: of the data set.
    train: {'ids' [batch, F], 'label' [batch]} of the first step.
    check: likewise, of the first evaluation.
    evaluation: its name.
  """

  fields: Fields
  train: Mapping[str, np.ndarray]
  check: Mapping[str, np.ndarray]
  evaluation: str


def first_batches(config: ml_collections.ConfigDict) -> Batches:
  """Batches of the settings.

  Raises:
    UserError: for several seeds, of which a step of ours trains all, or settings without an xDeepInt stage.
  """
  if config.seeds != 1:
    raise UserError('A peer trains one network: use --config.seeds=1.')
  stage = experiment(config).stages[0]
  if stage.name != 'xdeepint':
    raise UserError(f'The variant {config.variant!r} has nothing to compare; use one with clicks, such as default.')
  evaluation = stage.evaluations[0]
  fields = data.load(config.data.dataset, config.data.dir).fields
  return Batches(fields, stage.batch(0), next(iter(evaluation.batches())), evaluation.name)


def deepctr_library() -> types.SimpleNamespace:
  """PyTorch, DeepCTR-Torch's models and its description of a field.

  Raises:
    UserError: if DeepCTR-Torch is not installed.
  """
  if importlib.util.find_spec('deepctr_torch') is None:
    raise UserError('--peer=deepctr_torch needs DeepCTR-Torch: pip install -e ".[bench]".')
  # On import it asks the package index for its newest version, without a time limit, by a library it does not require.
  sys.modules['deepctr_torch.utils'] = types.SimpleNamespace(check_version=lambda version: None)
  try:
    import torch
    from deepctr_torch import models
    from deepctr_torch.inputs import SparseFeat
  except ImportError as error:
    raise UserError(f'DeepCTR-Torch cannot be imported: {error}.') from error
  finally:
    del sys.modules['deepctr_torch.utils']
  return types.SimpleNamespace(torch=torch, models=models, SparseFeat=SparseFeat)


def deepctr_model(library: types.SimpleNamespace, stage: str, fields: Fields, size: int, device: str = 'cpu') -> Any:
  """DeepCTR-Torch's model of our baseline `stage`, of equal sizes and without penalties.

  Its fields have one level more than ours, 0, for a missing value.
  """
  columns = [library.SparseFeat(f'f{i}', levels + 1, size) for i, levels in enumerate(fields.sizes)]
  plain = {'l2_reg_linear': 0, 'l2_reg_embedding': 0, 'device': device}
  models = library.models
  return {
    'lr': lambda: models.WDL(columns, [], (), **plain),
    'fm': lambda: models.DeepFM(columns, columns, dnn_hidden_units=(), **plain),
    'dnn': lambda: models.WDL([], columns, Dnn.widths, **plain),
    'dcnv2': lambda: models.DCN([], columns, DcnV2.cross_layers, 'matrix', DcnV2.widths, l2_reg_cross=0, **plain),
  }[stage]()


def deepctr_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """The models of DEEPCTR that are among `config.baselines`: a step as `fit` takes it, with Adam as ours, and a pass.

  Its loss is the sum over the batch, ours the mean.

  Args:
    config: the room's settings, with one seed.
    repeats: timed calls.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if DeepCTR-Torch is not installed, and as `first_batches`.
  """
  library = deepctr_library()
  torch, given = library.torch, first_batches(config)
  device = _prepare(torch, threads)
  ids, check = (torch.tensor(b['ids'] + 1, dtype=torch.float32, device=device) for b in (given.train, given.check))
  labels = torch.tensor(given.train['label'], device=device)
  rows = []
  for stage in config.baselines:
    model = deepctr_model(library, stage, given.fields, config.model.embedding_size, device)
    model.compile(torch.optim.Adam(model.parameters(), BASELINE_RATES[stage]), 'binary_crossentropy')

    def train(model=model) -> None:
      predicted = model(ids).squeeze(-1)
      model.optim.zero_grad()
      loss = model.loss_func(predicted, labels, reduction='sum')
      (loss + model.get_regularization_loss() + model.aux_loss).backward()
      model.optim.step()

    def infer(model=model) -> None:
      with torch.inference_mode():
        model(check)

    name = f'DeepCTR {DEEPCTR[stage]}'
    model.train()
    rows.append(_measured(torch, device, f'{name} train', len(ids), train, repeats, f'{stage} train'))
    model.eval()
    rows.append(_measured(torch, device, f'{name} eval', len(check), infer, repeats, f'{stage} {given.evaluation}'))
  return rows


class EagerXDeepInt:
  """xDeepInt in eager PyTorch: whole tables by group FTRL, kernels and output weights by FTRL. Linear, residual form.

  Attributes:
    weights: tensors [table, kernels, out_kernel, out_bias] that a step replaces the values of.
  """

  def __init__(
    self,
    torch: types.ModuleType,
    params: Mapping[str, Any],
    sub_spaces: int,
    table: GroupFtrl,
    dense: Mapping[str, float],
    device: str = 'cpu',
  ):
    """`params` are those of `XDeepInt`, `dense` the arguments of `optimizers.ftrl`."""
    self.torch, self.sub_spaces, self.table, self.dense = torch, sub_spaces, table, dense
    values = [params['embedding']['table'], *(params['pin'][k] for k in ('kernels', 'out_kernel', 'out_bias'))]
    # One row more: a missing value, zero and without gradient.
    values[0] = np.pad(values[0], ((0, 1), (0, 0)))
    self.weights = [torch.tensor(np.asarray(v), device=device, requires_grad=True) for v in values]
    start = [0.0] + [dense['initial_accumulator']] * 3
    self.n = [torch.full_like(w, value, requires_grad=False) for w, value in zip(self.weights, start, strict=True)]
    self.z = [torch.zeros_like(w, requires_grad=False) for w in self.weights]

  def logits(self, ids: Any) -> Any:
    """Global ids [batch, F], the last row for a missing value -> logits [batch]."""
    torch = self.torch
    table, kernels, out_kernel, out_bias = self.weights
    x = torch.nn.functional.embedding(ids, table, padding_idx=len(table) - 1)
    batch, fields, size = x.shape
    h, piece = self.sub_spaces, size // self.sub_spaces
    z = x.view(batch, fields, h, piece).transpose(1, 2).reshape(batch, h * fields, piece)
    block = z
    for kernel in kernels:
      block = block * (1 + torch.einsum('bic,ij->bjc', z, kernel))
    block = block.view(batch, h, fields, piece).transpose(1, 2).reshape(batch, fields, size)
    return (torch.einsum('bfk,f->bk', block, out_kernel[:, 0]) + out_bias).sum(1)

  def step(self, ids: Any, labels: Any) -> None:
    """Both optimizers on the gradients of the loss summed over the batch."""
    torch = self.torch
    loss = torch.nn.functional.binary_cross_entropy_with_logits(self.logits(ids), labels, reduction='sum')
    grads = torch.autograd.grad(loss, self.weights)
    with torch.no_grad():
      for i, (w, n, z, g) in enumerate(zip(self.weights, self.n, self.z, grads, strict=True)):
        root, rate = n.sqrt(), self.dense['learning_rate'] if i else self.table.alpha
        n += g * g
        z += g - (n.sqrt() - root) / rate * w
        w.copy_(self._dense_weights(n, z) if i else self._table_weights(n, z))

  def _table_weights(self, n: Any, z: Any) -> Any:
    o, torch = self.table, self.torch
    threshold = o.lambda1 * z.shape[1] ** 0.5
    norm = z.norm(dim=1, keepdim=True)
    shrunk = -(1 - threshold / norm) * z / ((o.beta + n.sqrt()) / o.alpha + o.lambda2)
    return torch.where(norm > threshold, shrunk, 0.0)

  def _dense_weights(self, n: Any, z: Any) -> Any:
    o, torch = self.dense, self.torch
    moved = (z.sign() * o['l1'] - z) / (n.sqrt() / o['learning_rate'] + 2 * o['l2'])
    return torch.where(z.abs() > o['l1'], moved, 0.0)


def torch_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """xDeepInt's step and a pass in eager PyTorch, from the same initial weights.

  Args:
    config: the room's settings, with one seed.
    repeats: timed calls.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if PyTorch is not installed, for a block that is not linear, residual and without dropout, and as
      `first_batches`.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError('--peer=torch needs PyTorch: pip install -e ".[torch]".') from error
  options = config.model
  if (options.activation, options.output, config.table.prox) != ('linear', 'product', 'published') or options.dropout:
    raise UserError("--peer=torch times the published form: model.activation='linear', model.output='product'.")
  given = first_batches(config)
  device = _prepare(torch, threads)
  model = XDeepInt(given.fields, options.embedding_size, PinHead(options.layers, options.sub_spaces))
  params = jax.jit(lambda ids: model.init(jax.random.key(config.seed), ids)['params'])(given.train['ids'][:1])
  table = GroupFtrl(**config.table.to_dict())
  eager = EagerXDeepInt(torch, params, options.sub_spaces, table, config.dense.to_dict(), device)
  ids, check = (eager_ids(torch, b['ids'], given.fields, device) for b in (given.train, given.check))
  labels = torch.tensor(given.train['label'], device=device)

  def infer() -> None:
    with torch.inference_mode():
      eager.logits(check)

  train = _measured(
    torch, device, 'torch xDeepInt train', len(ids), lambda: eager.step(ids, labels), repeats, 'xdeepint train'
  )
  beside = f'xdeepint {given.evaluation}'
  return [train, _measured(torch, device, 'torch xDeepInt eval', len(check), infer, repeats, beside)]


def eager_ids(torch: types.ModuleType, ids: np.ndarray, fields: Fields, device: str = 'cpu') -> Any:
  """Field-local ids [batch, F], -1 missing -> what `EagerXDeepInt` takes."""
  return torch.tensor(np.asarray(global_ids(jnp.asarray(ids), fields)), dtype=torch.long, device=device)


def _prepare(torch: types.ModuleType, threads: int) -> str:
  """The device, with the number of threads set."""
  if threads:
    torch.set_num_threads(threads)
  return 'cuda:0' if torch.cuda.is_available() else 'cpu'


def _measured(
  torch: types.ModuleType,
  device: str,
  name: str,
  examples: int,
  call: Callable[[], None],
  repeats: int,
  beside: str,
) -> Measurement:
  def finished() -> None:
    call()
    if device != 'cpu':
      torch.cuda.synchronize()

  return Measurement(name, examples, median_seconds(finished, repeats), beside=beside)


PEERS: dict[str, Callable[..., list[Measurement]]] = {'deepctr_torch': deepctr_peer, 'torch': torch_peer}
