"""Perceptual quality of virtual reality videos in the wild (arXiv 2206.08751), on the sphere and along scanpaths.

Viewports, a representation of panoramas by tiles of nearly equal area with the authors' network on it, and pooling by
what a viewer sees; opinion scores from ratings and the statistics of the database; metrics and a predictor of
scanpaths; saliency on the sphere. Angles are radians, latitude grows upwards, the image centre is the direction +x.

    from jaxpapers import vr_quality
    view = vr_quality.extract_viewport(panorama, lon=0.5, lat=0.1)  # [height, width, 3] -> [224, 224, 3]
    model = vr_quality.pconv_resnet18()
    frames = vr_quality.normalise(clips)  # uint8 [clips, frames, 512, 1024, 3]
    quality = model.apply(model.init(jax.random.key(0), frames), frames)
    quality.score, quality.map  # [clips, times] and [clips, frames, 16, 32]: where the quality is good or bad
    vr_quality.dtw(path, other)  # two scanpaths [time, 3] of unit vectors, radians

Names are loaded on first use.
"""

import importlib

_WHERE = {
  'pixel_to_lonlat': 'sphere',
  'lonlat_to_pixel': 'sphere',
  'head_to_lonlat': 'sphere',
  'wrap_longitude': 'sphere',
  'unit_vector': 'sphere',
  'to_lonlat': 'sphere',
  'angle_between': 'sphere',
  'log_map': 'sphere',
  'exp_map': 'sphere',
  'axis_rotation': 'sphere',
  'pixel_directions': 'sphere',
  'solid_angles': 'sphere',
  'sample_erp': 'sampling',
  'rotate_erp': 'rotate',
  'centre_on': 'rotate',
  'official_rotation': 'rotate',
  'viewport_rays': 'viewport',
  'scanpath_viewports': 'viewport',
  'spline_viewport': 'viewport',
  'sphere_slice': 'pseudocylindrical',
  'sphere_unslice': 'pseudocylindrical',
  'pad': 'pseudocylindrical',
  'trim': 'pseudocylindrical',
  'tile_widths': 'tables',
  'valid_mask': 'tables',
  'pseudo_conv': 'pseudo_layers',
  'PseudoConv': 'pseudo_layers',
  'MaskedBatchNorm': 'pseudo_layers',
  'pseudo_max_pool': 'pseudo_layers',
  'Quality': 'model',
  'QualityModel': 'model',
  'ThinNet': 'model',
  'normalise': 'model',
  'tile_network': 'model',
  'plain_network': 'model',
  'pconv_resnet18': 'model',
  'erp_resnet18': 'model',
  'area_weights': 'pooling',
  'visibility_weights': 'pooling',
  'pool': 'pooling',
  'scores_from_starts': 'pooling',
  'plcc_loss': 'losses',
  'import_official': 'official',
  'export_official': 'official',
  'import_backbone': 'official',
  'Agreement': 'correlation',
  'agreement': 'correlation',
  'fit_logistic': 'correlation',
  'logistic4': 'correlation',
  'logistic5': 'correlation',
  'srcc': 'correlation',
  'krcc': 'correlation',
  'Mos': 'mos',
  'Screening': 'mos',
  'SubjectModel': 'mos',
  'ratings_matrix': 'mos',
  'screen': 'mos',
  'subject_model': 'mos',
  'z_mos': 'mos',
  'leave_one_out': 'mos',
  'split_half': 'mos',
  'icc': 'mos',
  'sos': 'mos',
  'PairedTest': 'effects',
  'Effect': 'effects',
  'paired_test': 'effects',
  'within_anova': 'effects',
  'friedman': 'effects',
  'Tables': 'database',
  'Split': 'splits',
  'by_video': 'splits',
  'by_source': 'splits',
  'lookup': 'splits',
  'leak': 'splits',
  'ClipSource': 'clips',
  'keyframes': 'videos',
  'condition_frames': 'videos',
  'Scanpaths': 'scanpath_files',
  'dtw': 'alignment',
  'frechet': 'alignment',
  'levenshtein': 'alignment',
  'Recurrence': 'scanpath_metrics',
  'synchronous': 'scanpath_metrics',
  'hausdorff': 'scanpath_metrics',
  'time_delay_embedding': 'scanpath_metrics',
  'recurrence': 'scanpath_metrics',
  'all_pairs': 'scanpath_metrics',
  'mean_off_diagonal': 'scanpath_metrics',
  'angular_speed': 'scanpath_statistics',
  'total_length': 'scanpath_statistics',
  'displacement': 'scanpath_statistics',
  'resultant_length': 'scanpath_statistics',
  'explored_solid_angle': 'scanpath_statistics',
  'pairwise_over_time': 'scanpath_statistics',
  'resultant_over_time': 'scanpath_statistics',
  'ScanpathPredictor': 'scanpath_model',
  'negative_log_likelihood': 'scanpath_model',
  'sample_path': 'scanpath_model',
  'vmf_map': 'saliency',
  'nss': 'saliency',
  'similarity': 'saliency',
  'divergence': 'saliency',
  'auc': 'saliency',
  'shuffled_auc': 'saliency',
  'information_gain': 'saliency',
  'Scenes': 'panoramas',
  'scenes': 'panoramas',
  'Ratings': 'observers',
  'observe': 'observers',
}
_RENAMED = {
  'extract_viewport': ('viewport', 'viewport'),
  'mean_opinion_scores': ('mos', 'mos'),
  'load_database': ('database', 'load'),
  'official_split': ('splits', 'official'),
  'read_scanpaths_csv': ('scanpath_files', 'read_csv'),
  'read_scanpaths_npy': ('scanpath_files', 'read_npy'),
  'saliency_correlation': ('saliency', 'correlation'),
  'uniform_saliency': ('saliency', 'uniform'),
  'equator_saliency': ('saliency', 'equator'),
}

__all__ = [*_WHERE, *_RENAMED]


def __getattr__(name: str):
  if name in _RENAMED:
    module, attribute = _RENAMED[name]
    return getattr(importlib.import_module(f'{__name__}.{module}'), attribute)
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
