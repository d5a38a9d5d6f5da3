"""RELIANT's GCN teacher beside PyTorch Geometric's, for `launch/benchmark.py --peer=torch_geometric`."""

from collections.abc import Callable

import ml_collections

from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement, median_seconds
from jaxpapers.reliant import data


def torch_geometric_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """One training epoch and one evaluation of a GCN of the teacher's size on the configured graph, float32.

  Ours trains `epochs_per_step` epochs of every seed in one call; a row here is one epoch of one seed.

  Args:
    config: the room's settings; the data set is taken from them.
    repeats: timed calls.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if PyTorch Geometric is not installed.
  """
  try:
    import torch
    from torch_geometric.nn import GCNConv
  except ImportError as error:
    raise UserError('--peer=torch_geometric needs PyTorch Geometric: pip install torch torch_geometric.') from error
  if threads:
    torch.set_num_threads(threads)
  loaded = data.load(config.data.dataset, config.data.dir, seed=config.seed)
  x, labels = torch.from_numpy(loaded.x), torch.from_numpy(loaded.labels).long()
  edges = torch.stack([torch.from_numpy(loaded.senders).long(), torch.from_numpy(loaded.receivers).long()])
  train = torch.from_numpy(loaded.splits.train)

  class Gcn(torch.nn.Module):
    """Three layers, as the teacher."""

    def __init__(self):
      super().__init__()
      widths = (x.shape[1], 64, 64, 2)
      self.layers = torch.nn.ModuleList(
        GCNConv(a, b, add_self_loops=False) for a, b in zip(widths[:-1], widths[1:], strict=True)
      )

    def forward(self, h):
      for index, layer in enumerate(self.layers):
        if index:
          h = torch.nn.functional.dropout(torch.relu(h), 0.8, self.training)
        h = layer(h, edges)
      return h

  model = Gcn()
  optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)

  def epoch() -> None:
    model.train()
    optimizer.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(model(x)[train], labels[train]).backward()
    optimizer.step()
    evaluate()

  def evaluate() -> None:
    model.eval()
    with torch.inference_mode():
      model(x)

  return [
    Measurement('torch_geometric GCN epoch', 1, median_seconds(epoch, repeats)),
    Measurement('torch_geometric GCN eval', 1, median_seconds(evaluate, repeats)),
  ]


PEERS: dict[str, Callable[..., list[Measurement]]] = {'torch_geometric': torch_geometric_peer}
