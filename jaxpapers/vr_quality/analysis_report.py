"""The report of the real tables: scores, conditions, starts, splits and look-ups, screening, scanpaths."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.vr_quality import bootstrap, database_statistics, mos, saliency
from jaxpapers.vr_quality.database import CONDITIONS, Tables
from jaxpapers.vr_quality.pictures import (
  angle_histograms,
  degrees,
  frame_axis,
  globe,
  over_time,
  overlay,
  scanpaths_on_erp,
)
from jaxpapers.vr_quality.quality_pictures import film_strip
from jaxpapers.vr_quality.scanpath_data import Scene

CROSSOVER = (
  'Longer viewing raises the score from start A and lowers it from start B: neither factor has a sizeable main effect, '
  'everything is interaction. The directions fit a start A that faces the worse half, but exploration alone would make '
  '15A and 15B converge, not cross. Without the raw ratings a recency effect, different rater pools, or two exchanged '
  'labels (7B and 15B) cannot be told apart.'
)


class Paths(NamedTuple):
  """Scanpaths to draw.

  Attributes:
    scenes: by video.
    note: where they come from.
    panorama: [height, width, 3] uint8 to show viewports of, or None.
  """

  scenes: list[Scene]
  note: str
  panorama: np.ndarray | None = None


def draw(
  page: Any, tables: Tables, replicates: bootstrap.Statistics, ratings: np.ndarray | None, paths: Paths, seed: int
) -> None:
  """The whole report."""
  facts = real_tables(page, tables, replicates)
  page.results(tables=facts)
  screening(page, ratings, seed)
  scanpaths(page, paths)


def real_tables(page: Any, tables: Tables, replicates: bootstrap.Statistics | None = None) -> dict[str, Any]:
  """Tables and pictures of the scores; intervals by bootstrap over videos where replicates are given.

  Returns:
    `database_statistics.summary`.
  """
  facts = database_statistics.summary(tables)
  limits = (
    None if replicates is None else bootstrap.Statistics(*(bootstrap.interval(np.asarray(x)) for x in replicates))
  )
  scores(page, tables, facts)
  conditions(page, tables, facts, limits)
  lookups(page, tables, facts)
  starts(page, tables, facts)
  return facts


def scores(page: Any, tables: Tables, facts: dict[str, Any]) -> None:
  """Distribution of the scores and their correlations between conditions."""
  page.heading('Mean opinion scores')
  rows = [[name, *(facts['mos'][name][k] for k in ('mean', 'std_sample', 'min', 'max'))] for name in CONDITIONS]
  page.table(
    ['condition', 'mean', 'sd', 'min', 'max'], rows, f'{facts["n_videos"]} videos; 7 or 15 s from start A or B.'
  )
  pairs = [(CONDITIONS[i], CONDITIONS[j], facts['srcc'][i][j], facts['plcc'][i][j]) for i, j in bootstrap.PAIRS]
  page.table(['', '', 'SRCC', 'PLCC'], pairs, f'Between conditions; ICC(3,1) of the four: {facts["icc31"]:.3f}.')
  figure, axes = plt.subplots(1, 4, figsize=(12, 2.6), sharey=True, layout='constrained')
  for axis, name, values in zip(axes, CONDITIONS, tables.mos.T, strict=True):
    axis.hist(values, bins=np.arange(1, 5.01, 0.25), color='tab:blue')
    axis.axvline(values.mean(), color='crimson', lw=1.5)
    axis.set(title=name, xlabel='MOS', xlim=(1, 5))
  axes[0].set_ylabel('videos')
  page.figure('mos_histogram', figure, 'Histogram of the scores per condition; the red line is the mean.')
  plt.close(figure)
  figure, axes = plt.subplots(2, 3, figsize=(10, 6.6), layout='constrained')
  for axis, (i, j) in zip(axes.ravel(), bootstrap.PAIRS, strict=True):
    axis.plot([1, 5], [1, 5], color='grey', lw=1)
    axis.scatter(tables.mos[:, i], tables.mos[:, j], s=6, alpha=0.5)
    axis.set(xlabel=f'MOS {CONDITIONS[i]}', ylabel=f'MOS {CONDITIONS[j]}', xlim=(0.9, 5.1), ylim=(0.9, 5.1))
    axis.set_title(f'SRCC {facts["srcc"][i][j]:.3f}', fontsize=9)
    axis.set_aspect('equal')
  page.figure('mos_scatter', figure, 'The same videos under two conditions.')
  plt.close(figure)


def conditions(page: Any, tables: Tables, facts: dict[str, Any], limits: bootstrap.Statistics | None) -> None:
  """Effects of start and time: ANOVA, paired tests, and the crossover."""
  page.heading('Effects of the viewing conditions')
  rows = []
  for number, (name, row) in enumerate(facts['rm_anova'].items()):
    span = '' if limits is None else '{:.3f} .. {:.3f}'.format(*limits.contrast[:, number])
    rows.append([name, row['mean'], span, row['F'], f'{row["p"]:.2g}', row['partial_eta2']])
  header = ['effect', 'mean', '95 % bootstrap', f'F(1, {facts["n_videos"] - 1})', 'p', 'partial eta²']
  page.table(header, rows, 'Two-way within-video ANOVA.')
  page.table(
    ['pair', 'mean difference', 't', 'p', 'Wilcoxon p', 'd_z', 'share > 0'],
    [
      [name, t['mean_diff'], t['t'], f'{t["p"]:.2g}', f'{t["wilcoxon_p"]:.2g}', t['cohen_dz'], t['frac_positive']]
      for name, t in facts['paired'].items()
    ],
    f'Paired tests over videos. Friedman chi² {facts["friedman"]["chi2"]:.1f}, p {facts["friedman"]["p"]:.2g}, '
    f"Kendall's W {facts['friedman']['kendall_w']:.3f}.",
  )
  up, down = facts['paired']['7A-15A'], facts['paired']['7B-15B']
  eta = [row['partial_eta2'] for row in facts['rm_anova'].values()]
  crossed = eta[2] > 0.5 and max(eta[:2]) < 0.06
  page.text(
    f'15A > 7A in {100 * (1 - up["frac_positive"] - up["frac_zero"]):.1f} % of the videos ({-up["mean_diff"]:+.3f}), '
    f'15B < 7B in {100 * down["frac_positive"]:.1f} % ({-down["mean_diff"]:+.3f}). ' + (CROSSOVER if crossed else '')
  )
  figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout='constrained')
  means = tables.design.mean(axis=0)
  error = 1.96 * tables.design.std(axis=0, ddof=1) / np.sqrt(len(tables.design))
  bars = np.stack([error, error])
  if limits is not None:
    low, high = (x.reshape(2, 2).T for x in limits.mean)
    bars = np.stack([means - low, high - means])
  for start, name in enumerate('AB'):
    left.errorbar(['7 s', '15 s'], means[start], yerr=bars[:, start], marker='o', capsize=4, label=f'start {name}')
  left.set(ylabel='mean MOS', title='means with 95 % intervals over videos', xlim=(-0.3, 1.3))
  left.legend()
  changes = tables.design[:, :, 1] - tables.design[:, :, 0]
  for start, name in enumerate('AB'):
    right.hist(changes[:, start], bins=np.arange(-2.1, 2.11, 0.15), alpha=0.6, label=f'start {name}')
  right.axvline(0, color='black', lw=1)
  right.set(xlabel='MOS after 15 s - MOS after 7 s', ylabel='videos', title='what longer viewing changes')
  right.legend()
  page.figure('crossover', figure, 'The crossover of starting point and exploration time.')
  plt.close(figure)


def lookups(page: Any, tables: Tables, facts: dict[str, Any]) -> None:
  """What tables that never see a pixel reach, and the ceilings of models that are blind to something."""
  page.heading('Splits, their leaks, and look-up baselines')
  rows, found = [], {}
  for protocol in ('official', 'by_video', 'by_source'):
    found[protocol] = database_statistics.lookups(tables, protocol)
    leaks = [found[protocol]['leak_video'], found[protocol]['leak_source']]
    rows += [[protocol, *leaks, name, *found[protocol][name]] for name in ('condition', 'source', 'video')]
  header = [
    'split',
    'test rows with their video in training',
    'with their source',
    'look-up by',
    'PLCC',
    'SRCC',
    'RMSE',
  ]
  note = '' if np.any(tables.source_group >= 0) else ' These tables name no sources: every video is its own.'
  page.table(header, rows, f'Mean over {database_statistics.SEEDS} seeds, all test rows.{note}')
  names = ('plcc', 'srcc', 'rmse')
  page.table(
    ['oracle', 'PLCC', 'SRCC', 'RMSE'],
    [[name, *(row[k] for k in names)] for name, row in facts['oracles'].items()],
    'Ceilings of models that cannot see the condition, cannot see the start, or add video and condition.',
  )
  page.results(lookups=found)
  figure, axis = plt.subplots(figsize=(7.5, 3.2), layout='constrained')
  for number, name in enumerate(('condition', 'source', 'video')):
    heights = [found[protocol][name][1] for protocol in found]
    places = np.arange(len(found)) + 0.26 * (number - 1)
    for place, height in zip(places, heights, strict=True):
      axis.text(place, height + 0.01, f'{height:.2f}', ha='center', fontsize=8)
    axis.bar(places, heights, 0.25, label=f'by {name}')
  axis.set_xticks(range(len(found)), list(found))
  axis.set(ylabel='SRCC on test rows', ylim=(0, 1))
  axis.legend(fontsize=8, ncols=3, loc='upper right', title='look-up, no pixel seen')
  page.figure('lookups', figure, 'What a split gives away: look-ups that never see a pixel.')
  plt.close(figure)


def starts(page: Any, tables: Tables, facts: dict[str, Any]) -> None:
  """Starting points on the panorama, and against uniform directions."""
  gap = facts['start_yaw_abs_difference_deg']
  page.heading('Starting points')
  pitch = [facts['start_pitch_deg'][name]['mean'] for name in 'AB']
  predicts = ', '.join(f'{value:.2f} at {key} s' for key, value in facts['srcc_yawdiff_vs_absmosdiff'].items())
  page.text(
    f'Separation of A and B {gap["mean"]:.1f}° ± {gap["std_sample"]:.1f}° ({gap["min"]:.1f}° to {gap["max"]:.1f}°); '
    f'mean HM_pitch {pitch[0]:.1f}° (A), {pitch[1]:.1f}° (B). SRCC of the separation with the size of the difference '
    f'of the scores: {predicts}.'
  )
  figure, axis = plt.subplots(figsize=(7.5, 3.8), layout='constrained')
  points = {}
  for start, name in enumerate('AB'):
    lon = (tables.start_yaw[:, start] + 180.0) % 360.0 - 180.0
    lat = -tables.start_pitch[:, start]
    axis.scatter(lon, lat, s=9, alpha=0.6, label=f'start {name}')
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    points[f'start {name}'] = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
  frame_axis(axis)
  axis.set(xlabel='longitude, degrees', ylabel='latitude, degrees')
  axis.legend(loc='upper right')
  page.figure('starts', figure, 'Starting points of all videos.')
  plt.close(figure)
  angle_histograms(page, 'start_angles', points, 'Starting points against directions uniform over the sphere.')


def screening(page: Any, ratings: np.ndarray | None, seed: int) -> None:
  """BT.500 chart and what screening and the subject model change."""
  page.heading('Screening of subjects')
  if ratings is None:
    page.text(
      'SYNTHETIC ratings: the tables hold means only. 22 made-up subjects rate 80 stimuli, two of them at random; give '
      'real ones by --config.analysis.ratings=FILE (CSV of subject, stimulus, score).'
    )
    ratings = synthetic_ratings(seed)
  found, model = mos.screen(ratings), mos.subject_model(ratings)
  unusual, bias = found.above + found.below, np.abs(found.above - found.below)
  plain, kept = mos.mos(ratings), mos.mos(ratings, ~found.rejected)
  figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout='constrained')
  share = unusual / found.rated
  balance = bias / np.maximum(unusual, 1)
  for chosen, color, label in ((~found.rejected, 'tab:blue', 'kept'), (found.rejected, 'crimson', 'rejected')):
    left.scatter(share[chosen], balance[chosen], color=color, label=label)
  for index in np.flatnonzero(found.rejected):
    left.annotate(f'subject {index}', (share[index], balance[index]), textcoords='offset points', xytext=(5, 5))
  left.axvline(0.05, color='black', lw=0.8, ls=':')
  left.axhline(0.3, color='black', lw=0.8, ls=':')
  left.set(xlabel='(P + Q) / stimuli rated', ylabel='|P - Q| / (P + Q)', title='BT.500', ylim=(-0.05, 1.08))
  left.legend(fontsize=8)
  right.scatter(model.bias, model.inconsistency, c=['crimson' if x else 'tab:blue' for x in found.rejected])
  right.set(xlabel='bias', ylabel='inconsistency', title='subject model (P.910)')
  page.figure('screening', figure, 'Subjects below and right of the dotted lines are rejected.')
  plt.close(figure)
  halves = mos.split_half(ratings, seed=seed, repeats=50)
  page.table(
    ['', 'mean 95 % half width', 'SOS a'],
    [
      ['all subjects', float(np.nanmean(plain.ci95)), mos.sos(plain.mean, plain.std)],
      ['after screening', float(np.nanmean(kept.ci95)), mos.sos(kept.mean, kept.std)],
    ],
    f'Split-half SRCC {halves[0]:.3f}, Spearman-Brown {halves[1]:.3f}; median leave-one-out PLCC '
    f'{np.nanmedian(mos.leave_one_out(ratings)):.3f}.',
  )


def synthetic_ratings(seed: int, subjects: int = 22, stimuli: int = 80) -> np.ndarray:
  """[subjects, stimuli] ratings 1..5 with biases, noise, 5 % missing and two subjects who answer at random."""
  rng = np.random.default_rng([seed, 19])
  quality = rng.uniform(1.3, 4.7, stimuli)
  ratings = quality + rng.normal(0.0, 0.3, (subjects, 1)) + rng.normal(0.0, 0.6, (subjects, stimuli))
  ratings = np.clip(np.round(ratings), 1.0, 5.0)
  ratings[-2:] = rng.integers(1, 6, (2, stimuli))
  ratings[rng.random(ratings.shape) < 0.05] = np.nan
  return mos.check_ratings(ratings)


def scanpaths(page: Any, paths: Paths) -> None:
  """Scanpaths of one video, their saliency, angles and consistency over time of all."""
  page.heading('Scanpaths')
  page.text(paths.note)
  scene = paths.scenes[0]
  shown = scene.paths[:, : int(scene.length.min())]
  figure, axis = plt.subplots(figsize=(8.5, 4), layout='constrained')
  figure.colorbar(scanpaths_on_erp(axis, shown, title=scene.name), ax=axis, label='step', shrink=0.8)
  page.figure('scanpaths', figure, 'All observers of one video, coloured by time; the star is the start.')
  plt.close(figure)
  if paths.panorama is not None:
    steps = np.linspace(0, shown.shape[1] - 1, min(6, shown.shape[1])).astype(int)
    lonlat = np.deg2rad(np.stack(degrees(shown[:2, steps]), axis=-1))
    caption = 'Viewports along two of these scanpaths, on a panorama of another source.'
    film_strip(page, paths.panorama, lonlat, [f'step {s}' for s in steps], caption)
  density = np.asarray(saliency.vmf_map(jnp.asarray(shown.reshape(-1, 3)), 64, 128, np.deg2rad(8.0)))
  figure = plt.figure(figsize=(10.5, 3.3), layout='constrained')
  grid = figure.add_gridspec(1, 3, width_ratios=(2, 1, 1))
  overlay(figure.add_subplot(grid[0]), density, shown)
  globe(figure.add_subplot(grid[1]), density, shown[0, 0], 'from the start')
  globe(figure.add_subplot(grid[2]), density, -shown[0, 0], 'from behind')
  page.figure('saliency', figure, 'Where they looked: density over the panorama and on globes.')
  plt.close(figure)
  everyone = np.concatenate(
    [s.paths[i : i + 1, :n].reshape(-1, 3) for s in paths.scenes for i, n in enumerate(s.length)]
  )
  angle_histograms(page, 'angles', {'gaze': everyone}, 'Gaze directions of all scanpaths against uniform ones.')
  shortest = min(int(s.length.min()) for s in paths.scenes)
  few = paths.scenes[: min(4, len(paths.scenes))]
  over_time(page, 'consistency', {s.name: s.paths[:, :shortest] for s in few}, 'step')
