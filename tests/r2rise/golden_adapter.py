"""Compares jaxpapers.r2rise with outputs of the authors' code. What a file is, its arrays say."""

from collections.abc import Iterable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.r2rise import bc, bco, gail, importance, legacy, masks, official
from jaxpapers.r2rise.model import Mlp, NatureCnn, NatureFeatures
from tests.golden import Check, dispatch, group, load

KINDS = {
  'masks': 'input/uniform',
  'bc': 'input/demo_frames',
  'gail': 'input/expert_frames',
  'bco': 'input/frames_t1',
}


def run(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  kind = next((kind for kind, key in KINDS.items() if key in data), 'none')
  yield from dispatch(kind, {'masks': masks_map, 'bc': cloning, 'gail': adversarial, 'bco': observation}, data, meta)


def scaled(name: str, got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> Check:
  """Element by element: |got - want| / (atol + rtol |want|) must stay below one."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  ratio = np.abs(got - want) / (atol + rtol * np.abs(want))
  return Check(name, np.where(np.isnan(got) & np.isnan(want), 0.0, ratio), np.zeros(want.shape), 1.0)


def enlarge(frames: np.ndarray, game: str, dtype: type) -> np.ndarray:
  """[..., 14, 14, 4] -> [n, 84, 84, 4], score rows zero."""
  frames = frames.reshape(-1, *frames.shape[-3:])
  big = np.repeat(np.repeat(frames, 6, axis=1), 6, axis=2).astype(dtype)
  big[:, official.score_rows(game, big.shape[1])] = 0
  return big


def masks_map(data: dict, meta: dict) -> Iterable[Check]:
  block, length, p = meta['step'], meta['min_length'], meta['p']
  cells = masks.threshold_masks(data['input/uniform'], p)
  kept = np.asarray(masks.expand_cells(jnp.asarray(cells), block, length))
  yield Check('masks', kept, data['output/masks'], 0)
  returns = data['input/returns']
  first = np.arange(0, length, block)

  def estimate(name):
    return importance.importance_map(kept, returns, name, p)

  raw = estimate('raw_sum').value
  yield Check('importance_map', raw[:, first], data['output/importance_map'], 1e-12, relative=True)
  image = legacy.image_0_255(raw)
  yield Check('image_0_255', image[:, first], data['output/image_0_255'], 1e-12, relative=True)
  profile = legacy.profile(raw, block)
  yield Check('profile_100', profile, data['output/profile_100'], 1e-12, relative=True)
  above = profile - profile.min()
  yield Check('profile_100_minus_min', above, data['output/profile_100_minus_min'], 1e-10, relative=True)
  yield Check(
    'profile_100_over_max', profile / profile.max(), data['output/profile_100_over_max'], 1e-10, relative=True
  )
  want = data['output/profile_5_minmax']
  yield Check('profile_5_minmax', legacy.grouped_profile(profile, len(want)), want, 1e-10, relative=True)
  for name, want in data.items():
    if name.startswith('output/keep_least_important_'):
      q = float(name.rsplit('_', 1)[1])
      yield Check(name, legacy.keep_least_important(raw, q)[:, first], want, 0)
  compared = np.abs(image - legacy.image_0_255(raw[:, ::-1]))
  yield Check('compare', compared, data['output/compare_map_vs_time_reversed'], 1e-10, relative=True)
  contrast = estimate('contrast')
  got = {
    'rise_normalised': estimate('rise').value,
    'self_normalised': estimate('self_normalised').value,
    'contrast': contrast.value,
    'contrast_se_welch': contrast.error,
    'centred_cov': (raw - kept.sum(axis=0) * returns.mean()) / (len(returns) - 1),
  }
  for name, want in group(data, 'ref').items():
    yield scaled(f'ref/{name}', got[name][:, first], want, 1e-9, 1e-12)


def layers(network, params, x, stride_of) -> dict:
  conv1, conv2, conv3, fc1, logits = jax.jit(lambda p, x: network.apply(p, x, method='activations'))(params, x)
  chw = [np.asarray(m).transpose(0, 3, 1, 2) for m in (conv1, conv2, conv3)]
  out = {name: m[:, ::s] for name, m, s in zip(('conv1', 'conv2', 'conv3'), chw, stride_of, strict=True)}
  return out | {'fc1': fc1, 'logits': logits}


def cloning(data: dict, meta: dict) -> Iterable[Check]:
  game, actions = meta['env_name'], meta['num_actions']
  network = NatureCnn(actions)
  variables = official.import_official(group(data, 'param'), actions)
  yield Check('score rows', official.score_rows(game), data['output/score_masked_rows_zero'], 0)
  pixels = enlarge(data['input/frames'], game, np.float32)
  params = jax.tree.map(jnp.asarray, variables)
  for kind, x, strides, atol in (('div255', pixels / 255, (8, 16, 8), 1e-5), ('raw', pixels, (16, 16, 8), 1e-3)):
    got = layers(network, params, jnp.asarray(x), strides)
    for name, want in group(data, f'output/{kind}').items():
      yield scaled(f'{kind}/{name}', np.asarray(got[name])[: len(want)], want, 1e-4, atol)
  kept = np.flatnonzero(data['input/demo_mask'].reshape(-1))
  yield Check('kept_frame_index', kept, data['output/kept_frame_index'], 0)
  with jax.enable_x64(True):
    yield from _training(data, meta, network, variables, pixels)


def _training(data: dict, meta: dict, network, variables: dict, pixels: np.ndarray) -> Iterable[Check]:
  frames = enlarge(data['input/demo_frames'], meta['env_name'], np.uint8)
  actions = data['input/demo_actions'].reshape(-1)
  adam = meta['adam']
  optimizer = optax.chain(
    optax.add_decayed_weights(meta['l2']), optax.adam(meta['lr'], adam['b1'], adam['b2'], adam['eps'])
  )
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables['params'])
  opt_state = optimizer.init(params)
  step = jax.jit(lambda p, s, x, a, w: bc.update(network, optimizer, p, s, x, a, w))
  losses, norms, first = [], [], None
  for index in data['input/batch_frame_index']:
    x = jnp.asarray(frames[index].astype(np.float64) / 255)
    params, opt_state, loss, grads = step(params, opt_state, x, jnp.asarray(actions[index]), jnp.ones(len(index)))
    grads = official.export_official(grads)
    order = [f'{layer}.{part}' for layer in ('conv1', 'conv2', 'conv3', 'fc1', 'output') for part in ('weight', 'bias')]
    norms.append([np.linalg.norm(grads[name]) for name in order])
    losses.append(loss)
    first = grads if first is None else first
  yield Check('train_loss', np.asarray(losses), data['output/train_loss'], 1e-9)
  yield Check('train_loss_float32_run', np.asarray(losses), data['output/train_loss_float32_run'], 1e-5)
  yield Check('grad_norms', np.asarray(norms), data['output/grad_norms'], 1e-9)
  for prefix, got in (('grad_step0', first), ('param_after', official.export_official(params))):
    for name, want in group(data, f'output/{prefix}').items():
      value = got[name] if got[name].shape == want.shape else got[name].reshape(-1)[::257]
      yield Check(f'{prefix}/{name}', value, want, 1e-9)
  logits = network.apply({'params': params}, jnp.asarray(pixels.astype(np.float64) / 255))
  yield Check('logits_after', logits, data['output/logits_after'], 1e-9)


def features(state: dict, frames: np.ndarray, game: str, dtype: type) -> jax.Array:
  """[n, 3136] of the frozen network on raw pixels, rows, columns, channels."""
  params = jax.tree.map(lambda x: jnp.asarray(x, dtype), official.import_convolutions(state, 'cnn.'))
  x = jnp.asarray(enlarge(frames, game, np.uint8), dtype)
  return jax.jit(lambda p, x: NatureFeatures().apply({'params': p}, x)[-1])(params, x).reshape(len(x), -1)


def channels_first(x: jax.Array) -> np.ndarray:
  return np.asarray(x).reshape(-1, 7, 7, 64).transpose(0, 3, 1, 2).reshape(len(x), -1)


def official_flat(tree: dict) -> np.ndarray:
  named = official.export_mlp(tree, '', 'gail')
  return np.concatenate([named[name].reshape(-1) for name in named])


def adversarial(data: dict, meta: dict) -> Iterable[Check]:
  with jax.enable_x64(True):
    yield from _adversarial(data, meta)


def _adversarial(data: dict, meta: dict) -> Iterable[Check]:
  hyper, game, state = meta['hyper'], meta['env_name'], group(data, 'param')
  options = gail.GailOptions(
    meta['num_actions'],
    *(hyper[name] for name in ('gae_gamma', 'gae_lambda', 'epsilon', 'max_kl', 'cg_damping')),
    rate=hyper['lr'],
    double_sigmoid=True,
    scalar_action=True,
  )
  nets = gail.GailNets(*(Mlp((512, 50, 50), n, nn.tanh) for n in (meta['num_actions'], 1, 1)))
  short = {'policy': 'pi', 'value': 'v', 'discriminator': 'd'}
  params = {
    name: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), official.import_mlp(state, f'{s}.', 'gail'))
    for name, s in short.items()
  }
  shown = {name: features(state, data[f'input/{name}_frames'], game, np.float64) for name in ('expert', 'policy')}
  for name, x in shown.items():
    yield Check(f'features_{name}', channels_first(x)[:, ::16], data[f'output/features_{name}'], 1e-5)
  lengths = data['input/episode_lengths']
  valid = np.arange(lengths.max()) < lengths[:, None]

  def pad(x):
    out = np.zeros((*valid.shape, *x.shape[1:]), x.dtype)
    out[valid] = x
    return jnp.asarray(out)

  expert = gail.Pairs(shown['expert'], jnp.asarray(data['input/expert_actions']), jnp.ones(len(shown['expert'])))
  play = gail.Pairs(
    pad(np.asarray(shown['policy'])), pad(data['input/policy_actions']), jnp.asarray(valid, jnp.float64)
  )

  @jax.jit
  def outputs(params):
    rows = play.features.reshape(-1, play.features.shape[-1])
    return {
      'policy_probs': jax.nn.softmax(nets.policy.apply({'params': params['policy']}, rows)),
      'values': nets.value.apply({'params': params['value']}, rows),
      'd_policy': jax.nn.sigmoid(gail.judge(nets, params['discriminator'], play, options)).reshape(-1, 1),
      'd_expert': jax.nn.sigmoid(gail.judge(nets, params['discriminator'], expert, options)).reshape(-1, 1),
    }

  def compare(params, prefix, tolerances):
    for (name, got), tolerance in zip(sorted(outputs(params).items()), tolerances, strict=True):
      got = np.asarray(got) if name == 'd_expert' else np.asarray(got)[valid.reshape(-1)]
      yield Check(f'{prefix}{name}', got, data[f'output/{prefix}{name}'], tolerance)

  yield from compare(params, '', (1e-5,) * 4)
  before = outputs(params)
  start = gail.GailState(params, gail.gail_optimizer(options).init(params['discriminator']))
  did = jax.jit(lambda s: gail.gail_iteration(nets, s, expert, play, options))(start)
  for name, got in (('expert', before['d_expert']), ('policy', np.asarray(before['d_policy'])[valid.reshape(-1)])):
    yield Check(f'd_scores_{name}_in_loss', got, data[f'output/d_scores_{name}_in_loss'], 1e-5)
  yield Check('d_loss_expert', did.expert_loss, data['output/d_loss_expert'], 1e-6)
  yield Check('d_loss_policy', did.policy_loss, data['output/d_loss_policy'], 1e-6)
  yield Check('ref/returns', np.asarray(did.returns)[valid], data['ref/returns'], 1e-6, relative=True)
  advantages = np.asarray(did.advantages)[valid]
  yield Check('ref/advantages_normalised', advantages, data['ref/advantages_normalised'], 1e-6, relative=True)
  for name, step in (('v', did.value), ('pi', did.policy)):
    for part, tree in (('grad', step.gradient), ('cg', step.solution)):
      flat = official_flat(tree)
      rtol = 1e-4 if part == 'grad' else 1e-3
      norm = data[f'output/{name}_{part}_norm']
      yield Check(f'{name}_{part}_norm', np.linalg.norm(flat), norm, rtol, relative=True)
      sub = data[f'output/{name}_{part}_sub']
      tolerance = 1e-6 if part == 'grad' else 1e-3 * float(np.abs(sub).max())
      yield Check(f'{name}_{part}_sub', flat[:: meta['subsample']], sub, tolerance)
  norm = np.linalg.norm(official_flat(did.policy.step))
  yield Check('pi_linesearch_step_norm', norm, data['output/pi_linesearch_step_norm'], 1e-3, relative=True)
  yield Check('pi_linesearch_failed', did.failed, data['output/pi_linesearch_failed'], 0)
  yield from compare(did.state.params, 'after/', (1e-5, 1e-5, 5e-4, 1e-4))
  for name, s in short.items():
    for layer, value in official.export_mlp(did.state.params[name], f'{s}.', 'gail').items():
      want = data[f'output/after/param/{layer}']
      value = value if value.shape == want.shape else value.reshape(-1)[:: meta['subsample']]
      yield Check(f'after/param/{layer}', value, want, 5e-4)


def observation(data: dict, meta: dict) -> Iterable[Check]:
  game, actions, state = meta['env_name'], meta['num_actions'], group(data, 'param')
  slope = meta['leaky_relu_slope']
  net = Mlp((32, 32), actions, lambda x: nn.leaky_relu(x, slope))
  convolutions = jax.tree.map(jnp.asarray, official.import_convolutions(state, 'cnn.'))
  params = {n: jax.tree.map(jnp.asarray, official.import_mlp(state, f'{n}.', 'bco')) for n in ('pol', 'inv')}
  before, after = (jnp.asarray(enlarge(data[f'input/frames_{n}'], game, np.float32)) for n in ('t', 't1'))
  labels = jnp.asarray(data['input/actions'])

  def encode(convolutions, x):
    return NatureFeatures().apply({'params': convolutions}, x)[-1].reshape(len(x), -1)

  @jax.jit
  def run_all(convolutions, params):
    def objective(convolutions, inverse):
      logits = bco.inverse_logits(net, inverse, encode(convolutions, before), encode(convolutions, after))
      return bc.weighted_cross_entropy(logits, labels, jnp.ones(len(labels))), logits

    (loss, logits), grads = jax.value_and_grad(objective, (0, 1), has_aux=True)(convolutions, params['inv'])
    chosen = jnp.argmax(logits, axis=-1)
    policy = net.apply({'params': params['pol']}, encode(convolutions, before))
    return (
      loss,
      logits,
      grads,
      chosen,
      policy,
      [bc.weighted_cross_entropy(policy, y, jnp.ones(len(y))) for y in (chosen, labels)],
    )

  loss, logits, (cnn, inverse), chosen, policy, policy_losses = run_all(convolutions, params)
  yield Check('inverse_logits', logits, data['output/inverse_logits'], 1e-4, relative=True)
  yield Check('inverse_loss', loss, data['output/inverse_loss'], 1e-4, relative=True)
  yield Check('inverse_label', chosen, data['output/inverse_label'], 0)
  yield Check('policy_logits', policy, data['output/policy_logits'], 1e-4, relative=True)
  yield Check('policy_loss', policy_losses[0], data['output/policy_loss'], 1e-4, relative=True)
  norms = {f'inv.{k}': v for k, v in official.export_mlp(inverse, '', 'bco').items()}
  for name in official.CONVOLUTION_SHAPES:
    norms |= {f'cnn.{name}.weight': cnn[name]['kernel'], f'cnn.{name}.bias': cnn[name]['bias']}
  for name, want in meta['inverse_grad_norms'].items():
    if want is not None:
      yield Check(f'norm {name}', np.linalg.norm(norms[name]), want, 1e-3, relative=True)
