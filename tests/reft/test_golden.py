"""Every reference file that is at hand, through the golden runner."""

import pytest

from tests import golden
from tests.reft import golden_adapter

FOLDER = golden.default_folder('reft')
CASES = golden.cases(FOLDER, golden_adapter) if FOLDER.is_dir() else []


@pytest.mark.skipif(not CASES, reason=f'{FOLDER} is absent')
@pytest.mark.parametrize('path', CASES, ids=lambda path: path.stem)
def test_reference(path):
  results = golden.run_case(path, golden_adapter)
  assert all(result.ok for result in results), [result for result in results if not result.ok]
