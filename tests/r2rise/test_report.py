"""Every table and picture is drawn from results, with one learner and with three; frames become the right pictures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from jaxpapers.r2rise import filmstrip, report
from jaxpapers.r2rise.demos import make_demonstrations
from jaxpapers.r2rise.importance import importance_map
from jaxpapers.r2rise.results import AgreementMatrix, Curve, LearnerResult, Reliability, Results
from jaxpapers.r2rise.statistics import equality_test

RNG = np.random.default_rng(0)
TRUTH = np.array([[1, 0, 0, 1], [0, 1, 0, 0]], bool)


class Page:
  """Takes what a report writes."""

  def __init__(self):
    self.figures, self.tables, self.texts = {}, [], []

  def heading(self, text):
    self.texts.append(text)

  text = heading

  def table(self, header, rows, caption=''):
    assert all(len(row) == len(header) for row in rows)
    self.tables.append((header, rows))

  def figure(self, name, figure, caption=''):
    figure.canvas.draw()
    self.figures[name] = figure


def _results(names, seeds, truth):
  learners = []
  for number, name in enumerate(names):
    masks = RNG.random((seeds, 24, 2, 4)) < 0.5
    returns = (masks * TRUTH).sum(axis=(2, 3)) + RNG.normal(0, 0.2, (seeds, 24))
    if number:
      returns[0, 16:] = np.nan  # a rule stopped this seed early
    trained = np.isfinite(returns)
    orders = ('top', 'top', 'bottom', 'bottom', 'random', 'random', 'all', 'truth', 'top_of_other')
    fractions = np.array([0.5, 0.25, 0.25, 0.5, 0.25, 0.5, 1.0, 0.4, 0.5])
    counts = np.array([8, 16, 24])
    learners.append(
      LearnerResult(
        name,
        importance_map(masks[trained], returns[trained]),
        np.stack([importance_map(m[t], r[t]).value for m, r, t in zip(masks, returns, trained, strict=True)]),
        masks,
        returns,
        masks.sum(axis=(2, 3)) * 1.0,
        equality_test(masks[trained], returns[trained], 19),
        np.full(seeds, 0.9) if truth is not None else None,
        Reliability(
          counts, RNG.random((seeds, 3)), RNG.random((seeds, 3)) if truth is not None else None, counts[:seeds]
        ),
        Curve(orders, fractions, RNG.random((seeds, 9, 3))),
      )
    )
  square = np.full((len(names),) * 2, 0.5)
  demos = make_demonstrations(RNG.integers(0, 255, (2, 8, 12, 12, 4)).astype(np.uint8), np.zeros((2, 8), int))
  baselines = {} if truth is None else {'random': RNG.random((2, 4))}
  agreement = AgreementMatrix(tuple(names), square, square, square, square, square)
  return Results('game', demos, truth, 2, 'contrast', 0.5, tuple(learners), agreement, baselines)


@pytest.fixture(autouse=True)
def _close():
  yield
  plt.close('all')


def test_three_learners_fill_every_section():
  page = Page()
  report.draw(_results(('bc', 'bco', 'gail'), 2, TRUTH), page)
  single = {f'{kind}_{name}' for kind in ('map', 'profile', 'frames') for name in ('bc', 'bco', 'gail')}
  assert set(page.figures) == single | {
    'returns', 'curves', 'settling', 'baselines', 'agreement', 'difference',
  }  # fmt: skip
  header, rows = page.tables[0]
  assert header[-1] == 'AUC' and [row[0] for row in rows] == ['bc', 'bco', 'gail']
  shift = {(row[0], row[1]): row[4] for row in page.tables[-1][1]}
  assert shift['bc', 'contrast'] == pytest.approx(1.0) and shift['bc', 'raw sum'] < 0.99


def test_one_learner_without_truth_leaves_out_what_it_cannot_say():
  page = Page()
  report.draw(_results(('bc',), 1, None), page)
  assert set(page.figures) == {'returns', 'map_bc', 'profile_bc', 'frames_bc', 'curves', 'settling'}
  assert 'AUC' not in page.tables[0][0]
  assert any('nothing to compare' in text for text in page.texts)


def test_the_map_is_hatched_where_its_interval_holds_zero():
  from jaxpapers.r2rise import figures
  from jaxpapers.r2rise.importance import ImportanceMap

  sure = np.array([[True, False, False], [False, True, True]])
  importance = ImportanceMap(np.where(sure, 2.0, 0.1), np.full((2, 3), 0.5), np.full((2, 3), 50.0))
  axis = figures.map_figure(importance, None, 1, 'contrast').axes[0]
  (boxes,) = axis.collections
  corners = {tuple(np.round(path.get_extents().min + 0.5).astype(int)[::-1]) for path in boxes.get_paths()}
  assert corners == {tuple(cell) for cell in np.argwhere(~sure)}


def test_rankings_settle_on_themselves():
  masks = RNG.random((40, 2, 4)) < 0.5
  returns = masks[:, 0, 0] + RNG.normal(0, 0.1, 40)
  returns[30:] = np.nan
  rows = report.ranking_convergence(masks, returns, np.array([1, 10, 30, 40]), 'contrast')
  assert np.isnan(rows[[0, 3]]).all() and rows[2].tolist() == pytest.approx([1.0, 1.0])
  assert rows[1, 0] < 1.0


def test_frames_become_pictures():
  stack = np.zeros((4, 4, 4), np.uint8)
  stack[1, 1, 3] = 255  # now
  stack[2, 2, 0] = 255  # three frames ago
  picture = filmstrip.render(stack)
  assert picture.shape == (4, 4, 3) and picture[1, 1].tolist() == [1, 1, 1]
  assert picture[2, 2, 0] > picture[2, 2, 2] > 0
  player_and_ball = np.zeros((2, 2, 2), bool)
  player_and_ball[0, 0] = True
  maps = filmstrip.render(player_and_ball)
  np.testing.assert_allclose(maps[0, 0], plt.get_cmap('tab10').colors[0])
  assert filmstrip.render(np.array([1.0, 3.0, 2.0])).shape == (1, 3, 3)
  assert filmstrip.render(np.ones(3)).shape == (1, 3, 3)


def test_the_film_shows_the_peaks_and_the_troughs():
  demos = make_demonstrations(np.zeros((2, 6, 3, 3), np.float32), np.arange(12).reshape(2, 6) % 5)
  value = np.array([[0.5, np.nan, -0.25], [0.75, 0.0, -1.0]])
  figure = filmstrip.filmstrip_figure(demos, value, 2, count=2)
  titles = [axis.get_title().split('\n') for axis in figure.axes]
  assert [title[0] for title in titles] == ['+0.75', '+0.50', '-1.00', '-0.25']
  assert titles[2][1:] == ['no. 1, frame 4', 'action 0']
