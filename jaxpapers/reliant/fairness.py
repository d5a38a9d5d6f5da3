"""Differentiable gaps of statistical parity and equal opportunity."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import Legendre, Polynomial

# The authors' polynomial: every P_n is multiplied by its integral over [0, 1]. The projection of the unit step on the
# Legendre polynomials would multiply by (2 n + 1) / 2 times as much.
_INTEGRALS = (1.0, 0.5, 0.0, -1 / 8, 0.0, 1 / 16, 0.0, -5 / 128, 0.0, 7 / 256)


def _monomials(scaled: bool) -> tuple[float, ...]:
  coefficients = [c * ((2 * n + 1) / 2 if scaled else 1.0) for n, c in enumerate(_INTEGRALS)]
  coefficients[0] = 0.5
  return tuple(float(c) for c in Legendre(coefficients).convert(kind=Polynomial).coef)


STEP_OFFICIAL = _monomials(scaled=False)
"""Monomial coefficients in u = 2p - 1 of the authors' step: monotone, f(0) = .074, f(1) = .926."""
STEP_PROJECTION = _monomials(scaled=True)
"""The same of the true Legendre projection of the unit step, which overshoots (-.12 .. 1.12)."""
STEPS = {'official': STEP_OFFICIAL, 'projection': STEP_PROJECTION}


def soft_step(p: jax.Array, step: str = 'official') -> jax.Array:
  """Polynomial in place of the step at p = 1/2, by Horner's rule; any shape.

  Args:
    p: probabilities.
    step: 'official' or 'projection'.
  """
  return 0.5 + centred_step(p, step)


def centred_step(p: jax.Array, step: str = 'official') -> jax.Array:
  """`soft_step` less 1/2, an odd polynomial in u = 2p - 1; differences of its means lose less to rounding."""
  if step not in STEPS:
    raise ValueError(f'step={step!r} is not known; it is {" or ".join(STEPS)}.')
  u = 2.0 * p - 1.0
  square = u * u
  total = jnp.zeros_like(u)
  for coefficient in reversed(STEPS[step][1::2]):
    total = total * square + coefficient
  return total * u


def group_contrast(
  sensitive: np.ndarray,
  members: np.ndarray,
  labels: np.ndarray | None = None,
  *,
  positive: int = 1,
  label_members: np.ndarray | None = None,
  allow_empty: bool = False,
  name: str = 'the index set',
) -> np.ndarray:
  """Weights whose inner product with f is mean_{s=0} f - mean_{s=1} f. On the host.

  Args:
    sensitive: [N] int; other values than 0 and 1 belong to neither group.
    members: [N] bool, the index set.
    labels: [N] int for equal opportunity: only nodes of class `positive` count. None for statistical parity.
    positive: that class.
    label_members: [N] bool, nodes whose label may be looked at for equal opportunity; None for all. Training nodes only
      keeps the labels of validation and test nodes out of training, which the authors' code does not.
    allow_empty: for minibatches: an empty group makes all weights zero.
    name: of the index set, for the message.

  Returns:
    [N] float32.

  Raises:
    ValueError: for an empty group.
  """
  members = np.asarray(members, bool)
  if labels is not None:
    members = members & (np.asarray(labels) == positive)
    if label_members is not None:
      members = members & np.asarray(label_members, bool)
  masks = [members & (np.asarray(sensitive) == group) for group in (0, 1)]
  counts = [int(mask.sum()) for mask in masks]
  if 0 in counts:
    if allow_empty:
      return np.zeros(len(members), np.float32)
    what = 'nodes' if labels is None else f'nodes of class {positive}'
    raise ValueError(f'The gap needs both groups, but {name} has no {what} with sensitive value {counts.index(0)}.')
  return (masks[0] / counts[0] - masks[1] / counts[1]).astype(np.float32)


def gap(probabilities: jax.Array, contrast: jax.Array, step: str = 'official') -> jax.Array:
  """sum_c (mean_{s=0} f(p_c) - mean_{s=1} f(p_c))^2. Source: the fairness term of the authors' code.

  Args:
    probabilities: [N, C].
    contrast: [N], from `group_contrast`.
    step: see `soft_step`.

  Returns:
    A scalar.
  """
  chex.assert_rank([probabilities, contrast], [2, 1])
  # Both groups' weights sum to one, so that the constant 1/2 of f falls out.
  return jnp.sum(jnp.square(jnp.sum(contrast[:, None] * centred_step(probabilities, step), axis=0)))
