"""Pictures and tables of a run: what every exit says, and the official policies against the classic ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.predictive_exit import costs
from jaxpapers.predictive_exit.comparison import CRITERIA, ENGINES, Choice, choose, policy_curve, threshold_grid
from jaxpapers.predictive_exit.data import Splits
from jaxpapers.predictive_exit.model import MultiExit
from jaxpapers.predictive_exit.policy_report import policy_report
from jaxpapers.predictive_exit.prediction import accuracy_forward, forecast_errors, official_score, official_walk
from jaxpapers.predictive_exit.tables import Costs, ExitTable
from jaxpapers.predictive_exit.thresholds import MODES, activation_thresholds, batch_activation, official_batches

__all__ = ['Outputs', 'Settings', 'activations', 'draw', 'official_batches']


class Settings(NamedTuple):
  """What the report needs of the settings.

  Attributes:
    drop: accuracy below the classifier's that a policy may cost on the calibration set.
    grid: thresholds that are tried.
    head_shares: work of a head relative to a mean layer, beside the true one.
    start: official layer for the forecast's score.
    rounds: of the official engine.
    clip_target: see `prediction.official_walk`.
    quirks: the authors' slip at exit 1.
    mode: of the activation thresholds.
    platform: of the energy model.
    alphas: deadlines relative to the plain network at full speed.
    constants: of the platform, 'name=value,name=value'.
    scale: the work is multiplied by this where energy is modelled.
    network: its name, for the authors' cost book.
  """

  drop: float
  grid: int
  head_shares: tuple[float, ...]
  start: int
  rounds: int
  clip_target: bool
  quirks: bool
  mode: str
  platform: str
  alphas: tuple[float, ...]
  constants: str
  scale: float
  network: str


class Outputs(NamedTuple):
  """What the networks said.

  Attributes:
    model: their structure.
    splits: the images.
    tables: per network (calibration logits [n, E + 1, classes], test logits, {mode: activation levels [E]}).
  """

  model: MultiExit
  splits: Splits
  tables: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]


def activations(logits: jax.Array) -> dict[str, jax.Array]:
  """`batch_activation` in every mode."""
  return {mode: batch_activation(logits, mode) for mode in MODES}


def draw(page: Any, outputs: Outputs, settings: Settings) -> None:
  """The whole report."""
  work = costs.work(outputs.model, outputs.splits.test['image'].shape[-1]).costs
  book = work.segment_macs, work.head_macs
  networks = [
    (
      ExitTable(calibration, outputs.splits.calibration['label']),
      ExitTable(test, outputs.splits.test['label']),
      {mode: np.asarray(activation_thresholds(level[None])) for mode, level in levels.items()},
    )
    for calibration, test, levels in outputs.tables
  ]
  exits_by_depth(page, networks, settings)
  layer = work.segment_macs[work.segment_macs > 0].mean()
  books = {'true': book}
  for share in settings.head_shares:
    heads = np.full(len(work.head_macs), share * layer)
    heads[-1] = work.head_macs[-1]
    books[f'head = {share:g} layer'] = (work.segment_macs, heads)
  comparison(page, networks, books, settings)
  forecasts(page, networks, settings)
  curves(page, networks[0], book, settings)
  policy_report(
    page,
    [(calibration, test) for calibration, test, _ in networks],
    work,
    platform=settings.platform,
    constants=settings.constants,
    alphas=settings.alphas,
    drop=settings.drop,
    grid=settings.grid,
    scale=settings.scale,
    book=_official_book(settings.network, work),
  )
  ratio = work.head_macs[:-1].mean() / layer
  page.text(
    f'A head costs {ratio:.1%} of a mean layer in multiply-adds: forecasting can only save the heads it skips, and '
    'pays where they are dear. Compute is counted from shapes and energy modelled; nothing was measured.'
  )


def _official_book(network: str, work: Costs) -> tuple[np.ndarray, np.ndarray] | None:
  """(segments, heads) of the authors' constants with the true classifier, for the networks that have them."""
  if network not in ('vgg19', 'resnet34'):
    return None
  layers, exits = costs.official_book(network)
  return np.append(layers, 0), np.append(exits, work.head_macs[-1])


def exits_by_depth(page: Any, networks: list, settings: Settings) -> None:
  """Accuracy, confidence and activation level by depth."""
  page.heading('Exits')
  figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout='constrained')
  for i, (_, test, levels) in enumerate(networks):
    right = np.mean(np.argmax(test.logits, -1) == np.asarray(test.labels)[:, None], axis=0)
    axes[0].plot(range(1, len(right) + 1), right, marker='o', ms=3, label=f'network {i + 1}')
    confidence = np.asarray(jax.nn.softmax(jnp.asarray(test.logits), -1)).max(-1)
    low, mean, high = np.quantile(confidence, 0.1, axis=0), confidence.mean(0), np.quantile(confidence, 0.9, axis=0)
    axes[1].plot(range(1, len(mean) + 1), mean, color=f'C{i}')
    axes[1].fill_between(range(1, len(mean) + 1), low, high, color=f'C{i}', alpha=0.12)
    axes[2].semilogy(range(1, len(right)), levels[settings.mode], marker='o', ms=3, color=f'C{i}')
  axes[0].set(title='test accuracy', xlabel='exit (last: classifier)')
  axes[1].set(title='max probability, mean and 10-90 %', xlabel='exit (last: classifier)')
  axes[2].set(title=f'activation level A ({settings.mode})', xlabel='exit')
  axes[0].legend(fontsize=8)
  page.figure('exits', figure, 'What the exits say by depth; A is what the official criterion divides by.')
  plt.close(figure)


def comparison(page: Any, networks: list, books: Mapping[str, tuple], settings: Settings) -> None:
  """Criteria and engines at equal calibration accuracy, over the networks."""
  page.heading('Criteria and engines at equal accuracy')
  results: dict[str, list[list[Choice]]] = {}
  for book, (segments, heads) in books.items():
    rows, kept = [], []
    for criterion in CRITERIA:
      for engine in ENGINES:
        if (criterion, engine) == ('max_prob', 'official'):
          continue
        found = [
          choose(
            calibration,
            test,
            levels['signed_mean' if criterion == 'official' else 'mean_max_abs'],
            segments,
            heads,
            criterion=criterion,
            engine=engine,
            drop=settings.drop,
            count=settings.grid,
            rounds=settings.rounds,
            clip_target=settings.clip_target,
            starts=tuple(s for s in (1, 4, 7) if s < len(segments)),
          )
          for calibration, test, levels in networks
        ]
        kept.append(found)
        mean, deviation = (f([[c.accuracy, c.compute, c.heads] for c in found], axis=0) for f in (np.mean, np.std))
        rows.append([criterion, engine, *(f'{m:.3f} ± {d:.3f}' for m, d in zip(mean, deviation, strict=True))])
    final = np.mean([np.mean(np.argmax(t.logits[:, -1], -1) == t.labels) for _, t, _ in networks])
    page.table(
      ['criterion', 'engine', 'test accuracy', 'compute / plain', 'exits run'],
      rows,
      f'{book} cost of heads. Threshold and start: cheapest with calibration accuracy at least that of the classifier '
      f'less {settings.drop:g}; numbers: test set, mean and deviation over {len(networks)} networks; classifier '
      f'{final:.3f}.',
    )
    results[book] = kept
  flat = {book: [[c._asdict() for c in found] for found in kept] for book, kept in results.items()}
  page.results(policies=flat, claims=_claims(page, results))


def _claims(page: Any, results: Mapping[str, list[list[Choice]]]) -> dict[str, Any]:
  """The two directional claims about the official scheme, with their measured values."""
  claims = {}
  for book, kept in results.items():
    by = {(found[0].criterion, found[0].engine): found for found in kept}
    heads = [
      f.heads / n.heads for f, n in zip(by['official', 'official'], by['official', 'next'], strict=True) if n.heads
    ]
    compute = [p.compute / o.compute for p, o in zip(by['max_prob', 'next'], by['official', 'next'], strict=True)]
    claims[book] = {'exits_run_engine_over_next': heads, 'compute_max_prob_over_official': compute}
  rows = [[book, *(', '.join(f'{v:.2f}' for v in values) for values in one.values())] for book, one in claims.items()]
  page.table(
    ['cost of heads', 'exits run: official engine / next', 'compute: max_prob / official criterion'],
    rows,
    'Per network. Below 1 the first saves the heads that it skips, the second multiply-adds.',
  )
  return claims


def forecasts(page: Any, networks: list, settings: Settings) -> None:
  """Forecast quality of the official engine, and what the order of the classes and a constant do to it."""
  page.heading('The official engine')
  rows, picture = [], None
  for i, (calibration, test, levels) in enumerate(networks):
    heads = np.asarray(calibration.logits)[:, :-1]
    level = levels[settings.mode]
    beta = float(np.quantile(np.abs(heads).max(-1) / level, 0.8))
    start = min(settings.start, len(level))
    options = dict(rounds=settings.rounds, official_quirks=settings.quirks)
    jump = accuracy_forward(test.logits, level, beta, start, **options)
    errors = {name: float(value) for name, value in forecast_errors(jump.actual, jump.predicted).items()}
    options['clip_target'] = settings.clip_target
    way = official_walk(test.logits, level, beta, start, **options)
    order = np.random.default_rng(0).permutation(test.logits.shape[-1])
    shuffled = accuracy_forward(
      test.logits[..., order], level, beta, start, rounds=settings.rounds, official_quirks=settings.quirks
    )
    shifted = official_walk(np.asarray(test.logits) + 0.02, level, beta, start, **options)
    rows.append(
      [
        f'network {i + 1}',
        beta,
        float(np.mean(np.asarray(way.label) == test.labels)),
        float(official_score(jump.actual, jump.predicted)),
        *errors.values(),
        float(np.mean(np.asarray(shuffled.predicted) != np.asarray(jump.predicted))),
        float(np.mean(np.asarray(shifted.exit) != np.asarray(way.exit))),
      ]
    )
    picture = picture or (np.asarray(way.exit), np.asarray(jump.actual), np.asarray(jump.predicted), len(level))
  page.table(
    [
      *('', 'beta', 'accuracy', 'official score', 'mean error', 'early', 'exact', 'late'),
      *('forecasts changed by class order', 'exits changed by +0.02'),
    ],
    rows,
    f'From layer {settings.start}, beta at the 0.8 quantile of the calibration ratios; test set. A correct engine '
    'would not look at the order of the classes, nor at a constant added to all logits.',
  )
  taken, actual, predicted, exits = picture
  figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout='constrained')
  left.bar(range(1, exits + 2), np.bincount(taken, minlength=exits + 1) / len(taken))
  left.set(title='share of test images by exit taken', xlabel='exit (last: classifier)')
  counted = (actual >= 0) & (predicted >= 0)
  size = max(actual.max(initial=1), predicted.max(initial=1)) + 1
  cells = np.zeros((size, size))
  np.add.at(cells, (actual[counted], predicted[counted]), 1)
  image = right.imshow(cells[1:, 1:].T, origin='lower', extent=(0.5, size - 0.5, 0.5, size - 0.5), cmap='Blues')
  right.plot([0.5, size - 0.5], [0.5, size - 0.5], color='grey', lw=1)
  right.set(title='forecast against actual jump', xlabel='exits to the next confident one', ylabel='forecast')
  figure.colorbar(image, ax=right, label='test images')
  page.figure('forecasts', figure, 'The official walk of the first network.')
  plt.close(figure)


def curves(page: Any, network: tuple, book: tuple, settings: Settings) -> None:
  """Accuracy against compute for every policy of the first network."""
  calibration, test, levels = network
  figure, axis = plt.subplots(figsize=(7, 4.4), layout='constrained')
  for i, criterion in enumerate(CRITERIA):
    level = levels['signed_mean' if criterion == 'official' else 'mean_max_abs']
    grid = threshold_grid(calibration, level, criterion, settings.grid)
    for engine, style in zip(ENGINES, ('-', '--', ':'), strict=True):
      if (criterion, engine) != ('max_prob', 'official'):
        curve = policy_curve(
          test,
          level,
          grid,
          *book,
          criterion=criterion,
          engine=engine,
          start=1,
          rounds=settings.rounds,
          clip_target=settings.clip_target,
        )
        axis.plot(curve.compute, curve.accuracy, style, color=f'C{i}', lw=1.3, label=f'{criterion}, {engine}')
  right = np.mean(np.argmax(test.logits[:, -1], -1) == test.labels)
  axis.plot(1.0, right, marker='*', ms=13, color='black', ls='', label='plain network')
  axis.set(xlabel='compute relative to the plain network', ylabel='test accuracy')
  axis.legend(fontsize=7)
  page.figure(
    'pareto', figure, 'Every threshold, from exit 1, true multiply-adds, first network; drawn on test images.'
  )
  plt.close(figure)
