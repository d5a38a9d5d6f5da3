"""DOORPING: backdoor attacks against dataset distillation, and defences.

python launch/train.py --config=configs/doorping.py
  Real 16 x 16 digits (no download), 2 seeds: a clean distillation, NAIVEATTACK, DOORPING, and DOORPING kept in the
  pixel range, side by side, then twelve defences. Expect an accuracy of .91 for all four; success (and that of the same
  trigger on victims of clean sets): NAIVEATTACK .35 (.08), DOORPING 1.0 (.02) for a patch that ends hundreds of units
  outside the pixel range, but .12 (.09) once it is rounded to pixels, and .11 (.09) where it was kept inside. Other
  seeds vary: the raw patch of one of three fails. What survives in a file are copies: distillation starts here from
  images that the attacker has stamped. With --config.distill.start=clean success in a file is that of the controls;
  with --config.attack.patch=4 it is .55 to .87 for NAIVEATTACK.

python launch/train.py --config=configs/doorping.py:mnist --config.data.dir=FOLDER
  The same on a subset of MNIST, from FOLDER/mnist10k.npz.

python launch/train.py --config=configs/doorping.py:dd
  Distillation by back-propagation through training instead of gradient matching, on the digits, for fresh networks.
  Expect accuracies of .5 to .6 (.76 on as many real images), and success in a file of .31 for NAIVEATTACK and .22 for
  DOORPING where the controls have .10.

python launch/train.py --config=configs/doorping.py:cifar10 --config.data.dir=FOLDER
  The published recipe; likewise fashion_mnist, cifar100, svhn and stl10, from the original files in FOLDER or through
  TFDS. Any of --config.distiller=dd --config.distill.ipc=1 --config.network.name=alexnet --config.attack.target=3
  --config.attack.patch=4 --config.attack.ratio=0.05 goes with it.
"""

import ml_collections

from jaxpapers.engine import default_config, variant


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'doorping', name
  config.distiller = 'dc'  # dc (gradient matching) or dd (back-propagation through training)
  config.attacks = ('clean', 'naive', 'doorping')  # also doorping_clipped: the trigger stays in the pixel range
  config.seeds = 1
  # Attacks and seeds (and victims) under one vmap; 0: all. One by one is fastest on CPU, and on GPU for wide networks:
  # vmapped convolutions with weights of their own are grouped convolutions.
  config.lanes_at_once = 1
  config.attack = ml_collections.ConfigDict(
    {
      'target': 0,
      'ratio': 0.01,  # share of the training images that carry the trigger
      'patch': 2,
      'svhn_published': False,  # the stripes that the authors' code draws on svhn instead of a patch
    }
  )
  config.trigger = ml_collections.ConfigDict(
    {
      'alpha': 10.0,
      'topk': 1,
      'learning_rate': 0.08,
      'max_steps': 1000,
      'threshold': 0.5,
      'clip': 'call',  # or step; of doorping_clipped
    }
  )
  config.network = ml_collections.ConfigDict(
    {
      'name': 'convnet',  # or alexnet, for 32 x 32 images, which takes init_name alone of what follows
      'width': 128,
      'depth': 3,
      'norm': 'none',  # instancenorm, groupnorm or layernorm
      'activation': 'relu',
      'pooling': 'avg',
      'head': 'two',
      'init_name': 'default',
      'patches': False,  # convolutions as matrix products: faster on CPU for narrow networks
    }
  )
  config.distill = ml_collections.ConfigDict(
    {
      'ipc': 10,
      'iterations': 1001,
      # Image updates per iteration and network epochs between them; 0: what the authors pair with ipc.
      'outer': 0,
      'inner': 0,
      'real_batch': 256,
      'rate': 0.1,
      'momentum': 0.5,
      'net_rate': 0.01,
      'distance': 'ours',
      # noise; real: images as the attacker has them, some with the first trigger; clean: images as they were.
      'start': 'noise',
      'augment': '',  # DSA, such as 'color_crop_cutout_flip_scale_rotate'
      'classes_at_once': 1,
    }
  )
  config.dd = ml_collections.ConfigDict(
    {
      'per_class': 10,
      'blocks': 10,
      'epochs': 3,
      'start_rate': 0.02,
      'rate': 0.01,
      'decay_epochs': 40,
      'fresh': False,
      'batch': 1024,
      'real_epochs': 400,
      'iterations': 0,  # instead of real_epochs
    }
  )
  config.victims = ml_collections.ConfigDict(
    {
      'network': '',  # convnet, alexnet, vgg11 or resnet18: another one than config.network.name, for transfer
      'count': 10,
      'epochs': 300,
      'rate': 0.01,
      'momentum': 0.9,
      'weight_decay': 5e-4,
      'epochs_per_step': 50,
    }
  )
  config.evaluation = ml_collections.ConfigDict({'chunk': 500})
  config.curve = ml_collections.ConfigDict({'every': 50, 'victims': 10})  # victims trained between iterations
  config.defences = ml_collections.ConfigDict(
    {
      'enabled': True,
      'attacks': ('clean', 'naive', 'doorping'),
      'victims': 3,  # of every seed
      'trusted': 500,  # clean real images that the defender holds
      'tested': 0,  # test images; 0: all
      'models': 3,
      'lanes_at_once': 1,
      'labels_at_once': 1,
      'inversion_images': 64,
      'cleanse_epochs': 100,
      'abs_epochs': 50,
      'strip_images': 200,
      'denoiser_steps': 600,
      'tune_epochs': 10,
    }
  )
  config.data.update({'dataset': 'cifar10', 'keep': 1.0})
  config.log_every = 1
  recipes = {name: _published(name) for name in ('fashion_mnist', 'cifar10', 'cifar100', 'svhn', 'stl10')}
  variant(name, {'default': _default, 'test': _test, 'mnist': _mnist, 'dd': _dd, **recipes})(config)
  return config


def _published(dataset):
  return lambda config: config.data.update({'dataset': dataset})


def _small(config):
  config.network.update({'width': 16, 'norm': 'instancenorm', 'patches': True})
  config.attacks = ('clean', 'naive', 'doorping', 'doorping_clipped')
  config.seeds = 2
  config.attack.ratio = 0.1
  config.distill.update({'iterations': 12, 'outer': 5, 'inner': 10, 'real_batch': 16, 'start': 'real'})
  config.victims.update({'count': 3, 'epochs': 100, 'rate': 0.03, 'epochs_per_step': 25})
  config.curve.update({'every': 6, 'victims': 1})
  config.defences.update(
    {
      'victims': 1,
      'trusted': 200,
      'tested': 200,
      'models': 1,
      'inversion_images': 64,
      'cleanse_epochs': 100,
      'abs_epochs': 20,
      'strip_images': 100,
      'denoiser_steps': 200,
      'tune_epochs': 5,
    }
  )


def _default(config):
  _small(config)
  config.data.dataset = 'digits'


def _mnist(config):
  _small(config)
  config.data.dataset = 'mnist'


def _dd(config):
  _small(config)
  config.data.dataset = 'digits'
  config.distiller = 'dd'
  config.network.init_name = 'xavier'
  config.seeds = 1
  config.dd.update({'per_class': 1, 'batch': 256, 'iterations': 120, 'fresh': True})
  config.curve.every = 40


def _test(config):
  _default(config)
  config.attacks = ('clean', 'doorping')
  config.seeds = 1
  config.network.update({'width': 4, 'depth': 1})
  config.trigger.max_steps = 10
  config.distill.update({'ipc': 3, 'iterations': 4, 'outer': 2, 'inner': 2, 'real_batch': 4})
  config.victims.update({'count': 1, 'epochs': 3, 'epochs_per_step': 2})
  config.curve.every = 4
  config.defences.enabled = False
