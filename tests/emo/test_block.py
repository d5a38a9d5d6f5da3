import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers import emo
from jaxpapers.layers.conv import depthwise_conv


def _attention_part(x, kind, qk, window=3, heads=2):
  """Steps b to f of the block with the input as values, on a map that the window divides."""
  size = (window, window)
  q, k = jnp.split(emo.partition(x @ qk, size, kind), 2, axis=-1)
  mixed = emo.attend(emo.attention_weights(q, k, heads), emo.partition(x, size, kind))
  return emo.merge(mixed, size, x.shape[1:3], kind)


def _random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_grid_attention_commutes_with_every_shift_and_block_attention_does_not():
  x, qk = _random(2, 6, 9, 8), 2 * _random(8, 16, seed=1)
  errors = {}
  for kind in ('grid', 'block'):
    y = _attention_part(x, kind, qk)
    errors[kind] = [
      float(jnp.abs(_attention_part(jnp.roll(x, shift, (1, 2)), kind, qk) - jnp.roll(y, shift, (1, 2))).max())
      for shift in ((1, 0), (0, 1), (2, 5), (3, 3))
    ]
  assert max(errors['grid']) < 1e-5
  assert min(errors['block'][:3]) > 0.1 and errors['block'][3] < 1e-5


@pytest.mark.parametrize('kind', ['grid', 'block'])
def test_partition_is_inverted_and_picks_the_named_pixels(kind):
  x = jnp.arange(6 * 8.0).reshape(1, 6, 8, 1)
  tokens = emo.partition(x, (3, 2), kind)
  assert tokens.shape == (1, 8, 6, 1)
  first = (
    [[0, 0], [0, 4], [2, 0], [2, 4], [4, 0], [4, 4]] if kind == 'grid' else [[i, j] for i in range(3) for j in range(2)]
  )
  assert tokens[0, 0, :, 0].tolist() == [8 * i + j for i, j in first]
  np.testing.assert_array_equal(emo.merge(tokens, (3, 2), (6, 8), kind), x)


def _block(x, **options):
  block = emo.irmb(
    **{'features': x.shape[-1], 'expansion': 2.0, 'norm': 'ln', 'act': 'gelu', 'head_width': 4, **options}
  )
  variables = _run(block.init, {'params': jax.random.key(0), 'dropout': jax.random.key(1)}, x)
  return block, variables


def _run(function, *args):
  """Compiled in a hurry: what runs once is not worth optimising."""
  return jax.jit(function)(*args)


def _edit(variables, function):
  params = jax.tree.map(lambda p: p, variables['params'])
  function(params)
  return {**variables, 'params': params}


@pytest.mark.parametrize('attn_pre', [True, False])
def test_block_equals_float64_definition(attn_pre):
  x = _random(2, 5, 7, 8)
  block, variables = _block(x, window=3, attn_pre=attn_pre, v_group=not attn_pre, se_ratio=0.5, kernel_size=5)
  rng = np.random.default_rng(3)
  variables = jax.tree.map(lambda p: jnp.asarray(p + 0.2 * rng.random(p.shape), jnp.float32), variables)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables['params'])
  s = jax.tree.map(lambda a: np.asarray(a, np.float64), variables['batch_stats'])
  z = np.asarray(x, np.float64)
  z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6) * p['norm']['scale'] + p['norm'][
    'bias'
  ]
  z = np.pad(z, ((0, 0), (0, 1), (0, 2), (0, 0)))

  def act(v):
    return np.asarray(jax.nn.gelu(v, approximate=False))

  def values(t):
    if attn_pre:
      return act(t @ p['v']['kernel'][0, 0] + p['v']['bias'])
    kernel = p['v']['kernel'][0, 0]  # 2 groups: 4 inputs to 8 outputs each
    return act(
      np.concatenate([t[..., 4 * g : 4 * g + 4] @ kernel[:, 8 * g : 8 * g + 8] for g in (0, 1)], -1) + p['v']['bias']
    )

  y = np.zeros((2, 6, 9, 16))
  for b in range(2):
    for a in range(2):
      for c in range(3):
        t = z[b, a::2, c::3].reshape(9, 8)  # window (a, c) of 2 x 3 strided windows
        qk = t @ p['qk']['kernel'][0, 0] + p['qk']['bias']
        out = []
        for h in range(2):
          q, k = qk[:, 4 * h : 4 * h + 4], qk[:, 8 + 4 * h : 12 + 4 * h]
          w = np.exp(q @ k.T / 2.0)
          w /= w.sum(-1, keepdims=True)
          source = t[:, 4 * h : 4 * h + 4] if attn_pre else values(t)[:, 8 * h : 8 * h + 8]
          out.append(w @ source)
        out = np.concatenate(out, -1)
        y[b, a::2, c::3] = (values(out) if attn_pre else out).reshape(3, 3, 16)
  y = y[:, :5, :7]
  local = np.asarray(depthwise_conv(jnp.asarray(y, jnp.float32), variables['params']['local']['kernel']), np.float64)
  local = (local - s['local_norm']['mean']) / np.sqrt(s['local_norm']['var'] + 1e-6)
  local = local * p['local_norm']['scale'] + p['local_norm']['bias']
  local = local / (1 + np.exp(-local))
  hidden = act(local.mean((1, 2), keepdims=True) @ p['se']['reduce']['kernel'][0, 0] + p['se']['reduce']['bias'])
  gate = 1 / (1 + np.exp(-(hidden @ p['se']['expand']['kernel'][0, 0] + p['se']['expand']['bias'])))
  want = np.asarray(x) + (y + local * gate) @ p['proj']['kernel'][0, 0]
  np.testing.assert_allclose(block.apply(variables, x), want, atol=2e-5)


def test_zero_projection_is_the_identity():
  x = _random(2, 5, 4, 8)
  block, variables = _block(x, window=2)
  variables = _edit(variables, lambda p: p['proj'].update(kernel=jnp.zeros_like(p['proj']['kernel'])))
  np.testing.assert_array_equal(block.apply(variables, x), x)


def test_a_constant_in_the_key_bias_changes_nothing():
  x = _random(2, 5, 4, 8)  # padded to 6 x 6
  block, variables = _block(x, window=3)
  shifted = _edit(variables, lambda p: p['qk'].update(bias=p['qk']['bias'].at[8:].add(3.0)))
  other = _edit(variables, lambda p: p['qk'].update(bias=p['qk']['bias'].at[:8].add(3.0)))
  want = block.apply(variables, x)
  assert float(jnp.abs(block.apply(shifted, x) - want).max()) < 1e-5
  assert float(jnp.abs(block.apply(other, x) - want).max()) > 1e-4
  grad = _run(jax.grad(lambda v: jnp.sum(block.apply(v, x) ** 2)), variables)['params']['qk']['bias']
  assert float(jnp.abs(grad[8:]).max()) < 1e-4 * float(jnp.abs(grad[:8]).max())


def test_window_of_the_maps_size_is_global_attention():
  x = _random(2, 4, 4, 8)
  (block, variables), (whole, _), (minus, _) = (_block(x, window=w) for w in (4, 0, -1))
  np.testing.assert_allclose(block.apply(variables, x), whole.apply(variables, x), atol=1e-6)
  np.testing.assert_allclose(block.apply(variables, x), minus.apply(variables, x), atol=1e-6)


def test_drop_path_and_dropout_act_in_training_only():
  x = _random(8, 4, 4, 8)
  block, variables = _block(x, window=2, drop_path=0.5, drop=0.2, attn_drop=0.2)
  key = {'dropout': jax.random.key(3)}
  training = jax.jit(lambda v, x, key: block.apply(v, x, train=True, rngs=key, mutable=['batch_stats'])[0])
  first, again = training(variables, x, key), training(variables, x, key)
  np.testing.assert_array_equal(first, again)
  dropped = np.asarray((first == x).all((1, 2, 3)))
  assert 0 < dropped.sum() < 8
  assert not bool((block.apply(variables, x) == x).all((1, 2, 3)).any())


def test_attention_weights_can_be_asked_for():
  x = _random(1, 6, 6, 8)
  block, variables = _block(x, window=3, partition='hybrid')
  _, extra = block.apply(variables, x, mutable=['intermediates'])
  maps = extra['intermediates']
  assert set(maps) == {'attention_grid', 'attention_block'}
  assert maps['attention_grid'][0].shape == (1, 4, 2, 9, 9)
  np.testing.assert_allclose(maps['attention_block'][0].sum(-1), 1.0, atol=1e-6)


def test_meta_mobile_block_is_a_feed_forward_network_with_the_identity():
  x = _random(1, 3, 3, 4)
  block = emo.MetaMobileBlock(jax.nn.relu, expansion=4.0)
  variables = block.init(jax.random.key(0), x)
  p = variables['params']
  hidden = jax.nn.relu(x @ p['expand']['kernel'][0, 0] + p['expand']['bias'])
  assert hidden.shape[-1] == 16
  np.testing.assert_allclose(
    block.apply(variables, x), x + hidden @ p['shrink']['kernel'][0, 0] + p['shrink']['bias'], atol=1e-5
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'head_width': 3}, 'head_width 3 does not divide the 8'),
    ({'expansion': 1.2, 'attn_pre': False}, '9 expanded channels .* 2 heads'),
    ({'expansion': 1.2, 'v_group': True}, '9 expanded channels .* v_group'),
    ({'window': -2}, 'window -2'),
    ({'partition': 'spiral'}, 'spiral'),
    ({'norm': 'gn'}, "'gn'"),
    ({'act': 'swosh'}, "'swosh'"),
  ],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _block(jnp.zeros((1, 4, 4, 8)), **options)
