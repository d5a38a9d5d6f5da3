"""Pictures and tables of a distillation run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpapers.reliant import figures, group_figures, metrics, proxy_figures
from jaxpapers.reliant.data import Dataset
from jaxpapers.reliant.evaluation import scores
from jaxpapers.reliant.figures import TITLES, label_gap
from jaxpapers.reliant.replicas import Grid


class Context(NamedTuple):
  """What the pictures need beside the states.

  Attributes:
    sets: data of each seed, or one for all.
    grids: replicas of each stage.
    predictions: stage -> ((state, batch) -> probabilities [R, N, C], batch).
    replaced: names of the columns that proxies overwrite, or ().
    epochs: in one step of the engine.
    moments: epochs at which the proxies were kept, or ().
  """

  sets: Sequence[Dataset]
  grids: Mapping[str, Grid]
  predictions: Mapping[str, tuple[Callable, Any]]
  replaced: tuple[str, ...]
  epochs: int
  moments: tuple[int, ...]


def draw(states: Mapping[str, Any], page: Any, context: Context) -> None:
  """Everything; histograms and proxies are those of the first seed."""
  probabilities = {
    name: np.asarray(jax.jit(predict)(states[name], batch)) for name, (predict, batch) in context.predictions.items()
  }
  found = {name: scores(values, context.sets, context.grids[name]) for name, values in probabilities.items()}
  comparison(page, found, probabilities, context)
  figures.bars(page, found, context.sets)
  figures.front(page, found, context.grids, context.sets)
  figures.curves(page, list(context.grids), context.epochs)
  seeds = context.grids['teacher'].seeds
  group_figures.histograms(page, probabilities, context.sets[0])
  group_figures.confusion(page, probabilities, context.sets, seeds)
  if 'reliant' in states:
    trace = np.asarray(states['reliant'].model_state['trace'])[:seeds]
    proxy_figures.over_training(page, trace, context.moments, context.sets)
  figures.step_polynomial(page)


def comparison(page: Any, found: Mapping[str, Any], probabilities: Mapping[str, np.ndarray], context: Context) -> None:
  """All rows of the ablation, and what RELIANT costs and gains in a sentence."""
  page.heading('Test nodes')
  rows, values = [], {}
  for name, result in found.items():
    grid = context.grids[name]
    for index, point in enumerate(grid.points):
      plain = name in ('teacher', 'vanilla', 'vanilla_without_columns')
      title = TITLES[name] if plain else f'{TITLES[name]}, {point.metric.upper()}, alpha {point.alpha:.4g}'
      cells = [f'{result[m][index].mean():.4f} ± {result[m][index].std():.4f}' for m in result]
      block = slice(index * grid.seeds, (index + 1) * grid.seeds)
      agree = np.mean(
        [metrics.agreement(s, t) for s, t in zip(probabilities[name][block], probabilities['teacher'], strict=True)]
      )
      rows.append([title, *cells, float(agree)])
      values[title] = {m: result[m][index].tolist() for m in result}
  gap_of_labels = label_gap(context.sets)
  seeds = next(iter(context.grids.values())).seeds
  page.table(
    ['model', 'accuracy', 'F1', 'AUC', 'dSP', 'dEO', 'agrees with teacher'],
    rows,
    f'Mean and deviation over {seeds} seeds. The labels themselves have dSP {gap_of_labels:.4f}.',
  )
  if context.replaced:
    page.text(f'Proxies overwrite the columns {" and ".join(context.replaced)}: compare with the row without them.')
  if context.sets[0].note:
    page.text(context.sets[0].note)
  page.results(scores=values, label_gap=gap_of_labels)
  if 'reliant' in found:
    main, vanilla = found['reliant'], found['vanilla']
    metric = 'dsp' if context.grids['reliant'].points[0].metric == 'sp' else 'deo'
    before, after = vanilla[metric][0].mean(), main[metric][0].mean()
    cost = vanilla['accuracy'][0].mean() - main['accuracy'][0].mean()
    page.text(
      f'RELIANT takes {metric} of the vanilla student from {before:.4f} to {after:.4f} and its accuracy down by '
      f'{cost:.4f}; the teacher has {found["teacher"][metric][0].mean():.4f}.'
    )
    if 'penalty_only' in found:
      alone = found['penalty_only']
      page.text(
        f'The penalty alone reaches {alone[metric][0].mean():.4f} at accuracy {alone["accuracy"][0].mean():.4f}, '
        f'RELIANT {after:.4f} at {main["accuracy"][0].mean():.4f}: the difference is what learning the proxies adds.'
      )
