"""The base model that comes with the package: parameters in one .npz, with how they were made."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

PACKAGED = pathlib.Path(__file__).with_name('base.npz')
_NOTE = 'made_by'


def write(path: str | pathlib.Path, params: Mapping[str, Any], made_by: Mapping[str, Any]) -> None:
  """Writes parameters and a JSON note of their origin.

  Args:
    path: of the .npz.
    params: nested float32 arrays.
    made_by: command, seed and the like.
  """
  flat = flax.traverse_util.flatten_dict(dict(params), sep='/')
  np.savez_compressed(path, **{_NOTE: json.dumps(made_by)}, **{k: np.asarray(v) for k, v in flat.items()})


def read(path: str | pathlib.Path = PACKAGED) -> tuple[dict[str, Any], dict[str, Any]]:
  """(parameters, note) that `write` wrote.

  Raises:
    ValueError: naming a file that is missing or no base model.
  """
  try:
    with np.load(path) as data:
      note = json.loads(str(data[_NOTE]))
      flat = {name: data[name] for name in data.files if name != _NOTE}
  except (OSError, ValueError, KeyError) as error:
    raise ValueError(f'{path} cannot be read as a base model of RefT: {error}.') from error
  return flax.traverse_util.unflatten_dict(flat, sep='/'), note
