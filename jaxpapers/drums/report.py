"""What a run found: nats per line beside models that know no language, and the grooves that it writes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from jaxpapers.drums import figures, generation, metrics, midi, ngrams, synth
from jaxpapers.drums.data import Groove
from jaxpapers.drums.model import Decoder
from jaxpapers.drums.notation import STEPS, parse, prompt_completion
from jaxpapers.drums.structure import random_baseline, repeat_baseline, stability_curves
from jaxpapers.drums.tokenizers import Tokenizer
from jaxpapers.drums.transfer import Run

PROMPT, MEASURES = 2, 16
_LAST = 4 * STEPS
NAMES = {
  'finetune': 'pre-trained',
  'scratch': 'from scratch',
  'imported': 'imported',
  'statistics': 'matched statistics',
  'shuffled_embeddings': 'shuffled embeddings',
  'shuffled_text': 'pre-trained on shuffled words',
  'pretrained': 'pre-trained',
}


class Settings(NamedTuple):
  """How grooves are written.

  Attributes:
    decoder: the model.
    tokenizer: its vocabulary.
    window: measures that its positions hold, or None.
    seed: of the draws.
    grooves: test grooves that are continued.
    temperature: see `generation.generate`.
    top_k: likewise.
    top_p: likewise.
    shown: grooves that are drawn, and written as MIDI and WAV.
  """

  decoder: Decoder
  tokenizer: Tokenizer
  window: int | None
  seed: int
  grooves: int
  temperature: float
  top_k: int | None
  top_p: float | None
  shown: int


def draw(page: Any, models: Mapping[str, Any], grooves: Mapping[str, Sequence[Groove]], settings: Settings) -> None:
  """The report of fine-tuning.

  Args:
    page: engine.Report.
    models: {stage: variables of the decoder}.
    grooves: records by split.
    settings: how grooves are written.
  """
  grids = {split: [groove.grid for groove in several] for split, several in grooves.items()}
  lines = baselines(grids)
  _predictions(page, models, lines)
  _compositions(page, models, grooves['test'][: settings.grooves], grids['train'], settings)


def baselines(grids: Mapping[str, Sequence[np.ndarray]]) -> dict[str, dict[str, float]]:
  """{split: nats per line of measures 3 and 4}, of 'unigram', 'position' and 'mixture' fitted on 'train'."""
  model = ngrams.fit(grids['train'])
  chosen = {split: [grids[split][i] for i in ngrams.sounding(grids[split])] for split in ('dev', 'test')}
  return {split: ngrams.nats_per_line(model, several, stop=_LAST) for split, several in chosen.items()}


def draw_transfer(
  page: Any, found: Mapping[str, Mapping[Run, float]], grids: Mapping[str, Sequence[np.ndarray]]
) -> None:
  """The report of the study: nats per line of every arm against the number of grooves, and paired differences.

  Args:
    page: engine.Report.
    found: {split: {run: nats per line}}.
    grids: records by split.
  """
  lines = baselines(grids)
  page.heading('What transfers')
  for split, runs in found.items():
    arms = _by_arm(runs)
    named = {NAMES.get(arm, 'from scratch'): sizes for arm, sizes in arms.items()}
    figure = figures.against_grooves(named, _line_names(lines[split]))
    page.figure(f'transfer_{split}', figure, f'Nats per line on {split}, measures 3 and 4, against training grooves')
    plt.close(figure)
    sizes = sorted({run.grooves for run in runs})
    rows = [[name, *(_mean_interval(row[size]) for size in sizes)] for name, row in named.items()]
    page.table(
      ['start', *(f'{size} grooves' for size in sizes)],
      rows,
      f'Nats per line on {split}: mean over seeds and half the width of its 95 % interval.',
    )
    if 'pretrained' in arms and len(arms) > 1:
      best = arms['pretrained']
      rows = []
      for arm, row in arms.items():
        if arm != 'pretrained':
          gain = [_mean_interval([a - b for a, b in zip(row[size], best[size], strict=True)]) for size in sizes]
          rows.append([NAMES.get(arm, 'from scratch'), *gain])
      page.table(
        ['start', *(f'{size} grooves' for size in sizes)],
        rows,
        f'Nats per line on {split} that the pre-trained start saves against the others, paired by seed.',
      )
    page.results(**{f'transfer_{split}': {arm: {str(s): v for s, v in row.items()} for arm, row in arms.items()}})
  page.results(baselines=lines)


def verdict(name: str, value: float, lines: Mapping[str, float]) -> str:
  """Which of the line models a network predicts better than, in a sentence."""
  labels = _line_names(lines)
  better = [label for label, nats in labels.items() if value < nats]
  worse = [label for label, nats in labels.items() if value >= nats]
  parts = [f'better than {" and ".join(better)}'] if better else []
  parts += [f'worse than {" and ".join(worse)}'] if worse else []
  return f'{name} reaches {value:.3f} nats per line: ' + ', '.join(parts) + '.'


def _line_names(lines: Mapping[str, float]) -> dict[str, float]:
  names = {'unigram': 'line frequencies', 'position': 'frequencies by position', 'mixture': 'copy mixture'}
  return {label: lines[key] for key, label in names.items()}


def _predictions(page: Any, models: Mapping[str, Any], lines: Mapping[str, Mapping[str, float]]) -> None:
  page.heading('Does pre-training on language help?')
  curves = {NAMES[stage]: page.history(stage, 'dev/nats_per_line') for stage in models}
  curves = {name: curve for name, curve in curves.items() if curve[0]}
  if curves:
    figure = figures.learning_curves(curves, _line_names(lines['dev']))
    page.figure('learning', figure, 'Nats per line of measures 3 and 4 given 1 and 2, dev grooves')
    plt.close(figure)
  splits = ('dev', 'test')
  rows = [[label, *(_line_names(lines[split])[label] for split in splits)] for label in _line_names(lines['dev'])]
  final = {stage: page.final.get(stage, {}) for stage in models}
  for stage, values in final.items():
    rows.append([NAMES[stage], *(values.get(f'{split}/nats_per_line') for split in splits)])
  page.table(['predictor', *splits], rows, 'Nats per line, measures 3 and 4 of the grooves with hits in both.')
  for stage, values in final.items():
    if 'dev/nats_per_line' in values:
      page.text(verdict(f'On dev, the network {NAMES[stage]}', values['dev/nats_per_line'], lines['dev']))
  if {'finetune', 'scratch'} <= set(final):
    a, b = (final[stage].get('dev/nats_per_line') for stage in ('finetune', 'scratch'))
    if a is not None and b is not None:
      which = 'Pre-training on text helps here' if a < b else 'Pre-training on text does not help here'
      page.text(
        f'{which}: {a:.3f} against {b:.3f} nats per line after equal steps. '
        'One seed is no estimate: when a network starts to look back by whole measures is chance to a large part.'
      )
  page.results(baselines=lines)


def _compositions(
  page: Any, models: Mapping[str, Any], test: Sequence[Groove], train: Sequence[np.ndarray], settings: Settings
) -> None:
  """Continues the test grooves under the grammar, measures them beside people, and writes some of them."""
  page.heading('Grooves')
  human = [groove.grid[: MEASURES * STEPS] for groove in test]
  prompts = [prompt_completion(groove.grid)[0] for groove in test]
  written: dict[str, list[np.ndarray]] = {'human': human}
  for stage, variables in models.items():
    texts = generation.continue_texts(
      settings.decoder,
      variables,
      settings.tokenizer,
      prompts,
      jax.random.key(settings.seed),
      measures=MEASURES - PROMPT,
      temperature=settings.temperature,
      top_k=settings.top_k,
      top_p=settings.top_p,
      window=settings.window,
    )
    parsed = [parse(text) for text in texts]
    exact = sum(not (p.repaired or p.blank) and len(p.grid) == (MEASURES - PROMPT) * STEPS for p in parsed)
    page.text(
      f'{NAMES[stage]}: {exact} of {len(texts)} continuations under the grammar are exactly {MEASURES - PROMPT} legal '
      'measures.'
    )
    written[NAMES[stage]] = [
      np.concatenate([grid[: PROMPT * STEPS], p.grid]) for grid, p in zip(human, parsed, strict=True)
    ]
  written['repeat'] = [repeat_baseline(grid) for grid in human]
  written['random'] = list(random_baseline(len(human)))
  rows = {who: metrics.describe(several, train, human) for who, several in written.items()}
  keys = list(rows['human'])
  about = 'Whole grooves on test, at most 16 measures, leading silence removed.'
  page.table(['', *keys], [[who, *(row[key] for key in keys)] for who, row in rows.items()], about)
  curves = {who: stability_curves(several) for who, several in written.items()}
  _figure(page, 'stability', figures.stability_curves(curves), 'Edits to the nearer neighbouring measure')
  _figure(
    page,
    'duplicates',
    figures.duplicates(
      {
        'train': {who: metrics.duplication(written[who], train).histogram for who in written if who != 'random'},
        'test': {who: metrics.duplication(written[who], human).histogram for who in written if who != 'random'},
      }
    ),
    'How often each measure occurs in the training set and in the human test grooves',
  )
  main = next(name for name in written if name != 'human')
  for index, groove in enumerate(test[: settings.shown]):
    shown = {f'{who}: {groove.name}': written[who][index] for who in ('human', *(NAMES[stage] for stage in models))}
    _figure(page, f'roll_{index}', figures.piano_roll(shown), 'Human above model; the prompt is shaded')
    _write(page, f'groove_{index}', written[main][index], groove.bpm)
  first = test[0]
  samples = synth.render(written[main][0], bpm=first.bpm)
  seconds = np.arange(MEASURES + 1) * 4 * 60.0 / first.bpm
  _figure(page, 'waveform', figures.waveform(samples, synth.RATE, seconds), 'groove_0.wav, a line a measure')
  pair = {'human': human[0], main: written[main][0]}
  _figure(page, 'self_distance', figures.self_distance(pair), f'Edits between all measures of {first.name}')
  page.text('groove_N.mid and groove_N.wav beside this page are the continuations drawn above, prompt included.')
  page.results(compositions=rows)


def _figure(page: Any, name: str, figure: plt.Figure, caption: str) -> None:
  page.figure(name, figure, caption)
  plt.close(figure)


def _write(page: Any, name: str, grid: np.ndarray, bpm: float) -> None:
  (page.folder / f'{name}.mid').write_bytes(midi.write(grid, bpm=bpm))
  (page.folder / f'{name}.wav').write_bytes(synth.wav(synth.render(grid, bpm=bpm)))


def _by_arm(runs: Mapping[Run, float]) -> dict[str, dict[int, list[float]]]:
  arms: dict[str, dict[int, list[float]]] = {}
  for run, value in sorted(runs.items(), key=lambda item: item[0].seed):
    arms.setdefault(run.arm, {}).setdefault(run.grooves, []).append(value)
  return arms


def _mean_interval(values: Sequence[float]) -> str:
  """'mean ± half width' of the 95 % t interval; the mean alone for one value."""
  if len(values) < 2:
    return f'{np.mean(values):.3f}'
  half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
  return f'{np.mean(values):.3f} ± {half:.3f}'
