"""What the paper on drumming language models claims."""

from collections.abc import Mapping
from typing import Any

from jaxpapers.engine.claims import Above, Below, Between, Claim


def _saved(r: Mapping[str, Any], other: float) -> float:
  """Nats per line that the pre-trained network saves on test against `other`."""
  return other - r['final']['finetune']['test/nats_per_line']


CLAIMS = (
  Claim(
    'pre-training transfers',
    'Pre-training on text lowers the loss on grooves against the same network from scratch.',
    'central claim; here a small network and its own text',
    lambda r: _saved(r, r['final']['scratch']['test/nats_per_line']),
    Above(0.0),
    'nats per line saved',
    picture='learning',
  ),
  Claim(
    'better than line frequencies',
    'The fine-tuned network predicts lines better than their frequencies do.',
    'follows from learning any structure',
    lambda r: _saved(r, r['baselines']['test']['unigram']),
    Above(0.0),
    'nats per line saved',
    picture='learning',
  ),
  Claim(
    'better than copying',
    'It predicts lines better than a mixture that copies earlier measures.',
    'grooves are more than repetition',
    lambda r: _saved(r, r['baselines']['test']['mixture']),
    Above(0.0),
    'nats per line saved',
    picture='learning',
  ),
  Claim(
    'as stable as people',
    'Mean edits between neighbouring measures are as near to those of people as the largest model of the paper.',
    'table of mean stability: davinci 3.04, human 5.08',
    lambda r: r['compositions']['pre-trained']['mean_stability'] - r['compositions']['human']['mean_stability'],
    Between(-2.04, 2.04),
    'edits a measure above people',
    paper=-2.04,
    picture='stability',
  ),
  Claim(
    'size matters',
    'A large pre-trained model needs its pre-training more than a small one.',
    'comparison of model sizes',
    None,
    Below(0.0),
    'nats per line',
    run=None,
    needs='released weights and a GPU: configs/drums.py:transfer_smollm2',
  ),
)
