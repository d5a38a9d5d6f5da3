"""Released weights under their Hugging Face names: GPT-2, Llama and GPT-NeoX, strictly, both ways."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.drums.architecture import Architecture
from jaxpapers.drums.model import Decoder

# Name of a leaf -> name in the file; torch's Linear holds (out, in), GPT-2's Conv1D and Flax (in, out).
_GPT2 = {
  'tokens/embedding': 'transformer.wte.weight',
  'positions': 'transformer.wpe.weight',
  'final_norm': 'transformer.ln_f',
  'blocks/norm_1': 'transformer.h.{i}.ln_1',
  'blocks/norm_2': 'transformer.h.{i}.ln_2',
  'blocks/qkv': 'transformer.h.{i}.attn.c_attn',
  'blocks/out': 'transformer.h.{i}.attn.c_proj',
  'blocks/up': 'transformer.h.{i}.mlp.c_fc',
  'blocks/down': 'transformer.h.{i}.mlp.c_proj',
  'head': 'lm_head.weight',
}
_LLAMA = {
  'tokens/embedding': 'model.embed_tokens.weight',
  'final_norm': 'model.norm',
  'blocks/norm_1': 'model.layers.{i}.input_layernorm',
  'blocks/norm_2': 'model.layers.{i}.post_attention_layernorm',
  'blocks/query': 'model.layers.{i}.self_attn.q_proj',
  'blocks/key': 'model.layers.{i}.self_attn.k_proj',
  'blocks/value': 'model.layers.{i}.self_attn.v_proj',
  'blocks/out': 'model.layers.{i}.self_attn.o_proj',
  'blocks/gate': 'model.layers.{i}.mlp.gate_proj',
  'blocks/up': 'model.layers.{i}.mlp.up_proj',
  'blocks/down': 'model.layers.{i}.mlp.down_proj',
  'head': 'lm_head.weight',
}
_NEOX = {
  'tokens/embedding': 'gpt_neox.embed_in.weight',
  'final_norm': 'gpt_neox.final_layer_norm',
  'blocks/norm_1': 'gpt_neox.layers.{i}.input_layernorm',
  'blocks/norm_2': 'gpt_neox.layers.{i}.post_attention_layernorm',
  'blocks/qkv': 'gpt_neox.layers.{i}.attention.query_key_value',
  'blocks/out': 'gpt_neox.layers.{i}.attention.dense',
  'blocks/up': 'gpt_neox.layers.{i}.mlp.dense_h_to_4h',
  'blocks/down': 'gpt_neox.layers.{i}.mlp.dense_4h_to_h',
  'head': 'embed_out.weight',
}
_NAMES = {'gpt2': _GPT2, 'llama': _LLAMA, 'neox': _NEOX}
_PREFIX = {'gpt2': 'transformer.', 'llama': 'model.', 'neox': 'gpt_neox.'}
_BUFFERS = re.compile(r'(\.attn\.(bias|masked_bias)|\.attention\.(bias|masked_bias)|rotary_emb\.inv_freq)$')


def parameter_shapes(architecture: Architecture) -> dict[str, Any]:
  """The parameters of a decoder as shapes."""
  ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  return jax.eval_shape(Decoder(architecture).init, jax.random.key(0), ids)['params']


def parameter_count(architecture: Architecture) -> int:
  """Number of weights; a tied output matrix counts once."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(parameter_shapes(architecture)))


def import_official(state: Mapping[str, np.ndarray], architecture: Architecture) -> dict[str, Any]:
  """Variables of `Decoder(architecture)` from a state dict.

  Names may come with or without the leading module (`transformer.`, `model.`, `gpt_neox.`); attention masks and rotary
  frequencies are ignored; NeoX's output matrix is called `embed_out.weight` or `lm_head.weight`. A tied model may hold
  `lm_head.weight` if it equals the embedding.

  Returns:
    {'params': ...}, float32 numpy arrays.

  Raises:
    ValueError: naming every missing, misshapen and unexpected entry.
  """
  return {'params': fill(_clean(state, architecture), architecture, lambda value, leaf: value)}


def fill(
  state: dict[str, np.ndarray],
  architecture: Architecture,
  convert: Callable[[np.ndarray, str], np.ndarray],
) -> dict[str, Any]:
  """Parameters from entries under the official names; `convert(value, name)` is applied to each.

  Raises:
    ValueError: as `import_official`.
  """
  state = dict(state)
  problems, taken = [], {}
  embedding = np.asarray(state.get(_name(architecture, ('tokens', 'embedding'))))
  for path, leaf in flax.traverse_util.flatten_dict(parameter_shapes(architecture)).items():
    scanned = path[0] == 'blocks'
    name = _name(architecture, path)
    transposed = path[-1] == 'kernel' and architecture.family != 'gpt2'
    shape = leaf.shape[1:] if scanned else leaf.shape
    wanted = shape[::-1] if transposed else shape
    values = []
    for key in [name.format(i=i) for i in range(architecture.layers)] if scanned else [name]:
      if key not in state:
        problems.append(f'{key} is missing')
        continue
      value = np.asarray(convert(state.pop(key), key), np.float32)
      if value.shape != tuple(wanted):
        problems.append(f'{key} has shape {value.shape}, not {tuple(wanted)}')
        continue
      values.append(value.T if transposed else value)
    if len(values) == (architecture.layers if scanned else 1):
      taken[path] = np.stack(values) if scanned else values[0]
  if architecture.tied:
    head = state.pop(_NAMES[architecture.family]['head'], None)
    if head is not None and not np.array_equal(head, embedding):
      problems.append('the output matrix differs from the token embedding: this model is not tied')
  problems += [f'{key} is unexpected' for key in state]
  if problems:
    shown = '; '.join(problems[:12]) + (f'; and {len(problems) - 12} more' if len(problems) > 12 else '')
    raise ValueError(f'These weights do not fit: {shown}.')
  return flax.traverse_util.unflatten_dict(taken)


def export_official(params: Mapping[str, Any], architecture: Architecture) -> dict[str, np.ndarray]:
  """Inverse of `import_official`, for parameters or gradients, under the full names."""
  state = {}
  for path, value in flax.traverse_util.flatten_dict(dict(params)).items():
    name, value = _name(architecture, path), np.asarray(value)
    if path[-1] == 'kernel' and architecture.family != 'gpt2':
      value = np.swapaxes(value, -1, -2)
    if path[0] == 'blocks':
      state |= {name.format(i=i): layer for i, layer in enumerate(value)}
    else:
      state[name] = value
  return state


def _name(architecture: Architecture, path: tuple[str, ...]) -> str:
  names, joined = _NAMES[architecture.family], '/'.join(path)
  if joined in names:
    return names[joined]
  ending = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}[path[-1]]
  return f'{names["/".join(path[:-1])]}.{ending}'


def _clean(state: Mapping[str, np.ndarray], architecture: Architecture) -> dict[str, np.ndarray]:
  """Full names, without buffers."""
  prefix, head = _PREFIX[architecture.family], _NAMES[architecture.family]['head']
  result = {}
  for name, value in state.items():
    if _BUFFERS.search(name):
      continue
    if name in ('lm_head.weight', 'embed_out.weight'):
      name = head
    elif not name.startswith(prefix):
      name = prefix + name
    result[name] = value
  return result
