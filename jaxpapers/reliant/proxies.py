"""RELIANT's proxies of bias: two input columns per node, individual for one objective, else their mean."""

import chex
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from jaxpapers.reliant.graph import with_features

KINDS = ('none', 'fixed', 'frozen', 'learned')
COLUMNS = ('append', 'replace_last')


def initial_proxies(key: jax.Array, nodes: int) -> jax.Array:
  """Uniform in [0, 1), [N, 2]. Source: the authors' code."""
  return jax.random.uniform(key, (nodes, 2))


def fixed_proxies(sensitive: jax.Array) -> jax.Array:
  """[s, 1 - s] of every node, [N, 2] float32: the authors' `--proxy 1`, which is not learned."""
  s = jnp.asarray(sensitive, jnp.float32)
  return jnp.stack([s, 1.0 - s], axis=1)


def mean_proxies(proxies: jax.Array) -> jax.Array:
  """The mean row for every node, [N, 2]: what removes the proxies, in fair training and at inference.

  Source: RELIANT's removal of the proxies.
  """
  return jnp.broadcast_to(proxies.mean(axis=0), proxies.shape)


def input_width(features: int, kind: str, columns: str) -> int:
  """Features that the student sees.

  Raises:
    ValueError: for an unknown kind or way, or too few columns to replace.
  """
  if kind not in KINDS:
    raise ValueError(f'proxy={kind!r} is not known; it is one of {", ".join(KINDS)}.')
  if columns not in COLUMNS:
    raise ValueError(f'proxy_columns={columns!r} is not known; it is one of {", ".join(COLUMNS)}.')
  if kind == 'none':
    return features
  if columns == 'replace_last' and features < 3:
    raise ValueError(f'replace_last needs at least 3 feature columns, not {features}; use append.')
  return features if columns == 'replace_last' else features + 2


def add_proxies(graph: jraph.GraphsTuple, rows: jax.Array, columns: str) -> jraph.GraphsTuple:
  """The graph as the student sees it.

  Args:
    graph: features [n, F].
    rows: [n, 2] of its nodes.
    columns: 'append' behind all features (the method as described), or 'replace_last': the last two features are lost
      (the authors' CPF code).
  """
  x = graph.nodes['x']
  chex.assert_shape(rows, (x.shape[0], 2))
  kept = x[:, :-2] if columns == 'replace_last' else x
  return with_features(graph, jnp.concatenate([kept, rows], axis=1))


def without_replaced_columns(x: np.ndarray) -> np.ndarray:
  """Features [N, F] with the two columns zeroed that 'replace_last' overwrites: the ablation that explains bail."""
  return np.concatenate([x[:, :-2], np.zeros_like(x[:, -2:])], axis=1)
