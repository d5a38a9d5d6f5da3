"""Tables and curves of a run on COCO or LVIS, beside the paper's numbers."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt

# Mask AP x 100 of RefT with ResNet-50, as printed in the figures of its repository: setting -> K -> (nAP, bAP).
PUBLISHED = {
  'fsis': {5: (14.2, None), 10: (18.4, None), 30: (22.5, None)},
  'gfsis': {1: (5.2, 36.3), 5: (12.4, 34.4), 10: (17.4, 36.0)},
  'ifsis': {1: (3.1, 37.0), 5: (8.8, 35.3), 10: (11.1, 35.2)},
}
# The same setting without references ("Mask2Former + ft-full"), where the paper has it.
BASELINE = {'fsis': {5: 12.7, 10: 16.7, 30: 20.8}}


def draw(page: Any, stages: Sequence[str], sets: Any, setting: str, shots: int) -> None:
  """Metrics of the test beside the paper's, the protocol's counts, and training curves."""
  metrics = page.final.get('support', {})
  page.heading(f'{setting}, K={shots}')
  paper = PUBLISHED[setting].get(shots, (None, None))
  rows = [
    [name, 100.0 * value, paper[('nAP', 'bAP').index(name)] if name in ('nAP', 'bAP') else None]
    for key, value in metrics.items()
    for name in [key.removeprefix('test/segm/')]
    if key.startswith('test/segm/')
  ]
  page.table(['mask AP x 100', 'this run', 'paper, ResNet-50'], rows, 'One K-shot set; the paper gives no interval.')
  if (without := BASELINE.get(setting, {}).get(shots)) is not None:
    page.text(f'The paper has {without} nAP for the same model fine-tuned without references.')
  page.heading('The K-shot set')
  for line in sets.counts.splitlines():
    page.text(line)
  trained = [name for name in stages if name != 'support']
  figure, axes = plt.subplots(1, len(trained), figsize=(3.6 * len(trained), 3), squeeze=False, layout='constrained')
  for axis, name in zip(axes[0], trained, strict=True):
    for metric in ('loss', 'loss_label', 'loss_mask', 'loss_dice'):
      steps, values = page.history(name, metric)
      axis.plot(steps, values, label=metric)
    axis.set(xlabel='step', title=name)
    axis.legend(fontsize=7)
  page.figure('curves', figure, 'Training curves.')
  plt.close(figure)
