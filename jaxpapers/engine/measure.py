"""How fast a compiled step is, and how much it does."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def program_flops(function: Callable, *arguments: Any) -> float:
  """Floating-point operations of the matrix products and convolutions of `function(*arguments)`.

  Counted from the jaxpr, because the compiler's own cost analysis counts the body of a scan once. A multiply-add is
  two operations; a while loop of unknown length counts once.
  """
  return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> float:
  total = 0.0
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      total += 2.0 * eqn.outvars[0].aval.size * np.prod([eqn.invars[0].aval.shape[d] for d in contracted])
    elif name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval
      out_channels = kernel.shape[eqn.params['dimension_numbers'].rhs_spec[0]]
      total += 2.0 * eqn.outvars[0].aval.size * kernel.size / out_channels
    elif name == 'cond':
      total += max(_count(branch.jaxpr) for branch in eqn.params['branches'])
    else:
      inner = sum(_count(j) for value in eqn.params.values() for j in _jaxprs(value))
      total += inner * (eqn.params['length'] if name == 'scan' else 1)
  return total


def _jaxprs(value: Any) -> list[Any]:
  if isinstance(value, tuple | list):
    return [j for item in value for j in _jaxprs(item)]
  value = getattr(value, 'jaxpr', value)
  return [value] if hasattr(value, 'eqns') else []


def program_bytes(compiled: Any) -> int:
  """Memory of a compiled program: arguments, outputs and temporaries, less what they share."""
  m = compiled.memory_analysis()
  return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes


def program_traffic(compiled: Any) -> float | None:
  """Bytes that the operations of a compiled program read and write, after fusion; the body of a loop counts once."""
  return (compiled.cost_analysis() or {}).get('bytes accessed')


def median_seconds(call: Callable[[], Any], repeats: int, warmup: int = 1) -> float:
  """Median wall time of `call()`, which must return (or be) finished work: its arrays are waited for."""
  times = []
  for index in range(warmup + repeats):
    started = time.perf_counter()
    jax.block_until_ready(call())
    if index >= warmup:
      times.append(time.perf_counter() - started)
  return statistics.median(times)


def matmul_peak(dtype: str = 'float32', size: int = 0, repeats: int = 5) -> float:
  """Operations per second of a large square matrix product on this machine's default device."""
  size = size or (1536 if jax.default_backend() == 'cpu' else 8192)
  x = jnp.ones((size, size), dtype)
  product = jax.jit(lambda a: a @ a)
  return 2.0 * size**3 / median_seconds(lambda: product(x), repeats)


def bandwidth_peak(size: int = 0, repeats: int = 5) -> float:
  """Bytes per second read and written by adding one to a large array in place on this machine's default device."""
  size = size or (2**26 if jax.default_backend() == 'cpu' else 2**29)
  # In place: fresh memory would be paid for page by page.
  plus = jax.jit(lambda a: a + 1, donate_argnums=0)
  held = [jnp.zeros(size, jnp.float32)]

  def call() -> jax.Array:
    held[0] = plus(held[0])
    return held[0]

  return 2.0 * held[0].nbytes / median_seconds(call, repeats)


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What was measured of one program.

  Attributes:
    name: of the program.
    examples: per call.
    seconds: median of a call.
    compile_seconds: tracing, lowering and compiling; None for programs of others.
    flops: of a call; None where unknown.
    memory: bytes; None where unknown.
    traffic: bytes that the operations of a call read and write, the body of a loop counted once; None where unknown.
    dtype: that the program computes in.
    beside: for a program that is here to be compared with, the name of the one of ours that does the same work.
  """

  name: str
  examples: int
  seconds: float
  compile_seconds: float | None = None
  flops: float | None = None
  memory: int | None = None
  traffic: float | None = None
  dtype: str = 'float32'
  beside: str = ''


def measure(
  name: str, step: Callable, arguments: tuple, examples: int, repeats: int, dtype: str = 'float32', beside: str = ''
) -> Measurement:
  """Compiles and times `step(*arguments)` (pure) on the default device."""
  started = time.perf_counter()
  compiled = jax.jit(step).lower(*arguments).compile()
  seconds = time.perf_counter() - started
  return Measurement(
    name,
    examples,
    median_seconds(lambda: compiled(*arguments), repeats),
    seconds,
    program_flops(step, *arguments),
    program_bytes(compiled),
    program_traffic(compiled),
    dtype,
    beside,
  )
