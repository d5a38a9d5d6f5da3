"""The whole network at a small size: sensors, masks, empty inputs, what training changes, wrong inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.cmt import official
from jaxpapers.cmt.camera import CameraBranch, normalise
from jaxpapers.cmt.cp_fpn import CPFPN
from jaxpapers.cmt.model import CMT, cmt_r50
from jaxpapers.cmt.second import SECONDFPN
from jaxpapers.cmt.vovnet import VoVNet, ceil_max_pool
from tests.cmt.networks import small_inputs, small_model

EVERYTHING = {'has_lidar': np.ones(2, bool), 'has_camera': np.ones((2, 3), bool)}


@pytest.fixture(scope='module')
def net():
  """(model, variables, compiled forward) shared by the tests."""
  model = small_model()
  rng = np.random.default_rng(0)

  def draw(path, x):
    kind = path[-1].key
    if kind == 'var':
      return np.ones(x.shape, np.float32)
    fan = max(np.prod(x.shape[:-1]), 1) if len(x.shape) > 1 else 100
    return (rng.normal(size=x.shape) / np.sqrt(fan) + (kind == 'scale')).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, official.template(model))
  return model, variables, jax.jit(lambda variables, inputs: model.apply(variables, **inputs))


def _close(a, b, atol=2e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def test_cameras_and_their_matrices_may_be_permuted_together(net):
  _, variables, forward = net
  inputs = {**small_inputs(), **EVERYTHING}
  out = forward(variables, inputs)
  assert np.isfinite(out.head.tasks[0]['center']).all()
  turned = {k: v[:, [2, 0, 1]] if k in ('images', 'lidar2img', 'img2lidar') else v for k, v in inputs.items()}
  _close(forward(variables, turned).head.tasks, out.head.tasks)
  other = {**inputs, 'images': inputs['images'][:, [2, 0, 1]]}
  change = forward(variables, other).head.tasks[0]['cls_logits'] - out.head.tasks[0]['cls_logits']
  assert np.abs(change).max() > 1e-4  # the turned ones differ by less than 2e-5


def test_voxels_without_room_are_counted_for_every_example(net):
  _, variables, forward = net
  lost = forward(variables, {**small_inputs(), **EVERYTHING}).lost
  assert set(lost) == {'lost_voxels', 'outside_voxels', *(f'lost_sites{i}' for i in range(1, 5))}
  assert all(n.shape == (2,) for n in lost.values())
  assert 0 < int(lost['lost_voxels'][0]) <= 10 and not np.any([n[1] for n in lost.values()])


def test_hidden_points_are_absent_points(net):
  model, variables, forward = net
  inputs = small_inputs()
  hidden = forward(variables, {**inputs, **EVERYTHING, 'has_lidar': np.zeros(2, bool)})
  kept = {k: v for k, v in inputs.items() if not k.startswith('points')}
  absent = jax.jit(lambda variables, kept: model.apply(variables, **kept))(variables, kept)
  _close(hidden.head.tasks, absent.head.tasks)


def test_nothing_is_infinite_without_points(net):
  _, variables, forward = net
  inputs = {**small_inputs(), **EVERYTHING}
  inputs['points_mask'] = np.zeros_like(inputs['points_mask'])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(forward(variables, inputs)))


def test_the_camera_keeps_its_statistics_in_training(net):
  model, variables, _ = net
  inputs = {**small_inputs(), 'train': True, 'rngs': {'dropout': jax.random.key(0)}, 'mutable': ['batch_stats']}
  _, new = jax.eval_shape(lambda: model.apply(variables, **inputs))
  assert 'scale' in variables['params']['camera']['backbone']['bn1']  # which is trained
  kept = jax.make_jaxpr(lambda v: model.apply(v, **inputs)[1]['batch_stats']['camera'])(variables)
  given = {id(v) for v in kept.jaxpr.invars}
  assert kept.jaxpr.outvars and all(id(v) in given for v in kept.jaxpr.outvars)
  assert new['batch_stats'].keys() == {'camera', 'lidar', 'head'}


def test_wrong_inputs_are_named(net):
  model, variables, _ = net
  inputs = small_inputs()

  def run(model=model, **changed):
    jax.eval_shape(lambda: model.apply(variables, **{**inputs, **changed}))

  with pytest.raises(ValueError, match='Both sensors are absent'):
    run(points=None, images=None)
  with pytest.raises(ValueError, match='images are 64 x 80 pixels: pad both sides to multiples of 32'):
    run(images=inputs['images'][:, :, :, :80])
  with pytest.raises(ValueError, match=r'images must be \[batch, cameras, height, width, 3\]'):
    run(images=inputs['images'][0])
  with pytest.raises(ValueError, match=r'points must be .* not \(2, 90, 4\)'):
    run(points=inputs['points'][..., :4])
  with pytest.raises(ValueError, match='lidar2img must be .* 3 cameras'):
    run(lidar2img=inputs['lidar2img'][:, :2])
  with pytest.raises(ValueError, match='points were given to a model without a branch'):
    run(CMT(model.camera, None, model.head))
  with pytest.raises(ValueError, match='images were given to a model without a branch'):
    run(CMT(None, model.lidar, model.head))


def test_precision_reaches_what_may_have_it():
  half = cmt_r50(dtype=jnp.bfloat16)
  camera = CameraBranch(VoVNet((4, 4, 4), (1, 1), (2, 2), (4, 4), 1), CPFPN(4), 8, half.camera.dtype)
  images = jnp.ones((1, 1, 16, 16, 3))
  variables = jax.eval_shape(camera.init, jax.random.key(0), images)
  text = str(jax.make_jaxpr(camera.apply)(variables, images))
  convolutions = [line for line in text.splitlines() if '= conv_general_dilated' in line]
  assert convolutions and all('bf16' in line.split('=')[0] for line in convolutions)
  assert jax.eval_shape(camera.apply, variables, images).dtype == jnp.float32
  assert half.lidar.dtype == half.head.dtype == jnp.bfloat16


def test_the_grid_of_own_training_covers_the_range():
  """135 tokens a side of 0.8 m: an odd side, which the strided stage rounds up."""
  points, mask = jnp.zeros((1, 4, 5)), jnp.ones((1, 4), bool)
  branch = cmt_r50(cells=None).lidar
  bev, _ = jax.eval_shape(lambda: branch.init_with_output(jax.random.key(0), points, mask)[0])
  assert bev.shape == (1, 135, 135, 512)
  neck = SECONDFPN((2, 3))
  maps = [jnp.ones((1, 5, 7, 4)), jnp.ones((1, 3, 4, 4))]
  out, variables = jax.jit(neck.init_with_output)(jax.random.key(0), maps)
  whole = jax.jit(neck.apply)(variables, [jnp.ones((1, 6, 8, 4)), maps[1]])
  np.testing.assert_allclose(out, whole[:, :5, :7], atol=1e-6)
  with pytest.raises(ValueError, match='do not meet in one resolution'):
    jax.eval_shape(neck.apply, variables, [maps[0], jnp.ones((1, 2, 4, 4))])


def test_normalise_takes_blue_green_red():
  got = normalise(jnp.array([[103.53, 116.28, 123.675], [0.0, 0.0, 0.0]]))
  np.testing.assert_allclose(got, [[0, 0, 0], [-103.53 / 57.375, -116.28 / 57.12, -123.675 / 58.395]], atol=1e-6)


@pytest.mark.parametrize('size', [(2, 3), (4, 5), (7, 8)])
def test_ceil_mode_pooling_covers_the_last_rows(size):
  x = np.random.default_rng(0).normal(size=(1, *size, 2)).astype(np.float32)
  out = [-(-(n - 3) // 2) + 1 for n in size]
  want = [[x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(out[1])] for i in range(out[0])]
  np.testing.assert_array_equal(ceil_max_pool(jnp.asarray(x))[0], want)


def test_blocks_are_rematerialised_on_demand():
  x = jnp.ones((1, 16, 16, 3))

  def program(remat):
    net = VoVNet((4, 4, 4), (2,), (2,), (4,), 2, remat)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    return jax.eval_shape(net.apply, variables, x), str(
      jax.make_jaxpr(jax.grad(lambda v: net.apply(v, x)[0].sum()))(variables)
    )

  (plain, kept), (remat, again) = program(False), program(True)
  assert plain == remat
  assert 'remat' not in kept and 'remat' in again
