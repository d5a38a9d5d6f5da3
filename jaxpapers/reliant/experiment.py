"""Binds the settings of configs/reliant.py to functions. The only file of the room that reads the config."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxpapers.engine import Evaluation, Experiment, Stage, UserError
from jaxpapers.engine.parallel import make_mesh
from jaxpapers.reliant import data, evaluation, model, official, outputs, problem, replicas, report, trace, training
from jaxpapers.reliant.proxies import input_width, without_replaced_columns
from jaxpapers.reliant.sampling import Sampler

# Learning rate and weight decay of the published teachers.
TEACHERS: dict[str, tuple[Callable[[], model.Model], float, float]] = {
  'gcn': (model.gcn, 0.01, 1e-3),
  'sage': (model.sage, 0.01, 5e-4),
  'gat': (model.gat, 0.01, 0.01),
  'appnp': (model.appnp, 0.01, 0.01),
  'sgc': (model.sgc, 0.1, 1e-3),
}
# Rates of the PLP student by (data set, teacher) where they are not .01; teachers other than GCN and SAGE: .001.
_SLOW = {('dblp', 'gcn'), ('dblp_l', 'gcn')}
_ALPHA = {'cpf': 1000.0, 'akd': 10.0}
_BAIL_NODES = 13_214
_CLASSES = 2


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """Teacher, vanilla student, its ablations, and the student with proxies."""
  try:
    return _Run(config).experiment()
  except (ValueError, FileNotFoundError) as error:
    raise UserError(str(error)) from error


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Variables of the teacher stage from its parameters under the authors' names.

  Raises:
    UserError: if they are not those of the configured teacher and data.
  """
  try:
    run = _Run(config)
    width = run.sets[0].x.shape[1]
    template = jax.eval_shape(lambda k: run.teacher.init(k, width, _CLASSES, run.nodes), jax.random.key(0))
    params = official.import_official(config.teacher, state, template)
  except (ValueError, FileNotFoundError) as error:
    raise UserError(str(error)) from error
  stacked = jax.tree.map(lambda x: np.stack([x] * config.seeds), params)
  best = {
    'params': stacked,
    'score': np.zeros(config.seeds, np.float32),
    'epoch': np.zeros(config.seeds, np.int32),
  }
  return {'params': stacked, 'best': best}


def datasets(config: ml_collections.ConfigDict) -> list[data.Dataset]:
  """One graph for all seeds, or with the block model one each; a folder alone means bail.

  Raises:
    ValueError, FileNotFoundError: for data that cannot be read.
  """
  options = config.data
  if options.dataset == 'csv':
    names = ('table', 'edges', 'label', 'sensitive')
    return [data.load_csv(*(options[name] for name in names), normalize=options.normalize)]
  if options.dataset == 'blockmodel' and not options.dir:
    return [data.load('blockmodel', seed=config.seed + s) for s in range(config.seeds)]
  return [data.load('bail' if options.dataset == 'blockmodel' else options.dataset, options.dir)]


class _Run:
  """The settings, checked, and the data."""

  def __init__(self, config: ml_collections.ConfigDict):
    self.config = config
    for name, known in (('framework', _ALPHA), ('teacher', TEACHERS), ('proxy', ('none', 'fixed', 'learned'))):
      if config[name] not in known:
        raise ValueError(f'config.{name}={config[name]!r} is not known; it is one of {", ".join(known)}.')
    if config.parallel != 'jit':
      raise ValueError("RELIANT trains whole graphs: config.parallel must be 'jit'.")
    if config.seeds < 1:
      raise ValueError(f'config.seeds={config.seeds} must be at least 1.')
    self.metrics = tuple(dict.fromkeys((config.metric, *config.also_metrics)))
    self.sets = datasets(config)
    self.nodes = len(self.sets[0].x)
    input_width(self.sets[0].x.shape[1], config.proxy, config.proxy_columns)
    self.given = None
    self.teacher = TEACHERS[config.teacher][0]()
    if config.teacher_outputs:
      self._take_outputs()
    self.how = config.replicas
    if self.how == 'auto':
      self.how = 'map' if jax.default_backend() == 'cpu' else 'vmap'
    alpha = config.alpha or _ALPHA[config.framework]
    if config.scale_alpha and config.framework == 'cpf':
      alpha *= ((self.nodes - len(self.sets[0].splits.train)) / _BAIL_NODES) ** 0.5
    points = [replicas.Point(metric, alpha) for metric in self.metrics]
    points += [replicas.Point(config.metric, alpha * factor) for factor in config.sweep]
    self.points = tuple(points)
    self.problems = [self._problem(loaded) for loaded in self.sets]
    self.copies = self.problems
    if len(self.problems) == 1:
      self.copies = self.problems * make_mesh(config.mesh).shape['data']

  def _take_outputs(self) -> None:
    """A file takes the teacher's place."""
    if len(self.sets) > 1:
      raise ValueError(
        'config.teacher_outputs belong to one graph, but the block model has one per seed: use config.seeds=1.'
      )
    akd = self.config.framework == 'akd'
    self.given = outputs.read_outputs(self.config.teacher_outputs, self.nodes, _CLASSES, need_embedding=akd)
    self.teacher = outputs.as_model(self.given)

  def _problem(self, loaded: data.Dataset, x: np.ndarray | None = None) -> problem.Problem:
    return problem.make_problem(
      loaded.x if x is None else x,
      loaded.senders,
      loaded.receivers,
      loaded.labels,
      loaded.sensitive,
      loaded.splits,
      metrics=self.metrics,
      framework=self.config.framework,
      eo_labels=self.config.eo_labels,
    )

  def experiment(self) -> Experiment:
    config = self.config
    whole = problem.stacked(self.copies)
    stages, grids, applies, moments = [], {}, {}, ()

    def add(name, trained, apply, grid, epochs, batch, targets, seen):
      per_step = min(config.epochs_per_step, epochs)
      if epochs % per_step:
        raise ValueError(f'{epochs} epochs of {name} are no multiple of config.epochs_per_step={per_step}.')
      parts = replicas.replicated(trained, grid, per_step, targets)
      predict = replicas.predictions(apply, grid)
      summarize = evaluation.summarize(self.sets, grid)
      test = Evaluation('test', lambda: [seen], predict, summarize)
      stages.append(Stage(name, epochs // per_step, batch, parts.init, parts.step, [test]))
      grids[name], applies[name] = grid, (predict, seen)

    single = replicas.Grid(config.seeds, self.points[:1], self.metrics, self.how)
    sampled = config.sampling.batch_size > 0
    trained, epochs = self._teacher_training(sampled)
    add(
      'teacher',
      trained,
      lambda params, graph: self.teacher.apply(params, graph, None),
      single,
      epochs,
      self._batches(whole, self.sets[0].splits.train),
      None,
      whole,
    )
    everyone = np.arange(self.nodes)
    rows = [('vanilla', 'none', single)]
    if config.ablation and config.proxy_columns == 'replace_last':
      rows.append(('vanilla_without_columns', 'none', single))
    if config.proxy != 'none':
      full = single._replace(points=self.points)
      if config.ablation:
        same = tuple(p for p in self.points if p.metric == config.metric)
        rows.append(('penalty_only', 'frozen', single._replace(points=same)))
      rows.append(('reliant' if config.proxy == 'learned' else 'fixed_proxies', config.proxy, full))
    for name, kind, grid in rows:
      seen = whole
      if name == 'vanilla_without_columns':
        parts = [self._problem(d, without_replaced_columns(d.x)) for d in self.sets]
        seen = problem.stacked(parts * (len(self.copies) // len(parts)))
      trained, apply, epochs = self._student(kind, sampled)
      if kind == 'learned':
        moments = trace.moments(epochs)
        trained = trace.traced(trained, moments)
      batch = self._batches(seen, everyone)
      add(name, trained, apply, grid, epochs, batch, functools.partial(self._targets, sampled), seen)

    def draw(states: Mapping[str, Any], page: Any) -> None:
      columns = tuple(self.sets[0].features[-2:]) if config.proxy_columns == 'replace_last' else ()
      report.draw(states, page, report.Context(self.sets, grids, applies, columns, config.epochs_per_step, moments))

    return Experiment(stages, draw)

  def _teacher_training(self, sampled: bool) -> tuple[training.Training, int]:
    """Training of the teacher and its number of epochs; a given one needs none, but has a stage all the same."""
    if self.given is not None:
      return outputs.untrained(self.teacher), 1
    options = self.config.teacher_training
    rate, decay = TEACHERS[self.config.teacher][1:]
    trained = training.teacher_training(
      self.teacher,
      training.coupled_adam(options.learning_rate or rate, options.weight_decay or decay),
      classes=_CLASSES,
      nodes=self.nodes,
      selection=training.Selection('last' if sampled else 'accuracy', options.patience),
    )
    return trained, options.epochs

  def _batches(self, whole: problem.Problem, candidates: np.ndarray) -> Callable[[int], problem.Problem]:
    options, count = self.config.sampling, len(self.copies)
    if not options.batch_size:
      return lambda step: whole
    if len(self.sets) > 1:
      raise ValueError('Minibatches need one graph for all seeds: use config.seeds=1 with the block model.')
    sampler = Sampler(
      jax.tree.map(lambda x: x[0], whole),
      candidates,
      options.batch_size,
      options.fanouts,
      seed=self.config.seed,
      metrics=self.metrics,
      framework=self.config.framework,
    )
    return lambda step: problem.stacked([sampler(step)] * count)

  def _student(self, kind: str, sampled: bool) -> tuple[training.Training, Callable, int]:
    """Training, inference and number of epochs of a student."""
    config, options = self.config, self.config.student
    cpf = config.framework == 'cpf'
    if sampled and kind == 'fixed':
      raise ValueError('Fixed proxies need the full batch: use config.sampling.batch_size=0.')
    columns = config.proxy_columns if cpf else 'append'
    inputs = training.Input(kind, columns)
    read = training.by_teacher(self.teacher) if sampled else training.as_stored
    by = 'accuracy' if cpf else 'loss'
    common = {
      'classes': _CLASSES,
      'nodes': self.nodes,
      'inputs': inputs,
      'selection': training.Selection('last' if sampled else by, options.patience if cpf else 0),
      'step': config.step,
      'read_targets': read,
    }
    if cpf:
      student = model.plp(
        options.hidden,
        options.num_layers,
        options.mlp_layers,
        options.feature_dropout,
        options.attention_dropout,
      )
      usual = 0.01 if config.teacher in ('gcn', 'sage') and (config.data.dataset, config.teacher) not in _SLOW else 1e-3
      optimizer = training.coupled_adam(options.learning_rate or usual, options.weight_decay or 0.01)
      trained = training.cpf_training(student, optimizer, distance=config.distance, **common)
    else:
      student = model.sgc_student(self._embedding_width())
      decay = options.weight_decay or 5e-4
      rate = options.learning_rate or 1e-4
      optimizers = (training.coupled_adam(rate, decay), training.coupled_adam(10.0 * rate, decay))
      trained = training.akd_training(student, *optimizers, **common)
    epochs = options.epochs if cpf else min(options.epochs, 600)
    return trained, functools.partial(training.student_outputs, student, inputs), epochs

  def _embedding_width(self) -> int:
    """Of the teacher, which GraphAKD's student shares."""

    def embed(key):
      graph = self.problems[0].graph
      params = self.teacher.init(key, graph.nodes['x'].shape[1], _CLASSES, self.nodes)
      return self.teacher.apply(params, graph, None).embedding

    return jax.eval_shape(embed, jax.random.key(0)).shape[1]

  def _targets(self, sampled: bool, earlier: Mapping[str, Any], seen: problem.Problem, seed: jax.Array) -> Any:
    """The best teacher of a seed: its outputs, or with minibatches its parameters."""
    params = jax.tree.map(lambda x: x[seed], earlier['teacher'].model_state['best']['params'])
    if sampled:
      return params
    found = training.targets_of(self.teacher.apply(params, seen.graph, None))
    if self.config.framework == 'cpf':
      return found._replace(log_probabilities=None, embedding=None)
    return found._replace(probabilities=None)
