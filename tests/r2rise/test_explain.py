"""One call for a learner of one's own: chunks, logs, stopping, soft and paired masks."""

import json

import jax
import numpy as np
import pytest

from jaxpapers import r2rise
from jaxpapers.engine import UserError
from jaxpapers.r2rise.stage import MaskPlan
from jaxpapers.r2rise.summary import trained_masks
from tests.r2rise import corridor


@pytest.fixture(scope='module')
def whole():
  return corridor.explain()


def test_a_learner_of_ones_own_finds_the_forks_that_it_needs(whole):
  _, demos, truth = corridor.problem()
  # Action 0 is what the votes fall back to: such a fork is passed without its frame.
  needed = truth & (demos.actions != 0)
  assert r2rise.truth_scores(whole.importance.value, needed)[0] == 1.0
  assert whole.importance.value.shape == whole.importance.error.shape == (1, 8)
  assert whole.returns.shape == whole.kept.shape == (512,)
  assert whole.stopped == 0


def test_the_result_does_not_depend_on_chunks(whole):
  other = corridor.explain(chunk=64)
  np.testing.assert_array_equal(other.returns, whole.returns)
  np.testing.assert_array_equal(other.masks, whole.masks)
  np.testing.assert_array_equal(other.importance.value, whole.importance.value)


def test_returns_of_other_keys_differ(whole):
  other = corridor.explain(seed=1)
  assert not np.array_equal(other.masks, whole.masks) and not np.array_equal(other.returns, whole.returns)


def test_a_log_is_taken_up_again_and_only_a_torn_chunk_is_redone(tmp_path, whole):
  calls = []
  base = corridor.votes()

  def train(key, frames, weights):
    jax.debug.callback(lambda: calls.append(1))  # once for all learners of a chunk
    return base.train(key, frames, weights)

  counted = base._replace(train=train)
  path = tmp_path / 'logs' / 'returns.jsonl'
  corridor.explain(counted, log=str(path))
  jax.effects_barrier()
  assert len(calls) == 4
  lines = path.read_bytes().splitlines(keepends=True)
  assert len(lines) == 1 + 4 and [json.loads(line)['id'][0] for line in lines[1:]] == [0, 128, 256, 384]

  # Killed while the third chunk was written: its line lacks the end, and the fourth was never made.
  torn = b''.join(lines[:3]) + lines[3][:40]
  path.write_bytes(torn)
  calls.clear()
  again = corridor.explain(counted, log=str(path))
  jax.effects_barrier()
  assert len(calls) == 2
  np.testing.assert_array_equal(again.returns, whole.returns)
  for got, want in zip(again.importance, whole.importance, strict=True):
    np.testing.assert_array_equal(got, want)
  assert path.read_bytes() == torn + b'\n' + b''.join(lines[3:])  # it only grows

  calls.clear()
  corridor.explain(counted, log=str(path))
  jax.effects_barrier()
  assert not calls


def test_an_altered_line_counts_as_not_written(tmp_path):
  path = tmp_path / 'returns.jsonl'
  log = r2rise.ReturnsLog(str(path), {'key': 1})
  log.append([0, 1], [0.1, 0.2], [3.0, 0.0], 4)
  log.append([1, 2], [9.0, 0.3], [9.0, 5.0], 4)  # 1 is known already
  assert log.known[1] == (pytest.approx(0.2), 0.0)
  path.write_text(path.read_text().replace('0.3', '0.4', 1))
  reread = r2rise.ReturnsLog(str(path), {'key': 1})
  assert reread.damaged == 1 and set(reread.known) == {0, 1}
  assert reread.known[0][0] == np.float32(0.1)
  with pytest.raises(ValueError, match=r'about another run: key differ'):
    r2rise.ReturnsLog(str(path), {'key': 2})
  with pytest.raises(ValueError, match='cannot be read'):
    r2rise.ReturnsLog(str(tmp_path), {'key': 2})


def test_stopping_ends_at_the_target_and_never_before_min_masks(whole):
  short = corridor.explain(masks=256, chunk=16, target=0.7, min_masks=32)
  assert 32 <= short.stopped < 256 and len(short.returns) == short.stopped
  np.testing.assert_array_equal(short.returns, whole.returns[: short.stopped])
  # The rule inside the compiled step is that of the statistics.
  assert r2rise.sequential_reliability(whole.masks, whole.returns, 16, 0.7, 32).stop == short.stopped


def test_smooth_masks_weigh_frames_and_find_them():
  found = corridor.explain(chunk=256, smooth=True)
  assert found.importance.value.shape == (1, 8)
  assert ((found.masks > 0) & (found.masks < 1)).any() and found.masks.min() >= 0 and found.masks.max() <= 1
  # Neighbours share their weight, so early frames, which all others need, come first.
  value = found.importance.value[0]
  assert value[:2].min() > value[-2:].max()


def test_smooth_masks_are_linear_along_time():
  plan = MaskPlan(2, 7, 3, 0.3, smooth=True).check()
  drawn = np.asarray(plan.sample(jax.random.key(0), np.arange(3000))).reshape(-1, 2, 7)
  assert abs(drawn.mean() - 0.3) < 0.01
  assert np.abs(np.diff(drawn, axis=2)).max() <= 1 / 3 + 1e-6
  # Between 0 and 1 in steps of no grid: the cells are shifted at random.
  assert len(np.unique(drawn.round(3))) > 100


def test_antithetic_masks_are_complements_of_equal_learners():
  found = corridor.explain(masks=32, chunk=32, antithetic=True, estimator='antithetic')
  np.testing.assert_array_equal(found.masks[::2] + found.masks[1::2], 1.0)
  difference = (2 * found.masks[::2] - 1) * (found.returns[::2] - found.returns[1::2])[:, None, None]
  np.testing.assert_allclose(found.importance.value, difference.mean(axis=0), atol=1e-9)
  spread = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
  np.testing.assert_allclose(found.importance.error, spread, atol=1e-9)


def test_a_mask_without_frames_plays_by_chance_and_is_counted():
  # One cell holds all frames: half of the masks keep nothing.
  found = corridor.explain(block=8, masks=64, chunk=64, episodes=16, epsilon=0.0)
  empty = found.kept == 0
  assert empty.sum() == (found.masks.sum(axis=(1, 2)) == 0).sum() > 10
  assert np.isfinite(found.returns).all()
  # By chance one fork in three is passed: 1/3 + 1/9 + ... = .49 forks on average.
  assert abs(found.returns[empty].mean() - sum(3.0**-k for k in (1, 2, 3, 4))) < 0.15
  assert (found.returns[~empty] == 4.0).all()


def test_a_return_that_is_not_finite_stops_with_its_mask():
  kept = np.asarray([3.0, 4.0, np.nan])  # the third was not trained yet
  assert trained_masks(np.asarray([1.0, 2.0, np.nan]), kept).tolist() == [True, True, False]
  with pytest.raises(UserError, match='return of mask 1 is inf'):
    trained_masks(np.asarray([1.0, np.inf, np.nan]), kept)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'keep': 0.0}, 'p=0.0'),
    ({'keep': 1.5}, 'p=1.5'),
    ({'block': 9}, 'block=9'),
    ({'masks': 1}, 'masks=1'),
    ({'chunk': 3}, 'chunk=3'),
    ({'masks': 12, 'chunk': 8}, 'masks=12'),
    ({'antithetic': True, 'chunk': 2}, 'chunk=2'),
    ({'antithetic': True, 'smooth': True}, 'smooth must be False'),
    ({'antithetic': True, 'keep': 0.3}, 'p=0.3'),
    ({'estimator': 'mean'}, "estimator='mean'"),
    ({'batching': 'pmap'}, "batching='pmap'"),
  ],
)
def test_arguments_that_cannot_be_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    corridor.explain(**options)
