"""The authors' weight files as {name: numpy array}."""

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpapers.engine.errors import UserError


def read_weights(path: str) -> dict[str, np.ndarray]:
  """Reads .npz, .safetensors, or a PyTorch .pth/.pt/.bin through torch's weights-only loader where torch is installed.

  A state dict inside a training checkpoint is flattened: {'net': {'a': ...}} gives 'net.a'.

  Raises:
    UserError: for a file that is missing, of another format, or damaged.
  """
  if not os.path.isfile(path):
    raise UserError(f'There is no weights file {path!r}.')
  suffix = os.path.splitext(path)[1].lower()
  readers = {'.npz': _npz, '.safetensors': _safetensors, '.pth': _torch, '.pt': _torch, '.bin': _torch}
  if suffix not in readers:
    raise UserError(
      f'{path!r}: weights are read from {", ".join(sorted(readers))}, not from {suffix or "a file without ending"}.'
    )
  try:
    return readers[suffix](path)
  except UserError:
    raise
  except Exception as error:  # each format's library raises its own
    text = str(error).strip().splitlines()
    raise UserError(f'{path!r} is no whole {suffix} file: {text[0] if text else type(error).__name__}.') from error


def _npz(path: str) -> dict[str, np.ndarray]:
  if not zipfile.is_zipfile(path):
    raise UserError(f'{path!r} is no .npz archive.')
  with np.load(path, allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def _safetensors(path: str) -> dict[str, np.ndarray]:
  from safetensors.numpy import load_file

  return load_file(path)


def _torch(path: str) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f'{path!r} needs PyTorch to be read: pip install -e ".[torch]", or convert it to .safetensors or .npz.'
    ) from error
  return _flatten(torch.load(path, map_location='cpu', weights_only=True))


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, np.ndarray]:
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f'{prefix}{name}.')
    elif hasattr(value, 'detach'):
      value = value.detach()
      flat[f'{prefix}{name}'] = (value.float() if value.is_floating_point() else value).numpy()
  return flat
