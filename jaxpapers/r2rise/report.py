"""The report of a run: what was asked, tables and pictures, from `Results`."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.r2rise import figures
from jaxpapers.r2rise.filmstrip import filmstrip_figure
from jaxpapers.r2rise.importance import importance_map
from jaxpapers.r2rise.results import LearnerResult, Results
from jaxpapers.r2rise.statistics import correlation, discoveries, top_overlap, truth_scores

_SHIFT = 100.0  # added to every return to show which estimators notice


def draw(results: Results, page: Any) -> None:
  """All tables and pictures of a run.

  Args:
    results: what was found.
    page: `engine.Report`, or what has its `heading`, `text`, `table` and `figure`.
  """
  label = results.estimator.replace('_', ' ')
  page.heading('Summary')
  page.table(*summary_table(results))
  page.text(
    f'{results.environment}, {results.demos.episodes} trajectories of up to {results.demos.length} frames in cells of '
    f'{results.block}; every mask keeps a cell with probability {results.keep:g}, a fresh learner is trained on what '
    "is kept, and its mean return is the mask's. A frame that shows earlier frames (a stack, a trail) shows them even "
    'where those are masked.'
  )
  page.heading('1. Are frames equally important?')
  _show(page, 'returns', figures.returns_figure(results.learners), 'Mean returns of all masks.')
  for learner in results.learners:
    _maps(page, learner, results, label)
  page.heading('2. Does the map find the important frames?')
  _curves(page, results)
  _settling(page, results)
  if results.truth is not None:
    _truth(page, results)
  page.heading('3. Do learners agree?')
  _agreement(page, results)


def summary_table(results: Results) -> tuple[list[str], list[list[Any]]]:
  """(header, a row per learner) of what was found."""
  header = ['learner', 'seeds', 'masks', 'mean return', 'sd', 'p of equality', 'reliability', 'cells found']
  with_truth = results.truth is not None
  rows = []
  for learner in results.learners:
    returns = learner.returns[np.isfinite(learner.returns)]
    found = int(discoveries(learner.importance).sum()) if np.isfinite(learner.importance.error).any() else None
    last = learner.reliability.reliability[:, -1]
    row = [learner.name, len(learner.returns), returns.size, float(returns.mean()), float(returns.std(ddof=1))]
    row += [learner.equality.p_value, float(last.mean()), found]
    rows.append(row + ([_spread(learner.auc)] if with_truth else []))
  return header + (['AUC'] if with_truth else []), rows


def ranking_convergence(masks: np.ndarray, returns: np.ndarray, counts: np.ndarray, estimator: str) -> np.ndarray:
  """How the ranking settles: the maps of the first masks beside that of all.

  Args:
    masks: [N, E, C].
    returns: [N], NaN for masks that were not trained.
    counts: [K] numbers of masks.
    estimator: of the maps.

  Returns:
    [K, 2] Spearman's correlation with the final map, and Jaccard index of the top fifths; NaN where there are too few.
  """
  trained = np.isfinite(returns)
  masks, returns = masks[trained], returns[trained]
  final = importance_map(masks, returns, estimator).value
  top = max(1, round(0.2 * final.size))
  rows = np.full((len(counts), 2), np.nan)
  for index, count in enumerate(counts):
    if 2 <= count <= len(returns):
      value = importance_map(masks[:count], returns[:count], estimator).value
      rows[index] = correlation(value, final), top_overlap(value, final, top)
  return rows


def _show(page: Any, name: str, figure: plt.Figure, caption: str) -> None:
  page.figure(name, figure, caption)
  plt.close(figure)


def _spread(values: np.ndarray | None) -> str | None:
  if values is None:
    return None
  return f'{values.mean():.3f}' + (f' ± {values.std(ddof=1):.3f}' if len(values) > 1 else '')


def _maps(page: Any, learner: LearnerResult, results: Results, label: str) -> None:
  caption = f'{learner.name}: what the return gains when a cell is kept ({label}). '
  if np.isfinite(learner.importance.error).any():
    caption += (
      'Hatched: the 95 % interval holds 0. Framed: matters at a false discovery rate of 10 %. '
      f'Are all cells alike? Permutation test: p = {learner.equality.p_value:.3g}.'
    )
  figure = figures.map_figure(learner.importance, results.truth, results.block, label)
  _show(page, f'map_{learner.name}', figure, caption)
  figure = figures.profile_figure(learner, results.truth, results.block, label)
  _show(page, f'profile_{learner.name}', figure, f'{learner.name}: importance over time.')
  figure = filmstrip_figure(results.demos, learner.importance.value, results.block, truth=results.truth)
  caption = f'{learner.name}: first frames of the cells where the map peaks, and where it is lowest.'
  _show(page, f'frames_{learner.name}', figure, caption)


def _curves(page: Any, results: Results) -> None:
  figure = figures.curves_figure(results.learners)
  caption = 'Fresh learners on the top, random and bottom cells of the map; bars and bands are standard errors'
  seeds = max(len(learner.returns) for learner in results.learners)
  _show(page, 'curves', figure, caption + (f' over {seeds} seeds.' if seeds > 1 else ' over learners.'))
  rows = []
  for learner in results.learners:
    curve = learner.curve
    values = zip(curve.orders, curve.fractions, curve.mean(), curve.error(), strict=True)
    rows += [[learner.name, order.replace('_', ' '), float(f), float(m), float(e)] for order, f, m, e in values]
  page.table(['learner', 'kept cells', 'share', 'mean return', 's.e.'], rows)


def _settling(page: Any, results: Results) -> None:
  rankings = {
    learner.name: np.stack(
      [
        ranking_convergence(m, r, learner.reliability.masks, results.estimator)
        for m, r in zip(learner.masks, learner.returns, strict=True)
      ]
    )
    for learner in results.learners
  }
  figure = figures.settling_figure(results.learners, rankings)
  caption = 'How the maps settle as masks are added; thin lines are single seeds, dotted ones where a rule stopped.'
  _show(page, 'settling', figure, caption)


def _truth(page: Any, results: Results) -> None:
  """Cheap methods beside the map, and what adding a constant to every return does."""
  maps = {learner.name: learner.importance.value for learner in results.learners} | dict(results.baselines)
  scores = {name: truth_scores(value, results.truth) for name, value in maps.items()}
  kinds = {learner.name: 'retraining' for learner in results.learners}
  rows = [[name.replace('_', ' '), kinds.get(name, 'without retraining'), *scores[name]] for name in maps]
  page.table(['method', 'kind', 'AUC', 'average precision'], rows, 'Against what was planted.')
  if results.baselines:
    titles = {name: f'{name.replace("_", " ")}, AUC {scores[name][0]:.2f}' for name in maps}
    figure = figures.baselines_figure(maps | {'truth': results.truth}, titles, results.block)
    _show(
      page, 'baselines', figure, 'The same cells by retraining and by cheap methods that see the training loss only.'
    )
  rows = []
  for learner in results.learners:
    trained = np.isfinite(learner.returns[0])
    masks, returns = learner.masks[0][trained], learner.returns[0][trained].astype(np.float64)
    for name in ('contrast', 'raw_sum'):
      before, after = (importance_map(masks, returns + shift, name).value for shift in (0.0, _SHIFT))
      aucs = [truth_scores(value, results.truth)[0] for value in (before, after)]
      rows.append([learner.name, name.replace('_', ' '), *aucs, correlation(before, after)])
  header = ['learner', 'estimator', 'AUC', f'AUC with {_SHIFT:.0f} added', 'rank correlation of both maps']
  page.table(header, rows, 'A constant added to every return must not matter (first seed).')
  page.text(
    "The contrast stays as it is; the raw sum, the published program's, then mostly counts how often a cell was kept."
  )


def _agreement(page: Any, results: Results) -> None:
  if len(results.learners) < 2:
    page.text('One learner was run: there is nothing to compare. Settings with several learners compare their maps.')
    return
  maps = [learner.importance.value for learner in results.learners]
  names = [learner.name for learner in results.learners]
  caption = (
    'Two noisy maps of one truth cannot correlate above the noise ceiling, the root of the product of their '
    'reliabilities (on the diagonal). Intervals: 95 %, bootstrap over cells.'
  )
  _show(page, 'agreement', figures.agreement_figure(results.agreement, maps), caption)
  caption = 'Differences of the maps, each scaled to 0..1 as in the published comparison.'
  _show(page, 'difference', figures.difference_figure(names, maps, results.block), caption)
