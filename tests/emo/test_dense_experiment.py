import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import emo as configs
from jaxpapers import engine
from jaxpapers.emo import dense_experiment, dense_recipe, dense_report, official, official_dense
from jaxpapers.emo.experiment import experiment
from jaxpapers.engine import loop, weights
from jaxpapers.engine.parallel import path_name

DENSE = ('coco_ssdlite', 'coco_retinanet', 'ade20k_deeplabv3', 'ade20k_pspnet', 'ade20k_semfpn')


def template(variant):
  """The variant's heads on a small backbone."""
  config = configs.get_config(variant)
  config.model = configs.get_config('shapes_detection_test').model
  model = dense_experiment.build_model(config, 7)
  return config, model, official.shapes(model, jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize('variant', DENSE)
def test_official_weights_are_imported_by_name_and_wrong_ones_refused(variant):
  _, model, shapes = template(variant)
  rng = np.random.default_rng(0)
  state, wanted = {}, {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    names = [entry.key for entry in path]
    value = rng.normal(size=leaf.shape).astype(np.float32)
    wanted[tuple(names)] = value
    if names[1] == 'backbone':
      continue
    if len(leaf.shape) == 4:
      value = value.transpose(3, 2, 0, 1)
    elif len(leaf.shape) == 3:
      value = value.transpose(2, 0, 1)[:, None]
    state[official_dense.official_name('/'.join(names[1:]))] = value
  backbone = {}
  for (collection, _, *rest), value in ((k, v) for k, v in wanted.items() if k[1] == 'backbone'):
    node = backbone.setdefault(collection, {})
    for name in rest[:-1]:
      node = node.setdefault(name, {})
    node[rest[-1]] = value
  state |= {f'backbone.{name}': value for name, value in official.export_official(backbone).items()}
  imported = official_dense.import_dense({f'module.{name}': value for name, value in state.items()}, model)
  assert jax.tree.structure(imported) == jax.tree.structure(shapes)
  for path, leaf in jax.tree_util.tree_leaves_with_path(imported):
    np.testing.assert_array_equal(leaf, wanted[tuple(entry.key for entry in path)])
  first = next(name for name in state if not name.startswith('backbone.'))
  with pytest.raises(engine.UserError, match=f'{first} is missing; neck.stranger is not in this model'):
    official_dense.import_dense({**{k: v for k, v in state.items() if k != first}, 'neck.stranger': np.ones(1)}, model)
  with pytest.raises(engine.UserError, match=f'{first} has shape'):
    official_dense.import_dense({**state, first: state[first][..., None]}, model)


def test_schedules():
  cosine = dense_recipe.schedule('cosine', 1.0, 1000, 100, 1e-3)
  assert cosine(0) == pytest.approx(1e-3, rel=1e-4)
  assert cosine(50) == pytest.approx(0.5005 * 0.5 * (1 + np.cos(np.pi * 0.05)), rel=1e-4)
  assert cosine(500) == pytest.approx(0.5) and cosine(1000) == pytest.approx(0, abs=1e-6)
  poly = dense_recipe.schedule('poly', 2.0, 80, 0, 0.0)
  assert poly(0) == 2 and poly(40) == pytest.approx(2 * 0.5**0.9) and poly(80) == 0
  late = dense_recipe.schedule('constant_cosine', 1.0, 100, 0, 0.0)
  assert late(50) == 1 and late(75) == pytest.approx(0.5)
  with pytest.raises(engine.UserError, match="Did you mean 'cosine'"):
    dense_recipe.schedule('cosin', 1.0, 1, 0, 0.0)


def test_weight_decay_spares_the_norms_of_the_backbone_only():
  _, _, shapes = template('coco_ssdlite')
  held = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(dense_recipe.decays(shapes['params']))}
  spared = {name for name, decays in held.items() if not decays}
  assert spared and all(name.startswith('backbone/stage') and 'norm' in name for name in spared)
  assert held['backbone/stem/norm/scale'] and held['head/class0_depthwise/norm/scale']
  assert all(held[n] for n in held if n.endswith('kernel') or (n.endswith('bias') and 'norm' not in n))


def test_heads_can_learn_faster():
  params = {'backbone': {'a': {'kernel': jnp.ones(2)}}, 'head': {'b': {'kernel': jnp.ones(2)}}}
  optimizer = dense_recipe.adamw(0.1, 0.0, head_multiplier=10.0)
  updates, _ = optimizer.update(optax.tree.ones_like(params), optimizer.init(params), params)
  assert updates['head']['b']['kernel'][0] == pytest.approx(10 * float(updates['backbone']['a']['kernel'][0]))


def test_frozen_leaves():
  _, _, shapes = template('coco_retinanet')
  held = dense_experiment.frozen_leaves(shapes['params'], 1)
  names = {path_name(p) for p, x in jax.tree_util.tree_leaves_with_path(held) if x}
  assert names and all(name.startswith(('backbone/stem/', 'backbone/stage1_')) for name in names)
  everything = dense_experiment.frozen_leaves(shapes['params'], dense_experiment.WHOLE_BACKBONE)
  assert all(jax.tree.leaves(everything['backbone'])) and not any(jax.tree.leaves(everything['head']))


def test_a_classifier_gives_its_backbone_and_new_leaves_are_reported(tmp_path, capsys):
  config = configs.get_config('shapes_segmentation_test')
  classifier = configs.get_config('test')
  model = dense_experiment.build_model(config, 9)
  image = jnp.zeros((1, 64, 64, 3))
  variables = jax.tree.map(lambda x: np.ones(x.shape), official.shapes(model.backbone.clone(num_classes=4), image))
  weights.save_variables(str(tmp_path / 'classifier'), classifier, variables)
  start = dense_experiment.starting_point(str(tmp_path / 'classifier'))
  initial = jax.tree.map(lambda x: jnp.zeros(x.shape), official.shapes(model, image))
  merged = start(initial)
  said = capsys.readouterr().out
  assert 'leaves are new' in said and 'params/head/classify/conv/kernel' in said and 'backbone' not in said
  for path, leaf in jax.tree_util.tree_leaves_with_path(merged):
    assert np.all(leaf == ('/backbone/' in path_name(path)))
  wider = dense_experiment.build_model(configs.get_config('shapes_segmentation'), 9)
  with pytest.raises(engine.UserError, match='do not fit this model'):
    start(official.shapes(wider, image))


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_the_test_variant_trains_and_reports(tmp_path, task):
  config = configs.get_config(f'shapes_{task}_test')
  made = experiment(config)
  final = loop.run(made, config, str(tmp_path / 'run'))
  key = {'detection': 'test/AP50', 'segmentation': 'test/mIoU'}[task]
  assert 0 <= final['dense'][key] <= 1
  pictures = {path.name for path in (tmp_path / 'run' / 'report').iterdir()}
  expected = {'detection': {'detections.png', 'precision_recall.png'}, 'segmentation': {'masks.png'}}[task]
  assert expected | {'curves.png', 'confusion.png', 'index.html', 'results.json'} <= pictures


def test_baselines_are_stages_and_share_what_is_compiled():
  config = configs.get_config('shapes_detection_test')
  config.baselines = True
  made = dense_experiment.experiment(config)
  assert [(s.name, s.steps) for s in made.stages] == [('untrained', 0), ('frozen_backbone', 4), ('dense', 4)]
  assert len({s.init for s in made.stages}) == 1
  assert len({s.evaluations[0].step for s in made.stages}) == 1


def test_settings_that_do_not_exist():
  config = configs.get_config('shapes_detection_test')
  config.head.name = 'ssdlit'
  with pytest.raises(engine.UserError, match="Did you mean 'ssdlite'"):
    dense_experiment.experiment(config)
  config.task = 'detect'
  with pytest.raises(engine.UserError, match="Did you mean 'detection'"):
    experiment(config)


def test_confusion_of_detections():
  outputs = {
    'valid': np.array([True]),
    'truth_valid': np.array([[True, True, False]]),
    'boxes': np.array([[[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 0, 0]]], np.float32),
    'labels': np.array([[0, 1, 0]]),
    'found_valid': np.array([[True, True, True, True]]),
    'found_scores': np.array([[0.9, 0.8, 0.7, 0.1]]),
    'found_labels': np.array([[1, 0, 0, 1]]),
    'found_boxes': np.array([[[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]]], np.float32),
  }
  counts = dense_report.detection_confusion(outputs, 2)
  # The first object is found as class 1, the second only below the score; the class-0 detections are false alarms.
  np.testing.assert_array_equal(counts, [[0, 1, 0], [0, 0, 1], [2, 0, 0]])
