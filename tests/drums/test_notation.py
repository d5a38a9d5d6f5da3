import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxpapers.drums import notation

GRIDS = hnp.arrays(bool, st.tuples(st.integers(0, 70), st.just(6)))


def plain_text(grid):
  return ''.join(''.join('o' if hit else '-' for hit in row) + '\n' for row in grid)


@given(GRIDS)
def test_text_and_lines_keep_every_hit(grid):
  text = notation.to_text(grid)
  assert text == plain_text(grid)
  parsed = notation.parse(text, strict=True)
  np.testing.assert_array_equal(parsed.grid, grid)
  assert parsed[1:] == (0, 0, (), False)
  ids = notation.line_ids(grid)
  assert ids.tolist() == [int(''.join(str(int(hit)) for hit in row), 2) for row in grid]
  np.testing.assert_array_equal(notation.grid_of(ids), grid)


def test_lines_of_batches_and_bad_numbers():
  grids = np.random.default_rng(0).random((3, 5, 16, 6)) < 0.3
  np.testing.assert_array_equal(notation.grid_of(notation.line_ids(grids)), grids)
  assert notation.line_ids(np.eye(6, dtype=bool)).tolist() == [32, 16, 8, 4, 2, 1]
  with pytest.raises(ValueError, match=r'0\.\.63'):
    notation.grid_of(np.array([3, 64]))
  with pytest.raises(AssertionError):
    notation.line_ids(np.zeros((4, 5), bool))


@given(GRIDS, st.integers(0, 3))
def test_prompt_and_completion_read_back_as_the_groove(grid, prompt_measures):
  grid = grid[: len(grid) // 16 * 16]
  prompt, completion = notation.prompt_completion(grid, prompt_measures)
  assert prompt.count('SEP\n') == min(prompt_measures, len(grid) // 16) and prompt.endswith(('SEP\n', ''))
  assert completion.endswith('END') and not completion.startswith('SEP')
  parsed = notation.parse(prompt + completion, strict=True)
  np.testing.assert_array_equal(parsed.grid, grid)
  assert parsed.ended


def test_a_full_groove_has_the_lines_of_the_paper():
  prompt, completion = notation.prompt_completion(np.ones((256, 6), bool))
  assert len(prompt.splitlines()) == 32 + 2
  assert len(completion.splitlines()) == 224 + 13 + 1
  assert len(prompt + completion) == 256 * 7 + 15 * 4 + 3


@given(GRIDS)
def test_leading_silence_goes_measure_by_measure(grid):
  rest = grid
  while len(rest) and not rest[:4].any():
    rest = rest[16:]
  np.testing.assert_array_equal(notation.drop_leading_silence(grid), rest)


def test_a_pick_up_is_lost_with_its_silent_quarter():
  grid = np.zeros((48, 6), bool)
  grid[[12, 17, 40], 2] = True
  np.testing.assert_array_equal(notation.drop_leading_silence(grid), grid[16:])


REPAIRS = [
  ('oX----\n', 'has \'X\' where only "o" and "-" belong', 'o-----'),
  ('O-----\n', 'has \'O\' where only "o" and "-" belong', '------'),
  ('-----o \n', "has ' ' where", '-----o'),
  ('--o\n', 'has 3 characters, not 6', '--o---'),
  ('-----ooo', 'has 8 characters, not 6', '-----o'),
  ('SEP \n', "has ' EPS' where", None),
  ('SEPSEP\n', "has 'EPS' where", '------'),
  ('ö-----\n', "has 'ö' where", '------'),
]


@pytest.mark.parametrize(('text', 'fault', 'row'), REPAIRS)
def test_illegal_lines_are_repaired_and_reported(text, fault, row):
  parsed = notation.parse('o----o\n' + text)
  assert parsed.repaired == 1 and len(parsed.problems) == 1
  assert parsed.problems[0].startswith('line 2: ') and fault in parsed.problems[0]
  assert notation.to_text(parsed.grid).split() == ['o----o', *([row] if row else [])]
  with pytest.raises(ValueError, match='line 2: '):
    notation.parse('o----o\n' + text, strict=True)


def test_separators_are_whole_lines():
  parsed = notation.parse('oooSEP\nooo\n')
  assert parsed.repaired == 2 and notation.to_text(parsed.grid) == 'ooo---\nooo---\n'
  assert notation.parse('SEP\nSEP\no-----\nSEP', strict=True).grid.sum() == 1


def test_what_is_accepted_as_it_is():
  assert notation.parse('').grid.shape == (0, 6)
  assert notation.parse('END', strict=True).ended and not len(notation.parse('END').grid)
  windows = notation.parse('o-----\r\nSEP\r\n-o----\r\nEND\r\n', strict=True)
  assert notation.to_text(windows.grid) == 'o-----\n-o----\n' and windows.ended
  blank = notation.parse('\no-----\n\n-o----')
  assert (blank.blank, blank.repaired) == (2, 0) and len(blank.grid) == 2
  assert notation.parse('o-----\n\n').blank == 1 and notation.parse('o--\n').blank == 0
  cut = notation.parse('o-----\n--END-\noooooo\n')
  assert cut.ended and cut.repaired == 1 and notation.to_text(cut.grid) == 'o-----\n------\n'


@settings(max_examples=200)
@given(
  st.lists(st.sampled_from([*'o-\n\r SEPNDxé\u2028', 'oo----', 'SEP', 'ooo', 'SEP\n', '------\n']), max_size=40).map(
    ''.join
  )
)
def test_no_line_is_lost(text):
  parsed = notation.parse(text)
  body = text.replace('\r\n', '\n').split('END')[0]
  lines = [line for line in body.split('\n') if line.strip() and line.strip() != 'SEP']
  assert len(parsed.grid) == len(lines)
  for row, line in zip(parsed.grid, lines, strict=True):
    assert row.tolist() == [line[i : i + 1] == 'o' for i in range(6)]
  assert (
    parsed.repaired == len(parsed.problems) >= sum(len(line) != 6 or set(line) - set('o-') != set() for line in lines)
  )
