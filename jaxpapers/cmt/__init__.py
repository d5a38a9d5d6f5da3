"""CMT: 3D detection from cameras and LiDAR as tokens of one memory (Yan et al., ICCV 2023, arXiv 2301.01283).

The four published models and their weights, the nuScenes reader, sampler, augmentations, score and submission, and
synthetic surround scenes to learn on without any data. Either sensor may be missing.

    from jaxpapers import cmt
    model = cmt.cmt_r50()
    variables = cmt.import_official(state, model)
    found = model.apply(variables, points, None, cmt.normalise(images), lidar2img, img2lidar)
    boxes, scores, labels, valid = cmt.decode(found.head.tasks)
"""

import importlib

_WHERE = {
  'corners': 'boxes',
  'overlap_from_above': 'boxes',
  'points_in_boxes': 'boxes',
  'CameraBranch': 'camera',
  'normalise': 'camera',
  'resample': 'cbgs',
  'Detections': 'coder',
  'box_code': 'coder',
  'decode': 'coder',
  'decode_boxes': 'coder',
  'encode_boxes': 'coder',
  'CPFPN': 'cp_fpn',
  'NuScenesSource': 'data',
  'Recipe': 'data',
  'evaluation_batches': 'data',
  'train_batches': 'data',
  'Database': 'database',
  'Decoder': 'decoder',
  'Denoising': 'denoising',
  'draw_noise': 'denoising',
  'noised_queries': 'denoising',
  'num_slots': 'denoising',
  'ray_points': 'encoding',
  'sine_code': 'encoding',
  'evaluate_submission': 'evaluation',
  'grid_mask': 'gridmask',
  'Head': 'head',
  'HeadOutput': 'head',
  'scale_embeddings': 'initial',
  'split_subspaces': 'initial',
  'tie_query_key': 'initial',
  'LidarBranch': 'lidar',
  'lidar_branch': 'lidar',
  'total_loss': 'losses',
  'assign': 'matching',
  'matching_cost': 'matching',
  'BoxTable': 'metrics',
  'Rules': 'metrics',
  'Scores': 'metrics',
  'box_table': 'metrics',
  'evaluate': 'metrics',
  'nuscenes_rules': 'metrics',
  'keep_sensors': 'modality',
  'masked_modal': 'modality',
  'protocol': 'modality',
  'CMT': 'model',
  'cmt_camera': 'model',
  'cmt_lidar': 'model',
  'cmt_r50': 'model',
  'cmt_vov': 'model',
  'NuScenes': 'nuscenes',
  'export_official': 'official',
  'import_official': 'official',
  'cmt_optimizer': 'optimizer',
  'published_beta1': 'optimizer',
  'published_rate': 'optimizer',
  'PillarBranch': 'pillars',
  'Surround': 'scenes',
  'cast': 'scenes',
  'scene': 'scenes',
  'SECOND': 'second',
  'SECONDFPN': 'second',
  'small_cmt': 'small',
  'gather_conv': 'sparse',
  'submanifold_neighbours': 'sparse',
  'SparseEncoder': 'sparse_encoder',
  'read_submission': 'submission',
  'sample_results': 'submission',
  'write_submission': 'submission',
  'VoVNet': 'vovnet',
}

__all__ = list(_WHERE)


def __getattr__(name: str):
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
