"""The numbers of a run: from returns and masks to `Results`, and the metrics that a person reads first."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpapers.engine import UserError
from jaxpapers.r2rise.importance import importance_map
from jaxpapers.r2rise.results import AgreementMatrix, Curve, LearnerResult, Reliability, Results
from jaxpapers.r2rise.stage import Plan
from jaxpapers.r2rise.statistics import agreement, equality_test, split_half_reliability, truth_scores

_SHIFT = 100.0  # added to every return to show which estimators notice


def trained_masks(returns: np.ndarray, kept: np.ndarray) -> np.ndarray:
  """[...] bool: which masks have been retrained.

  Raises:
    UserError: naming the first mask whose return is not finite.
  """
  done = np.isfinite(np.asarray(kept))
  bad = np.argwhere(done & ~np.isfinite(np.asarray(returns)))
  if len(bad):
    raise UserError(f'The return of mask {bad[0][-1]} is {np.asarray(returns)[tuple(bad[0])]}: it must be finite.')
  return done


def progress(returns: np.ndarray, kept: np.ndarray, masks: np.ndarray, plan: Plan) -> dict[str, float]:
  """Masks so far, and reliability and area under the ROC curve of the map so far.

  Args:
    returns: [S, N], and kept.
    kept: [S, N].
    masks: [S, N, E, C].
    plan: of the stage.
  """
  done = trained_masks(returns, kept)
  values = {'masks': float(done.sum())}
  m, r = masks[done], np.asarray(returns, np.float64)[done]
  values['reliability'] = split_half_reliability(m, r, plan.estimator, plan.masks.antithetic)
  if plan.truth is not None:
    values['auc'] = truth_scores(_value(m, r, plan), plan.truth.reshape(m.shape[1:]))[0]
  return {name: value for name, value in values.items() if np.isfinite(value)}


def learner_result(
  name: str, returns: np.ndarray, kept: np.ndarray, curve: np.ndarray, masks: np.ndarray, plan: Plan, permutations: int
) -> LearnerResult:
  """Everything about one learner.

  Args:
    name: of the learner.
    returns: [S, N].
    kept: [S, N].
    curve: [S * P * L].
    masks: [S, N, E, C].
    plan: of the stage.
    permutations: of the equality test.
  """
  done = trained_masks(returns, kept)
  returns = np.where(done, np.asarray(returns, np.float64), np.nan)
  truth = None if plan.truth is None else plan.truth.reshape(masks.shape[2:])
  values = np.stack([_value(m[d], r[d], plan) for m, r, d in zip(masks, returns, done, strict=True)])
  return LearnerResult(
    name=name,
    importance=importance_map(masks[done], returns[done], plan.estimator, plan.masks.keep),
    seed_values=values,
    masks=masks if plan.masks.smooth else masks.astype(bool),
    returns=returns,
    kept=np.asarray(kept),
    equality=equality_test(masks[done], returns[done], permutations),
    auc=None if truth is None else np.asarray([truth_scores(v, truth)[0] for v in values]),
    reliability=_reliability(masks, returns, done, plan, truth),
    curve=retraining_curve(curve, plan),
  )


def retraining_curve(returns: np.ndarray, plan: Plan) -> Curve:
  """The curve of mean returns [S * P * L]."""
  orders, fractions = zip(*plan.points, strict=True)
  rows = np.asarray(returns, np.float64).reshape(plan.seeds, len(orders), plan.learners)
  return Curve(orders, np.asarray(fractions), rows)


def _value(masks: np.ndarray, returns: np.ndarray, plan: Plan) -> np.ndarray:
  return importance_map(masks, returns, plan.estimator, plan.masks.keep).value


def _reliability(masks, returns, done, plan: Plan, truth) -> Reliability:
  counts = np.arange(plan.chunk, plan.count + 1, plan.chunk)
  pairs = plan.masks.antithetic
  curve, auc = np.full((2, len(masks), len(counts)), np.nan)
  for s, k in np.ndindex(curve.shape):
    n = counts[k]
    if done[s, :n].all():
      curve[s, k] = split_half_reliability(masks[s, :n], returns[s, :n], plan.estimator, pairs)
      if truth is not None:
        auc[s, k] = truth_scores(_value(masks[s, :n], returns[s, :n], plan), truth)[0]
  used = done.sum(axis=1)
  stopped = np.where(used < plan.count, used, 0)
  return Reliability(counts, curve, None if truth is None else auc, stopped)


def total_reliability(result: LearnerResult, plan: Plan) -> float:
  """Split-half reliability of the map of all seeds' masks."""
  done = np.isfinite(result.returns)
  return split_half_reliability(result.masks[done], result.returns[done], plan.estimator, plan.masks.antithetic)


def map_metrics(result: LearnerResult, plan: Plan) -> dict[str, float]:
  """How good the maps are: agreement with the planted truth, reliability, the equality test, and returns + 100."""
  done = np.isfinite(result.returns)
  values = {
    'masks': float(done.sum()),
    'reliability': total_reliability(result, plan),
    'equality_p': result.equality.p_value,
    'empty_masks': float((result.kept == 0).sum()),
    'return': float(result.returns[done].mean()),
    'return_sd': float(result.returns[done].std()),
  }
  if result.auc is not None:
    truth = plan.truth.reshape(result.importance.value.shape)
    values['auc'] = float(result.auc.mean())
    values['auc_se'] = _error(result.auc)
    values['auc_all_masks'], values['average_precision'] = truth_scores(result.importance.value, truth)
    for name in ('contrast', 'raw_sum'):
      for suffix, shift in (('', 0.0), ('_plus_100', _SHIFT)):
        scores = [
          truth_scores(importance_map(m[d], r[d] + shift, name).value, truth)[0]
          for m, r, d in zip(result.masks, result.returns, done, strict=True)
        ]
        values[f'auc_{name}{suffix}'] = float(np.mean(scores))
  return {name: value for name, value in values.items() if np.isfinite(value)}


def curve_metrics(curve: Curve) -> dict[str, float]:
  """Returns and standard errors at the share nearest to one half; areas under the insertion and deletion curves.

  `top_over_random` and `random_over_bottom` are differences in standard errors.
  """
  ranked = [f for order, f in zip(curve.orders, curve.fractions, strict=True) if order == 'top']
  share = min(ranked, key=lambda f: abs(f - 0.5))
  values, means, errors = {'share': float(share)}, curve.mean(), curve.error()
  for order, fraction, mean, error in zip(curve.orders, curve.fractions, means, errors, strict=True):
    if fraction == share or order in ('all', 'truth') or order.startswith('top_of_'):
      values[order], values[f'{order}_se'] = float(mean), float(error)
  for a, b in (('top', 'random'), ('random', 'bottom')):
    spread = np.hypot(values[f'{a}_se'], values[f'{b}_se'])
    values[f'{a}_over_{b}'] = (values[a] - values[b]) / max(float(spread), 1e-9)
  if len(set(ranked)) > 1:
    for name, order in (('insertion', 'top'), ('deletion', 'bottom')):
      fractions, line, _ = curve.line(order)
      values[f'{name}_area'] = float(np.trapezoid(line, fractions) / np.ptp(fractions))
    values['area'] = values['insertion_area'] - values['deletion_area']
  return {name: value for name, value in values.items() if np.isfinite(value)}


def _error(x: np.ndarray) -> float:
  return float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float('nan')


def agreement_matrix(results: tuple[LearnerResult, ...], plans: Mapping[str, Plan]) -> AgreementMatrix:
  """Every map beside every other. Their masks and learners are independent, so that no noise is shared."""
  reliability = [total_reliability(result, plans[result.name]) for result in results]
  size = len(results)
  tables = np.full((5, size, size), np.nan)
  for i, j in zip(*np.triu_indices(size), strict=True):
    if i == j:
      tables[:, i, i] = reliability[i], np.nan, np.nan, reliability[i], 1.0
    else:
      maps = (results[k].importance.value for k in (i, j))
      pair = agreement(*maps, (reliability[i], reliability[j]))
      tables[:, i, j] = tables[:, j, i] = pair.spearman, pair.low, pair.high, pair.ceiling, pair.overlap
  return AgreementMatrix(tuple(result.name for result in results), *tables)


def save_maps(path: Any, results: Results) -> None:
  """Writes an .npz: 'names', 'truth' where there is one, and map, error, seed_maps, returns and kept of every learner.

  An entry is called NAME/map and so on; `load_map` reads it.
  """
  arrays: dict[str, np.ndarray] = {'names': np.asarray([result.name for result in results.learners])}
  if results.truth is not None:
    arrays['truth'] = results.truth
  for result in results.learners:
    entries = {
      'map': result.importance.value,
      'error': result.importance.error,
      'seed_maps': result.seed_values,
      'returns': result.returns,
      'kept': result.kept,
    }
    arrays |= {f'{result.name}/{name}': value for name, value in entries.items()}
  with open(path, 'wb') as file:
    np.savez(file, **arrays)


def load_map(path: Any, name: str) -> np.ndarray:
  """The map [E, C] of learner `name` from a file of `save_maps`.

  Raises:
    ValueError: naming the learners that the file knows.
  """
  with np.load(path) as data:
    if f'{name}/map' not in data:
      raise ValueError(f'{path} holds no map of {name!r}; it holds: {", ".join(data["names"])}.')
    return data[f'{name}/map']
