"""A small experiment of two stages for child processes: python -m tests.engine.toy WORKDIR [key=value ...].

Keys are settings of the engine, or: `steps`, `width`, `norm` (batch norm), `nan_at` (a step whose loss is NaN), `delay`
(seconds that a batch takes), `compile_delay`, `eval_delay`, `init_delay` (seconds to hold the program at that moment),
`coordinator`, `processes`, `process_id`.
"""

import ast
import hashlib
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers import engine
from jaxpapers.engine import distributed, loop
from jaxpapers.engine.errors import UserError

BATCH = 16
EXAMPLES = 37  # prime: the last evaluation batch is never full


class Net(nn.Module):
  width: int
  norm: bool

  @nn.compact
  def __call__(self, x, train):
    # A bias before batch norm has no true gradient: Adam would turn its rounding noise into steps.
    x = nn.Dense(self.width, use_bias=not self.norm)(x)
    if self.norm:
      x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return nn.Dense(2)(nn.relu(x))


def examples(seed, count):
  rng = np.random.Generator(np.random.Philox(key=[7, seed]))
  image = rng.normal(size=(count, 8)).astype(np.float32)
  return {'image': image, 'label': (image[:, 0] * image[:, 1] > 0).astype(np.int32)}


def share(batch):
  return {k: np.split(v, jax.process_count())[jax.process_index()] for k, v in batch.items()}


def evaluation_batches():
  data = examples(10**6, EXAMPLES)
  rows = -(-EXAMPLES // BATCH) * BATCH
  padded = {k: np.pad(v, [(0, rows - EXAMPLES)] + [(0, 0)] * (v.ndim - 1)) for k, v in data.items()}
  padded['valid'] = np.arange(rows) < EXAMPLES
  return [share({k: v[i : i + BATCH] for k, v in padded.items()}) for i in range(0, rows, BATCH)]


def pause(moment, seconds):
  """Holds the program at a moment that a test wants to hit."""
  if seconds:
    print(f'now: {moment}', flush=True)
    time.sleep(seconds)


def build(config, *, width=16, norm=False, delay=0.0, nan_at=-1, steps=30, compile_delay=0, eval_delay=0, init_delay=0):
  model = Net(width, norm)

  def batch(step):
    time.sleep(delay)
    return share({**examples(step, BATCH), 'poison': np.full(BATCH, step == nan_at)})

  def loss(logits, batch):
    pause('first step', compile_delay)  # traced, so it runs while the step is compiled
    value = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()
    return jnp.where(batch['poison'].any(), jnp.nan, value), {}

  def evaluate(state, batch):
    hit = model.apply(state.variables(), batch['image'], train=False).argmax(-1) == batch['label']
    return {'hits': jnp.sum(hit & batch['valid']), 'count': jnp.sum(batch['valid'])}

  def summarize(outputs):
    outputs = list(outputs)
    count = sum(int(o['count']) for o in outputs)
    return {'accuracy': sum(int(o['hits']) for o in outputs) / count, 'count': count}

  parts = engine.supervised(
    model, loss, optax.adamw(1e-2), clip_norm=1.0, ema_decay=0.9, axis_name=engine.axis_name(config)
  )
  rules = [('kernel', engine.FSDP)] if config.mesh.fsdp else engine.REPLICATED

  def slow_batches():
    for batch in evaluation_batches():
      pause('evaluating', eval_delay)
      yield batch

  evaluation = engine.Evaluation('eval', slow_batches, evaluate, summarize, every=10)
  first = engine.Stage('first', steps, batch, parts.init, parts.step, [evaluation], rules)

  def continued(key, batch, earlier):
    pause('next stage', init_delay)
    return parts.init(key, batch, earlier).replace(params=earlier['first'].params)

  second = engine.Stage('second', 10, batch, continued, parts.step, [evaluation], rules)
  return engine.Experiment([first, second], lambda states, report: report.text(f'{len(states)} stages'))


def settings(**values):
  config = engine.default_config()
  config.method = 'toy'
  config.checkpoint.every = 4
  config.update_from_flattened_dict(values)
  return config


def final_arrays(workdir, stage='second'):
  """The newest checkpoint of a stage as {path: numpy array}."""
  from jaxpapers.engine.checkpoint import Checkpoints, workdir_path
  from jaxpapers.engine.parallel import path_name

  checkpoints = Checkpoints(workdir_path(str(workdir)) / 'checkpoints' / stage)
  state, _ = checkpoints.restore_raw(checkpoints.steps()[-1])
  checkpoints.close()
  return {path_name(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(state)}


def digest(arrays):
  return hashlib.sha256(b''.join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def main(workdir, *pairs):
  values = {}
  for pair in pairs:
    key, text = pair.split('=', 1)
    try:
      values[key] = ast.literal_eval(text)
    except (SyntaxError, ValueError):
      values[key] = text
  names = ('width', 'norm', 'delay', 'nan_at', 'steps', 'compile_delay', 'eval_delay', 'init_delay')
  own = {k: values.pop(k) for k in names if k in values}
  join = {k: values.pop(k) for k in ('coordinator', 'processes', 'process_id') if k in values}
  if join:
    distributed.initialize(**join)
  config = settings(**values)
  try:
    print(loop.run(build(config, **own), config, workdir))
  except UserError as error:
    print(error, file=sys.stderr, flush=True)
    raise SystemExit(error.exit_code) from error


if __name__ == '__main__':
  main(*sys.argv[1:])
