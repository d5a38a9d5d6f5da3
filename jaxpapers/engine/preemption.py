"""Told to stop: a flag that every loop of the engine looks at."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
  """Whether this run was told to stop (SIGTERM, SIGINT).

  With one process our own handler only sets a flag. With several, JAX owns SIGTERM: its sync point turns true on all
  processes at the same poll, and a handler of ours would disable it.
  """

  def __init__(self):
    """Installs the handlers where this process may."""
    self._told = threading.Event()
    self._distributed = jax.distributed.is_initialized() and jax.process_count() > 1
    self._polls = 0
    self._previous = {}
    if not self._distributed and threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._handle)

  def _handle(self, number: int, frame: object) -> None:
    del frame
    if self._told.is_set() and number == signal.SIGINT:
      raise KeyboardInterrupt  # a second Ctrl-C means now
    self._told.set()

  def reached(self) -> bool:
    """True once the run must save and end. All processes must call it equally often."""
    if self._distributed:
      self._polls += 1
      return bool(multihost_utils.reached_preemption_sync_point(self._polls))
    return self._told.is_set()

  def close(self) -> None:
    """Puts back the handlers that were there before."""
    for number, handler in self._previous.items():
      signal.signal(number, handler)
