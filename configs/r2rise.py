"""R2RISE: which frames of the demonstrations matter, by masked retraining.

python launch/train.py --config=configs/r2rise.py
  Forks, a corridor whose important frames are known: 512 learners are retrained on random halves of the frames, then 20
  per point of a retraining curve. Expect an area under the ROC curve of .85 to .93, and returns of about 6.8 (top half
  of the cells), 3.5 (random half) and .4 (bottom half) out of 8.

python launch/train.py --config=configs/r2rise.py:breakout10
  A brick-breaker with wrong actions in 40 % of the blocks of a scripted expert's demonstrations: much noisier.
"""

import ml_collections

from jaxpapers.engine import default_config, variant


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'r2rise', name
  config.env = 'forks'  # forks or breakout10
  config.forks = ml_collections.ConfigDict(
    {'forks': 8, 'fillers': 4, 'num_actions': 4, 'filler_actions': 'constant', 'observation': 'picture'}
  )
  config.demos = ml_collections.ConfigDict({'episodes': 2, 'length': 100, 'noise': 0.15, 'corrupt': 0.4})
  config.block = 1  # frames that share a cell of a mask
  config.keep = 0.5  # probability that a cell is kept
  config.masks = 512
  config.chunk = 128  # masks per step; the result does not depend on it
  config.antithetic = False
  config.estimator = 'contrast'  # contrast, raw_sum, rise, self_normalised, ridge or antithetic
  config.learner = ml_collections.ConfigDict(
    {
      'network': 'table',  # table or mlp
      'hidden': (32,),
      'optimizer': 'sgd',  # sgd or adam
      'learning_rate': 20.0,
      'steps': 60,
      'batch': 1,
      'sampling': 'full',  # full, iid or permute
      'batching': 'vmap',  # vmap or map
    }
  )
  config.play = ml_collections.ConfigDict({'episodes': 16, 'epsilon': 0.05, 'max_steps': 200})
  config.curve = ml_collections.ConfigDict({'fractions': (0.1, 0.3, 0.5, 0.7, 0.9, 1.0), 'learners': 20, 'chunk': 120})
  config.permutations = 999
  config.log_every = 1
  variant(name, {'default': _forks, 'test': _test, 'breakout10': _breakout10})(config)
  return config


def _forks(config):
  del config


def _test(config):
  config.forks.update({'forks': 3, 'fillers': 1})
  config.masks, config.chunk = 64, 32
  config.play.episodes = 4
  config.learner.steps = 10
  config.curve.update({'fractions': (0.5, 1.0), 'learners': 4, 'chunk': 8})
  config.permutations = 99


def _breakout10(config):
  config.env = 'breakout10'
  config.demos.episodes = 10
  config.block, config.masks, config.chunk = 10, 256, 64
  config.learner.update(
    {
      'network': 'mlp',
      'optimizer': 'adam',
      'learning_rate': 3e-3,
      'steps': 300,
      'batch': 64,
      'sampling': 'iid',
    }
  )
  config.play.epsilon = 0.02
  config.curve.fractions = (0.25, 0.5, 0.75, 1.0)
