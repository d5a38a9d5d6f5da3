"""Batches made and put on the devices while the last step runs."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any


def prefetch(make: Callable[[], Iterator[Any]], depth: int) -> Iterator[Any]:
  """The items of `make()`, produced by a thread up to `depth` ahead; its exceptions arrive at the consumer.

  Args:
    make: called in the thread; may put its items on devices.
    depth: at least 1.
  """
  items: queue.Queue = queue.Queue(maxsize=max(depth, 1))
  stop = threading.Event()

  def offer(item: Any) -> bool:
    while not stop.is_set():
      try:
        items.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def work():
    try:
      for item in make():
        if not offer((item, None)):
          return
      offer((None, StopIteration()))
    except BaseException as error:
      offer((None, error))

  thread = threading.Thread(target=work, daemon=True, name='prefetch')
  thread.start()
  try:
    while True:
      item, error = items.get()
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield item
  finally:
    stop.set()
    thread.join(timeout=10)
