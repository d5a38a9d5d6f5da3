"""EMO: a mobile backbone of one block type, on images (Rethinking Mobile Block, ICCV 2023).

  python launch/train.py --config=configs/emo.py              # embedded digits, 2 to 3 minutes on 2 cores
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
  config.chunk = 0  # test images at a time, 0: the batch; on CPU, 4 is twice as fast for images of 224 pixels
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
      windows=(2, 2, 2, 2),
      kernel_sizes=(3, 3, 3, 3),  # 5 would cover all of the 4-pixel map without attention
      stem_width=16,
      drop_path=0.0,
      partition='grid',
    )
  )


def published_model(name: str, drop_path: float) -> ml_collections.ConfigDict:
  """EMO-1M, 2M, 5M or 6M."""
  model = small_model()
  model.name = name
  model.windows = (7, 7, 7, 7)
  model.kernel_sizes = (3, 3, 5, 5)
  model.stem_width = 24
  model.drop_path = drop_path
  return model


def default() -> ml_collections.ConfigDict:
  """Pairs of real handwritten digits, far apart on one canvas; the label needs both."""
  config = base('default')
  config.model = small_model()
  config.baseline = True  # a second stage: the same budget with attention off
  config.data.update(dict(name='digits', task='pair', image_size=64, train_size=8192, test_size=2048))
  config.train = ml_collections.ConfigDict(
    dict(steps=350, batch_size=64, accumulate=1, eval_every=175, clip_norm=5.0, label_smoothing=0.1, ema_decay=0.98)
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
  config.baseline = False
  config.model.update(dict(depths=(1, 1, 2, 1), widths=(8, 8, 16, 16), windows=(2, 2, 2, 1), stem_width=8))
  config.data.update(dict(image_size=32, train_size=64, test_size=37))
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
  config.train.update(dict(steps=20, batch_size=16, eval_every=0, ema_decay=0.0))
  config.chunk = 4
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
  config.checkpoint.update(dict(every=epoch, best='test/ema_top1'))
  config.log_every = 50
  return config


def dense(variant: str, task: str, name: str, **head) -> ml_collections.ConfigDict:
  """What detection and segmentation share: EMO-1M, the head `name`, AdamW, no baselines."""
  config = base(variant)
  config.task = task
  config.model = published_model('emo_1m', 0.04036)
  config.head = ml_collections.ConfigDict(dict(name=name, **head))
  config.frozen_stages = -1  # stages 0..f of the backbone keep their weights
  config.norm_eval = False  # the backbone's batch norms keep their statistics
  config.baselines = False  # two more stages: the model before training, and heads on a frozen random backbone
  config.train = ml_collections.ConfigDict(
    dict(steps=0, batch_size=32, test_batch_size=32, accumulate=1, eval_every=0, clip_norm=0.0, ema_decay=0.0)
  )
  config.optimizer = ml_collections.ConfigDict(
    dict(
      schedule='cosine', learning_rate=0.0, weight_decay=0.05, warmup_steps=0, warmup_factor=1e-3, head_multiplier=1.0
    )
  )
  config.checkpoint.best = 'test/AP' if task == 'detection' else 'test/mIoU'
  config.log_every = 50
  return config


def coco_ssdlite() -> ml_collections.ConfigDict:
  """SSDLite at 320x320 on COCO 2017: EMO-1M 22.0, 2M 25.2, 5M 27.9 AP (windows 10 for 5M).

  Start from ImageNet weights: --config.init_from=WORKDIR. data.dir holds train2017/, val2017/ and annotations/, or with
  data.name='coco' a TFDS folder. 120 epochs of the set repeated five times, batch 192.
  """
  config = dense(
    'coco_ssdlite',
    'detection',
    'ssdlite',
    stages=(3, 4),
    extra_widths=(512, 256, 256, 128),
    strides=(16, 32, 64, 107, 160, 320),
    minimums=(48, 100, 150, 202, 253, 304),
    maximums=(100, 150, 202, 253, 304, 320),
  )
  config.norm_eval = True
  config.data.update(
    dict(name='coco_folder', size=(320, 320), resize='stretch', max_objects=100, bad_annotations='skip', workers=8)
  )
  epoch = 3055
  config.train.update(dict(steps=120 * epoch, batch_size=192, test_batch_size=64, eval_every=5 * epoch))
  config.optimizer.update(dict(learning_rate=1.2e-3, warmup_steps=500))
  config.checkpoint.every = epoch
  return config


def coco_retinanet() -> ml_collections.ConfigDict:
  """RetinaNet with FPN at 1333x800 on COCO 2017, 12 epochs: EMO-1M 34.4, 2M 36.2, 5M 38.9 AP.

  Images are padded to one canvas, not to the largest of their batch: one compiled program.
  """
  config = dense('coco_retinanet', 'detection', 'retinanet', width=256)
  config.norm_eval = True
  config.frozen_stages = 1
  config.data.update(
    dict(
      name='coco_folder',
      size=(1344, 1344),
      resize='keep',
      long_side=1333,
      short_side=800,
      max_objects=100,
      bad_annotations='skip',
      workers=8,
    )
  )
  epoch = 3665
  config.train.update(dict(steps=12 * epoch, batch_size=32, test_batch_size=32, eval_every=epoch))
  config.optimizer.update(dict(learning_rate=2e-4, warmup_steps=500))
  config.checkpoint.every = epoch
  return config


def ade20k_deeplabv3() -> ml_collections.ConfigDict:
  """DeepLabv3 at 512x512 on ADE20K, 80,000 steps of 32: EMO-1M 33.5, 2M 35.3, 5M 37.8 mIoU (windows 16 for 5M).

  data.dir is the unpacked ADEChallengeData2016.
  """
  config = dense('ade20k_deeplabv3', 'segmentation', 'deeplabv3', width=256, auxiliary=True)
  config.data.update(dict(name='ade20k_folder', size=(512, 512), test_size=(512, 704), workers=8))
  config.train.update(dict(steps=80_000, batch_size=32, eval_every=8000))
  config.optimizer.update(dict(schedule='poly', learning_rate=1.2e-4, weight_decay=0.01))
  config.checkpoint.every = 8000
  return config


def ade20k_pspnet() -> ml_collections.ConfigDict:
  """PSPNet, trained as DeepLabv3: EMO-1M 33.2, 2M 34.5, 5M 38.2 mIoU."""
  config = ade20k_deeplabv3()
  config.variant = 'ade20k_pspnet'
  config.head.name = 'pspnet'
  return config


def ade20k_semfpn() -> ml_collections.ConfigDict:
  """Semantic FPN; the recipe of EMO's successor, since EMO's own is not published: 160,000 steps."""
  config = ade20k_deeplabv3()
  config.variant = 'ade20k_semfpn'
  config.head = ml_collections.ConfigDict(dict(name='semantic_fpn', width=256, scale_width=128, auxiliary=False))
  config.train.steps = 160_000
  config.optimizer.update(dict(schedule='constant_cosine', weight_decay=0.05, warmup_steps=1500))
  return config


def shapes_detection() -> ml_collections.ConfigDict:
  """SSDLite on coloured shapes over photographs, no download; with both baselines about 2 minutes on 2 cores.

  AP50 0.90, AP 0.68; 0.06 for the same head on a frozen random backbone.
  """
  config = dense(
    'shapes_detection',
    'detection',
    'ssdlite',
    stages=(2, 3, 4),
    extra_widths=(),
    strides=(8, 16, 32),
    minimums=(13, 20, 26),
    maximums=(20, 26, 32),
  )
  config.model = small_model()
  config.baselines = True
  config.data.update(dict(name='shapes', size=(64, 64), train_images=4096, test_images=512))
  config.train.update(dict(steps=1200, batch_size=8, test_batch_size=64, eval_every=600, ema_decay=0.99))
  config.optimizer.update(dict(learning_rate=1e-2, warmup_steps=50))
  config.checkpoint.best = 'test/AP50'
  return config


def shapes_segmentation() -> ml_collections.ConfigDict:
  """Semantic FPN on coloured shapes over photographs, no download; with both baselines about 2 minutes on 2 cores.

  Mean IoU 0.79 over background and eight kinds; 0.20 for the same head on a frozen random backbone.
  """
  config = dense('shapes_segmentation', 'segmentation', 'semantic_fpn', width=32, scale_width=32, auxiliary=False)
  config.model = small_model()
  config.baselines = True
  config.data.update(dict(name='shapes', size=(64, 64), train_images=4096, test_images=512))
  config.train.update(dict(steps=1500, batch_size=8, test_batch_size=64, eval_every=750, ema_decay=0.99))
  config.optimizer.update(dict(learning_rate=1.5e-2, warmup_steps=50))
  return config


def tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A shapes variant in a few seconds, for tests."""
  config.variant += '_test'
  config.baselines = False
  config.model.update(dict(depths=(1, 1, 2, 1), widths=(8, 8, 16, 16)))
  config.data.update(dict(train_images=32, test_images=13))
  config.train.update(dict(steps=4, batch_size=8, test_batch_size=8, eval_every=2))
  config.optimizer.warmup_steps = 2
  config.log_every = 2
  return config


VARIANTS = {'default': default, 'test': test, 'emo1m_224': emo1m_224, 'imagenet1k': imagenet1k}
VARIANTS |= {
  'coco_ssdlite': coco_ssdlite,
  'coco_retinanet': coco_retinanet,
  'ade20k_deeplabv3': ade20k_deeplabv3,
  'ade20k_pspnet': ade20k_pspnet,
  'ade20k_semfpn': ade20k_semfpn,
  'shapes_detection': shapes_detection,
  'shapes_segmentation': shapes_segmentation,
  'shapes_detection_test': lambda: tiny(shapes_detection()),
  'shapes_segmentation_test': lambda: tiny(shapes_segmentation()),
}


def get_config(variant: str = 'default') -> ml_collections.ConfigDict:
  """Settings of `variant`."""
  return engine.variant(variant, VARIANTS)()
