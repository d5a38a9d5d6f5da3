"""The authors' state dicts: names, shapes, layouts, counts, strictness, and the way back."""

import flax.traverse_util
import jax
import numpy as np
import pytest

from jaxpapers.cmt import model, official
from jaxpapers.engine.errors import UserError
from tests.cmt.networks import small_model

COUNTS = {'cmt_r50': 40_919_572, 'cmt_vov': 86_607_380, 'cmt_lidar': 16_769_492, 'cmt_camera': 78_156_100}
SHAPES = {
  'cmt_r50': {
    'img_backbone.layer3.0.downsample.0.weight': (1024, 512, 1, 1),
    'img_neck.fpn_convs.0.conv.weight': (256, 256, 3, 3),
    'img_neck.lateral_convs.1.conv.weight': (256, 2048, 1, 1),
    'pts_bbox_head.shared_conv.bn.running_var': (256,),
    'pts_bbox_head.reference_points.weight': (900, 3),
    'pts_bbox_head.transformer.decoder.layers.5.attentions.1.attn.in_proj_weight': (768, 256),
    'pts_bbox_head.task_heads.0.cls_logits.3.weight': (60, 64, 1),
  },
  'cmt_vov': {
    'img_backbone.stem.stem_3/conv.weight': (128, 64, 3, 3),
    'img_backbone.stage4.OSA4_9.layers.4.OSA4_9_4/norm.running_mean': (192,),
    'img_backbone.stage5.OSA5_3.concat.OSA5_3_concat/conv.weight': (1024, 1024 + 5 * 224, 1, 1),
    'img_backbone.stage5.OSA5_3.ese.fc.bias': (1024,),
  },
  'cmt_lidar': {
    'pts_middle_encoder.conv_input.0.weight': (16, 3, 3, 3, 5),
    'pts_middle_encoder.encoder_layers.encoder_layer3.2.0.weight': (128, 3, 3, 3, 64),
    'pts_middle_encoder.encoder_layers.encoder_layer4.1.conv2.weight': (128, 3, 3, 3, 128),
    'pts_middle_encoder.conv_out.0.weight': (128, 3, 1, 1, 128),
    'pts_backbone.blocks.1.15.weight': (256, 256, 3, 3),
    'pts_neck.deblocks.0.0.weight': (256, 128, 1, 1),
    'pts_neck.deblocks.1.0.weight': (256, 256, 2, 2),
    'pts_bbox_head.task_heads.0.height.0.weight': (384, 256, 3),
  },
  'cmt_camera': {'pts_bbox_head.rv_embedding.0.weight': (1024, 192)},
}


@pytest.mark.parametrize('name', COUNTS)
def test_published_models_have_the_published_parameters(name):
  template = official.template(getattr(model, name)())
  assert sum(x.size for x in jax.tree.leaves(template['params'])) == COUNTS[name]
  names = official.official_names(template)
  assert {key: names.get(key) for key in SHAPES[name]} == SHAPES[name]


@pytest.fixture(scope='module')
def small():
  """(template, variables of random numbers, their state dict)."""
  template = official.template(small_model())
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), template)
  return template, variables, official.export_official(variables)


def test_round_trip(small):
  template, variables, state = small
  again = official.import_official(state, small_model())
  jax.tree.map(np.testing.assert_array_equal, again, variables)
  names = official.official_names(template)
  assert {k: v.shape for k, v in state.items() if not k.endswith('num_batches_tracked')} == names
  counters = [k for k in state if k.endswith('num_batches_tracked')]
  assert len(counters) == sum(k.endswith('running_var') for k in names) > 30


def test_sparse_kernels_of_both_layouts_and_prefixes_of_trainers(small):
  template, variables, state = small
  old = {k: v.transpose(1, 2, 3, 4, 0) if v.ndim == 5 else v for k, v in state.items()}
  assert sum(v.ndim == 5 for v in old.values()) == 21
  for given in (old, {f'state_dict.module.{k}': v for k, v in state.items()} | {'meta.epoch': np.int64(3)}):
    jax.tree.map(np.testing.assert_array_equal, official.import_variables(given, template), variables)


def test_one_error_names_everything_that_does_not_fit(small):
  template, _, state = small
  broken = dict(state)
  missing = 'pts_bbox_head.transformer.decoder.layers.1.norms.2.bias'
  del broken[missing]
  broken['pts_middle_encoder.conv_out.0.weight'] = np.zeros((3, 1, 1, 6, 7), np.float32)
  broken['img_neck.fpn_convs.1.conv.bias'] = np.zeros(16, np.float32)
  with pytest.raises(UserError) as caught:
    official.import_variables(broken, template)
  text = str(caught.value)
  assert f'{missing} is missing' in text
  assert 'pts_middle_encoder.conv_out.0.weight has shape (3, 1, 1, 6, 7), not (6, 3, 1, 1, 6)' in text
  assert 'img_neck.fpn_convs.1.conv.bias is unexpected' in text
  assert text.count(';') == 2


def test_parts_are_taken_only_when_told_so(small):
  template, variables, state = small
  part = {k: v for k, v in state.items() if k.startswith('img_')}
  with pytest.raises(UserError, match='pts_backbone.blocks.0.0.weight is missing'):
    official.import_variables(part, template)
  got = official.import_variables(part, template, allow_missing=['^pts_'])
  assert set(got['params']) == {'camera'}
  jax.tree.map(np.testing.assert_array_equal, got['params']['camera'], variables['params']['camera'])
  lidar = official.template(small_model(camera=False))
  got = official.import_variables(state, lidar, allow_unexpected=['^img_', 'rv_embedding'])
  assert set(got['params']) == {'lidar', 'head'}
  assert set(flax.traverse_util.flatten_dict(got)) == set(flax.traverse_util.flatten_dict(dict(lidar)))
