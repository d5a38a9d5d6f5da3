"""Sampling, the grammar, and text from an untrained network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.drums import data, notation
from jaxpapers.drums.architecture import llama
from jaxpapers.drums.generation import continue_texts, generate, pad
from jaxpapers.drums.grammar import measures_grammar
from jaxpapers.drums.model import Decoder
from jaxpapers.drums.sampling import check_sampling, draw, filter_logits
from jaxpapers.drums.tokenizers import byte_tokenizer

BYTES = byte_tokenizer()
LEGAL = b'-o\n'


@pytest.fixture(scope='module')
def untrained():
  """A decoder that has learnt nothing, sure of itself: its logits are far from even."""
  decoder = Decoder(llama(256, 1, 8, 2, 1, 8, 2048))
  variables = jax.jit(decoder.init)(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))
  return decoder, jax.tree.map(lambda x: 20.0 * x, variables)


@pytest.fixture(scope='module')
def prompts():
  test = data.records(data.bundled(), official=True)['test']
  return [notation.prompt_completion(groove.grid)[0] for groove in test]


def test_settings_that_mean_nothing_are_refused():
  for bad in ((-0.1, None, None), (1.0, 0, None), (1.0, None, 0.0), (1.0, None, 1.1), (float('nan'), None, None)):
    with pytest.raises(ValueError, match='must'):
      check_sampling(*bad)
  with pytest.raises(ValueError, match='no distribution'):
    filter_logits(jnp.zeros(3), 0.0)


def test_top_k_and_top_p_keep_what_they_should():
  p = np.array([0.05, 0.4, 0.25, 0.3])
  logits = jnp.log(jnp.asarray(p, jnp.float32))

  def kept(**options):
    return np.isfinite(filter_logits(logits, 1.0, **options)).tolist()

  assert kept(top_k=4) == kept(top_k=9) == kept(top_p=1.0) == [True] * 4
  assert kept(top_k=2) == kept(top_p=0.6) == [False, True, False, True]
  assert kept(top_p=1e-9) == [False, True, False, False]
  # The token that crosses p is kept; top-k comes first: of two, the likelier alone has more than half.
  assert kept(top_p=0.75) == [False, True, True, True]
  assert kept(top_k=2, top_p=0.57) == [False, True, False, False]


def test_draws_follow_the_probabilities():
  logits, count = jnp.array([0.3, -1.0, 1.2, 0.0, -jnp.inf]), 20_000
  keys = jax.random.split(jax.random.key(5), count)
  drawn = jax.jit(lambda keys: draw(keys, jnp.broadcast_to(logits, (count, 5)), 0.7, top_k=3))(keys)
  p = np.asarray(jax.nn.softmax(filter_logits(logits, 0.7, top_k=3)))
  share = np.bincount(drawn, minlength=5) / count
  assert np.all(np.abs(share - p) <= 3 * np.sqrt(p * (1 - p) / count))
  assert np.all(draw(keys[:4], jnp.broadcast_to(logits, (4, 5)), 0) == 2)


def test_grammar_accepts_the_human_completions_and_nothing_shorter():
  grids = [g.grid for g in data.records(data.bundled())['test'] if len(g.grid) == 256]
  grammar = measures_grammar(BYTES.tokens, 14)
  place = {int(index): column for column, index in enumerate(grammar.ids)}
  for grid in grids[:5]:
    state = int(grammar.start)
    for byte in notation.prompt_completion(grid)[1].encode():
      state = int(grammar.next[state, place[byte]])
      assert state >= 0
    assert state == grammar.done
  state = int(grammar.start)
  for byte in (notation.to_text(grids[0][:16]) + 'E').encode():
    assert state >= 0
    state = int(grammar.next[state, place[byte]])
  assert state == -1
  with pytest.raises(ValueError, match='at least 1 measure'):
    measures_grammar(BYTES.tokens, 0)
  with pytest.raises(ValueError, match="no token for 'o'"):
    measures_grammar([token for token in BYTES.tokens if token != b'o'], 1)


def test_tokens_of_many_letters_walk_through_the_grammar():
  tokens = [bytes([byte]) for byte in b'-o\nDENPS'] + [b'---', b'oo', b'\nSEP', b'SE', b'hello', b'']
  grammar = measures_grammar(tokens, 2)
  assert [tokens[index] for index in grammar.ids] == tokens[:8] + [b'---', b'oo', b'\nSEP', b'SE']
  line_end = 15 * 7 + 6
  assert grammar.next[line_end, 10] == line_end + 4
  assert grammar.next[0, 8] == 3 and grammar.next[4, 8] == -1 and np.all(grammar.next[grammar.done] == -1)


def test_every_continuation_of_an_untrained_network_is_legal(untrained, prompts):
  texts = continue_texts(*untrained, BYTES, prompts, jax.random.key(0))
  assert len(texts) == 37
  for text in texts:
    parsed = notation.parse(text, strict=True)
    assert parsed.grid.shape == (14 * 16, 6) and parsed.ended and text.count(notation.SEP) == 13
  assert len(set(texts)) > 1


def test_a_window_of_measures_slides_over_a_groove(untrained, prompts):
  texts = continue_texts(*untrained, BYTES, prompts[:2], jax.random.key(0), measures=3, window=3)
  for text in texts:
    assert notation.parse(text, strict=True).grid.shape == (48, 6)
    assert text.count(notation.SEP) == 2 and text.endswith(notation.END)
  with pytest.raises(ValueError, match='at least 2 measures'):
    continue_texts(*untrained, BYTES, prompts[:2], jax.random.key(0), window=1)
  with pytest.raises(ValueError, match='at least one measure'):
    continue_texts(*untrained, BYTES, [''], jax.random.key(0))


def test_without_the_grammar_illegal_lines_are_repaired_and_counted(untrained, prompts):
  text = continue_texts(*untrained, BYTES, prompts[:1], jax.random.key(1), measures=1, window=2, constrained=False)[0]
  parsed = notation.parse(text)
  assert parsed.repaired == len(parsed.problems) > 0
  assert len(parsed.grid) + parsed.blank >= text.replace('END', '').strip('\n').count('\n')


def test_a_row_is_what_it_is_alone_and_stops_at_the_stop(untrained):
  decoder, variables = untrained
  ids, lengths = pad([[5, 6, 7], [5, 6, 7, 8, 9]])
  both = generate(decoder, variables, ids, lengths, jax.random.key(2), max_new=12)
  alone = generate(decoder, variables, ids[:1, :3], lengths[:1], jax.random.key(2), max_new=12)
  np.testing.assert_array_equal(both.ids[0], alone.ids[0])
  assert not np.array_equal(both.ids[0], both.ids[1]) and not np.any(both.ended)
  stop = tuple(np.asarray(both.ids[0, 4:6]).tolist())
  stopped = generate(decoder, variables, ids, lengths, jax.random.key(2), max_new=12, stop=stop)
  assert stopped.ended[0] and stopped.lengths[0] == 6 and not np.any(stopped.ids[0, 6:])
  few = generate(decoder, variables, ids, lengths, jax.random.key(2), max_new=12, vocabulary=np.array([3, 200]))
  assert set(np.asarray(few.ids).ravel()) == {3, 200}
  with pytest.raises(ValueError, match='at least one token'):
    generate(decoder, variables, ids, np.array([0, 3], np.int32), jax.random.key(2), max_new=2)
  with pytest.raises(ValueError, match='positions of this model'):
    generate(decoder, variables, ids, lengths, jax.random.key(2), max_new=5000)
