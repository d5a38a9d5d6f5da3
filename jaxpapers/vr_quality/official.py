"""The authors' names, and torchvision's ResNet-18, for every network of the room; strict.

No trained quality weights are published. The names are torchvision's under `backbone.`, and `quality.0`, `quality.1`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.layers.resnet import torchvision_key
from jaxpapers.layers.torch_state import from_torch, to_torch
from jaxpapers.vr_quality.model import QualityModel

Variables = dict[str, Any]
_HEAD = {'quality0': 'quality.0', 'quality1': 'quality.1'}
_OURS = r'^concentration$'  # what the authors' model does not have


def official_key(path: tuple[str, ...]) -> str:
  """Official name of a leaf, e.g. ('params', 'backbone', 'bn1', 'scale') -> 'backbone.bn1.weight'."""
  _, top, *rest = path
  if top == 'backbone':
    return 'backbone.' + torchvision_key(rest)
  return f'{_HEAD[top]}.{torchvision_key(rest)}' if top in _HEAD else top


def import_official(state: Mapping[str, Any], model: QualityModel) -> Variables:
  """Variables of `model`, whose backbone is a ResNet, from a state dict of the authors' model or their ERP baseline.

  Args:
    state: official name -> array, with or without the batch norms' counters.
    model: of the same sizes; its pooling is free: concentrations that the state lacks are left out of the result.

  Raises:
    ValueError: naming every missing, unexpected and misshapen entry.
  """
  return from_torch(state, template(model), official_key, allow_missing=[_OURS])


def export_official(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Inverse of `import_official`: official names and layouts."""
  return to_torch(variables, official_key)


def import_backbone(state: Mapping[str, Any], model: QualityModel) -> Variables:
  """The backbone's variables from a torchvision ResNet-18 file; its classifier (`fc.`) is not used.

  Source: the authors' start from ImageNet weights.

  Raises:
    ValueError: naming every missing, unexpected and misshapen entry.
  """
  wanted = {collection: {'backbone': tree['backbone']} for collection, tree in template(model).items()}
  return from_torch(
    {f'backbone.{k}': v for k, v in state.items()}, wanted, official_key, allow_unused=[r'^backbone\.fc\.']
  )


def is_torchvision(state: Mapping[str, Any]) -> bool:
  """Whether the names are those of a bare ResNet."""
  return 'conv1.weight' in state


def template(model: QualityModel) -> Variables:
  """Shapes of the model's variables."""
  side = max(model.npart, 1) * 2**model.backbone.halvings
  frames = jnp.zeros((1, model.frames, side, 2 * side, 3))
  return dict(jax.eval_shape(model.init, jax.random.key(0), frames))
