"""What Reference Twice claims, as far as its abstract is public."""

from collections.abc import Mapping
from typing import Any

from jaxpapers.engine.claims import Above, Claim


def _novel(r: Mapping[str, Any], name: str, shots: int) -> float:
  return r['final']['few_shot'][f'test/{name}_k{shots}_nAP']


CLAIMS = (
  Claim(
    'references help, K=1',
    'Both references raise the AP of novel classes over fine-tuning alone, one example a class (FewShapes).',
    'the proposed two references; here on outlines',
    lambda r: _novel(r, 'both', 1) - _novel(r, 'baseline', 1),
    Above(0.0),
    'points of nAP',
    picture='by_shots',
  ),
  Claim(
    'references help, K=5',
    'The same with five examples a class.',
    'the proposed two references; here on outlines',
    lambda r: _novel(r, 'both', 5) - _novel(r, 'baseline', 5),
    Above(0.0),
    'points of nAP',
    picture='by_shots',
  ),
  Claim(
    'more examples help',
    'Fine-tuning on five examples a class finds novel classes better than on one.',
    'results by K',
    lambda r: _novel(r, 'baseline', 5) - _novel(r, 'baseline', 1),
    Above(0.0),
    'points of nAP',
    picture='by_shots',
  ),
  Claim(
    'distillation keeps base classes',
    'Class-enhanced distillation forgets less of the base classes than freezing alone (incremental setting).',
    'incremental setting; here on outlines',
    lambda r: r['final']['incremental']['test/class_enhanced_k5_bAP'] - r['final']['incremental']['test/frozen_k5_bAP'],
    Above(0.0),
    'points of bAP',
    picture='forgetting',
  ),
  Claim(
    'COCO',
    'The references raise nAP on COCO.',
    'results on COCO',
    None,
    Above(0.0),
    'points of nAP',
    run=None,
    needs='COCO images and a Mask2Former base model: configs/reft.py:coco_gfsis',
  ),
)
