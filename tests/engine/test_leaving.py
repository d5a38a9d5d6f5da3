"""Several processes that are told to stop: all learn of it, and all keep their exit codes."""

import socket
import subprocess
import sys

import jax.numpy as jnp
import pytest
from jax.experimental import multihost_utils

from jaxpapers.engine import errors
from jaxpapers.engine.checkpoint import Checkpoints, workdir_path

LATE = """
import sys, time
from jaxpapers.engine import cli, distributed, errors
port, process, name = sys.argv[1:]
def program():
  distributed.initialize(f'localhost:{port}', 2, int(process))
  time.sleep(2 * int(process))
  raise getattr(errors, name)('over')
sys.argv = sys.argv[:1]
cli.main(program)
"""


@pytest.mark.parametrize('error', [errors.PreemptedError, errors.NonFiniteError])
def test_a_late_process_is_not_aborted_when_process_0_is_ready_to_go(error):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  commands = [[sys.executable, '-c', LATE, str(port), str(i), error.__name__] for i in range(2)]
  processes = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
  outputs = [process.communicate(timeout=240)[0] for process in processes]
  assert [process.returncode for process in processes] == [error.exit_code] * 2, outputs


def test_saving_does_not_ask_the_sync_point_under_a_number_of_its_own(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', lambda number: asked.append(number))
  checkpoints = Checkpoints(workdir_path(str(tmp_path)))
  for step in (1, 2):
    checkpoints.save(step, {'x': jnp.arange(step)}, {}, {})
  checkpoints.close()
  assert checkpoints.steps() == [1, 2] and asked == []
