"""Every reference file that is at hand, through the golden runner."""

import pytest

from tests import golden
from tests.cmt import golden_adapter

FOLDER = golden.default_folder('cmt')
CASES = golden.cases(FOLDER, golden_adapter) if FOLDER.is_dir() else []


@pytest.mark.skipif(not CASES, reason=f'{FOLDER} is absent')
@pytest.mark.parametrize('path', CASES, ids=lambda path: path.stem)
def test_reference(path):
  results = golden.run_case(path, golden_adapter)
  assert all(result.ok for result in results), [result for result in results if not result.ok]


def test_longest_prefix_decides_and_unknown_names_are_refused():
  handlers = {'head_': 'head', 'head_fusion_6task': 'six'}
  assert golden_adapter.handler('head_fusion_6task_b.npz', handlers) == 'six'
  assert golden_adapter.handler('head_image.npz', handlers) == 'head'
  with pytest.raises(golden.UnknownKindError, match='known prefixes: head_, head_fusion_6task'):
    golden_adapter.handler('tail.npz', handlers)
