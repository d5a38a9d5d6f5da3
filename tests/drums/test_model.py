"""The decoder: cache, padding, released sizes, and weights under Hugging Face's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.drums import official
from jaxpapers.drums.architecture import RELEASED, Architecture, from_huggingface, gpt2, llama, neox
from jaxpapers.drums.attention import attention, causal_attention
from jaxpapers.drums.model import Decoder, empty_cache, unstack

TINY = {
  'gpt2': gpt2(11, 2, 8, 2, 12),
  'llama': llama(11, 2, 8, 4, 2, 12, 12),
  'neox': neox(11, 2, 16, 2, 12, rotary=0.5, parallel=False),
}
COUNTS = {
  'distilgpt2': 81_912_576,
  'gpt2': 124_439_808,
  'gpt2-medium': 354_823_168,
  'gpt2-large': 774_030_080,
  'gpt2-xl': 1_557_611_200,
  'smollm2-135m': 134_515_008,
  'pythia-14m': 14_067_712,
  'pythia-70m': 70_426_624,
  'pythia-160m': 162_322_944,
}


# Small programs that run once: compiling them well would take longest.
def random_state(architecture: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
  """Weights under the official names that no part of the network can ignore."""
  rng = np.random.default_rng(seed)
  shapes = official.parameter_shapes(architecture)
  params = jax.tree.map(lambda x: rng.normal(0.0, 0.5, x.shape).astype(np.float32), shapes)
  return official.export_official(params, architecture)


@pytest.mark.parametrize('name', sorted(RELEASED))
def test_released_sizes_have_their_number_of_weights(name):
  assert official.parameter_count(RELEASED[name]) == COUNTS[name]


@pytest.mark.parametrize('family', sorted(TINY))
def test_cache_and_left_padding_change_nothing(family):
  architecture = TINY[family]
  decoder = Decoder(architecture)
  variables = official.import_official(random_state(architecture), architecture)
  ids = np.random.default_rng(1).integers(0, 11, (2, 9)).astype(np.int32)
  padded, valid = np.concatenate([np.zeros((2, 3), np.int32), ids], axis=1), np.arange(12) >= 3

  def steps(variables, cache):
    out = decoder.apply(variables, ids[:, :7], cache=cache, fresh=True)
    logits = [out.logits]
    for time in (7, 8):
      out = decoder.apply(variables, ids[:, time : time + 1], cache=out.cache)
      logits.append(out.logits)
    return jnp.concatenate(logits, axis=1)

  @jax.jit
  def run(variables):
    plain = decoder.apply(variables, ids).logits
    shifted = decoder.apply(variables, padded, jnp.broadcast_to(valid, padded.shape)).logits[:, 3:]
    stacked = steps(variables, empty_cache(architecture, 2, 12))
    apart = steps(unstack(variables), empty_cache(architecture, 2, 12, unstacked=True))
    few = decoder.apply(variables, ids, vocabulary=jnp.array([2, 7])).logits
    return plain, shifted, stacked, apart, few

  plain, shifted, stacked, apart, few = run(variables)
  assert np.std(plain) > 0.1
  np.testing.assert_allclose(shifted, plain, atol=1e-5)
  np.testing.assert_allclose(stacked, plain, atol=1e-5)
  np.testing.assert_allclose(apart, plain, atol=1e-5)
  np.testing.assert_allclose(few, plain[..., [2, 7]], atol=1e-6)


def test_a_row_of_padding_alone_gives_numbers():
  decoder = Decoder(TINY['gpt2'])
  ids = jnp.zeros((1, 4), jnp.int32)
  variables = official.import_official(random_state(TINY['gpt2']), TINY['gpt2'])
  logits = jax.jit(lambda v: decoder.apply(v, ids, jnp.zeros((1, 4), bool)).logits)(variables)
  assert np.all(np.isfinite(logits))


def test_text_longer_than_the_positions_is_refused():
  with pytest.raises(ValueError, match='13 tokens are more than the 12 positions'):
    jax.eval_shape(Decoder(TINY['gpt2']).init, jax.random.key(0), jnp.zeros((1, 13), jnp.int32))
  with pytest.raises(ValueError, match='window of whole measures'):
    empty_cache(TINY['llama'], 1, 13)


def test_sizes_that_do_not_fit_are_refused():
  for bad, words in (
    (dict(heads=3), 'does not split into 3 heads'),
    (dict(kv_heads=4), 'cannot share 4'),
    (dict(family='rnn'), "no block family 'rnn'"),
    (dict(activation='relu'), "no activation 'relu'"),
    (dict(layers=0), 'layers must be at least 1'),
  ):
    sizes = dict(family='gpt2', vocabulary=5, layers=1, width=8, heads=2, kv_heads=2, hidden=8, context=4)
    with pytest.raises(ValueError, match=words):
      Architecture(**(sizes | bad)).check()


def test_configurations_of_hugging_face():
  common = dict(vocab_size=9, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)
  config = dict(common, model_type='llama', max_position_embeddings=7, rope_parameters={'rope_theta': 5.0})
  assert from_huggingface(config) == llama(9, 1, 8, 2, 2, 12, 7, epsilon=1e-6, rope_theta=5.0, tied=False)
  with pytest.raises(ValueError, match='rope_scaling'):
    from_huggingface(config | {'rope_scaling': {'factor': 2}})
  with pytest.raises(ValueError, match="lacks 'max_position_embeddings'"):
    from_huggingface(dict(common, model_type='gpt_neox'))
  with pytest.raises(ValueError, match="'bert' is not one of"):
    from_huggingface({'model_type': 'bert'})


@pytest.mark.parametrize('family', sorted(TINY))
def test_weights_go_out_and_come_in(family):
  architecture = TINY[family]
  state = random_state(architecture)
  prefix = {'gpt2': 'transformer.', 'llama': 'model.', 'neox': 'gpt_neox.'}[family]
  bare = {name.removeprefix(prefix): value for name, value in state.items()}
  bare['h.0.attn.bias' if family == 'gpt2' else 'layers.0.attention.rotary_emb.inv_freq'] = np.ones(3)
  if family == 'neox':
    bare['lm_head.weight'] = bare.pop('embed_out.weight')
  else:
    bare['lm_head.weight'] = bare['wte.weight' if family == 'gpt2' else 'embed_tokens.weight']
  back = official.export_official(official.import_official(bare, architecture)['params'], architecture)
  assert back.keys() == state.keys()
  assert all(np.array_equal(back[name], state[name]) for name in state)


def test_weights_that_do_not_fit_are_named():
  state = random_state(TINY['llama'])
  name = 'model.layers.1.mlp.up_proj.weight'
  with pytest.raises(ValueError, match=f'{name} is missing; model.extra is unexpected'):
    official.import_official({k: v for k, v in state.items() if k != name} | {'extra': np.ones(1)}, TINY['llama'])
  with pytest.raises(ValueError, match=rf'{name} has shape \(8, 12\), not \(12, 8\)'):
    official.import_official(state | {name: state[name].T}, TINY['llama'])
  with pytest.raises(ValueError, match='this model is not tied'):
    official.import_official(state | {'lm_head.weight': state['model.embed_tokens.weight'] + 1}, TINY['llama'])


def test_causal_blocks_equal_the_whole():
  """Two blocks and a shorter one, shared keys, padding on the left of a row; and the gradient."""
  rng = np.random.default_rng(0)
  q = rng.normal(size=(2, 300, 4, 3)).astype(np.float32)
  k, v = rng.normal(size=(2, 2, 2, 300, 3)).astype(np.float32)
  valid = np.arange(300) >= np.array([[0], [7]])
  mask = np.tril(np.ones((300, 300), bool)) & valid[:, None]

  def total(function):
    return jax.value_and_grad(
      lambda *a: jnp.sum(jnp.where(valid[..., None], jnp.sin(function(*a, mask)), 0.0)), (0, 1, 2)
    )

  want, got = (jax.jit(total(function))(q, k, v) for function in (attention, causal_attention))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5, rtol=1e-5), got, want)
