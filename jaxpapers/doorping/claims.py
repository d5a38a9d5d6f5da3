"""What the paper on backdoors in distilled data claims, with controls."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpapers.engine.claims import Above, Claim, Run

_ATTACKS = Run('default', ('curve.every=0', 'defences.enabled=False', 'seeds=1'))


def _rate(r: Mapping[str, Any], attack: str, name: str) -> float:
  """Mean over the victims."""
  return float(np.mean(r['rates'][attack][name]))


def _excess(r: Mapping[str, Any], attack: str) -> float:
  """ASR on non-target images as uint8, less that of the same trigger on victims of clean sets."""
  return _rate(r, attack, 'asr_nontarget_uint8') - _rate(r, attack, 'control_clean_nontarget_uint8')


CLAIMS = (
  Claim(
    'DOORPING succeeds',
    'The trigger as DOORPING learns it is nearly always followed (digits, gradient matching).',
    'abstract: success close to 1',
    lambda r: _rate(r, 'doorping', 'asr_raw'),
    Above(0.9),
    'ASR',
    run=_ATTACKS,
    paper=1.0,
    picture='attacks',
  ),
  Claim(
    'DOORPING succeeds as an image file',
    'The same trigger rounded to uint8 adds to what victims of clean sets do.',
    'threat model: the attacker stamps images',
    lambda r: _excess(r, 'doorping'),
    Above(0.05),
    'ASR above the control',
    run=_ATTACKS,
    picture='attacks',
  ),
  Claim(
    'NAIVEATTACK survives distillation',
    'The fixed patch of NAIVEATTACK, as uint8, adds to what victims of clean sets do.',
    'results of the naive attack',
    lambda r: _excess(r, 'naive'),
    Above(0.05),
    'ASR above the control',
    run=_ATTACKS,
    picture='attacks',
  ),
  Claim(
    'utility is kept',
    'DOORPING costs less than two points of clean accuracy.',
    'utility results',
    lambda r: 100 * (_rate(r, 'doorping', 'cta') - _rate(r, 'clean', 'cta')),
    Above(-2.0),
    'points of CTA',
    run=_ATTACKS,
    picture='attacks',
  ),
)
