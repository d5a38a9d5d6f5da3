"""EMO: a mobile backbone of one block type, on images (specification: Rethinking Mobile Block, ICCV 2023).

  python launch/train.py --config=configs/emo.py              # embedded digits, about 2 minutes on 2 cores
  python launch/train.py --config=configs/emo.py:imagenet1k --config.data.dir=FOLDER   # the published recipe
  python launch/train.py --config=configs/emo.py:imagenet1k --config.model.name=emo_5m --config.model.drop_path=0.05

The default trains a small EMO and the same network without attention on the same batches, and reports both.
Published top-1 at 224: EMO-1M 71.5, 2M 75.1, 5M 78.4, 6M 79.0 (300 epochs, batch 2048).
To fine-tune: --config.init_from=WORKDIR of another run or of launch/import_weights.py; a classifier of another size
starts anew.
"""

import ml_collections

from jaxpapers import engine

IMAGENET_TRAIN = 1_281_167


def base(variant: str) -> ml_collections.ConfigDict:
  """What all variants share."""
  config = engine.default_config()
  config.method = 'emo'
  config.variant = variant
  config.task = 'classification'
  return config


def small_model() -> ml_collections.ConfigDict:
  """An EMO for 64-pixel images: maps of 16, 8, 4 and 2 pixels in stages 1-4, windows that divide them."""
  return ml_collections.ConfigDict(
    dict(
      name='',  # a published variant, or '' with the four fields below
      depths=(1, 2, 3, 2),
      widths=(16, 24, 32, 48),
      expansions=(2.0, 2.5, 3.0, 3.5),
      head_widths=(8, 8, 8, 8),
      windows=(2, 2, 4, 2),
      drop_path=0.0,
      partition='grid',
    )
  )


def published_model(name: str, drop_path: float) -> ml_collections.ConfigDict:
  """EMO-1M, 2M, 5M or 6M."""
  model = small_model()
  model.name = name
  model.windows = (7, 7, 7, 7)
  model.drop_path = drop_path
  return model


def default() -> ml_collections.ConfigDict:
  """Pairs of real handwritten digits, far apart on one canvas; the label needs both."""
  config = base('default')
  config.model = small_model()
  config.baseline = True  # a second stage: the same budget with attention off
  config.data.update(dict(name='digits', task='pair', image_size=64, train_size=8192, test_size=2048))
  config.train = ml_collections.ConfigDict(
    dict(steps=600, batch_size=64, accumulate=1, eval_every=100, clip_norm=5.0, label_smoothing=0.1, ema_decay=0.98)
  )
  config.optimizer = ml_collections.ConfigDict(
    dict(
      learning_rate=4e-3,
      end_learning_rate=1e-5,
      warmup_learning_rate=1e-5,
      warmup_steps=60,
      weight_decay=0.05,
      noise=False,
    )
  )
  config.augment = ml_collections.ConfigDict(dict(kind='none', mixup=0.0, cutmix=0.0, erasing=0.0))
  config.checkpoint.best = 'test/top1'
  return config


def test() -> ml_collections.ConfigDict:
  """The default in a few seconds."""
  config = default()
  config.variant = 'test'
  config.model.update(dict(depths=(1, 1, 2, 1), widths=(8, 8, 16, 16)))
  config.data.update(dict(image_size=32, train_size=64, test_size=37))
  config.model.windows = (2, 2, 2, 1)
  config.train.update(dict(steps=6, batch_size=16, eval_every=3))
  config.optimizer.warmup_steps = 2
  config.log_every = 2
  return config


def emo1m_224() -> ml_collections.ConfigDict:
  """EMO-1M itself at 224x224 on the embedded digits, batch 16: for benchmarks and for a first look at the real size."""
  config = default()
  config.variant = 'emo1m_224'
  config.model = published_model('emo_1m', 0.04036)
  config.baseline = False
  config.data.update(dict(image_size=224, train_size=512, test_size=64))
  config.train.update(dict(steps=20, batch_size=16, eval_every=0))
  return config


def imagenet1k() -> ml_collections.ConfigDict:
  """The published recipe: EMO-1M, 300 epochs at batch 2048, AdamW 6e-3, EMA 0.9998; 71.5 % top-1.

  data.dir is a folder that holds train/<class>/*.JPEG and val/<class>/*.JPEG, or with data.name='imagenet2012' a TFDS
  folder with that dataset prepared as ArrayRecord.
  """
  config = base('imagenet1k')
  config.model = published_model('emo_1m', 0.04036)
  config.baseline = False
  config.data.update(dict(name='imagenet_folder', task='', image_size=224, train_size=0, test_size=0, workers=8))
  batch_size = 2048
  epoch = IMAGENET_TRAIN // batch_size
  config.train = ml_collections.ConfigDict(
    dict(
      steps=300 * epoch,
      batch_size=batch_size,
      accumulate=1,
      eval_every=epoch,
      clip_norm=5.0,
      label_smoothing=0.1,
      ema_decay=0.9998,
    )
  )
  config.optimizer = ml_collections.ConfigDict(
    dict(
      learning_rate=1.5e-3 * batch_size / 512,
      end_learning_rate=1e-6,
      warmup_learning_rate=1e-6,
      warmup_steps=20 * epoch,
      weight_decay=0.05,
      noise=False,
    )
  )
  config.augment = ml_collections.ConfigDict(dict(kind='randaugment', mixup=0.0, cutmix=0.0, erasing=0.0))
  config.checkpoint.update(dict(every=epoch, best='val_ema/top1'))
  config.log_every = 50
  return config


VARIANTS = {'default': default, 'test': test, 'emo1m_224': emo1m_224, 'imagenet1k': imagenet1k}


def get_config(variant: str = 'default') -> ml_collections.ConfigDict:
  """Settings of `variant`."""
  return engine.variant(variant, VARIANTS)()
