"""For someone who runs a paper: train the smallest variant of a method, stop, go on, and read its results.

python docs/examples/run.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
  """Trains xDeepInt's `test` variant; starting the same command again finds the run finished."""
  with tempfile.TemporaryDirectory() as folder:
    workdir = Path(folder) / 'run'
    command = [sys.executable, 'launch/train.py', '--config=configs/xdeepint.py:test', f'--workdir={workdir}']
    subprocess.run(command, cwd=ROOT, check=True)
    results = json.loads((workdir / 'report' / 'results.json').read_text())
    print('results.json has', ', '.join(sorted(results)))
    print('the workdir has', ', '.join(sorted(path.name for path in workdir.iterdir())))


if __name__ == '__main__':
  main()
