"""xDeepInt: click-through prediction by polynomial interaction networks.

python launch/train.py --config=configs/xdeepint.py
  Adult (in the package): xDeepInt over 3 seeds, then LR, FM, DNN and DCN-V2 on the same rows and seeds, then the
  sparsity path over lambda1. About a minute on 2 cores. Expect a test AUC and LogLoss of
  .9205 / .296, LR .9205 / .296, FM .921 / .297, DNN .921 / .295, DCN-V2 .922 / .293 (deviation over seeds .001).

python launch/train.py --config=configs/xdeepint.py:parity
  Planted parity: networks of depth 0..4 on labels of order 1..4, as one program. Depth L learns order p if L >= p - 1.

python -m jaxpapers.xdeepint.prepare --dataset=criteo --published --input=train.txt --output=/data/criteo --workers=8
python launch/train.py --config=configs/xdeepint.py:criteo --config.data.dir=/data/criteo
  The published recipe on Criteo (without --published: all 39 fields); likewise avazu, ipinyou and movielens100k. Tables
  that outgrow one device: --config.mesh.model=4; a third less memory: --config.store_weights=False.
"""

import ml_collections

from jaxpapers.engine import default_config, variant


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'xdeepint', name
  config.seeds = 1  # trainings side by side, each with its own initial values and data order
  config.store_weights = True  # False: tables are recomputed from the optimizer's state, which saves a third
  config.row_slots = 0  # slots for the distinct ids of a batch; 0: as many as can occur
  config.model = ml_collections.ConfigDict(
    {
      'embedding_size': 16,
      'layers': 3,
      'sub_spaces': 4,
      'activation': 'linear',
      'output': 'product',  # product, concat, concat_by_layer or all_orders
      'dropout': (),  # a rate per layer
    }
  )
  # The loss, and with it every lambda, is a sum over the batch: another batch size is another regularisation.
  config.table = ml_collections.ConfigDict(
    {'alpha': 0.02, 'beta': 1.0, 'lambda1': 10.0, 'lambda2': 10.0, 'prox': 'published'}
  )
  config.dense = ml_collections.ConfigDict({'learning_rate': 0.02, 'l1': 0.1, 'l2': 0.1, 'initial_accumulator': 0.1})
  config.data.update({'dataset': 'adult', 'batch_size': 4096, 'eval_batch_size': 16_384, 'epochs': 1, 'shuffle': False})
  config.baselines = ()  # of lr, fm, dnn, dcnv2
  config.baseline_epochs = 1
  config.path = ()  # lambda1 values of the sparsity path
  config.path_epochs = 2
  config.parity = ml_collections.ConfigDict({'orders': (), 'rows': 30_000, 'fields': 5, 'levels': 4, 'rate': 0.02})
  variant(
    name,
    {
      'default': _adult,
      'test': _test,
      'parity': _parity,
      'criteo': _criteo,
      'avazu': _avazu,
      'ipinyou': _ipinyou,
      'movielens100k': _movielens,
    },
  )(config)
  return config


def _adult(config):
  config.seeds = 3
  config.table.update({'alpha': 0.05, 'lambda1': 1.0, 'lambda2': 1.0})
  config.dense.update({'learning_rate': 0.05, 'l1': 0.05, 'l2': 0.05})
  config.data.update({'batch_size': 512, 'eval_batch_size': 5120, 'epochs': 3, 'shuffle': True})
  config.baselines = ('lr', 'fm', 'dnn', 'dcnv2')
  config.baseline_epochs = 3
  config.path = (0.1, 1.0, 3.0, 10.0, 30.0)


def _test(config):
  _adult(config)
  config.seeds = 2
  config.model.update({'embedding_size': 4, 'layers': 2, 'sub_spaces': 2})
  config.data.update({'batch_size': 4096, 'epochs': 1})
  config.baselines = ('lr',)
  config.baseline_epochs = 1
  config.path = (1.0, 30.0)
  config.path_epochs = 1


def _parity(config):
  config.model.update({'embedding_size': 8, 'layers': 4, 'sub_spaces': 1})
  config.data.update({'dataset': 'parity', 'batch_size': 256, 'eval_batch_size': 9000, 'epochs': 20, 'shuffle': True})
  config.parity.orders = (1, 2, 3, 4)


def _criteo(config):
  config.data.dataset = 'criteo'
  config.model.update({'layers': 4, 'sub_spaces': 16})
  config.log_every = 100


def _avazu(config):
  config.data.dataset = 'avazu'
  config.model.update({'layers': 2, 'sub_spaces': 4})
  config.log_every = 100


def _ipinyou(config):
  # Prepare with --threshold=100.
  config.data.update({'dataset': 'ipinyou', 'batch_size': 1024})
  config.model.update({'layers': 2, 'sub_spaces': 1})
  config.log_every = 100


def _movielens(config):
  # Prepare with --split=random811 --threshold=0.
  config.data.update({'dataset': 'movielens100k', 'batch_size': 512, 'epochs': 5, 'shuffle': True})
  config.model.update({'layers': 2, 'sub_spaces': 4})
  config.table.update({'alpha': 0.05, 'lambda1': 0.3, 'lambda2': 1.0})
  config.dense.update({'learning_rate': 0.05, 'l1': 0.05, 'l2': 0.05})
  config.baselines = ('lr', 'fm', 'dnn', 'dcnv2')
  config.baseline_epochs = 5
