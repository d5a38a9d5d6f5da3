"""What xDeepInt's paper claims, and what its polynomial form implies."""

from collections.abc import Mapping
from typing import Any

from jaxpapers.engine.claims import Above, Below, Claim, Run

_PARITY = Run('parity')


def _gain(other: str):
  """Points of test AUC above another model."""
  return lambda r: 100 * (r['final']['xdeepint']['test/auc'] - r['final'][other]['test/auc'])


def _staircase(r: Mapping[str, Any], learnable: bool) -> list[float]:
  """Test AUC of the cells that can learn their order (depth >= order - 1), or of those that cannot."""
  final = r['final']['staircase']
  cells = [name.removeprefix('test/auc_p').split('_l') for name in final if name.startswith('test/auc_p')]
  return [final[f'test/auc_p{p}_l{d}'] for p, d in cells if (int(d) >= int(p) - 1) == learnable]


CLAIMS = (
  Claim(
    'beats logistic regression',
    'Interactions raise test AUC above logistic regression (Adult).',
    'results on click logs; here on Adult',
    _gain('lr'),
    Above(0.0),
    'points of AUC',
    picture='curves',
  ),
  Claim(
    'beats DCN-V2',
    'The polynomial network has a higher test AUC than the cross network DCN-V2 (Adult).',
    'results on click logs; here on Adult',
    _gain('dcnv2'),
    Above(0.0),
    'points of AUC',
    picture='curves',
  ),
  Claim(
    'sparse at little cost',
    'Group FTRL at lambda1 = 30 instead of 0.1 costs less than 0.01 of test LogLoss.',
    'optimiser section: joint feature selection',
    lambda r: r['final']['path']['test/logloss_30'] - r['final']['path']['test/logloss_0.1'],
    Below(0.01),
    'LogLoss',
    picture='sparsity_path',
  ),
  Claim(
    'orders within reach are learnt',
    'A network of L layers learns planted interactions of order up to L + 1.',
    'degree of the polynomial interaction network',
    lambda r: min(_staircase(r, True)),
    Above(0.9),
    'lowest test AUC',
    run=_PARITY,
    picture='staircase',
  ),
  Claim(
    'orders out of reach stay at chance',
    'It learns nothing of interactions of higher order.',
    'degree of the polynomial interaction network',
    lambda r: max(_staircase(r, False)),
    Below(0.55),
    'highest test AUC',
    run=_PARITY,
    picture='staircase',
  ),
)
