import numpy as np
import pytest

from tests.emo import golden_adapter
from tests.golden import Check, cases, default_folder, judge, run_case

FOLDER = default_folder('emo')
FILES = cases(FOLDER, golden_adapter) if FOLDER.is_dir() else []


@pytest.mark.skipif(not FILES, reason='no reference outputs: set JAXPAPERS_SHARED')
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_equals_the_reference(path):
  failed = [result for result in run_case(path, golden_adapter) if not result.ok]
  assert not failed


def test_runner_fails_what_it_does_not_know_or_cannot_compare(tmp_path):
  path = tmp_path / 'block_irmb_attn.npz'  # the name says nothing: the content does
  np.savez(path, meta='{"kind": "riddle"}')
  (result,) = run_case(path, golden_adapter)
  assert not result.ok and 'unknown kind' in result.note
  (tmp_path / 'README.md').write_text('no case')
  (tmp_path / 'notes.txt').write_text('a case of no known kind')
  assert [p.name for p in cases(tmp_path, golden_adapter)] == ['block_irmb_attn.npz', 'notes.txt']
  assert not run_case(tmp_path / 'notes.txt', golden_adapter)[0].ok


@pytest.mark.parametrize(
  ('got', 'want', 'tolerance', 'relative', 'ok'),
  [
    ([1.0, 2.0], [1.0, 2.1], 0.2, False, True),
    ([1.0, 2.0], [1.0, 2.1], 0.05, False, False),
    ([1.0, 2.0], [1.0, 2.1], 0.05, True, True),
    ([1.0, np.nan], [1.0, np.nan], 0.0, False, True),
    ([1.0, np.nan], [1.0, 2.0], 9.0, False, False),
    ([1.0, np.inf], [1.0, -np.inf], 9.0, False, False),
    ([1.0], [1.0, 1.0], 9.0, False, False),
    ([1e-9], [0.0], 1e-3, True, False),
    (['a'], ['b'], 9.0, False, False),
  ],
)
def test_judgement(got, want, tolerance, relative, ok):
  assert judge(Check('x', np.array(got), np.array(want), tolerance, relative)).ok == ok
