"""Perceptual quality of 360-degree videos.

python launch/train.py --config=configs/vr_quality.py
  Synthetic panoramas with localised distortions and synthetic observers: the pseudocylindrical network with visibility
  pooling, its plain-mean twin, its zero-padded twin, and a viewport model along the true scanpaths. About 100 processor
  seconds. SRCC on unseen scenes for seeds 0, 1, 2: visibility .86 .84 .84, mean .65 .13 .51, zero-padded .87 .40 .84,
  viewports .89 .91 .85 (with seed 1 the mean and the zero-padded model did not learn).

python launch/train.py --config=configs/vr_quality.py:panoramas --config.data.dir=FOLDER
  The same distortions and observers on real panoramas (FOLDER/panoramas_cc0.npz).

python launch/train.py --config=configs/vr_quality.py:analysis --config.data.dir=/data/vrvqw
  The statistics of the real tables.

python launch/train.py --config=configs/vr_quality.py:scanpath
  The scanpath predictor on synthetic observers.

python launch/train.py --config=configs/vr_quality.py:vrvqw --config.data.dir=/data/vrvqw
  The published recipe on the database's videos or extracted frames, split by source.
"""

import ml_collections

from jaxpapers.engine import default_config, variant


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'vr_quality', name
  config.task = 'quality'  # quality, analysis or scanpath
  config.models = ('visibility', 'mean', 'zero_padded', 'viewport')
  config.real_tables = True  # draw the analysis of the real tables too, where they are
  config.model = ml_collections.ConfigDict({'network': 'thin', 'npart': 4, 'hidden': 16, 'bucketed': False})
  config.train = ml_collections.ConfigDict(
    {'epochs': 14, 'learning_rate': 4e-3, 'weight_decay': 1e-4, 'schedule': 'cosine', 'clip_norm': 1.0}
  )
  config.data.update(
    {'dataset': 'synthetic', 'train_scenes': 192, 'test_scenes': 48, 'height': 64, 'frames': 1, 'batch_size': 16}
  )
  config.data.photographs = False  # draw the scenes from real panoramas in data.dir, turned at random
  config.analysis = ml_collections.ConfigDict({'tables': 'auto', 'ratings': '', 'steps': 20, 'batch_size': 100})
  config.scanpath = ml_collections.ConfigDict(
    {
      'source': 'synthetic',  # synthetic, csv (data.dir = scanpathA.csv or .gz) or npy (data.dir = HM_raw)
      'scenes': 400,  # synthetic: videos, a quarter of them for the test
      'observers': 12,
      'points': 15,  # per path, one a second
      'seeing': True,  # a second model that is shown the scene (synthetic only)
      'hidden': 64,
      'components': 5,
      'history': 5,
      'unit': 0.2,  # radians
      'batch_size': 128,
      'steps': 600,
      'learning_rate': 4e-3,
    }
  )
  variant(
    name,
    {
      'default': _default,
      'panoramas': _panoramas,
      'test': _test,
      'vrvqw': _vrvqw,
      'analysis': _analysis,
      'scanpath': _scanpath,
    },
  )(config)
  return config


def _default(config):
  config.log_every = 16


def _panoramas(config):
  _default(config)
  config.data.photographs = True


def _test(config):
  config.models = ('visibility',)
  config.real_tables = False
  config.train.epochs = 1
  config.data.update({'train_scenes': 8, 'test_scenes': 6, 'height': 32, 'batch_size': 4})


def _vrvqw(config):
  config.models = ('mean',)
  config.model.update({'network': 'resnet18', 'npart': 16, 'hidden': 128, 'bucketed': True})
  config.train.update({'epochs': 30, 'learning_rate': 5e-5, 'weight_decay': 1e-7, 'schedule': 'staircase'})
  config.data.update({'dataset': 'vrvqw', 'frames': 7, 'batch_size': 8})


def _analysis(config):
  config.task = 'analysis'


def _scanpath(config):
  config.task = 'scanpath'
  config.log_every = 50
