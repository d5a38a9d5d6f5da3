"""What a run leaves behind while it works: metrics.jsonl, TensorBoard events, progress. Process 0 only."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import tensorboardX
from etils import epath
from tqdm import tqdm


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
  """The records of metrics.jsonl, oldest first; a last line that was cut off is left out."""
  path = workdir / 'metrics.jsonl'
  records = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return records


class MetricsLog:
  """Appends records {stage, step, metric: value} to metrics.jsonl and to TensorBoard."""

  def __init__(self, workdir: epath.Path):
    """Opens the log of `workdir`; only process 0 writes."""
    self._workdir = workdir
    self._writer = None

  def resume(self, stage: str, step: int, offset: int) -> None:
    """Drops what was logged after `step` of `stage` (it will be computed again) and opens TensorBoard there."""
    if jax.process_index() != 0:
      return
    kept = [r for r in read_metrics(self._workdir) if r['stage'] != stage or r['step'] <= step]
    temporary = self._workdir / 'metrics.jsonl.tmp'
    temporary.write_text(''.join(json.dumps(r) + '\n' for r in kept))
    temporary.replace(self._workdir / 'metrics.jsonl')
    self.close()
    self._writer = tensorboardX.SummaryWriter(str(self._workdir / 'tensorboard'), purge_step=offset + step + 1)

  def write(self, stage: str, step: int, offset: int, metrics: Mapping[str, float]) -> None:
    """One record; `offset` is the sum of the steps of the earlier stages."""
    if jax.process_index() != 0:
      return
    with (self._workdir / 'metrics.jsonl').open('a') as file:
      file.write(json.dumps({'stage': stage, 'step': step, **metrics}) + '\n')
    if self._writer is not None:
      for name, value in metrics.items():
        self._writer.add_scalar(f'{stage}/{name}', value, offset + step)

  def close(self) -> None:
    """Flushes TensorBoard."""
    if self._writer is not None:
      self._writer.close()
      self._writer = None


def say(text: str) -> None:
  """One line for the person at the terminal, above a progress bar if one is drawn."""
  if jax.process_index() == 0:
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


class Progress:
  """A bar on a terminal, a plain line every few seconds elsewhere."""

  PLAIN_SECONDS = 5.0

  def __init__(self, stage: str, start: int, steps: int, batch_size: int):
    """Starts the clock at step `start` of `steps`."""
    self._stage, self._steps, self._batch_size = stage, steps, batch_size
    self._terminal = sys.stderr.isatty() and jax.process_index() == 0
    self._bar = tqdm(total=steps, initial=start, desc=stage, unit='step', disable=not self._terminal, leave=False)
    self._clock: float | None = None
    self._first_step = start
    self._told = 0.0

  def advance(self, step: int) -> None:
    """`step` steps are done. The first one, which compiles, stays out of the rates."""
    now = time.monotonic()
    if self._clock is None:
      self._clock, self._first_step = now, step
    self._bar.update(step - self._bar.n)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """What happens inside is no training, and stays out of the rates."""
    started = time.monotonic()
    yield
    if self._clock is not None:
      self._clock += time.monotonic() - started

  def show(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """Shows the metrics of `step`; returns the rates measured since the first step of this process."""
    now = time.monotonic()
    done = step - self._first_step
    rate = done / (now - self._clock) if self._clock is not None and done and now > self._clock else 0.0
    text = '  '.join(f'{name} {value:.4g}' for name, value in metrics.items())
    self._bar.set_postfix_str(f'{text}  {rate * self._batch_size:.0f} examples/s', refresh=False)
    if not self._terminal and (now - self._told > self.PLAIN_SECONDS or step == self._steps):
      self._told = now
      left = f'{(self._steps - step) / rate:.0f} s left' if rate and step < self._steps else ''
      say(
        f'{self._stage}  step {step}/{self._steps}  {text}  {rate * self._batch_size:.0f} examples/s  {left}'.rstrip()
      )
    return {'examples_per_second': rate * self._batch_size} if rate else {}

  def close(self) -> None:
    """Removes the bar."""
    self._bar.close()
