import json

import numpy as np
import pytest
from scipy import stats

from jaxpapers.engine import scoreboard
from jaxpapers.engine.claims import FAILS, HOLDS, UNCHECKED, Above, Below, Between, Claim, Run, interval, judge
from jaxpapers.engine.scoreboard import Row

POSITIVE = Above(0.0)


def claim(condition=POSITIVE, **changes):
  fields = {'measure': lambda r: r['gain'], 'condition': condition, 'unit': 'points', 'run': Run()} | changes
  return Claim('gains', 'It | gains <much>.', 'table', **fields)


def gains(*values):
  return [{'gain': value} for value in values]


def test_interval_is_scipys():
  values = [0.3, 0.9, 1.4, 0.2]
  expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
  np.testing.assert_allclose(interval(values), expected, rtol=1e-12)


@pytest.mark.parametrize(
  'condition, values, verdict',
  [
    (Above(0.0), (1.0, 1.1, 0.9), HOLDS),
    (Above(1.0), (1.0, 1.1, 0.95), FAILS),
    (Above(0.0), (-1.0, -1.1, -0.9), FAILS),
    (Below(0.0), (-1.0, -1.1, -0.9), HOLDS),
    (Below(-1.0), (-1.0, -1.1, -0.9), FAILS),
    (Between(-0.1, 0.1), (0.01, -0.01, 0.0), HOLDS),
    (Between(-0.1, 0.1), (0.3, 0.31, 0.29), FAILS),
    (Between(-0.1, 0.1), (-0.2, 0.2, 0.0), FAILS),
  ],
)
def test_the_whole_interval_decides(condition, values, verdict):
  assert judge(claim(condition), gains(*values)).verdict == verdict


def test_an_interval_across_the_bound_is_told():
  found = judge(claim(), gains(1.0, -0.5, 0.9))
  assert found.verdict == FAILS and 'interval' in found.why
  assert found.low < 0 < found.mean < found.high


def test_seeds_inside_a_run_count_only_where_there_is_one_run():
  one = judge(claim(), gains([1.0, 1.2, 1.1]))
  assert one.values == (1.0, 1.2, 1.1) and one.verdict == HOLDS
  two = judge(claim(), gains([1.0, 2.0], [3.0, 4.0]))
  assert two.values == (1.5, 3.5)


def test_what_cannot_be_judged_says_why():
  assert judge(claim(), gains(1.0)).verdict == UNCHECKED
  assert judge(claim(run=Run(seeded=False)), gains(1.0)).verdict == HOLDS
  assert judge(claim(run=Run(seeded=False)), gains(-1.0)).verdict == FAILS
  assert 'no run' in judge(claim(), []).why
  assert 'gain' in judge(claim(), [{}, {}]).why
  assert 'finite' in judge(claim(), gains(1.0, None)).why
  never = claim(run=None, measure=None, needs='a large data set')
  assert judge(never, []) == (UNCHECKED, 'a large data set', (), None, None, None)


def test_a_claim_that_is_neither_measured_nor_explained_is_refused():
  with pytest.raises(ValueError, match='needs'):
    claim(run=None, measure=None)
  with pytest.raises(ValueError, match='both'):
    claim(run=None, needs='more')
  with pytest.raises(ValueError, match='needs'):
    claim(data='file.npz')


def test_runs_have_names_for_folders():
  assert Run('dd', ('a.b=(1, 2)', 'c=x/y')).name == 'dd-a.b=_1_2_-c=x_y'


def test_the_three_files_show_every_verdict():
  failing = claim(paper=1.5)
  rows = [
    Row('one', claim(), judge(claim(), gains(1.0, 1.1)), 12.0, 'pictures/a.png'),
    Row('one', failing, judge(failing, gains(-1.0, -1.1)), 12.0),
    Row('two', claim(), judge(claim(), [])),
  ]
  machine = {'cores': '2'}
  entries = json.loads(scoreboard.as_json(rows, machine))['claims']
  assert [e['verdict'] for e in entries] == [HOLDS, FAILS, UNCHECKED]
  assert entries[1]['paper'] == 1.5 and entries[2]['mean'] is None
  markdown = scoreboard.as_markdown(rows, machine)
  lines = [line for line in markdown.splitlines() if line.startswith('| It')]
  assert [line.split(' | ')[-2:] for line in lines] == [[HOLDS, '12 s |'], [FAILS, '12 s |'], [UNCHECKED, '- |']]
  assert 'It \\| gains' in lines[0] and ' 1.5 ' in lines[1]
  page = scoreboard.as_page(rows, machine)
  assert page.count('<article>') == 3 and 'gains &lt;much&gt;' in page and '<img src="pictures/a.png"' in page
  assert '1 hold, 1 do not, 1 not checkable here' in page
