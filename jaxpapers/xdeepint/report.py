"""Pictures and tables of a click run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxpapers.xdeepint import metrics
from jaxpapers.xdeepint.data import Data
from jaxpapers.xdeepint.embeddings import global_ids, take_rows
from jaxpapers.xdeepint.model import PinHead
from jaxpapers.xdeepint.optimizers import GroupFtrl
from jaxpapers.xdeepint.orders import field_contributions
from jaxpapers.xdeepint.training import weights_table

_ROWS = 5000  # test rows that the pictures look at
_COUNTED = 1_000_000  # training rows that level frequencies are counted on


class Settings(NamedTuple):
  """What the pictures need beside the states.

  Attributes:
    data: fields and sources.
    head: the interaction network.
    options: of the tables' optimizer.
    path: lambda1 values of stage `path`; () without it.
    batch_size: examples a step.
    seeds: trainings side by side.
    names: how stages are called in tables.
  """

  data: Data
  head: PinHead
  options: GroupFtrl
  path: tuple[float, ...]
  batch_size: int
  seeds: int
  names: Mapping[str, str]


def draw(states: Mapping[str, Any], page: Any, settings: Settings) -> None:
  """All pictures of a run; those of the model are of its first seed."""
  comparison(page, settings)
  curves(page, settings)
  if settings.path:
    sparsity_path(page, settings.path)
  state = states['xdeepint']
  if not all(x.is_fully_addressable for x in jax.tree.leaves(state)):
    page.text('The weights lie on several hosts: launch/evaluate.py on one host draws their pictures.')
    return
  state = jax.tree.map(np.asarray, state)
  if state.step.ndim:
    state = jax.tree.map(lambda x: x[0], state)
  table = np.asarray(weights_table(state, settings.options))
  rows = settings.data.splits['test'].gather(np.arange(min(_ROWS, len(settings.data.splits['test']))))
  ids = global_ids(jnp.asarray(rows['ids']), settings.data.fields)
  x0 = take_rows(jnp.asarray(table), ids)
  pin = state.params['pin']
  logits = np.asarray(settings.head.apply({'params': pin}, x0))
  reliability(page, rows['label'], logits)
  kernel_maps(page, pin['kernels'], settings)
  if settings.head.output == 'product' and settings.head.act == 'linear':
    parts = np.asarray(field_contributions(x0, pin['kernels'], pin['out_kernel'], settings.head.sub_spaces))
    orders(page, parts, float(pin['out_bias'][0]) * x0.shape[2], logits, rows, settings)
  norms(page, table, settings)


def comparison(page: Any, settings: Settings) -> None:
  """Test metrics of every model, over the seeds."""
  page.heading('Test set')
  rows = []
  for stage, name in settings.names.items():
    final = page.final.get(stage, {})
    if 'test/auc' in final:
      sd = [final.get(f'test/{m}_sd') for m in ('auc', 'logloss')]
      values = [
        f'{final[f"test/{m}"]:.4f}' + (f' ± {s:.4f}' if s is not None else '')
        for m, s in zip(('auc', 'logloss'), sd, strict=True)
      ]
      rows.append([name, *values, final['test/nce'], final['test/calibration']])
  caption = f'Mean and standard deviation over {settings.seeds} seeds.' if settings.seeds > 1 else 'One seed.'
  page.table(['model', 'AUC', 'LogLoss', 'NCE', 'calibration'], rows, caption)


def curves(page: Any, settings: Settings) -> None:
  """LogLoss and AUC against examples seen; zeros against examples seen."""
  figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
  thousands = settings.batch_size / 1000.0
  steps, loss = page.history('xdeepint', 'loss')
  axes[0].plot(np.asarray(steps) * thousands, loss, color='C0', alpha=0.4, lw=1, label='xDeepInt, training batches')
  for index, (stage, name) in enumerate(settings.names.items()):
    for axis, metric in ((axes[0], 'valid/logloss'), (axes[1], 'valid/auc')):
      steps, values = page.history(stage, metric)
      if steps:
        axis.plot(np.asarray(steps) * thousands, values, color=f'C{index}', marker='o', ms=3, label=name)
  for metric, label in (('zero_seen', 'table rows seen'), ('zero_rows', 'all table rows'), ('zero_kernels', 'kernels')):
    steps, values = page.history('xdeepint', f'tables/{metric}')
    axes[2].plot(np.asarray(steps) * thousands, values, marker='o', ms=3, label=label)
  for axis, title in zip(axes, ('LogLoss', 'validation AUC', 'share of exact zeros'), strict=True):
    axis.set(xlabel='thousand examples seen', title=title)
    if axis.lines:
      axis.legend(fontsize=7)
  page.figure('curves', figure, 'Training and validation against examples seen, and sparsity over time.')
  plt.close(figure)


def sparsity_path(page: Any, path: tuple[float, ...]) -> None:
  """Test LogLoss against the share of zero rows, for every lambda1."""
  final = page.final['path']
  names = [f'{value:g}' for value in path]
  rows = [
    [
      float(n),
      final[f'tables/zero_seen_{n}'],
      final[f'tables/zero_kernels_{n}'],
      final[f'test/logloss_{n}'],
      final[f'test/auc_{n}'],
    ]
    for n in names
  ]
  page.heading('Sparsity path')
  page.table(['lambda1', 'zero rows among seen', 'zero kernel entries', 'LogLoss', 'AUC'], rows)
  figure, axis = plt.subplots(figsize=(5, 3.6))
  axis.plot([row[1] for row in rows], [row[3] for row in rows], marker='o')
  for row, name in zip(rows, names, strict=True):
    axis.annotate(name, (row[1], row[3]), textcoords='offset points', xytext=(4, 4), fontsize=8)
  axis.set(xlabel='share of zero rows among those seen', ylabel='test LogLoss')
  page.figure('sparsity_path', figure, 'What selecting fewer levels costs; numbers are lambda1.')
  plt.close(figure)


def reliability(page: Any, labels: np.ndarray, logits: np.ndarray) -> None:
  """Observed rate against predicted rate."""
  predicted, observed, _ = metrics.reliability(labels, 1.0 / (1.0 + np.exp(-logits.astype(np.float64))))
  figure, axis = plt.subplots(figsize=(4, 4))
  axis.plot([0, 1], [0, 1], color='grey', lw=1)
  axis.plot(predicted, observed, marker='o')
  axis.set(xlabel='mean prediction', ylabel='observed rate')
  page.figure('reliability', figure, 'Ten groups of test rows with like predictions.')
  plt.close(figure)


def kernel_maps(page: Any, kernels: np.ndarray, settings: Settings) -> None:
  """Norm of every field pair's block of every kernel."""
  fields, h = settings.data.fields, settings.head.sub_spaces
  layers = len(kernels)
  if not layers:
    return
  blocks = np.asarray(kernels).reshape(layers, h, len(fields), h, len(fields))
  norms_ = np.sqrt(np.square(blocks).sum(axis=(1, 3)))
  size = 1.5 + 0.16 * len(fields)
  figure, axes = plt.subplots(1, layers, figsize=(layers * size + 1.5, size + 1.2), squeeze=False, layout='constrained')
  for index, axis in enumerate(axes[0]):
    image = axis.imshow(norms_[index], vmin=0, vmax=norms_.max() or 1.0, cmap='magma')
    axis.set_title(f'layer {index + 1}')
    axis.set_xticks(range(len(fields)), fields.names, rotation=90, fontsize=6)
    axis.set_yticks(range(len(fields)), fields.names if index == 0 else [''] * len(fields), fontsize=6)
  figure.colorbar(image, ax=axes[0], label='norm of the block')
  page.figure('kernels', figure, 'Which field (row) acts on which field (column): block norms of the kernels.')
  plt.close(figure)


def orders(page: Any, parts: np.ndarray, bias: float, logits: np.ndarray, rows: Mapping, settings: Settings) -> None:
  """Exact split of the logits by order, and of one record's logit; `parts` is [rows, orders, F]."""
  by_order = parts.sum(axis=2)
  variances = np.var(by_order, axis=0)
  page.heading('Interaction orders')
  page.table(
    ['order', 'variance of its part of the logit', 'mean size'],
    [[j + 1, float(v), float(np.abs(by_order[:, j]).mean())] for j, v in enumerate(variances)],
    'The parts and the bias add up to the logit exactly.',
  )
  names, count = settings.data.fields.names, parts.shape[1]
  figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
  bottom = np.zeros(len(names))
  for j in range(count):
    height = np.var(parts[:, j], axis=0)
    left.bar(range(len(names)), height, bottom=bottom, label=f'order {j + 1}')
    bottom += height
  left.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
  left.set_title('variance of the logit by root field and order')
  left.legend(fontsize=8)
  row = int(np.argmax(optax.sigmoid_binary_cross_entropy(jnp.asarray(logits), jnp.asarray(rows['label']))))
  steps = np.concatenate([[bias], by_order[row]])
  ends = np.cumsum(steps)
  colors = ['tab:blue' if s >= 0 else 'tab:red' for s in steps]
  right.bar(range(len(steps)), steps, bottom=ends - steps, color=colors)
  right.bar(len(steps), ends[-1], color='grey')
  right.set_xticks(range(len(steps) + 1), ['bias', *(f'order {j + 1}' for j in range(count)), 'logit'], fontsize=8)
  right.axhline(0, color='black', lw=0.6)
  right.set_title(f'the record with the largest loss (label {int(rows["label"][row])})')
  page.figure('orders', figure, 'Where the logit comes from: all test rows, and one record step by step.')
  plt.close(figure)


def norms(page: Any, table: np.ndarray, settings: Settings) -> None:
  """Norm of every embedding against the frequency of its level."""
  fields, source = settings.data.fields, settings.data.splits['train']
  counts = np.zeros(fields.rows, np.int64)
  for start in range(0, min(len(source), _COUNTED), 1 << 16):
    ids = source.gather(np.arange(start, min(start + (1 << 16), len(source), _COUNTED)))['ids']
    known = ids >= 0
    counts += np.bincount((ids + fields.offsets)[known], minlength=fields.rows)
  size, seen = np.linalg.norm(table[: fields.rows], axis=1), counts > 0
  shown = np.flatnonzero(seen)
  if len(shown) > 20_000:
    shown = np.random.default_rng(0).choice(shown, 20_000, replace=False)
  zero = size[shown] == 0
  figure, axis = plt.subplots(figsize=(5.5, 3.8))
  for mask, color, label in ((~zero, 'tab:blue', 'kept'), (zero, 'tab:orange', 'zero')):
    axis.scatter(counts[shown][mask], size[shown][mask], s=8, alpha=0.5, color=color, label=label)
  axis.set_xscale('log')
  axis.set(xlabel='training rows with the level', ylabel='norm of its embedding')
  axis.legend()
  page.figure('norms', figure, 'Group FTRL keeps the frequent levels and sets rare ones to exactly zero.')
  plt.close(figure)
