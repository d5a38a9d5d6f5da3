"""Binds the settings of configs/xdeepint.py to functions. The only file of the room that reads the config."""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from jaxpapers.data import evaluation_batches
from jaxpapers.engine import (
  Evaluation,
  Experiment,
  Stage,
  Supervised,
  UserError,
  axis_name,
  load_variables,
  merge_variables,
  supervised,
)
from jaxpapers.engine.parallel import make_mesh
from jaxpapers.xdeepint import data, evaluation, official, report, staircase
from jaxpapers.xdeepint.baselines import BASELINES, baseline
from jaxpapers.xdeepint.model import PinHead, XDeepInt
from jaxpapers.xdeepint.optimizers import GroupFtrl, ftrl
from jaxpapers.xdeepint.pin import output_rows
from jaxpapers.xdeepint.shards import EpochBatches, StackedBatches
from jaxpapers.xdeepint.training import SHARDING, mean_loss, replicas, row_sparse

# The best of a few on Adult's validation rows. They fall to zero over the run.
BASELINE_RATES = {'lr': 0.2, 'fm': 0.008, 'dnn': 0.003, 'dcnv2': 0.003}


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """The stages of a variant: xDeepInt, baselines, sparsity path; or the parity staircase."""
  try:
    return _parity(config) if config.data.dataset == 'parity' else _clicks(config)
  except ValueError as error:
    raise UserError(str(error)) from error


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Variables of stage `xdeepint` from arrays under the authors' names.

  Raises:
    UserError: if they are not those of the configured model and data.
  """
  if config.seeds != 1 or not config.store_weights:
    raise UserError('Imported weights need config.seeds=1 and config.store_weights=True.')
  fields = data.load(config.data.dataset, config.data.dir).fields
  called = [n + '_bin' if official.table_name(n + '_bin') in state else n for n in fields.names]
  model = config.model
  rows = output_rows(len(fields), model.layers, model.output)
  named = type(fields)(tuple(called), fields.sizes)
  try:
    return official.import_official(state, named, model.embedding_size, model.layers, model.sub_spaces, rows)
  except ValueError as error:
    raise UserError(str(error)) from error


def _clicks(config: ml_collections.ConfigDict) -> Experiment:
  loaded = data.load(config.data.dataset, config.data.dir)
  axis, mesh = axis_name(config), None
  if config.parallel == 'jit' and jax.device_count() > 1:
    mesh = make_mesh(config.mesh)
    if mesh.shape['model'] > 1 and (config.seeds > 1 or config.path):
      raise UserError('config.mesh.model > 1 spreads one table: use config.seeds=1 and config.path=().')
  options = _options(config)
  main = _main(config, loaded.fields, options, mesh, axis)
  train = loaded.splits['train']
  batches = _batches(config, train, config.seeds)
  sharded = mesh is not None and mesh.shape['model'] > 1
  stages = [
    Stage(
      'xdeepint',
      batches.per_epoch * config.data.epochs,
      batches,
      main.init,
      main.step,
      _evaluations(config, loaded, evaluation.xdeepint_logits(loaded.fields, _head(config), options, mesh), batches)
      + [evaluation.tables('tables', loaded.fields, options, config.data.batch_size, batches.per_epoch)],
      SHARDING if sharded else (),
    )
  ]
  for name in config.baselines:
    stages.append(_baseline(config, name, loaded, axis))
  if config.path:
    stages.append(_path(config, loaded, options, axis))

  def draw(states: Mapping[str, Any], page: Any) -> None:
    settings = report.Settings(
      loaded, _head(config), options, tuple(config.path), config.data.batch_size, config.seeds, BASELINE_NAMES
    )
    report.draw(states, page, settings)

  return Experiment(stages, draw)


BASELINE_NAMES = {'xdeepint': 'xDeepInt', 'lr': 'LR', 'fm': 'FM', 'dnn': 'DNN', 'dcnv2': 'DCN-V2'}


def _options(config: ml_collections.ConfigDict) -> GroupFtrl:
  return GroupFtrl(**config.table.to_dict()).check()


def _dense(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  return ftrl(**config.dense.to_dict())


def _head(config: ml_collections.ConfigDict) -> PinHead:
  model = config.model
  head = PinHead(model.layers, model.sub_spaces, model.activation, model.output, tuple(model.dropout), config.dtype)
  return head.check(model.embedding_size)


def _main(config, fields, options, mesh, axis) -> Supervised:
  """Training of xDeepInt, over `config.seeds` replicas."""
  start = None
  if config.init_from:
    loaded = load_variables(config.init_from, prefer=['xdeepint'])

    def start(variables):
      return merge_variables(variables, loaded)

  def make(_):
    return row_sparse(
      fields,
      config.model.embedding_size,
      _head(config),
      options,
      _dense(config),
      store_weights=config.store_weights,
      row_slots=config.row_slots,
      mesh=mesh,
      axis_name=axis,
      start=start,
    )

  return make(0) if config.seeds == 1 else replicas(make, np.arange(config.seeds), batch_axis=1)


def _batches(config, source, seeds: int) -> EpochBatches | StackedBatches:
  options = config.data
  parts = [
    EpochBatches(source, options.batch_size, config.seed * 1000 + i, shuffle=options.shuffle) for i in range(seeds)
  ]
  return parts[0] if seeds == 1 else StackedBatches(parts)


def _evaluations(config, loaded: data.Data, logits, batches) -> list[Evaluation]:
  return [
    Evaluation(
      name,
      evaluation_batches(loaded.splits[name], config.data.eval_batch_size),
      evaluation.collect(logits),
      evaluation.summarize,
      every=batches.per_epoch if name == 'valid' else 0,
    )
    for name in ('valid', 'test')
    if name in loaded.splits
  ]


def _baseline(config, name: str, loaded: data.Data, axis) -> Stage:
  if name not in BASELINES:
    raise UserError(f'config.baselines holds {name!r}; known: {", ".join(BASELINES)}.')
  model = baseline(name, loaded.fields, config.model.embedding_size)
  seeds = config.seeds
  batches = _batches(config, loaded.splits['train'], seeds)
  steps = batches.per_epoch * config.baseline_epochs
  optimizer = optax.adam(optax.linear_schedule(BASELINE_RATES[name], 0.0, steps))

  def make(_):
    return supervised(model, mean_loss, optimizer, inputs=lambda batch: (batch['ids'],), axis_name=axis)

  training = make(0) if seeds == 1 else replicas(make, np.arange(seeds), batch_axis=1)
  evaluations = _evaluations(config, loaded, evaluation.model_logits(model), batches)
  return Stage(name, steps, batches, training.init, training.step, evaluations)


def _path(config, loaded: data.Data, options: GroupFtrl, axis) -> Stage:
  """xDeepInt for every lambda1 of the sparsity path, as one program on the same batches."""

  def make(lambda1):
    return row_sparse(
      loaded.fields,
      config.model.embedding_size,
      _head(config),
      options._replace(lambda1=lambda1),
      _dense(config),
      axis_name=axis,
    )

  training = replicas(make, np.asarray(config.path, np.float32), batch_axis=None)
  batches = _batches(config, loaded.splits['train'], 1)
  logits = evaluation.xdeepint_logits(loaded.fields, _head(config), options, None)
  test = Evaluation(
    'test',
    evaluation_batches(loaded.splits['test'], config.data.eval_batch_size),
    evaluation.collect(logits),
    evaluation.summarize_each([f'{value:g}' for value in config.path]),
  )
  tables = evaluation.tables(
    'tables', loaded.fields, options, config.data.batch_size, 0, [f'{value:g}' for value in config.path]
  )
  return Stage('path', batches.per_epoch * config.path_epochs, batches, training.init, training.step, [test, tables])


def _parity(config: ml_collections.ConfigDict) -> Experiment:
  settings = config.parity
  task = data.planted_parity(
    config.seed, tuple(settings.orders), fields=settings.fields, levels=settings.levels, rows=settings.rows
  )
  batches = EpochBatches(task.splits['train'], config.data.batch_size, config.seed, shuffle=config.data.shuffle)
  grid = staircase.Grid(tuple(settings.orders), tuple(range(config.model.layers + 1)))
  model = XDeepInt(task.fields, config.model.embedding_size, _head(config))
  training = staircase.training(model, grid, optax.adam(settings.rate), axis_name(config))
  test = Evaluation(
    'test',
    evaluation_batches(task.splits['test'], config.data.eval_batch_size),
    staircase.evaluate(model, grid),
    grid.summarize,
  )
  stage = Stage('staircase', batches.per_epoch * config.data.epochs, batches, training.init, training.step, [test])
  return Experiment([stage], lambda states, page: staircase.draw(page, grid, task.bayes))
