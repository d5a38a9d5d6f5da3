"""Compares jaxpapers.xdeepint with outputs of the authors' code. What a file is, its `meta` says."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.xdeepint import embeddings, formats, metrics, official, passes, prepare, transforms
from jaxpapers.xdeepint.embeddings import Fields, global_ids, take_rows
from jaxpapers.xdeepint.model import PinHead, XDeepInt
from jaxpapers.xdeepint.optimizers import (
  GroupFtrl,
  ftrl,
  group_ftrl,
  group_ftrl_rows,
  group_ftrl_step,
  sum_duplicates,
)
from jaxpapers.xdeepint.orders import order_contributions
from jaxpapers.xdeepint.pin import activation, multi_head_pin, output_logits, output_rows, pin
from jaxpapers.xdeepint.shards import ShardSource
from jaxpapers.xdeepint.training import first_projection, row_sparse, summed_loss
from tests.golden import Check, dispatch, group, load


def run(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  yield from dispatch(
    meta.get('kind', 'none'),
    {
      'forward': forward,
      'multihead': multihead,
      'gftrl': gftrl,
      'gftrl_sparse': gftrl_sparse,
      'ftrl': dense_ftrl,
      'train': train,
      'adult_one_epoch': adult_one_epoch,
      'criteo_pipeline': criteo_pipeline,
      'transforms': transform,
      'metrics': metric,
      'order_decomposition': orders,
    },
    data,
    meta,
  )


def options(meta: dict) -> GroupFtrl:
  return GroupFtrl(**{name: meta[name] for name in ('alpha', 'beta', 'lambda1', 'lambda2')})


def dense_optimizer(meta: dict) -> optax.GradientTransformation:
  return ftrl(meta['learning_rate'], meta['l1'], meta['l2'], meta['initial_accumulator_value'])


def build(params: dict, names: list[str], layers: int, sub_spaces: int, output: str = 'product', act: str = 'linear'):
  """(fields, model, imported variables) of official parameters; `names` in declared order."""
  tables = [params[official.table_name(name)] for name in names]
  fields = Fields(tuple(names), tuple(len(table) for table in tables))
  size = tables[0].shape[1]
  model = XDeepInt(fields, size, PinHead(layers, sub_spaces, act, output))
  variables = official.import_official(
    params, fields, size, layers, sub_spaces, output_rows(len(fields), layers, output)
  )
  return fields, model, jax.tree.map(jnp.asarray, variables)


def field_ids(data: dict, names: list[str]) -> np.ndarray:
  return np.stack([data[f'input/ids/{name}'] for name in names], axis=-1)


def forward(data: dict, meta: dict) -> Iterable[Check]:
  names = [name.rsplit('/', 1)[1] for name in data if name.startswith('input/ids/')]
  params = group(data, 'param')
  layers, sub_spaces = meta['num_interaction_layer'], meta['num_sub_spaces']
  output = 'product' if meta['residual'] else 'concat'
  fields, model, variables = build(params, names, layers, sub_spaces, output, meta['activation'])
  ids = field_ids(data, names)
  embeddings.check_ids(ids, fields)
  batch = {'label': jnp.asarray(data['input/label']), 'weight': jnp.ones(len(ids))}

  @jax.jit
  def outputs(variables):
    def objective(variables):
      logits = model.apply(variables, ids)
      return summed_loss(logits, batch), logits

    (loss, logits), grads = jax.value_and_grad(objective, has_aux=True)(variables)
    weights = variables['params']
    x0 = take_rows(weights['embedding']['table'], global_ids(jnp.asarray(ids), fields))
    block = pin(x0, weights['pin']['kernels'], sub_spaces, activation(meta['activation']), output=output)
    return loss, logits, grads, x0, block

  loss, logits, grads, x0, block = outputs(variables)
  order = [names.index(name) for name in meta['field_order']]
  block = np.asarray(block).reshape(len(ids), -1, len(names), x0.shape[2])[:, :, order].reshape(block.shape)
  want = group(data, 'output')
  got = {
    'x0': x0[:, np.asarray(order)],
    'pin_out': block,
    'logits': logits,
    'prob': jax.nn.sigmoid(logits),
    'loss_sum': loss,
    'loss_mean': loss / len(ids),
    **{f'grad/{name}': value for name, value in official.export_official(grads['params'], fields).items()},
  }
  for name, value in want.items():
    yield Check(name, got[name], value, 1e-5, relative=True)
  for name in group(data, 'ref64'):
    yield Check(f'ref64/{name}', got[name], data[f'ref64/{name}'], 1e-5, relative=True)


def multihead(data: dict, meta: dict) -> Iterable[Check]:
  params, names = group(data, 'param'), iter(meta['kernel_order'])
  fields = data['input/x'].shape[1]
  kernels = []
  for layers, h in zip(meta['num_interaction_layer'], meta['num_sub_spaces'], strict=True):
    rows = [params[next(names)] for _ in range(layers)]
    kernels.append(jnp.asarray(np.stack(rows)) if rows else jnp.zeros((0, h * fields, h * fields)))
  acts = [activation(name) for name in meta['activation']]
  got = multi_head_pin(data['input/x'], params[meta['projection']], kernels, meta['num_sub_spaces'], acts)
  yield Check('y', got, data['output/y'], 1e-5, relative=True)


def _slots(got: dict, data: dict, names: tuple[str, ...], floor: float) -> Iterable[Check]:
  # rtol 2e-4 with an absolute floor, element by element: the scaled difference must stay below one.
  for name in names:
    want, value = data[f'output/{name}'], np.stack(got[name])
    scaled = np.abs(value - want) / (floor + 2e-4 * np.abs(want))
    yield Check(name, scaled, np.zeros_like(scaled), 1.0)
  yield Check('zeros', np.stack(got['w']) == 0, data['output/w'] == 0, 0)


def gftrl(data: dict, meta: dict) -> Iterable[Check]:
  hyper = options(meta)
  optimizer = group_ftrl(hyper)
  w = jnp.asarray(data['input/w0'])
  state = optimizer.init(w)
  pure = (w, *state)
  got = {'w': [], 'n': [], 'z': []}
  for grads in data['input/grads']:
    updates, state = optimizer.update(grads, state, w)
    w = optax.apply_updates(w, updates)
    pure = group_ftrl_step(*pure, grads, hyper)
    for name, value in zip('wnz', (w, *state), strict=True):
      got[name].append(value)
  yield from _slots(got, data, ('w', 'n', 'z'), 1e-6)
  yield Check('functional', pure[0], data['output/w'][-1], 2e-4, relative=True, floor=5e-3)


def gftrl_sparse(data: dict, meta: dict) -> Iterable[Check]:
  hyper, table = options(meta), jnp.asarray(data['input/w0'])
  state = group_ftrl(hyper).init(table)
  table = first_projection(table, jnp.asarray(data['input/indices'][0]))
  got = {'w': [], 'n': [], 'z': []}
  for ids, grads in zip(data['input/indices'], data['input/grads'], strict=True):
    size = min(len(ids), len(table) + 1)
    table, state = group_ftrl_rows(table, state, *sum_duplicates(ids, grads, size, len(table)), hyper)
    for name, value in zip('wnz', (table, *state), strict=True):
      got[name].append(value)
  yield from _slots(got, data, ('w', 'n', 'z'), 1e-6)


def dense_ftrl(data: dict, meta: dict) -> Iterable[Check]:
  optimizer = dense_optimizer(meta)
  w = jnp.asarray(data['input/w0'])
  state = optimizer.init(w)
  got = {'w': [], 'accum': [], 'linear': []}
  for grads in data['input/grads']:
    updates, state = optimizer.update(grads, state, w)
    w = optax.apply_updates(w, updates)
    for name, value in zip(got, (w, *state), strict=True):
      got[name].append(value)
  yield from _slots(got, data, tuple(got), 2e-6)


def trainer(fields: Fields, model: XDeepInt, variables: dict, first_ids: np.ndarray, meta: dict):
  """(state at the official start, compiled step): the step that `row_sparse` gives to training."""
  training = row_sparse(fields, model.size, model.pin, options(meta['gftrl']), dense_optimizer(meta['ftrl']))
  batch = {'ids': jnp.asarray(first_ids), 'label': jnp.zeros(len(first_ids)), 'weight': jnp.ones(len(first_ids))}
  state = jax.jit(training.init)(jax.random.key(0), batch, {})
  params = dict(variables['params'])
  table = first_projection(params['embedding']['table'], global_ids(batch['ids'], fields))
  params['embedding'] = {'table': table}
  return state.replace(params=params), jax.jit(training.step)


def train(data: dict, meta: dict) -> Iterable[Check]:
  names = [name.rsplit('/', 1)[1] for name in data if name.startswith('input/ids/')]
  config = meta['config']
  output = 'product' if config['residual'] else 'concat'
  built = build(group(data, 'param'), names, config['L'], config['h'], output, config['act'])
  ids = field_ids(data, names)
  state, step = trainer(*built, ids[0], meta)
  losses, trees = [], []
  for rows, labels in zip(ids, data['input/label'], strict=True):
    batch = {'ids': rows, 'label': labels, 'weight': np.ones(len(rows), np.float32)}
    state, scalars = step(state, batch, jax.random.key(0))
    losses.append(scalars['loss_sum'])
    trees.append(official.export_official(state.params, built[0]))
  yield Check('loss_sum', np.stack(losses), data['output/loss_sum'], 1e-4, relative=True)
  for name, want in group(data, 'output/param').items():
    got = np.stack([tree[name] for tree in trees])
    yield Check(name, got, want, 1e-4, relative=True)


def adult_one_epoch(data: dict, meta: dict) -> Iterable[Check]:
  names, ids, labels, split = meta['columns'], data['input/ids'], data['input/label'], data['input/split']
  layers, sub_spaces = meta['num_interaction_layer'], meta['num_sub_spaces']
  fields, model, variables = build(group(data, 'param'), names, layers, sub_spaces)
  embeddings.check_ids(ids, fields)
  rows, size = np.flatnonzero(split == 0), meta['batch']
  state, step = trainer(fields, model, variables, ids[rows[:size]], meta)
  losses = []
  for start in range(0, len(rows), size):
    part = rows[start : start + size]
    weight = (np.arange(size) < len(part)).astype(np.float32)
    part = np.pad(part, (0, size - len(part)))
    batch = {'ids': ids[part].astype(np.int32), 'label': labels[part], 'weight': weight}
    state, scalars = step(state, batch, jax.random.key(0))
    losses.append(scalars['loss_sum'])
  yield Check('loss_sum', np.stack(losses), data['output/loss_sum'], 1e-4, relative=True)
  for name, want in group(data, 'output/param').items():
    yield Check(name, official.export_official(state.params, fields)[name], want, 1e-4, relative=True)
  for number, name in ((1, 'valid'), (2, 'test')):
    logits = jax.jit(model.apply)({'params': state.params}, ids[split == number])
    yield Check(f'{name}_prob', jax.nn.sigmoid(logits), data[f'output/{name}_prob'], 1e-4)
  test = labels[split == 2]
  yield Check('test_auc', metrics.auc(test, np.asarray(logits)), meta['test_auc'], 1e-4)
  yield Check('test_logloss', metrics.log_loss(test, np.asarray(logits)), meta['test_logloss'], 1e-4)
  table = np.asarray(state.params['embedding']['table'])[: fields.rows]
  yield Check('zero_embedding_rows', metrics.zero_rows(table), meta['zero_embedding_rows'], 1e-9)


def criteo_pipeline(data: dict, meta: dict) -> Iterable[Check]:
  layout = formats.criteo(len(meta['numeric']), 'zero')
  wanted = json.loads(str(data['output/vocab_json']))
  with tempfile.TemporaryDirectory() as folder:
    source, output = Path(folder) / 'train.txt', Path(folder) / 'out'
    source.write_bytes(data['input/raw_tsv'].tobytes())
    options = prepare.Options(threshold=meta['threshold'], rows_per_shard=700)
    written = prepare.prepare(
      'criteo', layout, [[str(source)], []], output, options, chunk_bytes=1 << 16, say=lambda text: None
    )
    sizes = {field['name']: field['size'] for field in written['fields']}
    yield Check('vocab_size', [sizes[name] for name in meta['categorical']], data['output/vocab_size'], 0)
    for name, levels in wanted.items():
      yield Check(f'vocab {name}', (output / 'vocab' / f'{name}.txt').read_text().split(), levels, 0)
    numbers = len(meta['numeric'])
    for split in ('train', 'test'):
      rows = ShardSource(output, split)
      batch = rows.gather(np.arange(len(rows)))
      yield Check(f'{split}/label', batch['label'], data[f'output/{split}/label'], 0)
      yield Check(f'{split}/int_bin', batch['ids'][:, :numbers], data[f'output/{split}/int_bin'], 0)
      yield Check(f'{split}/cat_id', batch['ids'][:, numbers:], data[f'output/{split}/cat_id'], 0)
    lines = data['input/raw_tsv'].tobytes().count(b'\n')
    train = passes.splitter('time', lines, 0)(np.arange(lines), 0) == 0
    yield Check('time_split_rows', [train.sum(), (~train).sum()], meta['time_split_rows'], 0)


def transform(data: dict, meta: dict) -> Iterable[Check]:
  yield Check('log_square_bin', transforms.log_square_bin(data['input/x']), data['output/log_square_bin'], 0)
  yield Check('signedlog', transforms.signed_log(data['input/x']), data['output/signedlog'], 1e-6, relative=True)


def metric(data: dict, meta: dict) -> Iterable[Check]:
  labels, prob = data['input/label'], data['input/prob']
  logits = metrics.logits_of(prob)
  loss = metrics.log_loss(labels, logits)
  histogram = metrics.score_histogram(labels, logits)
  yield Check('auc_exact', metrics.auc(labels, prob), data['output/auc_exact'], 1e-12)
  yield Check('auc_tf_10000', metrics.auc(labels, prob), data['output/auc_tf_10000'], 1e-4)
  yield Check('auc_histogram', metrics.auc_of_histogram(histogram), data['output/auc_exact'], 1e-4)
  yield Check('logloss', loss, data['output/logloss'], 1e-6)
  yield Check('nce', metrics.normalized_cross_entropy(loss, labels), data['output/nce'], 1e-6)


def orders(data: dict, meta: dict) -> Iterable[Check]:
  for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
    with jax.enable_x64(dtype == np.float64):
      x0, kernels, out_kernel, out_bias = (
        jnp.asarray(data[name], dtype) for name in ('input/x0', 'param/kernels', 'param/out_kernel', 'param/out_bias')
      )
      h = meta['num_sub_spaces']
      got = order_contributions(x0, kernels, out_kernel, h)
      logits = output_logits(pin(x0, kernels, h), out_kernel, out_bias)
      label = np.dtype(dtype).name
      yield Check(f'order_contribution {label}', got, data['output/order_contribution'], tolerance, relative=True)
      yield Check(f'logits {label}', logits, data['output/logits'], tolerance, relative=True)
