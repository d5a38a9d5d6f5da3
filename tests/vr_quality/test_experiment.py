"""The test variant end to end in a process, and settings that cannot be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs import vr_quality as settings
from jaxpapers.engine.errors import UserError
from jaxpapers.vr_quality import experiment

ROOT = Path(__file__).parents[2]


def test_variant_trains_and_reports(tmp_path):
  command = [sys.executable, 'launch/train.py', '--config=configs/vr_quality.py:test', f'--workdir={tmp_path}/run']
  # Without the shared folder: the embedded run needs no data.
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAXPAPERS_SHARED': str(tmp_path / 'nothing')}
  process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
  assert process.returncode == 0, process.stderr
  results = json.loads((tmp_path / 'run/report/results.json').read_text())
  assert set(results['final']) == {'visibility', 'viewport'}
  assert all(
    {'test/srcc', 'test/plcc', 'test/rmse'} <= set(v) or {'srcc', 'plcc'} <= set(v) for v in results['final'].values()
  )
  assert (tmp_path / 'run/report/scatter.png').stat().st_size > 5000


@pytest.mark.parametrize(
  ('change', 'message'),
  [({'task': 'qualty'}, "config.task='qualty' is not known"), ({'models': ('visibility', 'cube')}, "holds 'cube'")],
)
def test_unknown_settings_are_named(change, message):
  config = settings.get_config('test')
  config.update(change)
  with pytest.raises(UserError, match=message):
    experiment.experiment(config)
