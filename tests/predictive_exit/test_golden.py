"""The quicker reference files, through the golden runner; `python -m tests.golden predictive_exit` runs all."""

import pytest

from tests import golden
from tests.predictive_exit import golden_adapter

FOLDER = golden.default_folder('predictive_exit')
# Full networks take seconds each to compile: one of them, and all thin ones, stand for the rest.
SLOW = ('net_resnet34_full', 'net_vgg19_full', 'official_resnet34', 'official_vgg19', 'net_vgg19_thin_pool2')
CASES = golden.cases(FOLDER, golden_adapter) if FOLDER.is_dir() else []
CASES = [path for path in CASES if path.stem not in SLOW]


@pytest.mark.skipif(not CASES, reason=f'{FOLDER} is absent')
@pytest.mark.parametrize('path', CASES, ids=lambda path: path.stem)
def test_reference(path):
  results = golden.run_case(path, golden_adapter)
  assert all(result.ok for result in results), [result for result in results if not result.ok]
