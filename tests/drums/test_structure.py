"""Stability against pair-by-pair references, and the rows of table 7.2 that need only the grooves in the package."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxpapers.drums import data, notation, peers, structure

TEXTS = st.text(st.sampled_from('ab\n'), max_size=9)


@pytest.fixture(scope='module')
def test_grids():
  return [groove.grid for groove in data.bundled() if groove.split == 'test']


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_edit_distances_of_many_pairs(pairs):
  sides = [[pair[side] for pair in pairs] for side in (0, 1)]
  padded = [np.array([[ord(c) for c in text.ljust(9, 'z')] for text in side]) for side in sides]
  lengths = [np.array([len(text) for text in side]) for side in sides]
  got = structure.levenshtein(*padded, *lengths)
  assert got.tolist() == [peers.edit_distance(a, b) for a, b in pairs]


def test_edit_distance_is_what_a_library_says():
  library = pytest.importorskip('rapidfuzz').distance.Levenshtein
  generator = np.random.default_rng(0)
  grids = generator.random((6, 64, 6)) < 0.2
  for grid in grids:
    measures = structure.measure_strings(grid)
    want = [[library.distance(a, b) for a in measures] for b in measures]
    assert structure.self_distances(grid).tolist() == want
  assert peers.edit_distance('kitten', 'sitting') == 3


@settings(max_examples=15)
@given(hnp.arrays(bool, st.tuples(st.integers(0, 70), st.just(6))), st.booleans())
def test_curves_are_those_of_pairs(grid, ends):
  text = notation.to_text(grid)
  text = text if ends else text[:-1]
  curves = structure.stability_curves([text, grid, ''])
  assert curves[0].tolist() == peers.stability_by_pair(text)
  assert curves[1].tolist() == peers.stability_by_pair(grid)
  assert curves[2].tolist() == []
  assert len(structure.stability(grid, drop_incomplete=True)) == max(len(grid) // 16 - 2, 0)


def test_measures_are_strings_of_127_characters():
  grid = np.zeros((20 * 16 + 3, 6), bool)
  measures = structure.measure_strings(grid, most=None)
  assert [len(m) for m in measures] == [127] * 20 + [3 * 7 + 2]
  assert len(structure.measure_strings(grid)) == 16
  assert len(structure.measure_strings(notation.to_text(grid)[:-1], most=None)[-1]) == 3 * 7 + 1
  assert len(structure.measure_strings(grid, None, drop_incomplete=True)) == 20
  # Other line ends of Unicode are characters of a line.
  assert len(structure.measure_strings('o\u2028-\r\n' * 16)) == 1


def test_a_shift_by_a_step_is_mended_by_two_lines():
  grid = np.random.default_rng(4).random((16, 6)) < 0.5
  shifted = np.roll(grid, 1, axis=0)
  a, b = structure.measure_strings(np.concatenate([grid, shifted]))
  assert structure.self_distances(np.concatenate([grid, shifted]))[0, 1] <= 16
  assert sum(x != y for x, y in zip(a, b, strict=True)) > 30


@given(st.lists(st.integers(0, 40), max_size=10))
def test_two_means_is_the_best_of_all_splits(values):
  between, within = structure.two_means(np.array(values))
  if len(set(values)) < 2:
    assert (between, within) == (0, 0)
    return
  options = []
  for mask in itertools.product((0, 1), repeat=len(values) - 1):
    groups = [[v for v, m in zip(values, (0, *mask), strict=True) if m == g] for g in (0, 1)]
    if groups[1]:
      centres = [np.mean(g) for g in groups]
      cost = sum((v - c) ** 2 for g, c in zip(groups, centres, strict=True) for v in g)
      spread = np.mean([abs(v - c) for g, c in zip(groups, centres, strict=True) for v in g])
      options.append((cost, abs(centres[1] - centres[0]), spread))
  best = min(options)[0]
  assert any(np.allclose((best, between, within), option, atol=1e-9) for option in options)


def test_short_grooves_give_empty_curves_and_no_nan(test_grids):
  none = structure.summarise(structure.stability_curves([test_grids[0][:n] for n in (0, 5, 16, 32)]))
  assert none == (0.0, 0.0, 0.0, 0, 0)
  assert structure.stability_curves([]) == [] and structure.summarise([]) == none
  mixed = structure.summarise(structure.stability_curves([test_grids[0], test_grids[0][:16]]))
  assert mixed == structure.summarise([structure.stability(test_grids[0])]) and mixed.grooves == 1


def test_the_table_of_human_repeat_and_random_grooves(test_grids):
  human = structure.summarise(structure.stability_curves(test_grids))
  np.testing.assert_allclose(human[:3], [5.0792, 10.0070, 1.4114], atol=5e-5)
  repeat = [structure.repeat_baseline(grid) for grid in test_grids]
  random = structure.summarise(structure.stability_curves(structure.random_baseline(37)))
  np.testing.assert_allclose(random[:3], [40.3803, 5.7050, 1.2405], atol=5e-5)
  assert structure.summarise(structure.stability_curves(repeat)) == (0.0, 0.0, 0.0, 518, 37)
  assert (human.values, random.values) == (518, 518)
  dev = [groove.grid for groove in data.bundled() if groove.split == 'dev']
  np.testing.assert_allclose(
    structure.summarise(structure.stability_curves(dev))[:3], [5.2018, 6.9937, 1.1066], atol=5e-5
  )
