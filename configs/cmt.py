r"""CMT: 3D detection from cameras and LiDAR as tokens of one memory (Yan et al., ICCV 2023, arXiv 2301.01283).

python launch/train.py --config=configs/cmt.py
  Synthetic surround scenes with six cameras and a LiDAR, rendered inside the step: a small CMT trained with masked
  sensors and the same one without, each tested with both sensors, without cameras, without LiDAR, with cameras lost.
  Two and a quarter minutes. mAP with both sensors, with zeroed images, with zeroed points: .59 .24 .32 with masked
  sensors, .66 .08 .27 without (on one core, which rounds otherwise: .56 .25 .31 and .66 .07 .25). Headings and
  velocities are not learnt in so short a run.

python launch/train.py --config=configs/cmt.py:longer
  The same for 5,000 steps a stage. The first stage alone at 3,500 steps: .80 .47 .45; headings still near chance.

python launch/train.py --config=configs/cmt.py:nuscenes_r50 --config.data.dir=/data/nuscenes \
    --config.data.database=OBJECTS
  The published recipe of CMT-R50 (67.9 mAP, 70.8 NDS); also nuscenes_vov (70.3, 72.9), nuscenes_lidar (62.1, 68.6) and
  nuscenes_camera (40.6, 46.0, without OBJECTS). OBJECTS is what `jaxpapers.cmt.database.build` writes. The published
  image networks start from pretrained weights: --config.init_from=WORKDIR of launch/import_weights.py.

python launch/import_weights.py --config=configs/cmt.py:nuscenes_r50 --config.model.released=True \
    --weights=FILE --workdir=W
python launch/evaluate.py --workdir=W --data_dir=/data/nuscenes
  The authors' weights on the validation split.
"""

import ml_collections

from jaxpapers.engine import default_config, variant


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'cmt', name
  variant(
    name,
    {
      'default': _scenes,
      'longer': _longer,
      'test': _test,
      'nuscenes_r50': _nuscenes_r50,
      'nuscenes_vov': _nuscenes_vov,
      'nuscenes_lidar': _nuscenes_lidar,
      'nuscenes_camera': _nuscenes_camera,
    },
  )(config)
  return config


def _scenes(config):
  config.log_every = 50
  config.stages = ('masked', 'plain')  # with masked-modal training, without
  config.data.name = 'scenes'
  config.data.scene = ml_collections.ConfigDict(
    {
      'pc_range': (-8.0, -8.0, -1.0, 8.0, 8.0, 3.0),
      'objects': 4,
      'height': 24,
      'width': 48,
      'field': 72.0,
      'beams': 12,
      'azimuths': 96,
    }
  )
  config.model = ml_collections.ConfigDict(
    {
      'groups': 5,  # of denoising queries
      'heading': 1.0,  # weight of the heading's entries in cost and loss
      'start': 'local',  # local, scaled: both sensors are looked at from the start; published
      'score': 20.0,  # of a query with a token at its own place, before the softmax, in a local start
      'network': {
        'cell': 0.5,
        'width': 64,
        'layers': 2,
        'heads': 4,
        'queries': 16,
        'depths': 12,
        'dropout': 0.0,
        'sharp': True,
      },
    }
  )
  config.train = ml_collections.ConfigDict({'steps': 900, 'batch_size': 8})
  config.optimizer = ml_collections.ConfigDict(
    {'learning_rate': 1.5e-3, 'rising': 0.3, 'weight_decay': 0.01, 'clip_norm': 35.0}
  )
  config.test = ml_collections.ConfigDict({'scenes': 96, 'batch_size': 32, 'every': 0, 'boxes': 64})


def _longer(config):
  _scenes(config)
  config.train.steps = 5000


def _test(config):
  _scenes(config)
  config.log_every = 1
  config.stages = ('masked',)
  config.data.scene.update({'objects': 2, 'height': 16, 'width': 24, 'beams': 4, 'azimuths': 24})
  config.model.groups = 2
  config.model.network.update({'cell': 1.0, 'width': 16, 'layers': 2, 'heads': 2, 'queries': 6, 'depths': 3})
  config.train.update({'steps': 4, 'batch_size': 4})
  config.test.update({'scenes': 6, 'batch_size': 4, 'boxes': 12})


def _nuscenes(config, name, learning_rate, peak_ratio, batch_size):
  config.data.name = 'nuscenes'
  config.data.update(
    {
      'version': 'v1.0-trainval',
      'train_split': 'train',
      'test_split': 'val',
      'balanced': True,  # class-balanced resampling of the training frames
      'database': '',  # of objects to paste
      'sweeps': 10,
      'max_points': 400_000,
      'max_boxes': 256,
      'workers': 4,
      'image_size': (640, 1600),
      'resize': (0.94, 1.25),
      'image_flip': 0.5,
      'angle': 0.785,
      'scale': (0.9, 1.1),
      'shift': 0.5,
      'flip': 0.5,
    }
  )
  # released: the layout of the authors' weights, for importing them; False trains without its two flaws.
  # remat: recompute the image network's activations in the backward pass. head: further settings of `Head`.
  config.model = ml_collections.ConfigDict({'name': name, 'released': False, 'groups': 10, 'remat': True, 'head': {}})
  config.train = ml_collections.ConfigDict(
    {
      'epochs': 20,
      'paste_epochs': 15,  # objects are pasted in the first ones
      'batch_size': batch_size,
      'accumulate': 1,
      'masked_modal': True,
      'grid_mask': True,
    }
  )
  config.optimizer = ml_collections.ConfigDict(
    {'learning_rate': learning_rate, 'peak_ratio': peak_ratio, 'weight_decay': 0.01, 'clip_norm': 35.0}
  )
  # sensors: rows of the robustness table, such as 'lidar_only_zero'; submissions: a folder that keeps the results.
  config.test = ml_collections.ConfigDict({'batch_size': 8, 'every': 0, 'sensors': ('both',), 'submissions': ''})


def _nuscenes_r50(config):
  _nuscenes(config, 'cmt_r50', 1.4e-4, 6.0, 32)
  config.data.update({'image_size': (320, 800), 'resize': (0.47, 0.625)})


def _nuscenes_vov(config):
  _nuscenes(config, 'cmt_vov', 1e-4, 8.0, 16)


def _nuscenes_lidar(config):
  _nuscenes(config, 'cmt_lidar', 1e-4, 6.0, 16)
  config.train.update({'masked_modal': False, 'grid_mask': False})


def _nuscenes_camera(config):
  _nuscenes(config, 'cmt_camera', 1e-4, 8.0, 16)
  config.data.update({'angle': 0.3925, 'scale': (0.95, 1.05), 'shift': 0.0, 'flip': 0.0})
  config.train.update({'paste_epochs': 0, 'masked_modal': False, 'grid_mask': False})
