"""Compares jaxpapers.drums with outputs of the authors' code and of independent references.

What a file is, its keys say. The authors' texts and the MIDI files are read from $JAXPAPERS_SHARED/data/drums.
"""

import csv
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from jaxpapers.drums import data, encoding, metrics, midi, ngrams, notation, published, structure
from tests.golden import Check, default_folder, dispatch, group, load

DATA = default_folder('drums').parent.parent / 'data' / 'drums'


def run(path: Path) -> Iterable[Check]:
  if path.suffix == '.csv':
    return encodings_manifest(path)
  if path.suffix == '.npz':
    arrays, meta = load(path)
    found = [case for name, case in ARRAYS.items() if any(re.match(name, key) for key in arrays)]
    return dispatch('arrays', {'arrays': found[0]} if found else {}, arrays, meta)
  content = json.loads(path.read_text())
  found = [case for key, case in TABLES.items() if key in {**content, **content.get('meta', {})}]
  return dispatch('table', {'table': found[0]} if found else {}, content)


@functools.cache
def texts(who: str, split: str) -> dict[str, str]:
  if who in published.FOLDERS:
    return published.read_texts(DATA / 'drumroll_official.zip', who, split)
  grids = {name: notation.parse(text).grid for name, text in texts('human', split).items()}
  made = {
    'repeat': lambda: [structure.repeat_baseline(grid) for grid in grids.values()],
    'random': lambda: structure.random_baseline(len(grids)),
  }[who]()
  return {name: notation.to_text(grid) for name, grid in zip(grids, made, strict=True)}


def encodings_manifest(path: Path) -> Iterable[Check]:
  with path.open(newline='') as file:
    want = {(row['split'], row['name']): row for row in csv.DictReader(file)}
  reading = data.read_gmd(DATA / 'groove_midi.zip')
  for label, grooves in (('read', reading.grooves), ('bundled', data.bundled())):
    got = {(g.split, g.name): g.grid for g in grooves}
    yield Check(f'{label} names', sorted(got), sorted(want), 0)
    yield Check(f'{label} lines', [len(got[key]) for key in want], [int(r['lines']) for r in want.values()], 0)
    yield Check(f'{label} hits', [got[key].sum() for key in want], [int(r['hits']) for r in want.values()], 0)
    hashes = [hashlib.sha256(notation.to_text(got[key]).encode()).hexdigest() for key in want]
    yield Check(f'{label} sha256', hashes, [row['sha256_of_text'] for row in want.values()], 0)
  yield Check(
    'skipped', [len(reading.skipped), *('denominator' in r for r in reading.skipped.values())], [6] + [1] * 6, 0
  )


def midi_to_text(arrays: dict, meta: dict) -> Iterable[Check]:
  for name, about in meta['files'].items():
    encoded = encoding.encode(arrays[f'input/midi/{name}'].tobytes(), official=True)
    yield Check(f'{name} skipped', bool(encoded.skipped), about['skipped'], 0)
    if not about['skipped']:
      yield Check(f'{name} grid', encoded.grid, arrays[f'output/grid/{name}'], 0)
      text = np.frombuffer(notation.to_text(encoded.grid).encode(), np.uint8)
      yield Check(f'{name} text', text, arrays[f'output/text/{name}'], 0)


def text_to_midi(arrays: dict, meta: dict) -> Iterable[Check]:
  for name, text in group(arrays, 'input/text').items():
    grid = notation.parse(text.tobytes().decode()).grid
    yield Check(f'{name} lines', len(grid), meta[name]['lines'], 0)
    events = arrays[f'output/events/{name}']
    want = sorted(map(tuple, events[events[:, 2] > 0].tolist()))
    for label, content in (('written', midi.write(grid)), ('official file', arrays[f'output/file/{name}'].tobytes())):
      file = midi.read(content)
      got = sorted(zip(file.tick.tolist(), file.pitch.tolist(), file.velocity.tolist(), strict=True))
      yield Check(f'{name} {label}', np.reshape(got, (-1, 3)), np.reshape(want, (-1, 3)), 0)
      yield Check(f'{name} {label} resolution', file.ticks_per_quarter, meta[name]['ticks_per_beat'], 0)


def structure_metrics(arrays: dict, meta: dict) -> Iterable[Check]:
  for kind, case in (
    ('stability', structure.stability),
    ('kmeans', lambda text: np.array(structure.two_means(structure.stability(text)))),
    ('pairwise', structure.self_distances),
  ):
    for key, want in group(arrays, f'output/{kind}').items():
      split, who, name = key.split('/')
      # The first two k-means columns are whatever one random start found.
      exact = want[2:] if kind == 'kmeans' else want
      yield Check(f'{kind} {key}', case(texts(who, split)[name]), exact, 1e-9 if kind == 'kmeans' else 0)
  for key, want in meta.get('totals', {}).items():
    split, who = key.split('/')
    total = structure.summarise(structure.stability_curves(list(texts(who, split).values())))
    columns = ('mean', 'between_exact', 'within_exact', 'n_values')
    yield Check(f'totals {key}', total[:4], [want[column] for column in columns], 1e-9)
  for index, (a, b, want) in enumerate(meta.get('lev_pairs', [])):
    codes = [np.array([[ord(c) for c in text]], np.int64).reshape(1, -1) for text in (a, b)]
    lengths = [np.array([len(text)]) for text in (a, b)]
    yield Check(f'edits {index}', structure.levenshtein(*codes, *lengths), [want], 0)


def duplication(content: dict) -> Iterable[Check]:
  for key, want in content['counts'].items():
    source, who = key.split('/')
    reference = [groove.grid for groove in data.bundled() if groove.split == source]
    got = metrics.duplication(list(texts(who, 'test').values()), reference)
    for name in ('measures', 'found', 'completion_measures', 'completion_found'):
      yield Check(f'{key} {name}', getattr(got, name), want[name], 0)
    histogram = sorted((int(times), count) for times, count in want['histogram'].items())
    yield Check(f'{key} histogram', list(got.histogram.items()), histogram, 0)


def ngram_baselines(content: dict) -> Iterable[Check]:
  records = data.records(data.bundled(), official=True)
  model = ngrams.fit([groove.grid for groove in records['train']])
  yield Check('weights', model.weights, content['meta']['weights'], 1e-4, relative=True)
  for key, grooves in content.items():
    if key == 'meta':
      continue
    split, _, span = key.partition('_')
    known = {groove.name: groove.grid for groove in records[split]}
    stop = {'measures_3_4': 4 * notation.STEPS, 'full': None}[span]
    got = np.array([list(ngrams.nats(model, known[name], stop=stop).values()) for name in grooves])
    for column, name in enumerate(content['meta']['columns']):
      want = np.array([row[column] for row in grooves.values()])
      yield Check(f'{key} {name}', got[:, column] / want, np.ones(len(want)), 1e-4)


def of_language_model(name: str) -> Callable[..., Iterable[Check]]:
  """Cases of the language model: the others need no JAX."""
  return lambda *args: getattr(importlib.import_module('tests.drums.golden_lm'), name)(*args)


ARRAYS = {
  r'input/midi/': midi_to_text,
  r'input/text/': text_to_midi,
  r'output/(stability|pairwise|kmeans)/': structure_metrics,
  r'param/': of_language_model('language_model'),
  r'output/last_logits_': of_language_model('smollm2'),
  r'input/logits$': of_language_model('sampling'),
}
TABLES = {'counts': duplication, 'weights': ngram_baselines, 'strings': of_language_model('bpe')}
