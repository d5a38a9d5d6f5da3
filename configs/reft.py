"""RefT: few-shot instance segmentation.

python launch/train.py --config=configs/reft.py
  FewShapes (generated, 48x48, 8 base and 4 novel outlines) from the base model in the package: rows of the ablation
  fine-tuned side by side in one program, untrained use by the support head, incremental classes with and without
  distillation. About five processor minutes, a third of them compilation.

python launch/train.py --config=configs/reft.py:seeds
  The same over 5 K-shot sets. With --config.shot_sets=3, nAP / bAP / AP of all classes at K=1 and K=5: fine-tuned
  without references 12.5 / 33.0 / 26.2 and 19.7 / 38.4 / 32.1; with both 11.4 / 32.7 and 19.3 / 38.6: no gain from the
  references here. The support head without any training 11.0 / 40.8 / 30.9 and 15.4 / 44.8 / 35.0: best over all
  classes, below fine-tuning on the novel ones; fine-tuning it (9.4 and 18.2 nAP) does not help.

python launch/train.py --config=configs/reft.py:base
  The base model: dense warm-up, set loss, episodes; report/base.npz is what the package holds.

python launch/train.py --config=configs/reft.py:coco_gfsis --config.data.dir=FOLDER --config.init_from=WORKDIR
  The recipe on COCO (FSIS: coco_fsis, incremental: coco_ifsis) from Mask2Former weights that launch/import_weights.py
  wrote. Without init_from the base model is trained first. Not run here: it needs the images.
"""

import ml_collections

from jaxpapers.engine import default_config, variant

ABLATION = ('baseline', 'first', 'second', 'both', 'support')


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'reft', name
  config.task = 'shapes'  # or coco
  config.from_scratch = False  # train the base model instead of taking the package's
  config.base_file = ''  # another base.npz in place of the package's; 'fresh': an untrained network
  config.mini = ml_collections.ConfigDict({'layers': 3, 'convolutions': 2})  # of the decoder; of a backbone's stage
  # The base model, in three stages. episodes.drop_row: how often a class must be known by its support alone.
  config.base = ml_collections.ConfigDict(
    {
      'images': 3000,
      'warm_up': {'steps': 500, 'batch_size': 32, 'learning_rate': 4e-3},
      'plain': {'steps': 1500, 'batch_size': 16, 'learning_rate': 2e-3},
      'episodes': {'steps': 1200, 'batch_size': 16, 'learning_rate': 1e-3, 'drop_row': 0.6},
    }
  )
  config.optimizer = ml_collections.ConfigDict(
    {'learning_rate': 1e-4, 'weight_decay': 0.01, 'clip_norm': 1.0, 'backbone': 1.0}
  )
  config.shots = (1, 5)
  config.shot_sets = 1  # K-shot sets, each a lane of every variant
  config.untrained = ('baseline', 'support', 'support_both')
  config.few_shot = ml_collections.ConfigDict(
    {'variants': ABLATION, 'steps': 150, 'batch_size': 12, 'learning_rate': 7e-4, 'setting': 'gfsis'}  # or fsis
  )
  config.incremental = ml_collections.ConfigDict(
    {
      'variants': ('all_trained', 'frozen', 'class_enhanced'),
      'shots': 5,
      'steps': 60,
      'batch_size': 8,
      'learning_rate': 7e-4,
      'feature_weight': 0.1,
      'class_weight': 2.0,
      'every': 20,
    }
  )
  config.data.update({'test_images': 300, 'layout': 'coco2017', 'shots_dir': '', 'max_objects': 100, 'size': 1024})
  # On COCO and LVIS. Steps of few-shot training: 0 is 500 sqrt(K) for fsis and ifsis, 2000 sqrt(K) for gfsis.
  config.model = ml_collections.ConfigDict(
    {
      'backbone': 'resnet50',
      'classes': 80,
      'queries': 100,
      'width': 256,
      'heads': 8,
      'encoder_layers': 6,
      'decoder_layers': 9,
      'head': 'fc',  # or support
      'first_reference': True,
      'second_reference': True,
    }
  )
  config.coco = ml_collections.ConfigDict(
    {
      'setting': 'gfsis',  # fsis, gfsis or ifsis
      'shots': 10,
      'shot_set': 1,  # the seed that the K-shot files are named by
      'sampled': (1, 2, 3, 5, 10, 30),  # without K-shot files: all K that the public sampler draws
      'points': 12544,
      'batch_size': 16,
      'base_steps': 368_750,
      'episode_steps': 73_750,
      'episode_classes': 15,  # 0: all
      'few_shot_steps': 0,
      'feature_weight': 0.1,
      'class_weight': 2.0,
      'center_shots': 2,  # ifsis: base objects of each class whose features are kept for distillation
      'support_batch': 8,
      'test_batch': 8,
      'test_canvas': 1344,
      'test_long': 1333,
      'test_short': 800,
    }
  )
  variant(
    name,
    {
      'default': _default,
      'seeds': _seeds,
      'base': _base,
      'test': _test,
      'coco_fsis': _coco('fsis'),
      'coco_gfsis': _coco('gfsis'),
      'coco_ifsis': _coco('ifsis'),
    },
  )(config)
  return config


def _coco(setting):
  def change(config):
    config.task = 'coco'
    config.coco.setting = setting
    config.data.workers = 8
    config.log_every = 50
    config.checkpoint.every = 5000
    config.optimizer.update({'weight_decay': 0.05, 'clip_norm': 0.01, 'backbone': 0.1})

  return change


def _default(config):
  config.log_every = 10
  config.few_shot.steps = 80
  config.incremental.update({'variants': ('frozen', 'class_enhanced'), 'steps': 45, 'every': 15})


def _seeds(config):
  config.shot_sets = 5
  config.few_shot.variants = (*ABLATION, 'support_both')


def _base(config):
  """Only what the package holds."""
  config.from_scratch = True
  config.untrained = config.few_shot.variants = config.incremental.variants = ()


def _test(config):
  config.base_file = 'fresh'
  config.mini.update({'layers': 1, 'convolutions': 1})
  config.shots = (2,)
  config.data.test_images = 8
  config.untrained = config.incremental.variants = ()
  config.few_shot.update({'variants': ('baseline', 'support_both'), 'steps': 2, 'batch_size': 4})
  config.incremental.update({'shots': 2, 'steps': 2, 'batch_size': 4, 'every': 1})
