"""DOORPING: backdoor attacks against dataset distillation, and defences (arXiv 2301.01197, NDSS 2023).

Distillation by gradient matching (DC) and by back-propagation through training (DD), triggers stamped before (NAIVE) or
optimised during distillation (DOORPING), victims trained on the distilled set, and defences that try to notice.

    from jaxpapers import doorping
    model = doorping.ConvNet(classes=10)
    params = model.init(jax.random.key(0), images)  # images [batch, height, width, channels], normalised
    mask = doorping.patch_mask(images.shape[1:], 2)
    stamped = doorping.stamp(images, trigger, mask)

Names are loaded on first use.
"""

import importlib

_WHERE = {
  'ConvNet': 'model',
  'AlexNet': 'model',
  'lrn': 'model',
  'gradient_distance': 'matching',
  'leaf_distances': 'matching',
  'match': 'dc',
  'iteration': 'dc',
  'class_tables': 'dc',
  'train_through': 'dd',
  'meta_loss': 'dd',
  'meta_gradient': 'dd',
  'siamese': 'dsa',
  'patch_mask': 'trigger',
  'stamp': 'trigger',
  'stamp_pixels': 'trigger',
  'random_trigger': 'trigger',
  'choose_neurons': 'trigger',
  'TriggerOptions': 'trigger',
  'update_trigger': 'trigger',
  'update_invisible': 'invisible',
  'clip_trigger': 'trigger',
  'round_trigger': 'trigger',
  'attack_rates': 'victims',
  'defend': 'defence_suite',
  'invert_all': 'neural_cleanse',
  'stimulate': 'brain_stimulation',
  'fine_prune': 'fine_pruning',
  'entropies': 'strip',
  'spectral_scores': 'spectral',
  'que_scores': 'spectre',
  'scan_scores': 'scan',
  'import_official': 'official',
  'export_official': 'official',
}

__all__ = list(_WHERE)


def __getattr__(name: str):
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
