"""Predictive Exit: exits that are predicted, and the energy that they save.

python launch/train.py --config=configs/predictive_exit.py
  Real digits under noise, three networks with 13 official exits, trained in turn: the backbone, then the exits. Then
  the official criterion and engine against the classic exit and the extensions, chosen on calibration images and
  reported on test images.

python launch/train.py --config=configs/predictive_exit.py:vgg19_cifar10 --config.data.dir=FOLDER
  The published recipe (a TFDS folder or the original files); likewise vgg19_cifar100, vgg19_svhn, vgg19_stl10,
  resnet34_cifar10, resnet34_cifar100, resnet34_svhn, resnet34_stl10. pooled_vgg19_cifar10 and pooled_resnet34_cifar10
  are the extension's networks, trained jointly. Not run here.
"""

import ml_collections

from jaxpapers.engine import default_config, variant

# Training images less the calibration set.
_TRAINING = {'cifar10': 45_000, 'cifar100': 45_000, 'svhn': 68_257, 'stl10': 4_500}


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'predictive_exit', name
  config.seeds = 1  # networks, trained in turn
  config.network = 'vgg19'
  config.width = 1.0  # of the pooled networks
  config.freeze_backbone = False  # the authors' code trains all; True keeps the backbone of the first stage
  config.joint = False  # skip the first stage
  config.data.update({'name': 'cifar10', 'calibration': 5000, 'batch_size': 128, 'eval_batch_size': 256})
  config.backbone = ml_collections.ConfigDict({'steps': 0, 'learning_rate': 2.5e-4})
  config.exits = ml_collections.ConfigDict({'steps': 0, 'learning_rate': 1e-3})
  config.thresholds = ml_collections.ConfigDict({'mode': 'signed_mean', 'train_mode': True, 'images': 5000})
  config.official = ml_collections.ConfigDict({'start': 6, 'rounds': 8, 'clip_target': True, 'quirks': False})
  # max(drop) is the loss of accuracy against the final exit that a threshold may cost on the calibration set.
  config.policy = ml_collections.ConfigDict(
    {'drop': 0.005, 'grid': 30, 'head_shares': (0.05, 0.25), 'platform': 'rk3399_big', 'alphas': (1.0, 1.25, 1.5, 2.0)}
  )
  # A user's platform: policy.platform='board.csv' (f_mhz,volt) with policy.constants='c_eff=4e-10,t_sw=1e-4'.
  config.policy.constants = ''
  config.policy.scale = 1.0  # of all work, where energy is modelled
  variants = {'default': _default, 'test': _test}
  for network in ('vgg19', 'resnet34'):
    for data in _TRAINING:
      variants[f'{network}_{data}'] = _published(network, data)
  for network in ('pooled_vgg19', 'pooled_resnet34'):
    variants[f'{network}_cifar10'] = _pooled(network)
  variant(name, variants)(config)
  return config


def _default(config):
  config.seeds = 3
  config.network = 'digits_bof'
  config.policy.scale = 64.0  # a network this small is nothing but launches on a board
  config.data.update({'name': 'digits', 'batch_size': 64, 'eval_batch_size': 450})
  config.backbone.update({'steps': 3 * 400, 'learning_rate': 2e-3})
  config.exits.update({'steps': 3 * 220, 'learning_rate': 2e-3})
  config.log_every = 60


def _test(config):
  _default(config)
  config.seeds = 2
  config.data.update({'batch_size': 8, 'eval_batch_size': 450})
  config.backbone.steps = 4
  config.exits.steps = 4
  config.thresholds.images = 16
  config.policy.grid = 5
  config.log_every = 2


def _published(network: str, data: str):
  def settings(config):
    config.network = 'vgg19_stl10' if (network, data) == ('vgg19', 'stl10') else network
    held_out = 500 if data == 'stl10' else 5000
    config.data.update({'name': data, 'calibration': held_out})
    epoch = _TRAINING[data] // 128
    config.backbone.steps = config.exits.steps = 100 * epoch
    config.official.update({'rounds': 5 if config.network == 'vgg19_stl10' else 8, 'clip_target': network == 'vgg19'})
    config.log_every = 100

  return settings


def _pooled(network: str):
  def settings(config):
    config.network = network
    config.joint = True
    config.exits.steps = 100 * (_TRAINING['cifar10'] // 128)
    config.thresholds.mode = 'mean_max_abs'
    config.log_every = 100

  return settings
