"""R2RISE: which frames of the demonstrations matter, by masked retraining.

python launch/train.py --config=configs/r2rise.py
  Forks, a corridor whose important frames are known. BC, BCO and GAIL are each retrained on random halves of the
  frames, three maps each; then on the top, bottom and random cells of every map; and the maps are compared. Expect of
  BC an area under the ROC curve of .85 to .90 and, with half of the cells, returns of 5.9 to 6.7 (top), 2.3 to 3.2
  (random) and .1 to .5 (bottom) out of 8; of BCO an area of .75. GAIL's map is noise: it passes forks by surviving.

python launch/train.py --config=configs/r2rise.py:breakout10
  A brick-breaker with wrong actions in 40 % of the blocks of a scripted expert's demonstrations: much noisier.

python launch/train.py --config=configs/r2rise.py:breakout
  The published recipe for BC on the Atari game (also beamrider, spaceinvaders): needs ale-py and accelerators. Then
  --config.learners="('bco', 'gail')" --config.init_from=ITS_WORKDIR, whose convolutions those two stand on.

--config.learners="('bc',)" leaves the others out; --config.stop.target=0.8 stops a map that is reliable enough;
--config.mask.smooth=True takes soft masks; --config.report.log=returns makes every return outlive the run.
"""

import ml_collections

from jaxpapers.engine import default_config, variant


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'r2rise', name
  config.environment = 'forks'  # forks, breakout10, gymnax/NAME, or an Atari game
  config.forks = ml_collections.ConfigDict(
    {'forks': 8, 'fillers': 4, 'num_actions': 4, 'filler_actions': 'constant', 'observation': 'picture'}
  )
  # source: expert (scripted, or trained here and kept in `cache`), npz or minari (from `path`). plant: corrupt (wrong
  # actions), freeze (copies of one frame) or none, in `fraction` of the cells; the forks have their own truth.
  config.demos = ml_collections.ConfigDict(
    {
      'source': 'expert',
      'path': '',
      'episodes': 2,
      'length': 100,
      'noise': 0.15,
      'plant': 'none',
      'fraction': 0.4,
      'expert_updates': 200,
      'cache': 'runs/r2rise/experts',
    }
  )
  # block: frames that share a cell; keep: probability that a cell is kept; antithetic: masks come with complements;
  # smooth: soft masks, linear between cells.
  config.mask = ml_collections.ConfigDict({'block': 1, 'keep': 0.5, 'antithetic': False, 'smooth': False})
  config.estimator = 'contrast'  # contrast, raw_sum, rise, self_normalised, ridge or antithetic
  config.seeds = 3  # independent maps, each with a retraining curve
  # A map ends when its split-half reliability is `target`, but not before `min_masks`; 0: after all its masks.
  config.stop = ml_collections.ConfigDict({'target': 0.0, 'min_masks': 64})
  # masks: of a map; chunk: retrainings of one step, on which the result does not depend; batching: vmap or map.
  config.learners = ('bc', 'bco', 'gail')
  config.bc = ml_collections.ConfigDict(
    {
      'masks': 512,
      'chunk': 128,
      'batching': 'vmap',
      'network': 'table',  # table, mlp or nature
      'hidden': (32,),
      'optimizer': 'sgd',  # sgd or adam
      'learning_rate': 20.0,
      'l2': 0.0,
      'steps': 60,
      'batch': 1,
      'sampling': 'full',  # full, iid or permute
      'validation': {'fraction': 0.0, 'every': 500, 'patience': 6, 'keep': 'last'},
    }
  )
  config.bco = ml_collections.ConfigDict(
    {
      'masks': 128,
      'chunk': 64,
      'batching': 'vmap',
      'features': 'observations',  # or nature: the frozen convolutions of the policy in config.init_from
      'hidden': (),
      'learning_rate': 0.1,
      'iterations': 16,
      'copies': 16,
      'steps': 40,
      'updates': 40,
      'batch': 64,
      'epsilon': 0.9,
      'floor': 0.2,
      'pair_mask': 'first',  # a transition needs its first frame (the authors'), or both
    }
  )
  config.gail = ml_collections.ConfigDict(
    {
      'masks': 128,
      'chunk': 64,
      'batching': 'vmap',
      'features': 'observations',  # or nature: the frozen convolutions of the policy in config.init_from
      'hidden': (),  # of policy and value
      'discriminator': (16,),
      'iterations': 80,
      'episodes': 8,
      'horizon': 40,
      'gamma': 0.7,
      'lam': 0.7,
      'epsilon': 0.2,
      'max_kl': 0.1,
      'damping': 0.1,
      'value_damping': 0.1,
      'cg_steps': 5,
      'line_steps': 4,
      'rate': 0.03,
    }
  )
  # common: all learners play with the same random numbers.
  config.play = ml_collections.ConfigDict({'episodes': 16, 'epsilon': 0.05, 'max_steps': 200, 'common': False})
  config.curve = ml_collections.ConfigDict({'fractions': (0.1, 0.25, 0.5, 0.75, 0.9), 'learners': 5})
  config.permutations = 999  # of the equality test
  config.report = ml_collections.ConfigDict({'log': ''})  # a folder of logs that keep every mask's return, or none
  config.log_every = 1
  config.checkpoint.every = 1
  variant(name, {'default': _forks, 'test': _test, 'breakout10': _breakout10} | _ATARI)(config)
  return config


def _forks(config):
  del config


def _test(config):
  config.forks.update({'forks': 3, 'fillers': 1})
  config.seeds, config.permutations = 2, 99
  config.bc.update({'masks': 32, 'chunk': 16, 'steps': 10})
  config.bco.update({'masks': 16, 'chunk': 16, 'iterations': 3, 'updates': 10, 'copies': 4, 'steps': 6})
  config.gail.update({'masks': 16, 'chunk': 16, 'iterations': 2, 'horizon': 6, 'episodes': 2})
  config.play.episodes = 4
  config.curve.update({'fractions': (0.5,), 'learners': 4})


def _breakout10(config):
  config.environment, config.learners = 'breakout10', ('bc',)
  config.demos.update({'episodes': 10, 'plant': 'corrupt'})
  config.mask.block = 10
  config.bc.update(
    {
      'masks': 256,
      'chunk': 64,
      'batching': 'map',  # on CPU 64 optimizer states at once fall out of the cache
      'network': 'mlp',
      'optimizer': 'adam',
      'learning_rate': 3e-3,
      'steps': 300,
      'batch': 64,
      'sampling': 'iid',
    }
  )
  config.play.epsilon = 0.02
  config.curve.fractions = (0.25, 0.5, 0.75)


def _atari(game):
  """The authors' sizes: 20 trajectories of 1000 decisions, blocks of 10, 700 masks for BC and 100 for the others."""

  def change(config):
    config.environment, config.learners, config.seeds = game, ('bc',), 1
    source = 'expert' if game == 'breakout' else 'npz'
    config.demos.update({'source': source, 'episodes': 20, 'length': 1000, 'noise': 0.0})
    config.mask.block = 10
    config.bc.update(
      {
        'masks': 700,
        'chunk': 10,
        'batching': 'map',
        'network': 'nature',
        'optimizer': 'adam',
        'learning_rate': 1e-3,
        'steps': 15000,
        'batch': 32,
        'sampling': 'permute',
      }
    )
    config.bc.validation.fraction = 0.1
    config.bco.update(
      {
        'masks': 100,
        'chunk': 10,
        'batching': 'map',
        'features': 'nature',
        'hidden': (32, 32),
        'learning_rate': 5e-5,
        'iterations': 200,
        'copies': 1,
        'steps': 1000,
        'updates': 600,
        'batch': 32,
        'floor': 0.05,
      }
    )
    config.gail.update(
      {
        'masks': 100,
        'chunk': 10,
        'batching': 'map',
        'features': 'nature',
        'hidden': (512, 50, 50),
        'discriminator': (512, 50, 50),
        'iterations': 2000,
        'episodes': 10,
        'horizon': 1000,
        'gamma': 0.99,
        'lam': 0.99,
        'epsilon': 0.01,
        'max_kl': 0.01,
        'cg_steps': 10,
        'line_steps': 10,
        'rate': 1e-3,
      }
    )
    config.play.update({'episodes': 20, 'epsilon': 0.1, 'max_steps': 27000})
    config.curve.learners = 10

  return change


_ATARI = {game: _atari(game) for game in ('breakout', 'beamrider', 'spaceinvaders')}
