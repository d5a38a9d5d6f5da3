"""Continues a groove: MIDI file, text or a groove of the package in; MIDI, WAV, text and piano roll out.

python launch/compose.py --workdir=runs/drums/default/20261124-120000 --prompt=groove.mid --takes=4 --out=takes
"""

from absl import flags

from jaxpapers.engine import cli
from jaxpapers.engine.errors import UserError

_WORKDIR = flags.DEFINE_string('workdir', '', 'folder of a run of drums')
_PROMPT = flags.DEFINE_string('prompt', '', 'a .mid or .txt file, or the name of a groove of Groove MIDI')
_PROMPT_MEASURES = flags.DEFINE_integer('prompt_measures', 2, 'measures of the prompt', lower_bound=1)
_MEASURES = flags.DEFINE_integer('measures', 14, 'measures to write', lower_bound=1, upper_bound=256)
_TAKES = flags.DEFINE_integer('takes', 4, 'continuations to write', lower_bound=1, upper_bound=1024)
_SEED = flags.DEFINE_integer('seed', 0, 'the same seed writes the same takes')
_TEMPERATURE = flags.DEFINE_float('temperature', 0.9, '0 always takes the likeliest', lower_bound=0.0)
_TOP_K = flags.DEFINE_integer('top_k', None, 'choose among so many tokens', lower_bound=1)
_TOP_P = flags.DEFINE_float('top_p', None, 'choose among the likeliest tokens of this total probability')
_GRAMMAR = flags.DEFINE_bool('grammar', True, 'let the model write nothing but legal measures')
_BPM = flags.DEFINE_float('bpm', None, 'quarter notes a minute; the prompt says by default', 4.0, 1000.0)
_OUT = flags.DEFINE_string('out', 'takes', 'folder of the files')


def main() -> None:
  """Reads the prompt, samples all takes in one program, and writes their files."""
  if not _WORKDIR.value:
    raise UserError('No workdir given: add --workdir=FOLDER of a run of drums.')
  if not _PROMPT.value:
    raise UserError('No prompt given: add --prompt=FILE.mid, FILE.txt, or a name such as 7_100_pop_142_beat_4-4.')
  if _TOP_P.value is not None and not 0 < _TOP_P.value <= 1:
    raise UserError(f'--top_p lies above 0 and is at most 1, not {_TOP_P.value}.')
  from jaxpapers.drums import takes

  prompt = takes.read_prompt(_PROMPT.value, _PROMPT_MEASURES.value)
  for remark in prompt.remarks:
    print(f'{_PROMPT.value}: {remark}.')

  import jax

  from jaxpapers.drums import experiment, generation, notation

  text, _ = notation.prompt_completion(prompt.grid, _PROMPT_MEASURES.value)
  settings = {'measures': _MEASURES.value, 'temperature': _TEMPERATURE.value, 'top_k': _TOP_K.value}
  settings |= {'top_p': _TOP_P.value, 'constrained': _GRAMMAR.value}
  model = experiment.load_model(_WORKDIR.value)
  try:
    completions = generation.continue_texts(
      model.decoder,
      model.variables,
      model.tokenizer,
      [text] * _TAKES.value,
      jax.random.key(_SEED.value),
      window=model.window,
      **settings,
    )
  except ValueError as error:
    raise UserError(str(error)) from error
  written = takes.write_takes(
    _OUT.value,
    prompt,
    [takes.read_take(prompt.grid, completion) for completion in completions],
    _BPM.value,
    seed=_SEED.value,
    workdir=_WORKDIR.value,
    **settings,
  )
  for path in written:
    print(path)


if __name__ == '__main__':
  cli.main(main)
