"""RELIANT: fair knowledge distillation for graph neural networks.

python launch/train.py --config=configs/reliant.py
  Block model with planted bias (no download), 4 seeds as one program: GCN teacher, vanilla CPF student, penalty alone,
  RELIANT for statistical parity and equal opportunity, and a sweep of the gap's weight. Under 2 minutes on 2 cores.
  Expect accuracy / dSP: teacher .97 / .23, vanilla .96 / .26, penalty alone .95 / .15, RELIANT .94 / .15; and RELIANT
  for equal opportunity with dEO .02 where the vanilla student has .07. Learning the proxies shows no gain over the
  penalty alone. With --config.data.dir=FOLDER it runs on bail instead.

python launch/train.py --config=configs/reliant.py:bail --config.data.dir=FOLDER
  The published recipe; likewise credit, dblp and dblp_l. Any pair:
  --config.framework=akd --config.teacher=sage --config.metric=eo --config.proxy=fixed --config.alpha=300

python launch/train.py --config=configs/reliant.py:csv --config.data.table=people.csv --config.data.edges=edges.txt
    --config.data.label=paid --config.data.sensitive=minor
  Your own table; without edges, similar rows are joined.

python launch/train.py --config=configs/reliant.py:bail --config.data.dir=FOLDER --config.teacher_outputs=output.txt
  Students of a teacher whose outputs a program of the authors wrote.

python launch/benchmark.py --config=configs/reliant.py:benchmark --config.data.dir=FOLDER --peer=torch_geometric
  Epochs of teacher and students beside PyTorch Geometric's GCN; python -m jaxpapers.reliant.throughput gives ratios.
"""

import ml_collections

from jaxpapers.engine import default_config, variant


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'reliant', name
  config.seeds = 1  # trainings side by side, each with its own weights and random numbers
  config.replicas = 'auto'  # map (one after the other), vmap (all at once); auto: map on CPU
  config.epochs_per_step = 25  # epochs that one call of the compiled program runs
  config.framework = 'cpf'  # or akd
  config.teacher = 'gcn'  # gcn, sage, gat, appnp or sgc
  # A file of outputs in the teacher's place: CPF's output.txt or preds.txt, GraphAKD's .pth.tar, or an npz of the same.
  config.teacher_outputs = ''
  config.metric = 'sp'  # or eo
  config.proxy = 'learned'  # none, fixed or learned
  config.proxy_columns = 'append'  # or replace_last, as the authors' CPF code does
  config.alpha = 0.0  # weight of the gap; 0: 1000 for cpf, 10 for akd
  # CPF's distance grows like the root of the number of nodes it is over. True: alpha is meant for bail's 13,214 nodes.
  config.scale_alpha = True
  config.eo_labels = 'all'  # train: equal opportunity looks at the labels of training nodes only
  config.step = 'official'  # or projection: the soft step inside the gap
  config.distance = 'frobenius'  # kl_batchmean, kl_mean or binary_cross_entropy; of cpf
  config.ablation = True  # vanilla without the replaced columns, and the penalty with frozen proxies
  config.also_metrics = ()  # trained beside config.metric in the same program
  config.sweep = ()  # further weights, as multiples of alpha
  # Zeros stand for the published values of the chosen teacher and framework.
  config.teacher_training = ml_collections.ConfigDict(
    {'learning_rate': 0.0, 'weight_decay': 0.0, 'epochs': 1000, 'patience': 500}
  )
  config.student = ml_collections.ConfigDict(
    {
      'learning_rate': 0.0,
      'weight_decay': 0.0,
      'epochs': 1000,
      'patience': 500,
      'hidden': 64,
      'num_layers': 10,
      'mlp_layers': 2,
      'feature_dropout': 0.8,
      'attention_dropout': 0.2,
    }
  )
  # batch_size > 0: neighbour-sampled minibatches of so many nodes; one epoch is then one minibatch.
  config.sampling = ml_collections.ConfigDict({'batch_size': 0, 'fanouts': (10, 10)})
  config.data.update(
    {'dataset': 'blockmodel', 'table': '', 'edges': '', 'label': '', 'sensitive': '', 'normalize': 'minmax'}
  )
  variant(
    name,
    {
      'default': _default,
      'test': _test,
      'benchmark': _benchmark,
      'bail': _bail,
      'credit': _credit,
      'dblp': _dblp,
      'dblp_l': _dblp_l,
      'csv': _csv,
    },
  )(config)
  return config


def _default(config):
  config.seeds = 4
  config.teacher_training.update({'epochs': 300, 'patience': 0})
  config.student.update({'epochs': 175, 'patience': 0})
  config.also_metrics = ('eo',)
  config.sweep = (0.25, 4.0)
  config.log_every = 1


def _test(config):
  _default(config)
  config.seeds = 2
  config.ablation = False
  config.epochs_per_step = 10
  config.teacher_training.epochs = 40
  config.student.update({'epochs': 20, 'num_layers': 4, 'hidden': 8})
  config.sweep = (4.0,)


def _benchmark(config):
  """One step is one epoch of one seed: for launch/benchmark.py."""
  config.epochs_per_step = 1
  config.ablation = False
  config.proxy_columns = 'replace_last'


def _recipe(config, dataset):
  config.data.dataset = dataset
  config.proxy_columns = 'replace_last'
  config.scale_alpha = False
  config.log_every = 1


def _bail(config):
  _recipe(config, 'bail')


def _credit(config):
  _recipe(config, 'credit')


def _dblp(config):
  _recipe(config, 'dblp')


def _dblp_l(config):
  _recipe(config, 'dblp_l')
  config.student.num_layers = 5


def _csv(config):
  config.data.dataset = 'csv'
  config.log_every = 1
