"""Drum composition with language models (arXiv 2301.01162): grooves as text, continued by a language model.

    from jaxpapers import drums
    groove = drums.bundled()[0]
    print(drums.to_text(groove.grid[:32]))  # two measures, one line a sixteenth note
    open('groove.mid', 'wb').write(drums.write_midi(groove.grid, bpm=groove.bpm))
    drums.stability(groove.grid)  # how far each measure is from the nearer of its neighbours

Names are loaded on first use: the notation needs NumPy alone.
"""

import importlib

_WHERE = {
  'to_text': 'notation',
  'parse': 'notation',
  'line_ids': 'notation',
  'grid_of': 'notation',
  'drop_leading_silence': 'notation',
  'prompt_completion': 'notation',
  'encode': 'encoding',
  'bundled': 'data',
  'records': 'data',
  'read_gmd': 'data',
  'read_tfds': 'data',
  'json_lines': 'data',
  'stability': 'structure',
  'stability_curves': 'structure',
  'self_distances': 'structure',
  'two_means': 'structure',
  'levenshtein': 'structure',
  'duplication': 'metrics',
  'validity': 'metrics',
  'repeat_rate': 'metrics',
  'composition': 'metrics',
  'describe': 'metrics',
  'render': 'synth',
  'wav': 'synth',
  'piano_roll': 'figures',
  'Architecture': 'architecture',
  'from_huggingface': 'architecture',
  'Decoder': 'model',
  'empty_cache': 'model',
  'import_official': 'official',
  'export_official': 'official',
  'open_gguf': 'gguf',
  'dequantise': 'gguf',
  'byte_tokenizer': 'tokenizers',
  'bpe_tokenizer': 'tokenizers',
  'gpt2_tokenizer': 'tokenizers',
  'gguf_tokenizer': 'tokenizers',
  'init_lora': 'lora',
  'filter_logits': 'sampling',
  'measures_grammar': 'grammar',
  'generate': 'generation',
  'continue_texts': 'generation',
  'token_nats': 'losses',
}
_RENAMED = {
  'read_midi': ('midi', 'read'),
  'write_midi': ('midi', 'write'),
  'fit_ngrams': ('ngrams', 'fit'),
  'ngram_nats': ('ngrams', 'nats_per_line'),
  'smollm2': ('gguf', 'language_model'),
  'merge_lora': ('lora', 'merge'),
}

__all__ = [*_WHERE, *_RENAMED]


def __getattr__(name: str):
  if name in _RENAMED:
    module, attribute = _RENAMED[name]
    return getattr(importlib.import_module(f'{__name__}.{module}'), attribute)
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
