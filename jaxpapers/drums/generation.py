"""Text from a decoder: prefill, then one token at a time with a cache, all prompts together, as one program."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.drums.grammar import Grammar, measures_grammar
from jaxpapers.drums.model import Decoder, empty_cache, unstack
from jaxpapers.drums.notation import END, SEP
from jaxpapers.drums.sampling import check_sampling, draw
from jaxpapers.drums.tokenizers import Tokenizer

MEASURE_BYTES = 116
"""Sixteen lines of seven characters and a SEP line: no tokenizer needs more tokens."""

# Deeper models take too long to compile block by block.
_MOST_APART = 12


class Generated(NamedTuple):
  """New tokens.

  Attributes:
    ids: [batch, max_new] int32, 0 behind the end.
    lengths: [batch] int32, tokens of each row, those that ended it included.
    ended: [batch] bool, False where max_new cut the text off.
  """

  ids: jax.Array
  lengths: jax.Array
  ended: jax.Array


def generate(
  decoder: Decoder,
  variables: Mapping[str, Any],
  prompt_ids: jax.Array,
  prompt_lengths: jax.Array,
  key: jax.Array,
  *,
  max_new: int,
  temperature: float = 0.9,
  top_k: int | None = None,
  top_p: float | None = None,
  stop: Sequence[int] = (),
  grammar: Grammar | None = None,
  vocabulary: np.ndarray | None = None,
) -> Generated:
  """Continues every prompt; the same key gives the same text, whatever the other rows are.

  Args:
    decoder: the model.
    variables: its collections.
    prompt_ids: [batch, time] int32, padded on the right.
    prompt_lengths: [batch] int32, at least 1.
    key: PRNG key; row i draws with fold_in(key, i).
    max_new: at most so many tokens.
    temperature: 0 takes the likeliest token.
    top_k: draw among the k likeliest.
    top_p: draw among the fewest likeliest that have probability p together.
    stop: ids that end a text where they follow one another.
    grammar: only what it allows; it also says when a text is done.
    vocabulary: [n] ids that can be drawn, without a grammar; None: all.

  Raises:
    ValueError: for settings that mean nothing, or a model whose positions end before the text.
  """
  check_sampling(temperature, top_k, top_p)
  chex.assert_rank([prompt_ids, prompt_lengths], [2, 1])
  if max_new < 1:
    raise ValueError(f'max_new must be at least 1, not {max_new}.')
  if np.size(prompt_ids) == 0 or (not isinstance(prompt_lengths, jax.core.Tracer) and np.min(prompt_lengths) < 1):
    raise ValueError('A prompt must have at least one token.')
  ids = None if vocabulary is None else jnp.asarray(vocabulary)
  return _generate(
    variables, jnp.asarray(prompt_ids), jnp.asarray(prompt_lengths), key, grammar, ids,
    decoder=decoder, max_new=max_new, temperature=temperature, top_k=top_k, top_p=top_p, stop=tuple(stop),
  )  # fmt: skip


@functools.partial(jax.jit, static_argnames=('decoder', 'max_new', 'temperature', 'top_k', 'top_p', 'stop'))
def _generate(variables, ids, lengths, key, grammar, vocabulary, *, decoder, max_new, temperature, top_k, top_p, stop):
  batch, time = ids.shape
  vocabulary = vocabulary if grammar is None else jnp.asarray(grammar.ids)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
  # Padding goes to the left, so that all rows write the same slot of the cache.
  source = jnp.arange(time) - (time - lengths)[:, None]
  valid = source >= 0
  ids = jnp.where(valid, jnp.take_along_axis(ids, jnp.maximum(source, 0), axis=1), 0)
  apart = decoder.architecture.layers <= _MOST_APART
  variables = unstack(variables) if apart else variables
  cache = empty_cache(decoder.architecture, batch, time + max_new, decoder.dtype, unstacked=apart)
  first = decoder.apply(variables, ids, valid, cache, fresh=True, last=True, vocabulary=vocabulary)
  states = jnp.full(batch, 0 if grammar is None else grammar.start, jnp.int32)
  tail = jnp.full((batch, len(stop)), -1, jnp.int32)

  def choose(step, logits, states, tail, done):
    """(token, state, tail, done) after the draw at `step`."""
    if grammar is not None:
      following = jnp.asarray(grammar.next)[states]
      logits = jnp.where(following >= 0, logits, -jnp.inf)
      # A text that is done has no legal token: any will do, it is not written.
      logits = jnp.where(done[:, None], 0.0, logits)
    place = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, step), logits, temperature, top_k, top_p)
    token = place if vocabulary is None else vocabulary[place]
    token = jnp.where(done, 0, token).astype(jnp.int32)
    ended = done
    if grammar is not None:
      states = jnp.where(done, states, jnp.take_along_axis(following, place[:, None], axis=1)[:, 0])
      ended |= states == grammar.done
    if stop:
      tail = jnp.concatenate([tail[:, 1:], token[:, None]], axis=1)
      ended |= jnp.all(tail == jnp.asarray(stop), axis=1) & ~done
    return token, states, tail, ended

  def body(carry):
    step, cache, token, states, tail, done, new, count = carry
    output = decoder.apply(variables, token[:, None], ~done[:, None], cache, vocabulary=vocabulary)
    token, states, tail, ended = choose(step, output.logits[:, 0], states, tail, done)
    new = jax.lax.dynamic_update_slice(new, token[:, None], (0, step))
    return step + 1, output.cache, token, states, tail, ended, new, count + ~done

  token, states, tail, ended = choose(0, first.logits[:, 0], states, tail, jnp.zeros(batch, bool))
  new = jnp.zeros((batch, max_new), jnp.int32).at[:, 0].set(token)
  carry = (jnp.int32(1), first.cache, token, states, tail, ended, new, jnp.ones(batch, jnp.int32))
  carry = jax.lax.while_loop(lambda c: (c[0] < max_new) & ~jnp.all(c[5]), body, carry)
  return Generated(carry[6], carry[7], carry[5])


def pad(rows: Sequence[Sequence[int]], length: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """(ids [batch, length] int32, padded on the right with 0; lengths [batch]); length 0 fits the longest.

  Raises:
    ValueError: if a row is longer than `length`.
  """
  lengths = np.array([len(row) for row in rows], np.int32)
  length = length or int(lengths.max(initial=0))
  if lengths.max(initial=0) > length:
    raise ValueError(f'A text of {lengths.max()} tokens does not fit into {length}.')
  ids = np.zeros((len(rows), length), np.int32)
  for row, values in zip(ids, rows, strict=True):
    row[: len(values)] = values
  return ids, lengths


def continue_texts(
  decoder: Decoder,
  variables: Mapping[str, Any],
  tokenizer: Tokenizer,
  prompts: Sequence[str],
  key: jax.Array,
  *,
  measures: int = 14,
  temperature: float = 0.9,
  top_k: int | None = None,
  top_p: float | None = None,
  constrained: bool = True,
  window: int | None = None,
) -> list[str]:
  """Completions of prompts in the notation: `measures` measures, SEP between them, END behind.

  Source: the paper's completion of a prompt of two measures.

  Args:
    decoder: the model.
    variables: its collections.
    tokenizer: its vocabulary.
    prompts: each some measures, every one followed by SEP.
    key: PRNG key.
    measures: how many to write.
    temperature: see `generate`.
    top_k: see `generate`.
    top_p: see `generate`.
    constrained: draw under the grammar; else the text is whatever the model writes, until END.
    window: measures that the model has positions for: the new one is written with the last window - 1 before it. None
      gives it the whole groove.

  Raises:
    ValueError: for an empty prompt, a window below 2, or a model whose positions end before the text.
  """
  if not prompts or not all(prompts):
    raise ValueError('A prompt must hold at least one measure.')
  settings = {'temperature': temperature, 'top_k': top_k, 'top_p': top_p}
  if window is not None:
    if window < 2:
      raise ValueError(f'A window must hold at least 2 measures, not {window}.')
    return _by_measure(decoder, variables, tokenizer, prompts, key, measures, constrained, window, settings)
  settings |= _ending(tokenizer, measures, END, constrained)
  ids, lengths = pad([tokenizer.encode(prompt) for prompt in prompts])
  new = generate(decoder, variables, ids, lengths, key, max_new=measures * MEASURE_BYTES, **settings)
  return _texts(tokenizer, new)


def _by_measure(decoder, variables, tokenizer, prompts, key, measures, constrained, window, settings) -> list[str]:
  settings = settings | _ending(tokenizer, 1, SEP, constrained)
  written = [''] * len(prompts)
  ended = np.zeros(len(prompts), bool)
  for measure in range(measures):
    seen = [_last_measures(prompt + text, window - 1) for prompt, text in zip(prompts, written, strict=True)]
    ids, lengths = pad([tokenizer.encode(text) for text in seen], (window - 1) * MEASURE_BYTES)
    own = jax.random.fold_in(key, measure)
    new = _texts(tokenizer, generate(decoder, variables, ids, lengths, own, max_new=MEASURE_BYTES, **settings))
    written = [old if end else old + text for old, text, end in zip(written, new, ended, strict=True)]
    ended |= [END in text for text in written]
  return [text if END in text else text.removesuffix(SEP) + END for text in written]


def _last_measures(text: str, count: int) -> str:
  """The last `count` measures, cut at a SEP line; text without one is cut by length."""
  parts = text.split(SEP)
  kept = SEP.join(parts[max(0, len(parts) - 1 - count) :])
  return kept[-count * MEASURE_BYTES :]


def _ending(tokenizer: Tokenizer, measures: int, closing: str, constrained: bool) -> dict[str, Any]:
  if constrained:
    return {'grammar': _grammar(tokenizer, measures, closing)}
  return {'stop': tuple(tokenizer.encode(closing))}


@functools.lru_cache(maxsize=16)
def _grammar(tokenizer: Tokenizer, measures: int, closing: str) -> Grammar:
  return measures_grammar(tokenizer.tokens, measures, closing)


def _texts(tokenizer: Tokenizer, new: Generated) -> list[str]:
  return [tokenizer.decode(row[:count].tolist()) for row, count in zip(*map(np.asarray, new[:2]), strict=True)]
