"""RELIANT's GCN teacher beside PyTorch Geometric's, for `launch/benchmark.py --peer=torch_geometric`."""

from collections.abc import Callable

import ml_collections

from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement, median_seconds
from jaxpapers.reliant.data import Dataset


def geometric_gcn(loaded: Dataset, *, threads: int = 0) -> dict[str, Callable[[], None]]:
  """Calls that run a GCN of the teacher's size on a graph, float32 on CPU, normalisation cached.

  Args:
    loaded: the graph.
    threads: of PyTorch; 0 leaves its default.

  Returns:
    {name: call} of one training epoch with validation, and of one evaluation; once on an edge list (the usual form)
    and once on a sparse CSR matrix.

  Raises:
    UserError: if PyTorch Geometric is not installed.
  """
  try:
    import torch
    from torch_geometric.nn import GCNConv
    from torch_geometric.utils import to_torch_csr_tensor
  except ImportError as error:
    raise UserError('--peer=torch_geometric needs PyTorch Geometric: pip install -e ".[bench]".') from error
  if threads:
    torch.set_num_threads(threads)
  x, labels = torch.from_numpy(loaded.x), torch.from_numpy(loaded.labels).long()
  pairs = torch.stack([torch.from_numpy(loaded.senders).long(), torch.from_numpy(loaded.receivers).long()])
  train = torch.from_numpy(loaded.splits.train)

  class Gcn(torch.nn.Module):
    """Three layers, as the teacher."""

    def __init__(self):
      super().__init__()
      widths = (x.shape[1], 64, 64, 2)
      self.layers = torch.nn.ModuleList(
        GCNConv(a, b, add_self_loops=False, cached=True) for a, b in zip(widths[:-1], widths[1:], strict=True)
      )

    def forward(self, h, edges):
      for index, layer in enumerate(self.layers):
        if index:
          h = torch.nn.functional.dropout(torch.relu(h), 0.8, self.training)
        h = layer(h, edges)
      return h

  def calls(edges) -> tuple[Callable[[], None], Callable[[], None]]:
    model = Gcn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)

    def evaluate() -> None:
      model.eval()
      with torch.inference_mode():
        model(x, edges)

    def epoch() -> None:
      model.train()
      optimizer.zero_grad(set_to_none=True)
      torch.nn.functional.cross_entropy(model(x, edges)[train], labels[train]).backward()
      optimizer.step()
      evaluate()

    # What is cached first must not be an inference tensor, through which no gradient can flow.
    epoch()
    return epoch, evaluate

  found = {}
  # The graph is symmetric, so that its matrix is its own transpose.
  for form, edges in (('edges', pairs), ('CSR', to_torch_csr_tensor(pairs, size=(len(x), len(x))))):
    found[f'PyG GCN epoch, {form}'], found[f'PyG GCN eval, {form}'] = calls(edges)
  return found


def torch_geometric_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """The calls of `geometric_gcn` on the configured graph, that of the first seed where each has its own.

  Ours trains `epochs_per_step` epochs of every seed in one call (one of one seed in the variant `benchmark`).

  Args:
    config: the room's settings; the data set is taken from them.
    repeats: timed calls.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if PyTorch Geometric is not installed.
  """
  from jaxpapers.reliant.experiment import datasets

  calls = geometric_gcn(datasets(config)[0], threads=threads)
  # One of our steps is `epochs_per_step` epochs of every seed.
  beside = {'epoch': 'teacher train', 'eval': 'teacher test'} if config.seeds == config.epochs_per_step == 1 else {}
  return [
    Measurement(name, 1, median_seconds(call, repeats), beside=beside.get(name.split(',')[0].split()[-1], ''))
    for name, call in calls.items()
  ]


PEERS: dict[str, Callable[..., list[Measurement]]] = {'torch_geometric': torch_geometric_peer}
