"""What EMO's paper claims."""

from jaxpapers.engine.claims import Above, Claim, Run

CLAIMS = (
  Claim(
    'attention helps',
    'Attention inside the inverted residual block raises top-1 (pairs of digits, equal budget).',
    'ablation of the block; here on embedded digits',
    lambda r: 100 * r['attention_gain'],
    Above(0.0),
    'points of top-1',
    picture='curves',
  ),
  Claim(
    'a backbone for segmentation',
    'Training the backbone with Semantic FPN beats the same head on a frozen random backbone (shapes).',
    'dense prediction results; here on shapes over photographs',
    lambda r: 100 * (r['baselines']['dense'] - r['baselines']['frozen_backbone']),
    Above(20.0),
    'points of mIoU',
    run=Run('shapes_segmentation'),
    picture='curves',
  ),
  Claim(
    'ImageNet top-1',
    'EMO-1M reaches its published top-1 at 224 pixels.',
    'classification results',
    None,
    Above(71.0),
    '% top-1',
    run=None,
    paper=71.5,
    needs='300 epochs of ImageNet-1k on a TPU pod: configs/emo.py:imagenet1k',
  ),
)
