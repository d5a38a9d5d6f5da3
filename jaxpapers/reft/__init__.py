"""RefT: few-shot instance segmentation by referring twice (arXiv 2301.01156), on Mask2Former (arXiv 2112.01527).

There is no public program of RefT: its two references follow the paper's abstract, the details are reconstructed. The
base equals the public Mask2Former and takes its weights. `SupportHead`, which knows a class from a few outlined
examples without training, is this library's own.

    from jaxpapers import reft
    model = reft.mask2former_r50(classes=80)
    found = model.apply(reft.import_official(state, model), reft.normalise(images))
    size = (512, 512)
    result = reft.instances(found.logits[-1, 0], found.masks[-1, 0], padded=size, size=size, output=size)
    result.scores, result.classes, result.masks
"""

import importlib

_WHERE = {
  'Annotations': 'annotations',
  'merge_annotations': 'annotations',
  'read_annotations': 'annotations',
  'SupportBank': 'bank',
  'OutlinedImages': 'coco_data',
  'SupportSet': 'coco_data',
  'evaluation_transform': 'coco_data',
  'objects_of': 'coco_data',
  'support_set': 'coco_data',
  'best_pairs': 'coco_results',
  'evaluate_outputs': 'coco_results',
  'image_results': 'coco_results',
  'few_shot_sets': 'coco_sets',
  'DeformableAttention': 'deformable',
  'deformable_sampling': 'deformable',
  'class_distillation': 'distillation',
  'feature_distillation': 'distillation',
  'Episodes': 'episodes',
  'episode_batches': 'episodes',
  'FewShotPrecision': 'evaluation',
  'Interval': 'evaluation',
  'few_shot_precision': 'evaluation',
  'ground_truth': 'evaluation',
  'harmonic_mean': 'evaluation',
  'interval': 'evaluation',
  'over_seeds': 'evaluation',
  'result_list': 'evaluation',
  'CosineHead': 'heads',
  'LinearHead': 'heads',
  'SupportHead': 'heads',
  'cosine_logits': 'heads',
  'incremental_loss': 'incremental',
  'Instances': 'inference',
  'QueryMasks': 'inference',
  'instances': 'inference',
  'mask_ious': 'inference',
  'query_masks': 'inference',
  'tight_boxes': 'inference',
  'sample_shots': 'kshot',
  'draw_shots': 'kshot_files',
  'read_shots': 'kshot_files',
  'write_shots': 'kshot_files',
  'Points': 'losses',
  'Targets': 'losses',
  'Terms': 'losses',
  'deep_loss': 'losses',
  'draw_points': 'losses',
  'map_loss': 'losses',
  'match_layer': 'losses',
  'set_loss': 'losses',
  'Matches': 'matching',
  'Weights': 'matching',
  'match': 'matching',
  'matching_costs': 'matching',
  'mini_reft': 'mini',
  'Mask2Former': 'model',
  'RefT': 'model',
  'Support': 'model',
  'Switches': 'model',
  'mask2former_r50': 'model',
  'normalise': 'model',
  'reft_r50': 'model',
  'resnet50': 'model',
  'export_variables': 'official',
  'import_official': 'official',
  'import_variables': 'official',
  'decay_mask': 'optimizer',
  'mask2former_optimizer': 'optimizer',
  'PixelDecoder': 'pixel_decoder',
  'Pyramid': 'pixel_decoder',
  'reference_points': 'positions',
  'sine_embedding': 'positions',
  'FeatureReference': 'references',
  'QueryReference': 'references',
  'SupportTokens': 'references',
  'support_centers': 'references',
  'sample_points': 'sampling',
  'jitter': 'scale_jitter',
  'jitter_support': 'scale_jitter',
  'average_precision': 'shared_precision',
  'Split': 'splits',
  'class_counts': 'splits',
  'coco_split': 'splits',
  'count_table': 'splits',
  'lvis_split': 'splits',
  'make_split': 'splits',
  'episode_loss': 'training',
  'Predictions': 'transformer',
  'TransformerDecoder': 'transformer',
}

__all__ = list(_WHERE)


def __getattr__(name: str):
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
