"""The COCO recipes on a toy set: every stage fits its batches, without compiling; what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import reft as settings
from jaxpapers.engine.errors import UserError
from jaxpapers.reft import coco_experiment, coco_sets, experiment, splits
from tests.reft import toy_coco

CATS = ((3, 5), (3,), (5, 9), (9, 3), (5, 5), (9,))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('coco')
  for part in ('train', 'test'):
    (root / part).mkdir()
    toy_coco.write(root / part, toy_coco.content(CATS))
  return root


@pytest.fixture
def toy(monkeypatch, folder):
  def split(annotations):
    return splits.make_split(annotations, ['cat', 'dog'], ['owl'])

  layout = coco_sets.Layout('train/instances.json', 'train', 'test/instances.json', 'test', split)
  monkeypatch.setitem(coco_sets.LAYOUTS, 'toy', layout)

  def config(setting):
    made = settings.get_config(f'coco_{setting}')
    made.data.update({'dir': str(folder), 'layout': 'toy', 'max_objects': 3, 'size': 64, 'workers': 0})
    made.model.update({'backbone': 'tiny', 'classes': 3, 'queries': 5, 'width': 32, 'heads': 2})
    made.model.update({'encoder_layers': 1, 'decoder_layers': 2})
    made.coco.update({'shots': 1, 'sampled': (1,), 'points': 16, 'batch_size': 2, 'base_steps': 2, 'episode_steps': 2})
    made.coco.update({'support_batch': 2, 'test_batch': 2, 'test_canvas': 64, 'test_long': 60, 'test_short': 40})
    return made

  return config


def test_every_stage_fits_its_batches(toy):
  config = toy('ifsis')
  states = {}
  for stage in experiment.experiment(config).stages:
    batch = stage.batch(0)
    assert {len(x) for x in jax.tree.leaves(batch)} == {2 if stage.name != 'support' else 1}
    state = jax.eval_shape(stage.init, jax.random.key(0), batch, states)
    if stage.name != 'episodes':  # Its step is that of few_shot.
      assert jax.eval_shape(stage.step, state, batch, jax.random.key(0))[0] == state, stage.name
    states[stage.name] = state
    for evaluation in stage.evaluations:
      out = jax.eval_shape(evaluation.step, state, next(iter(evaluation.batches())))
      assert out['masks'].shape == (2, 5, 16, 16) and out['scores'].shape == (2, 15)
  assert list(states) == ['base', 'episodes', 'incremental', 'support']


def test_settings_choose_stages_steps_and_classes(toy):
  config = toy('gfsis')
  base, episodes, few_shot, support = experiment.experiment(config).stages
  assert (few_shot.name, few_shot.steps, base.steps, episodes.steps) == ('few_shot', 2000, 2, 2)
  assert sorted(c for i in range(support.steps) for c in support.batch(i)['classes'] if c >= 0) == [0, 1, 2]
  config = toy('fsis')
  config.model.update({'first_reference': False, 'second_reference': False})
  names = [(stage.name, stage.steps) for stage in experiment.experiment(config).stages]
  assert names == [('base', 2), ('few_shot', 500), ('support', 1)]


def test_new_classes_start_with_rows_of_their_own():
  """What a classifier of all classes may know of them is forgotten; the others stay."""
  rows = jnp.asarray([False, True, False, False])
  old = {'class_embed': {'kernel': jnp.ones((5, 4)), 'bias': jnp.ones(4)}}
  new = {'class_embed': {'kernel': jax.random.normal(jax.random.key(0), (5, 4)), 'bias': jnp.zeros(4)}}
  pick = functools.partial(coco_experiment._fresh_rows, rows, False)
  made = jax.tree_util.tree_map_with_path(pick, old, new)['class_embed']
  np.testing.assert_array_equal(made['bias'], [1, 0, 1, 1])
  np.testing.assert_array_equal(np.delete(made['kernel'], 1, axis=1), 1.0)
  assert 0 < np.abs(made['kernel'][:, 1]).max() < 0.1
  head, pick = {'weight': jnp.ones((4, 5)), 'bias': jnp.ones(5)}, functools.partial(pick.func, rows, True)
  made = jax.tree_util.tree_map_with_path(pick, head, head)
  np.testing.assert_array_equal(made['weight'].sum(axis=1), [5, 0, 5, 5])
  np.testing.assert_array_equal(made['bias'], 1.0)


def test_settings_that_do_not_fit_the_annotations(toy):
  config = toy('gfsis')
  config.model.classes = 80
  with pytest.raises(UserError, match='config.model.classes=80, but the annotations have 3 classes'):
    experiment.experiment(config)
  config = toy('gfsis')
  config.data.size = 100
  with pytest.raises(UserError, match='config.data.size=100 must be a multiple of 32'):
    experiment.experiment(config)
  config = toy('gfsis')
  config.model.backbone = 'swin'
  with pytest.raises(UserError, match="config.model.backbone='swin' is not known"):
    experiment.experiment(config)
  config.data.dir = ''
  with pytest.raises(UserError, match='config.data.dir=FOLDER'):
    experiment.experiment(config)


def test_official_weights_are_for_coco():
  with pytest.raises(UserError, match='for the variants on COCO'):
    experiment.import_variables(settings.get_config('test'), {'x': np.zeros(1)})
