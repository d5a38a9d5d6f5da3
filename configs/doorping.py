"""DOORPING."""

import ml_collections

from jaxpapers.engine import default_config, variant


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'doorping', name
  config.attacks = ('clean', 'naive', 'doorping')  # also doorping_clipped: the trigger is kept in the pixel range
  config.seeds = 1
  config.lanes_at_once = -1  # attacks and seeds under one vmap; 0: all; -1: one by one on CPU, all elsewhere
  config.attack = ml_collections.ConfigDict({'target': 0, 'ratio': 0.01, 'patch': 2})
  config.trigger = ml_collections.ConfigDict(
    {'alpha': 10.0, 'topk': 1, 'learning_rate': 0.08, 'max_steps': 1000, 'threshold': 0.5, 'clip': 'call'}
  )
  config.network = ml_collections.ConfigDict(
    {
      'name': 'convnet',  # or alexnet, for 32 x 32 images, which takes init_name alone
      'width': 128,
      'depth': 3,
      'norm': 'none',
      'activation': 'relu',
      'pooling': 'avg',
      'head': 'two',
      'patches': False,
    }
  )
  config.distill = ml_collections.ConfigDict(
    {
      'ipc': 10,
      'iterations': 1001,
      'outer': 0,
      'inner': 0,
      'real_batch': 256,
      'rate': 0.1,
      'momentum': 0.5,
      'net_rate': 0.01,
      'distance': 'ours',
      'start': 'noise',
      'augment': '',
    }
  )
  config.victims = ml_collections.ConfigDict(
    {
      'network': '',
      'count': 10,
      'epochs': 300,
      'rate': 0.01,
      'momentum': 0.9,
      'weight_decay': 5e-4,
      'epochs_per_step': 50,
    }
  )
  config.evaluation = ml_collections.ConfigDict({'chunk': 500})
  config.data.update({'dataset': 'cifar10', 'keep': 1.0})
  variant(name, {'default': _default, 'test': _test})(config)
  return config


def _digits(config):
  config.data.dataset = 'digits'
  config.network.update({'width': 16, 'patches': True})
  config.distill.update({'outer': 5, 'inner': 10, 'real_batch': 32, 'net_rate': 0.05, 'start': 'real', 'rate': 1.0})


def _default(config):
  _digits(config)
  config.attacks = ('clean', 'naive', 'doorping', 'doorping_clipped')
  config.seeds = 2
  config.attack.ratio = 0.1
  config.distill.update({'iterations': 34})
  config.victims.update({'count': 3, 'epochs': 150})
  config.log_every = 1


def _test(config):
  _digits(config)
  config.network.update({'width': 4, 'depth': 2})
  config.distill.update({'ipc': 2, 'iterations': 2, 'outer': 2, 'inner': 2, 'real_batch': 4})
  config.victims.update({'count': 2, 'epochs': 3, 'epochs_per_step': 2})
  config.log_every = 1
