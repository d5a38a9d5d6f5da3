"""The facts of the VRVQW tables as one dictionary of plain numbers."""

from typing import Any

import numpy as np
from scipy import stats

from jaxpapers.vr_quality import effects, splits
from jaxpapers.vr_quality.correlation import agreement
from jaxpapers.vr_quality.database import CONDITIONS, Tables
from jaxpapers.vr_quality.mos import icc

RATERS = range(16, 22)  # group sizes that the published means are compatible with
SEEDS = 10  # official splits that are averaged


def summary(tables: Tables) -> dict[str, Any]:
  """Everything below: scores, effects, starts, videos, ratings, sources, look-ups and oracles."""
  facts = {
    'n_videos': len(tables.video_name),
    'conditions': list(CONDITIONS),
    **score_facts(tables),
    **start_facts(tables),
    **video_facts(tables),
    'rating_counts': rating_counts(tables),
    'oracles': oracles(tables),
  }
  seeds = {str(seed): lookup_official(tables, seed) for seed in range(SEEDS)}
  facts['lookup_baseline_official_split'] = seeds
  facts['lookup_mean'] = {
    name: np.mean([found[name] for found in seeds.values()], axis=0).tolist() for name in (*CONDITIONS, 'all')
  }
  if np.any(tables.source_group >= 0):
    known = tables.source_group[tables.source_group >= 0]
    facts['sources'] = {
      'n_groups': len(np.unique(known)),
      'unknown': int((tables.source_group < 0).sum()),
      'largest': int(np.bincount(known).max()),
    }
  return facts


def describe(values: np.ndarray) -> dict[str, Any]:
  """Mean, sample deviation, range, median, skewness and the 5, 25, 75 and 95 % quantiles."""
  values = np.asarray(values, np.float64)
  return {
    'mean': float(values.mean()),
    'std_sample': float(values.std(ddof=1)),
    'min': float(values.min()),
    'max': float(values.max()),
    'median': float(np.median(values)),
    'skew': float(stats.skew(values)),
    'q': np.quantile(values, (0.05, 0.25, 0.75, 0.95)).tolist(),
  }


def score_facts(tables: Tables) -> dict[str, Any]:
  """Scores per condition, correlations, paired tests, the ANOVA, rank tests and intraclass correlations."""
  mos = tables.mos
  plcc, srcc = effects.correlations(mos)
  paired = {}
  for i, first in enumerate(CONDITIONS):
    for j in range(i + 1, len(CONDITIONS)):
      test = effects.paired_test(mos[:, i], mos[:, j])
      paired[f'{first}-{CONDITIONS[j]}'] = {
        'mean_diff': test.mean_difference,
        'std_diff': test.std_difference,
        't': test.t,
        'p': test.p,
        'wilcoxon_W': test.wilcoxon,
        'wilcoxon_p': test.wilcoxon_p,
        'cohen_dz': test.effect_size,
        'frac_positive': test.positive,
        'frac_zero': test.zero,
      }
  anova = {}
  labels = {'start': 'start_A_minus_B', 'time': 'time_15_minus_7', 'interaction': 'interaction'}
  for name, effect in effects.within_anova(tables.design).items():
    row = {'mean': effect.mean, 'F': effect.f, 'df': list(effect.df)}
    anova[labels[name]] = row | {'p': effect.p, 'partial_eta2': effect.partial_eta2}
  ranks = effects.friedman(mos)
  return {
    'mos': {name: describe(mos[:, i]) for i, name in enumerate(CONDITIONS)},
    'plcc': plcc.tolist(),
    'srcc': srcc.tolist(),
    'paired': paired,
    'rm_anova': anova,
    'friedman': {'chi2': ranks.chi2, 'p': ranks.p, 'kendall_w': ranks.kendall_w},
    'icc31': icc(mos),
    'icc21': icc(mos, agreement=True),
  }


def start_facts(tables: Tables) -> dict[str, Any]:
  """Where the viewing starts, and whether the separation of the starts predicts the difference of the scores."""
  gap = np.abs((tables.start_yaw[:, 0] - tables.start_yaw[:, 1] + 180.0) % 360.0 - 180.0)
  circular = {}
  for start, name in enumerate('AB'):
    mean = np.exp(1j * np.deg2rad(tables.start_yaw[:, start])).mean()
    circular[name] = {
      'R': float(abs(mean)),
      'mean_deg': float(np.rad2deg(np.angle(mean))),
      'rayleigh_z': float(len(gap) * abs(mean) ** 2),
    }
  difference = np.abs(tables.design[:, 0] - tables.design[:, 1])
  return {
    'start_yaw_abs_difference_deg': describe(gap),
    'srcc_yawdiff_vs_absmosdiff': {
      seconds: float(stats.spearmanr(gap, difference[:, time]).statistic) for time, seconds in enumerate(('7', '15'))
    },
    'start_pitch_deg': {name: describe(tables.start_pitch[:, start]) for start, name in enumerate('AB')},
    'start_yaw_circular': circular,
  }


def video_facts(tables: Tables) -> dict[str, Any]:
  """Durations, frame rates, scanpath counts and initial letters (the collections) of the videos."""
  rates, counts = np.unique(tables.fps, return_counts=True)
  letters, sizes = np.unique([name[0] for name in tables.video_name], return_counts=True)
  frames = -(-tables.n_frames // tables.fps)  # one frame a second, the first at 0 s
  totals = tables.n_scanpaths.sum(axis=0)
  return {
    'fps_counts': {str(rate): int(count) for rate, count in zip(rates, counts, strict=True)},
    'duration_s': describe(tables.duration),
    'n_duration_below_14.5': int((tables.duration < 14.5).sum()),
    'n_duration_below_14_seconds_of_keyframes': int((frames < 15).sum()),
    'n_scanpaths': {'A': int(totals[0]), 'B': int(totals[1]), 'A_21': int((tables.n_scanpaths[:, 0] == 21).sum())},
    'prefix_counts': {str(letter): int(size) for letter, size in zip(letters, sizes, strict=True)},
  }


def rating_counts(tables: Tables) -> dict[str, Any]:
  """How many raters each mean is compatible with: MOS x N must be a whole number."""
  raters = np.array(RATERS)
  total = tables.mos[..., None] * raters
  possible = np.abs(total - np.round(total)) < 1e-6
  single = possible & (possible.sum(axis=-1, keepdims=True) == 1)
  return {
    'all_representable': bool(possible.any(axis=-1).all()),
    'unique_N': {
      name: {str(n): int(count) for n, count in zip(RATERS, single[:, i].sum(axis=0), strict=True)}
      for i, name in enumerate(CONDITIONS)
    },
  }


def lookup_official(tables: Tables, seed: int) -> dict[str, Any]:
  """The video look-up on an official split: (PLCC, SRCC) per condition, (PLCC, SRCC, RMSE) over all, and the leak."""
  condition, video = splits.rows_of(len(tables.video_name))
  split = splits.official(seed, len(condition))
  predictions = splits.lookup(tables.scores, condition, split.train, video)
  found: dict[str, Any] = {}
  for i, name in enumerate(CONDITIONS):
    rows = split.test[condition[split.test] == i]
    found[name] = list(_raw(predictions[rows], tables.scores[rows])[:2])
  found['all'] = list(_raw(predictions[split.test], tables.scores[split.test]))
  return found | {'leak': splits.leak(split, video)}


def lookups(tables: Tables, protocol: str, seeds: int = SEEDS) -> dict[str, Any]:
  """What each look-up reaches under a protocol, mean over seeds.

  Args:
    tables: the database.
    protocol: 'official', 'by_video' or 'by_source'.
    seeds: splits that are averaged.

  Returns:
    {'condition', 'source', 'video': (PLCC, SRCC, RMSE) over all test rows, 'leak_video', 'leak_source': shares of test
    rows whose video, source is in training}.

  Raises:
    ValueError: for another protocol.
  """
  condition, video = splits.rows_of(len(tables.video_name))
  source = tables.source_group[video]
  own = splits.own_groups(tables.source_group)[video]
  make = {
    'official': lambda seed: splits.official(seed, len(condition)),
    'by_video': lambda seed: splits.by_video(seed, len(tables.video_name)),
    'by_source': lambda seed: splits.by_source(seed, tables.source_group),
  }
  if protocol not in make:
    raise ValueError(f'Unknown split {protocol!r}; known: {", ".join(make)}.')
  rows = []
  for seed in range(seeds):
    split = make[protocol](seed)
    scores = [
      _raw(splits.lookup(tables.scores, condition, split.train, group)[split.test], tables.scores[split.test])
      for group in (None, source, video)
    ]
    rows.append([*np.ravel(scores), splits.leak(split, video), splits.leak(split, own)])
  mean = np.mean(rows, axis=0)
  found = {name: tuple(mean[3 * i : 3 * i + 3].tolist()) for i, name in enumerate(('condition', 'source', 'video'))}
  return found | {'leak_video': float(mean[9]), 'leak_source': float(mean[10])}


def oracles(tables: Tables) -> dict[str, dict[str, float]]:
  """Ceilings: the best that a model blind to the condition, blind to the start, or additive can reach."""
  mos, design = tables.mos, tables.design
  video, grand = mos.mean(axis=1, keepdims=True), mos.mean()
  start_blind = np.repeat(design.mean(axis=1, keepdims=True), 2, axis=1).transpose(0, 2, 1).reshape(-1, 4)
  guesses = {
    'condition_blind_oracle': np.repeat(video, 4, axis=1),
    'start_blind_oracle': start_blind,
    'video_plus_condition_oracle': video + mos.mean(axis=0) - grand,
  }
  names = ('plcc', 'srcc', 'rmse')
  return {k: dict(zip(names, _raw(v.T.ravel(), tables.scores), strict=True)) for k, v in guesses.items()}


def _raw(predictions: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
  found = agreement(predictions, scores, 0)
  return found.plcc, found.srcc, found.rmse
