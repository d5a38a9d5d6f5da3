"""Sizes and options of a decoder: three block families, the released sizes, and Hugging Face configurations."""

import dataclasses
from collections.abc import Mapping
from typing import Any

FAMILIES = ('gpt2', 'llama', 'neox')
ACTIVATIONS = ('gelu_new', 'gelu', 'silu')


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A decoder-only transformer.

  Attributes:
    family: 'gpt2' (learned positions, LayerNorm), 'llama' (rotary, RMSNorm, gated MLP, grouped queries) or 'neox'
      (partial rotary, LayerNorm, parallel residual).
    vocabulary: number of token ids.
    layers: number of blocks.
    width: of the residual stream.
    heads: query heads.
    kv_heads: key and value heads; a divisor of `heads`, fewer only in 'llama'.
    hidden: width of the MLP.
    context: longest text, in tokens.
    activation: 'gelu_new' (tanh form), 'gelu' (erf) or 'silu'.
    epsilon: of the norms.
    rope_theta: base of the rotary frequencies.
    rotary: share of a head's dimensions that is rotated, from the first on.
    parallel: 'neox' alone: attention and MLP read the same input; else one after the other.
    tied: the output matrix is the token embedding.
  """

  family: str
  vocabulary: int
  layers: int
  width: int
  heads: int
  kv_heads: int
  hidden: int
  context: int
  activation: str = 'gelu_new'
  epsilon: float = 1e-5
  rope_theta: float = 10_000.0
  rotary: float = 1.0
  parallel: bool = True
  tied: bool = True

  @property
  def head(self) -> int:
    """Dimensions of one head."""
    return self.width // self.heads

  def check(self) -> 'Architecture':
    """Itself.

    Raises:
      ValueError: if the numbers do not fit each other.
    """
    if self.family not in FAMILIES:
      raise ValueError(f'There is no block family {self.family!r}; known: {", ".join(FAMILIES)}.')
    if self.activation not in ACTIVATIONS:
      raise ValueError(f'There is no activation {self.activation!r}; known: {", ".join(ACTIVATIONS)}.')
    sizes = ('vocabulary', 'layers', 'width', 'heads', 'kv_heads', 'hidden', 'context')
    for name in sizes:
      if getattr(self, name) < 1:
        raise ValueError(f'{name} must be at least 1, not {getattr(self, name)}.')
    if self.width % self.heads:
      raise ValueError(f'A width of {self.width} does not split into {self.heads} heads.')
    if self.heads % self.kv_heads or (self.family != 'llama' and self.kv_heads != self.heads):
      raise ValueError(f'{self.heads} query heads cannot share {self.kv_heads} key-value heads in {self.family}.')
    if self.family != 'gpt2' and (int(self.head * self.rotary) % 2 or not 0 < self.rotary <= 1):
      raise ValueError(f'Rotating {self.rotary:g} of {self.head} dimensions does not give pairs.')
    return self


def gpt2(vocabulary: int, layers: int, width: int, heads: int, context: int, **options: Any) -> Architecture:
  """The GPT-2 family; the MLP is four times as wide."""
  return Architecture('gpt2', vocabulary, layers, width, heads, heads, 4 * width, context, **options).check()


def llama(
  vocabulary: int, layers: int, width: int, heads: int, kv_heads: int, hidden: int, context: int, **options: Any
) -> Architecture:
  """The Llama family."""
  options = {'activation': 'silu', **options}
  return Architecture('llama', vocabulary, layers, width, heads, kv_heads, hidden, context, **options).check()


def neox(vocabulary: int, layers: int, width: int, heads: int, context: int, **options: Any) -> Architecture:
  """The GPT-NeoX (Pythia) family."""
  options = {'activation': 'gelu', 'rotary': 0.25, 'tied': False, **options}
  return Architecture('neox', vocabulary, layers, width, heads, heads, 4 * width, context, **options).check()


RELEASED = {
  'distilgpt2': gpt2(50_257, 6, 768, 12, 1024),
  'gpt2': gpt2(50_257, 12, 768, 12, 1024),
  'gpt2-medium': gpt2(50_257, 24, 1024, 16, 1024),
  'gpt2-large': gpt2(50_257, 36, 1280, 20, 1024),
  'gpt2-xl': gpt2(50_257, 48, 1600, 25, 1024),
  'smollm2-135m': llama(49_152, 30, 576, 9, 3, 1536, 8192, rope_theta=100_000.0),
  'pythia-14m': neox(50_304, 6, 128, 4, 2048),
  'pythia-70m': neox(50_304, 6, 512, 8, 2048),
  'pythia-160m': neox(50_304, 12, 768, 12, 2048),
}


def from_huggingface(config: Mapping[str, Any]) -> Architecture:
  """The architecture that a Hugging Face `config.json` describes.

  Raises:
    ValueError: for another model type or an option that these blocks do not have.
  """
  kind = config.get('model_type', config.get('arch'))
  readers = {'gpt2': _gpt2_config, 'llama': _llama_config, 'gpt_neox': _neox_config}
  if kind not in readers:
    raise ValueError(f'model_type {kind!r} is not one of {", ".join(readers)}.')
  for name in ('attention_bias', 'mlp_bias', 'rope_scaling', 'scale_attn_by_inverse_layer_idx', 'sliding_window'):
    if config.get(name) and not (kind == 'gpt_neox' and name == 'attention_bias'):
      raise ValueError(f'{name}={config[name]!r} is not supported.')
  try:
    return readers[kind](config)
  except KeyError as error:
    raise ValueError(f'The configuration of this {kind} model lacks {error}.') from error


def _activation(name: str) -> str:
  return {'gelu_pytorch_tanh': 'gelu_new', 'gelu_fast': 'gelu_new', 'swish': 'silu'}.get(name, name)


def _gpt2_config(config: Mapping[str, Any]) -> Architecture:
  width = config['n_embd']
  return Architecture(
    'gpt2',
    config['vocab_size'],
    config['n_layer'],
    width,
    config['n_head'],
    config['n_head'],
    config.get('n_inner') or 4 * width,
    config['n_positions'],
    activation=_activation(config.get('activation_function', config.get('activation', 'gelu_new'))),
    epsilon=config.get('layer_norm_epsilon', 1e-5),
    tied=config.get('tie_word_embeddings', True),
  ).check()


def _theta(config: Mapping[str, Any], *names: str) -> float:
  # transformers 5 moved it into `rope_parameters`.
  places = [config.get('rope_parameters') or {}, config]
  return float(next((p[n] for p in places for n in names if n in p), 10_000.0))


def _llama_config(config: Mapping[str, Any]) -> Architecture:
  heads, width = config['num_attention_heads'], config['hidden_size']
  if (config.get('head_dim') or width // heads) != width // heads:
    raise ValueError(f'head_dim={config["head_dim"]} is not hidden_size / num_attention_heads.')
  return Architecture(
    'llama',
    config['vocab_size'],
    config['num_hidden_layers'],
    width,
    heads,
    config.get('num_key_value_heads') or heads,
    config['intermediate_size'],
    config['max_position_embeddings'],
    activation=_activation(config.get('hidden_act', 'silu')),
    epsilon=config.get('rms_norm_eps', 1e-6),
    rope_theta=_theta(config, 'rope_theta'),
    tied=config.get('tie_word_embeddings', False),
  ).check()


def _neox_config(config: Mapping[str, Any]) -> Architecture:
  heads = config['num_attention_heads']
  rope = config.get('rope_parameters') or {}
  return Architecture(
    'neox',
    config['vocab_size'],
    config['num_hidden_layers'],
    config['hidden_size'],
    heads,
    heads,
    config['intermediate_size'],
    config['max_position_embeddings'],
    activation=_activation(config.get('hidden_act', 'gelu')),
    epsilon=config.get('layer_norm_eps', 1e-5),
    rope_theta=_theta(config, 'rope_theta', 'rotary_emb_base'),
    rotary=rope.get('partial_rotary_factor', config.get('rotary_pct', 0.25)),
    parallel=config.get('use_parallel_residual', True),
    tied=config.get('tie_word_embeddings', False),
  ).check()
