"""Numbers, pictures and tables of a run."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxpapers.r2rise.demos import Demonstrations
from jaxpapers.r2rise.importance import confidence_interval, importance_map, rank_cells
from jaxpapers.r2rise.retrain import CurvePoint, area_between, curve_points
from jaxpapers.r2rise.statistics import discoveries, equality_test, split_half_reliability, truth_scores

_COLORS = {'top': 'tab:blue', 'random': 'grey', 'bottom': 'tab:red'}
_SHIFT = 100.0  # added to every return to show which estimators notice


class Settings(NamedTuple):
  """What the numbers need beside the states.

  Attributes:
    demos: the demonstrations.
    truth: [E, cells] bool, planted importance.
    block: frames a cell.
    estimator: of the map.
    keep: probability that a cell is kept.
    pairs: masks 2j and 2j + 1 are complements.
    permutations: of the equality test.
    points: (order, fraction) of the curve.
    learners: per point.
    masks: () -> [N, E, cells] bool.
  """

  demos: Demonstrations
  truth: np.ndarray
  block: int
  estimator: str
  keep: float
  pairs: bool
  permutations: int
  points: tuple[tuple[str, float], ...]
  learners: int
  masks: Callable[[], np.ndarray]


def map_metrics(returns: np.ndarray, kept: np.ndarray, settings: Settings) -> dict[str, float]:
  """How good the map is: agreement with the planted truth, reliability, the equality test, and returns + 100."""
  masks, returns = settings.masks(), np.asarray(returns)
  auc, precision = truth_scores(_map(masks, returns, settings), settings.truth)
  values = {
    'auc': auc,
    'average_precision': precision,
    'reliability': split_half_reliability(masks, returns, settings.estimator, settings.pairs),
    'equality_p': equality_test(masks, returns, settings.permutations).p_value,
    'empty_masks': float((np.asarray(kept) == 0).sum()),
  }
  for name in ('contrast', 'raw_sum'):
    for suffix, shift in (('', 0.0), ('_plus_100', _SHIFT)):
      shifted = importance_map(masks, returns.astype(np.float64) + shift, name).value
      values[f'auc_{name}{suffix}'] = truth_scores(shifted, settings.truth)[0]
  return {name: value for name, value in values.items() if np.isfinite(value)}


def curve_metrics(returns: np.ndarray, settings: Settings) -> dict[str, float]:
  """Returns and standard errors of every order at the share nearest to one half, and the area top - bottom."""
  points = _points(returns, settings)
  share = min((p.fraction for p in points), key=lambda f: abs(f - 0.5))
  values = {'share': share}
  for point in points:
    if point.fraction == share:
      values[point.order], values[f'{point.order}_se'] = point.mean, point.error
  if len({p.fraction for p in points}) > 1:
    values['area'] = area_between(points)
  return values


def draw(states: Mapping[str, Any], page: Any, settings: Settings) -> None:
  """All pictures of a run."""
  import matplotlib.pyplot as plt

  returns, masks = np.asarray(states['map'].returns), settings.masks()
  result = importance_map(masks, returns, settings.estimator, settings.keep)
  np.savez(page.folder / 'map.npz', map=result.value, error=result.error, truth=settings.truth, returns=returns)
  scores = map_metrics(returns, np.asarray(states['map'].kept), settings)
  points = _points(np.asarray(states['curve'].returns), settings)
  page.heading('Which frames matter')
  page.table(['measure', 'value'], [[name, value] for name, value in scores.items()])
  page.text(
    'auc compares the map with what was planted; _plus_100: after 100 was added to every return, which must not '
    'matter. The contrast stays as it is; the raw sum (the published program) then mostly counts how often a cell '
    'was kept. '
    'A frame that shows earlier frames (a stack, a trail) shows them even where those are masked.'
  )
  _heat(page, plt, result, settings)
  _histogram(page, plt, returns)
  page.heading('Retraining')
  page.table(['kept cells', 'share', 'mean return', 's.e.', 'learners'], [list(p) for p in points])
  _curves(page, plt, points)
  if settings.demos.observations.ndim == 5:
    _extremes(page, plt, result.value, settings)
  page.results(map=scores, curve=[p._asdict() for p in points])


def _map(masks: np.ndarray, returns: np.ndarray, settings: Settings) -> np.ndarray:
  return importance_map(masks, returns, settings.estimator, settings.keep).value


def _points(returns: np.ndarray, settings: Settings) -> list[CurvePoint]:
  orders, fractions = zip(*settings.points, strict=True)
  return curve_points(orders, fractions, np.asarray(returns, np.float64).reshape(-1, settings.learners))


def _heat(page: Any, plt: Any, result: Any, settings: Settings) -> None:
  """The map, hatched where its interval holds 0, above the truth."""
  value, rows = result.value, len(result.value)
  figure, axes = plt.subplots(2, 1, figsize=(11, 2.4 + 0.5 * rows), sharex=True, layout='constrained')
  with_error = bool(np.isfinite(result.error).any())
  bound = float(np.nanmax(np.abs(value))) or 1.0
  limits = dict(cmap='RdBu', vmin=-bound, vmax=bound) if with_error else dict(cmap='viridis')
  image = axes[0].imshow(value, aspect='auto', interpolation='nearest', **limits)
  found = 0
  if with_error:
    low, high = confidence_interval(result)
    found = int(discoveries(result).sum())
    for e, c in np.argwhere((low <= 0) & (high >= 0)):
      axes[0].add_patch(plt.Rectangle((c - 0.5, e - 0.5), 1, 1, fill=False, hatch='///', lw=0, edgecolor='0.55'))
  figure.colorbar(image, ax=axes[0], label=settings.estimator.replace('_', ' '))
  axes[1].imshow(settings.truth, aspect='auto', cmap='Greys', vmin=0, vmax=1, interpolation='nearest')
  for axis, title in zip(axes, ('importance', 'planted truth (black: important)'), strict=True):
    axis.set(ylabel='trajectory', title=title, yticks=range(rows))
  axes[1].set_xlabel(f'cell of {settings.block} frame(s)')
  caption = 'What the return gains when a cell is kept. '
  if with_error:
    caption += f'Hatched: the 95 % interval holds 0. {found} cells matter at a false discovery rate of 10 %.'
  page.figure('map', figure, caption)
  plt.close(figure)


def _histogram(page: Any, plt: Any, returns: np.ndarray) -> None:
  figure, axis = plt.subplots(figsize=(5, 3.2))
  axis.hist(returns, bins=24)
  axis.axvline(returns.mean(), color='black', lw=1)
  axis.set(xlabel='mean return of a mask', ylabel='masks')
  page.figure('returns', figure, f'Returns of {len(returns)} retrained learners; the line is their mean.')
  plt.close(figure)


def _curves(page: Any, plt: Any, points: list[CurvePoint]) -> None:
  figure, axis = plt.subplots(figsize=(6, 4))
  for order, color in _COLORS.items():
    chosen = sorted((p.fraction, p.mean, p.error) for p in points if p.order == order)
    axis.errorbar(
      *zip(*[c[:2] for c in chosen], strict=True), [c[2] for c in chosen], color=color, label=order, capsize=3
    )
  full = [p.mean for p in points if p.fraction == 1.0]
  if full:
    axis.axhline(np.mean(full), color='black', ls=':', lw=1, label='all frames')
  axis.set(xlabel='share of cells kept', ylabel='mean return')
  axis.legend()
  page.figure(
    'curve', figure, 'Returns of fresh learners on the top, random and bottom cells; bars are standard errors.'
  )
  plt.close(figure)


def _extremes(page: Any, plt: Any, value: np.ndarray, settings: Settings) -> None:
  """First frames of the five most and least important cells."""
  order = rank_cells(value)
  chosen = [order[:5], order[::-1][:5]]
  figure, axes = plt.subplots(2, 5, figsize=(11, 5), layout='constrained', squeeze=False)
  for row, name in enumerate(('peak', 'trough')):
    for axis, cell in zip(axes[row], chosen[row], strict=False):
      e, c = divmod(int(cell), value.shape[1])
      picture = np.asarray(settings.demos.observations[e, c * settings.block], np.float32)
      levels = 1.0 + np.arange(picture.shape[-1])
      axis.imshow((picture * levels).max(axis=-1), cmap='magma', vmin=0, vmax=levels[-1])
      action = settings.demos.actions[e, c * settings.block]
      axis.set_title(
        f'{name} {value[e, c]:.2f}\ntrajectory {e}, frame {c * settings.block}, action {action}', fontsize=8
      )
    for axis in axes[row]:
      axis.axis('off')
  page.figure('frames', figure, 'First frames of the cells where the map peaks (top) and where it is lowest (bottom).')
  plt.close(figure)
