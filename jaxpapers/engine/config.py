"""The settings that every experiment shares. Imports no JAX, so that reading a config stays quick."""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from jaxpapers.engine.errors import UserError, suggest


def default_config() -> ml_collections.ConfigDict:
  """Settings that the engine reads; a method's `get_config` starts from these and adds its own."""
  config = ml_collections.ConfigDict()
  # Set by the method: the room under jaxpapers/, and the name of the variant.
  config.method = ''
  config.variant = 'default'
  config.seed = 0
  config.dtype = 'float32'  # compute precision of the model: float32 or bfloat16; parameters stay float32
  config.init_from = ''  # a workdir whose trained or imported variables are the starting point
  # Devices. -1 takes what the other axis leaves. parallel: 'jit' (one global program) or 'pmap' (per-device semantics).
  config.parallel = 'jit'
  config.mesh = ml_collections.ConfigDict({'data': -1, 'model': 1, 'fsdp': False})
  config.log_every = 10
  # best: an evaluation metric such as 'eval/accuracy', kept beside the newest `keep`; '' keeps the newest only.
  config.checkpoint = ml_collections.ConfigDict({'every': 0, 'keep': 2, 'best': '', 'best_mode': 'max'})
  config.data = ml_collections.ConfigDict({'dir': '', 'workers': 0, 'prefetch': 2})
  config.transfer_guard = True
  return config


def variant(name: str, variants: Mapping[str, Any]) -> Any:
  """The entry of `variants` called `name`, or an error that lists the known ones."""
  if name not in variants:
    raise UserError(
      f'Unknown variant {name!r}; known variants: {", ".join(sorted(variants))}.{_did_you_mean(name, variants)}'
    )
  return variants[name]


def _did_you_mean(name: str, variants: Mapping[str, Any]) -> str:
  hint = suggest(name, variants)
  return hint if 'mean' in hint else ''


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested settings as {'a.b.c': value}."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat


def to_json(config: ml_collections.ConfigDict) -> str:
  """The settings as JSON text; tuples become lists."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def from_json(text: str) -> ml_collections.ConfigDict:
  """Inverse of `to_json`. Settings hold tuples, never lists, so that every list was a tuple."""

  def tuples(value: Any) -> Any:
    if isinstance(value, dict):
      return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value

  return ml_collections.ConfigDict(tuples(json.loads(text)))
