"""jax.jit for programs that run once, where compiling is what costs."""

import functools

import jax

jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
