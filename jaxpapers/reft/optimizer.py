"""Optimizer of Mask2Former: AdamW with groups, clipped by the norm of the whole gradient."""

import flax.traverse_util
import jax
import optax

_EMBEDDINGS = ('query_feat', 'query_embed')


def decay_mask(params: optax.Params) -> optax.Params:
  """True where weight decay applies: not on norms, object queries and the decoder's level embedding.

  Source: Mask2Former's code.
  """
  flat = flax.traverse_util.flatten_dict(dict(params))
  return flax.traverse_util.unflatten_dict({path: _decayed(path) for path in flat})


def _decayed(path: tuple[str, ...]) -> bool:
  *modules, leaf = path
  if leaf in _EMBEDDINGS or (leaf == 'level_embed' and 'decoder' in modules):
    return False
  return not modules or 'norm' not in modules[-1]


def backbone_rates(params: optax.Params, factor: float) -> optax.Params:
  """`factor` for leaves of the backbone, 1 for the others."""
  flat = flax.traverse_util.flatten_dict(dict(params))
  return flax.traverse_util.unflatten_dict({path: factor if 'backbone' in path else 1.0 for path in flat})


def mask2former_optimizer(
  learning_rate: optax.ScalarOrSchedule,
  *,
  weight_decay: float = 0.05,
  clip: float = 0.01,
  backbone: float = 0.1,
) -> optax.GradientTransformation:
  """AdamW as the published recipe groups it.

  Args:
    learning_rate: of all but the backbone.
    weight_decay: decoupled, scaled by the rate.
    clip: largest norm of the whole gradient; 0 does not clip.
    backbone: factor of the backbone's rate.
  """

  def scale_backbone(updates, params):
    del params
    return jax.tree.map(lambda u, f: f * u, updates, backbone_rates(updates, backbone))

  parts = [optax.clip_by_global_norm(clip)] if clip else []
  parts += [
    optax.scale_by_adam(),
    optax.add_decayed_weights(weight_decay, decay_mask),
    optax.stateless(scale_backbone),
    optax.scale_by_learning_rate(learning_rate),
  ]
  return optax.chain(*parts)
