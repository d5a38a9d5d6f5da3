"""The parity staircase: networks of every depth on labels of every planted order, vmapped into one program.

A network of L linear layers is a polynomial of degree L + 1, so it can learn parity of order p only if L >= p - 1;
every other cell of the grid stays at chance.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxpapers.engine import Supervised, TrainState, supervised
from jaxpapers.xdeepint import metrics
from jaxpapers.xdeepint.evaluation import joined
from jaxpapers.xdeepint.model import XDeepInt
from jaxpapers.xdeepint.training import mean_loss, replicas


class Grid(NamedTuple):
  """Cells (order, depth), orders outermost.

  Attributes:
    orders: planted orders p.
    depths: numbers of layers L, up to those of the model.
  """

  orders: tuple[int, ...]
  depths: tuple[int, ...]

  def columns(self) -> np.ndarray:
    """Label column of each cell, int32."""
    return np.repeat(np.arange(len(self.orders), dtype=np.int32), len(self.depths))

  def layers(self) -> np.ndarray:
    """Layers of each cell, int32."""
    return np.tile(np.asarray(self.depths, np.int32), len(self.orders))

  def learnable(self) -> np.ndarray:
    """Whether the theory lets a cell learn: [orders, depths] bool."""
    return np.asarray(self.depths) >= np.asarray(self.orders)[:, None] - 1

  def summarize(self, outputs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """AUC and LogLoss of every cell, the worst learnable and the best unlearnable one."""
    logits, labels = joined(outputs)
    out, scores = {}, []
    for cell, (column, layers) in enumerate(zip(self.columns(), self.layers(), strict=True)):
      one = metrics.summary(labels[:, column], logits[cell])
      scores.append((one['auc'], one['logloss']))
      name = f'p{self.orders[column]}_l{layers}'
      out |= {f'auc_{name}': one['auc'], f'logloss_{name}': one['logloss']}
    auc, loss = np.asarray(scores).T.reshape(2, len(self.orders), len(self.depths))
    can = self.learnable()
    out |= {'learnable_auc_min': float(auc[can].min()), 'learnable_logloss_max': float(loss[can].max())}
    if not can.all():
      out['chance_auc_distance'] = float(np.abs(auc[~can] - 0.5).max())
      out['chance_logloss_min'] = float(loss[~can].min())
    return out


def training(
  network: XDeepInt, grid: Grid, optimizer: optax.GradientTransformation, axis_name: str | None = None
) -> Supervised:
  """All cells on the same batches {'ids' [batch, F], 'label' [batch, orders], 'weight' [batch]}.

  `network` is the deepest of the grid; shallower cells switch its last layers off.
  """
  columns, layers = jnp.asarray(grid.columns()), jnp.asarray(grid.layers())

  def make(cell: jax.Array) -> Supervised:
    def loss(logits, batch):
      return mean_loss(logits, {**batch, 'label': batch['label'][:, columns[cell]]})

    return supervised(
      network, loss, optimizer, inputs=lambda batch: (batch['ids'], layers[cell, None]), axis_name=axis_name
    )

  return replicas(make, np.arange(len(columns)), batch_axis=None)


def evaluate(network: XDeepInt, grid: Grid) -> Callable[[TrainState, Mapping[str, jax.Array]], dict[str, jax.Array]]:
  """An evaluation step: {'logits' [cells, batch], 'label' [batch, orders], 'valid' [batch]}."""
  layers = jnp.asarray(grid.layers())

  def step(state: TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    logits = jax.vmap(lambda s, depth: network.apply(s.variables(), batch['ids'], depth))(state, layers)
    return {'logits': logits, 'label': batch['label'], 'valid': batch['valid']}

  return step


def draw(page: Any, grid: Grid, bayes: tuple[float, float]) -> None:
  """Heat map and table of the staircase."""
  final = page.final['staircase']
  auc = np.array([[final[f'test/auc_p{p}_l{d}'] for d in grid.depths] for p in grid.orders])
  page.heading('Parity staircase')
  page.text(
    'Rows: order of the planted parity. Columns: interaction layers. Depth L can learn order p only if L >= p - 1. '
    f'The best possible AUC is {bayes[0]:.4f}, the best possible LogLoss {bayes[1]:.4f}; chance is 0.5 and 0.6931.'
  )
  figure, axes = plt.subplots(figsize=(1.2 + len(grid.depths), 1.0 + 0.8 * len(grid.orders)))
  image = axes.imshow(auc, vmin=0.5, vmax=1.0, cmap='viridis')
  for row, column in np.ndindex(auc.shape):
    shade = 'white' if auc[row, column] < 0.75 else 'black'
    axes.text(column, row, f'{auc[row, column]:.3f}', ha='center', va='center', color=shade)
  axes.set_xticks(range(len(grid.depths)), [str(d) for d in grid.depths])
  axes.set_yticks(range(len(grid.orders)), [str(p) for p in grid.orders])
  axes.set(xlabel='interaction layers L', ylabel='planted order p')
  figure.colorbar(image, label='test AUC')
  page.figure('staircase', figure, 'Test AUC of every depth on every planted order.')
  plt.close(figure)
  rows = [
    [f'p = {p}, L = {d}', final[f'test/auc_p{p}_l{d}'], final[f'test/logloss_p{p}_l{d}'], bool(can)]
    for p, line in zip(grid.orders, grid.learnable(), strict=True)
    for d, can in zip(grid.depths, line, strict=True)
  ]
  page.table(['cell', 'AUC', 'LogLoss', 'can learn'], rows)
