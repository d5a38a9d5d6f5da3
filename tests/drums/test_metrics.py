"""Duplication, validity and composition; the whole of table 7.2 where the published texts are at hand."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpapers.drums import data, metrics, notation, published, structure
from jaxpapers.engine.errors import UserError

SHARED = Path(os.environ.get('JAXPAPERS_SHARED') or Path(__file__).parents[3] / 'shared') / 'data' / 'drums'
needs_texts = pytest.mark.skipif(not (SHARED / 'drumroll_official.zip').exists(), reason=f'{SHARED} is absent')


@pytest.fixture(scope='module')
def grids():
  bundled = data.bundled()
  return {split: [groove.grid for groove in bundled if groove.split == split] for split in data.SPLITS}


def measure(*hits):
  grid = np.zeros((16, 6), bool)
  for step, column in hits:
    grid[step, column] = True
  return grid


A, B, SILENT = measure((0, 3), (4, 2)), measure((0, 3), (12, 2)), measure()


def test_duplication_counts_sounding_measures():
  reference = [np.concatenate([A, A, B]), np.concatenate([A, SILENT])]
  got = metrics.duplication([np.concatenate([A, SILENT, B, measure((3, 5))])], reference)
  assert got == (3, 2, {0: 1, 1: 1, 3: 1}, 2, 1) and got.share == 0.5
  # Text without its last newline, and lines behind the last measure.
  text = notation.to_text(np.concatenate([A, B]))[:-1]
  assert metrics.duplication([text], reference).found == 2
  assert metrics.duplication([notation.to_text(A) + 'o-----\n'], reference)[:2] == (2, 1)
  assert metrics.duplication([], reference) == (0, 0, {}, 0, 0)
  assert metrics.duplication([SILENT], []).share == 0.0


def test_human_duplication_of_the_table(grids):
  train = metrics.duplication(grids['test'], grids['train'])
  assert (train.found, train.measures) == (95, 467) and round(train.share, 3) == 0.191
  own = metrics.duplication(grids['test'], grids['test'])
  assert (own.found, own.measures, own.histogram[1]) == (467, 467, 350)


@given(st.lists(st.lists(st.sampled_from([0, 1, 2]), max_size=6), max_size=4))
def test_repeats_are_counted_one_by_one(grooves):
  choices = (A, B, SILENT)
  built = [np.concatenate([choices[i] for i in g]) if g else np.zeros((0, 6), bool) for g in grooves]
  later = [(g[i - 1], g[i]) for g in grooves for i in range(2, len(g)) if g[i] != 2]
  want = sum(a == b for a, b in later) / max(len(later), 1)
  assert metrics.repeat_rate(built) == pytest.approx(want)


def test_validity_tells_short_and_illegal_texts_apart():
  good, short = notation.to_text(np.concatenate([A] * 16)), notation.to_text(np.concatenate([A] * 15))
  illegal = good.replace('---o--', '---x--', 1)
  got = metrics.validity([good, short, illegal, '\n' + good, ''])
  assert got == (5, 3, 1, 16 * 63, 1, 1)
  assert metrics.validity([short], measures=15).exact == 1


def test_composition_of_known_measures():
  made = metrics.composition([np.concatenate([A, SILENT]), B], [np.concatenate([A, B])])
  assert made['silent_lines'] == pytest.approx(1 - 4 / 48) and made['silent_measures'] == pytest.approx(1 / 3)
  assert made['hits_per_line'] == pytest.approx(4 / 48) and made['backbeat'] == 0.5
  assert made['js_instruments'] == made['js_positions'] == 0.0
  assert metrics.composition([A], [measure((7, 5))])['js_instruments'] == 1.0
  assert set(metrics.composition([], [SILENT]).values()) == {0.0}


def test_jensen_shannon_by_its_definition():
  a, b = np.array([3.0, 1, 0]), np.array([1.0, 1, 2])
  p, q = a / a.sum(), b / b.sum()
  m = (p + q) / 2
  divergence = sum(0.5 * x * np.log2(x / y) for r in (p, q) for x, y in zip(r, m, strict=True) if x)
  assert metrics.jensen_shannon(a, b) == pytest.approx(np.sqrt(divergence))
  assert (metrics.jensen_shannon(a, a), metrics.jensen_shannon(a * 0, a), metrics.jensen_shannon(a * 0, a * 0)) == (
    0,
    1,
    0,
  )


TABLE = {
  #             mean    between  within  pooled legal exact train human repeats
  'human': (5.0792, 10.0070, 1.4114, 518, 37, 37, 0.191, 1.0, 0.073),
  'davinci': (3.0393, 6.8560, 0.6051, 509, 33, 18, 0.131, 0.260, 0.251),
  'ada': (3.4499, 7.1746, 0.7739, 509, 33, 16, 0.192, 0.264, 0.296),
}


@pytest.fixture(scope='module')
def comparison():
  return published.comparison(SHARED / 'drumroll_official.zip', SHARED / 'annotations.csv')


@needs_texts
@pytest.mark.parametrize('who', TABLE)
def test_the_published_corpora(who, comparison, grids):
  row = comparison[who]
  mean, between, within, pooled, legal, exact, train, human, repeats = TABLE[who]
  got = [row['mean_stability'], row['between_centres'], row['within_centre']]
  np.testing.assert_allclose(got, [mean, between, within], atol=5e-5)
  assert [row['values'], row['legal'], row['sixteen_measures']] == [pooled, legal, exact]
  shares = [round(row[key], 3) for key in ('duplicates_train', 'duplicates_human', 'repeats')]
  assert shares == [train, human, repeats]
  if who == 'human':
    assert metrics.describe(grids['test'], grids['train'], grids['test']).items() <= row.items()


@needs_texts
def test_the_listening_notes(comparison):
  columns = ('consistent', 'repetitive', 'chaotic', 'none', 'not rated', 'fill', 'fill rated', 'short')
  assert [[comparison[who][column] for column in columns] for who in TABLE] == [
    [33, 0, 0, 4, 0, 31, 37, 10],
    [29, 3, 1, 2, 2, 13, 35, 9],
    [18, 7, 7, 3, 2, 10, 35, 11],
  ]
  np.testing.assert_allclose([comparison[who]['fill_auc'] for who in TABLE], [0.909, 0.757, 0.602], atol=5e-4)
  assert comparison['random']['mean_stability'] == pytest.approx(40.3803, abs=5e-5)
  assert comparison['repeat']['mean_stability'] == 0 and 'fill' not in comparison['repeat']


@needs_texts
def test_the_largest_change_tells_fills_in_all_corpora_together():
  notes = published.read_notes(SHARED / 'annotations.csv')
  curves = {}
  for who in TABLE:
    texts = published.read_texts(SHARED / 'drumroll_official.zip', who, 'test')
    curves |= dict(zip([(who, n) for n in texts], structure.stability_curves(list(texts.values())), strict=True))
  assert published.fill_auc(notes, curves) == pytest.approx(0.763, abs=5e-4)
  means = {
    pattern: np.mean([curves[note.who, note.name].mean() for note in notes if note.pattern == pattern])
    for pattern in ('repetitive', 'consistent', 'chaotic')
  }
  assert [round(float(mean), 2) for mean in means.values()] == [0.61, 4.57, 6.24]


def test_published_files_of_ones_own(tmp_path):
  path = tmp_path / 'notes.csv'
  path.write_text(
    'version,drummer,name,pattern,fill,short\nv2,ada,x,Chaotic,x,\nv2,ada,y,-,-,-\nv2,human,w,None,,2\nv1,ada,z,None,,4\n'
  )
  notes = published.read_notes(path)
  assert notes == [
    ('ada', 'x', 'chaotic', True, False),
    ('ada', 'y', 'not rated', None, None),
    ('human', 'w', 'none', False, True),
  ]
  assert published.tabulate(notes) == Counter(
    {'consistent': 0, 'repetitive': 0, 'chaotic': 1, 'none': 1, 'not rated': 1, 'fill': 1, 'fill rated': 2, 'short': 1}
  )
  with pytest.raises(ValueError, match='with a fill and grooves without'):
    published.fill_auc(notes[:2], {('ada', 'x'): np.array([1]), ('ada', 'y'): np.array([1])})
  path.write_text('a,version\n1,v2\n')
  with pytest.raises(UserError, match="lacks 'drummer'"):
    published.read_notes(path)
  with pytest.raises(UserError, match='cannot be read'):
    published.read_notes(tmp_path / 'none.csv')
  with pytest.raises(UserError, match='cannot be read as the zip'):
    published.read_texts(path, 'ada', 'test')
