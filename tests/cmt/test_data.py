"""From the set on disk to batches: shapes, counts, pasting, balance, and the same batches on any number of hosts."""

import numpy as np
import pytest

from jaxpapers.cmt import augment, boxes, cbgs, checks, data, database, geometry, metrics, nuscenes, paste, sweeps
from jaxpapers.engine.errors import UserError
from tests.cmt import nuscenes_set

IMAGE = augment.ImageLimits((64, 96), (0.8, 1.1))
RECIPE = data.Recipe(max_points=3000, max_boxes=8, image=IMAGE)
STILL = augment.BevLimits(0.0, (1.0, 1.0), 0.0, 0.0)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
  return nuscenes.NuScenes(nuscenes_set.write(tmp_path_factory.mktemp('nuscenes')))


@pytest.fixture(scope='module')
def source(dataset):
  return data.NuScenesSource(dataset, dataset.tokens('mini_train'))


@pytest.fixture(scope='module')
def objects(dataset, tmp_path_factory):
  seen = []
  built = database.build(dataset, dataset.tokens('mini_val'), tmp_path_factory.mktemp('objects'), progress=seen.append)
  assert seen == [0, 1, 2]
  return built


def test_training_batches_have_the_seam_s_arrays(source):
  pipeline = data.train_batches(source, RECIPE._replace(masked_modal=True), seed=3, batch_size=4)
  batch = pipeline(0)
  shapes = {name: (value.dtype.name, value.shape) for name, value in batch.items()}
  assert shapes == {
    'points': ('float32', (4, 3000, 5)),
    'points_mask': ('bool', (4, 3000)),
    'images': ('float32', (4, 6, 64, 96, 3)),
    'lidar2img': ('float32', (4, 6, 4, 4)),
    'img2lidar': ('float32', (4, 6, 4, 4)),
    'boxes': ('float32', (4, 8, 9)),
    'labels': ('int32', (4, 8)),
    'boxes_mask': ('bool', (4, 8)),
    'has_lidar': ('bool', (4,)),
    'has_camera': ('bool', (4, 6)),
    'index': ('int32', (4,)),
    'dropped_points': ('int32', (4,)),
    'dropped_boxes': ('int32', (4,)),
  }
  assert not batch['dropped_points'].any() and (batch['boxes_mask'].sum(1) == 4).all()
  np.testing.assert_allclose(
    batch['lidar2img'] @ batch['img2lidar'], np.broadcast_to(np.eye(4), (4, 6, 4, 4)), atol=2e-3
  )
  again = data.train_batches(source, RECIPE._replace(masked_modal=True), seed=3, batch_size=4)
  halves = [
    data.train_batches(source, RECIPE._replace(masked_modal=True), seed=3, batch_size=4, process=k, processes=2)(0)
    for k in (0, 1)
  ]
  for name, value in batch.items():
    np.testing.assert_array_equal(again(0)[name], value)
    np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), value)
  masked = [pipeline(step) for step in range(10)]
  dark = np.concatenate([~part['images'].any(axis=(1, 2, 3, 4)) for part in masked])
  collapsed = np.concatenate([np.ptp(part['points'][:, :20, 0], axis=1) == 0 for part in masked])
  assert dark.any() and collapsed.any() and not (dark & collapsed).any() and not (dark | collapsed).all()


def test_points_boxes_and_pictures_move_together(source):
  """Points inside a box stay inside it and on the same pixels, whatever was drawn."""
  example = source[1]
  inside = boxes.points_in_boxes(example['points'], example['boxes']).sum(1)
  got = data.TrainTransform(RECIPE)(example, np.random.default_rng(0))
  points, moved = got['points'][got['points_mask']], got['boxes'][got['boxes_mask']]
  np.testing.assert_array_equal(boxes.points_in_boxes(points, moved).sum(1), inside)
  assert (inside >= 10).all()
  here, depth = geometry.project(got['lidar2img'][0], boxes.to_gravity(moved)[:, :3])
  pictures, plain = data.EvaluationTransform(RECIPE)(example), RECIPE.image.size
  there, _ = geometry.project(pictures['lidar2img'][0], boxes.to_gravity(example['boxes'])[:, :3])
  draw = augment.central_image(plain, nuscenes_set.SIZE)
  raw = (there[depth > 0] + [draw.left, draw.top]) / draw.resize
  # Two draws of one picture differ by a scale, a mirror and a shift.
  fit = [np.polyfit(raw[:, k], here[depth > 0][:, k], 1) for k in (0, 1)]
  np.testing.assert_allclose(np.polyval(fit[0], raw[:, 0]), here[depth > 0][:, 0], atol=0.05)
  assert abs(fit[0][0]) == pytest.approx(fit[1][0], rel=1e-3) and 0.8 <= fit[1][0] <= 1.1


def test_what_does_not_fit_is_counted(source):
  small = data.EvaluationTransform(RECIPE._replace(max_points=100, max_boxes=3))(source[1])
  whole = data.EvaluationTransform(RECIPE)(source[1])
  assert small['dropped_points'] == whole['points_mask'].sum() - 100 > 0
  assert small['dropped_boxes'] == 1
  np.testing.assert_array_equal(small['points'], whole['points'][:100])  # the keyframe's own come first
  near = data.EvaluationTransform(RECIPE._replace(pc_range=(-10, -10, -5, 10, 10, 3)))(source[1])
  assert near['boxes_mask'].sum() < whole['boxes_mask'].sum() and near['dropped_boxes'] == 0
  assert np.abs(near['points'][:, :2]).max() < 10


def test_one_sensor_alone(dataset):
  tokens = dataset.tokens('mini_train')
  lidar = data.NuScenesSource(dataset, tokens, cameras=False)
  batch = data.train_batches(lidar, RECIPE._replace(image=None), seed=0, batch_size=2)(0)
  assert 'images' not in batch and not batch['has_camera'].any() and batch['has_lidar'].all()
  camera = data.NuScenesSource(dataset, tokens, lidar=False)
  recipe = RECIPE._replace(lidar=False, bev=augment.CAMERA_BEV)
  batch = data.train_batches(camera, recipe, seed=0, batch_size=2)(0)
  assert not batch['points_mask'].any() and not batch['has_lidar'].any() and batch['images'].any()
  for recipe, message in (
    (RECIPE._replace(lidar=False, image=None), 'needs LiDAR or pictures'),
    (RECIPE._replace(lidar=False, masked_modal=True), 'has only one'),
    (RECIPE._replace(image=augment.ImageLimits((64, 90))), 'multiples of 32'),
    (RECIPE._replace(max_boxes=0), 'at least 1'),
  ):
    with pytest.raises(UserError, match=message):
      data.TrainTransform(recipe)
  with pytest.raises(UserError, match='should have one size'):
    data.EvaluationTransform(RECIPE)(lidar[0])
  with pytest.raises(UserError, match='nothing to detect'):
    data.NuScenesSource(dataset, tokens, lidar=False, cameras=False)


def test_a_pass_counts_every_keyframe_once(source):
  batches = list(data.evaluation_batches(source, RECIPE, 2)())
  assert [batch['index'][batch['valid']].tolist() for batch in batches] == [[0, 1], [2]]


def test_database_holds_objects_around_their_bottom_centre(dataset, objects):
  assert len(objects) == 12  # four objects of detection classes in three keyframes
  for row in range(len(objects)):
    entry, box = objects[row], objects.boxes[row].copy()
    box[:3] = 0
    assert boxes.points_in_boxes(entry.points, box[None]).all() and len(entry.points) >= 10
  pictures = [objects[row].picture for row in range(len(objects))]
  assert any(picture is not None for picture in pictures)
  frame = dataset.frame('scene-0103-0')
  sizes = []
  for camera in frame.cameras:
    places, visible = database.rectangles(
      nuscenes.lidar2img(camera.intrinsics, camera.lidar2cam), objects.boxes[:1], nuscenes_set.SIZE
    )
    sizes += [(places[0, 3] - places[0, 1], places[0, 2] - places[0, 0])] if visible[0] else []
  assert pictures[0].shape[:2] == max(sizes, key=np.prod)


def test_command_builds_a_database(dataset, tmp_path, capsys):
  command = [str(tmp_path / 'objects'), '--root', str(dataset.root), '--version', dataset.version, '--split']
  assert database.main([*command, 'mini_train']) == 0
  assert 'car                    6\n' in capsys.readouterr().out
  assert len(database.Database(tmp_path / 'objects')) == 12
  assert database.main([*command, 'train']) == 2
  assert 'belongs to v1.0-trainval' in capsys.readouterr().err


def test_damaged_databases_are_named(dataset, tmp_path):
  with pytest.raises(UserError, match='no finished database'):
    database.Database(tmp_path)
  database.build(dataset, ['scene-0061-0'], tmp_path, sweeps=0)
  with open(tmp_path / 'points.bin', 'ab') as file:
    file.write(b'123')
  with pytest.raises(UserError, match='points.bin has .* bytes, not'):
    database.Database(tmp_path)


def test_pasted_objects_fill_up_and_overlap_nothing(objects):
  rng = np.random.default_rng(0)
  none = np.zeros((0, 9), np.float32), np.zeros(0, np.int32)
  points = rng.uniform(-30, 30, (20_000, 5)).astype(np.float32)
  rows = paste.choose(*none, objects, rng)
  counts = np.bincount(objects.labels[rows], minlength=10)
  assert 1 <= counts[0] <= 2 and 1 <= counts[8] <= 2 and counts[7] >= 1 and counts.sum() == len(rows)
  scene = paste.paste(points, *none, objects, rows)
  assert not (boxes.overlap_from_above(scene.boxes, scene.boxes) & ~np.eye(len(rows), dtype=bool)).any()
  wanted = [len(objects[row].points) for row in rows]
  np.testing.assert_array_equal(boxes.points_in_boxes(scene.points, scene.boxes).sum(1), wanted)
  assert len(scene.points) < len(points) + sum(wanted)  # what was there made room
  # Nothing is added to a scene that has enough, or where the place is taken.
  full = np.repeat(np.arange(10), 7)
  assert not len(paste.choose(np.tile(objects.boxes[:1] + [900, *[0] * 8], (70, 1)), full, objects, rng))
  assert not len(paste.choose(objects.boxes, np.full(len(objects), 5), objects, rng))


def test_blending_keeps_near_objects_before_far_ones():
  matrix = np.asarray([[50.0, -100, 0, 0], [50, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # looks along x
  near = np.asarray([10.0, 0, -1, 2, 2, 2, 0, 0, 0], np.float32)
  far = near + np.asarray([10, 0, 0, 0, 4, 0, 0, 0, 0], np.float32)
  image = np.full((100, 100, 3), 100, np.uint8)
  white = np.full((5, 5, 3), 200, np.uint8)
  scene = paste.Pasted(None, np.stack([near, far]), None, [None, white], 1)
  blended = paste.blend(image, scene, matrix)
  (left, top, right, bottom), behind = database.rectangles(matrix, scene.boxes, (100, 100))[0]
  assert blended[(top + bottom) // 2, (left + right) // 2, 0] == 125  # far at half strength, then the near one again
  assert blended[(behind[1] + behind[3]) // 2, behind[0], 0] == 150  # the far one alone
  assert blended[2, 2, 0] == 100
  hidden = paste.Pasted(None, np.stack([far, near]), None, [None, white], 1)
  assert paste.blend(image, hidden, matrix)[(top + bottom) // 2, (left + right) // 2, 0] == 150
  unchanged = paste.blend(image, scene._replace(boxes=scene.boxes * np.asarray([-1] + [1] * 8)), matrix)
  np.testing.assert_array_equal(unchanged, image)  # behind the camera


def test_pasting_ends_at_its_step(source, objects):
  recipe = RECIPE._replace(max_boxes=30)
  options = {'seed': 1, 'batch_size': 2}
  switched = data.train_batches(source, recipe, database=objects, paste_steps=2, **options)
  plain = data.train_batches(source, recipe, **options)
  counts = [switched(step)['boxes_mask'].sum() for step in range(4)]
  assert min(counts[:2]) > max(counts[2:])
  np.testing.assert_array_equal(switched(2)['points'], plain(2)['points'])
  np.testing.assert_array_equal(switched(1)['index'], plain(1)['index'])
  for start in (0, 1, 3):
    stream = switched.iterate(start)
    ahead = [next(stream) for _ in range(3)]
    stream.close()
    for step, batch in enumerate(ahead, start):
      np.testing.assert_array_equal(batch['boxes'], switched(step)['boxes'])


def test_rare_classes_are_seen_as_often(dataset):
  rng = np.random.default_rng(0)
  present = np.zeros((1000, 10), bool)
  present[:, 0] = True
  present[:50, 1] = True
  present[:10, 2] = True
  drawn = cbgs.resample(present, rng)
  assert len(drawn) == 3 * (1060 // 10)
  seen = present[drawn].sum(0)
  assert seen[1] > 100 and seen[2] > 100
  with pytest.raises(UserError, match='nothing can be balanced'):
    cbgs.resample(np.zeros((3, 10), bool), rng)
  tokens = dataset.tokens('mini_val')
  classes = cbgs.present_classes(dataset, tokens)
  assert [metrics.CLASSES[k] for k in np.flatnonzero(classes.all(0))] == ['car', 'bicycle', 'pedestrian']
  assert (classes.any(0) == classes.all(0)).all()
  resampled = data.NuScenesSource(dataset, tokens, indices=np.asarray([2, 2, 0]))
  assert [resampled[k]['token'] for k in range(3)] == [tokens[2], tokens[2], tokens[0]]


@pytest.mark.parametrize(
  ('check', 'message'),
  [
    (lambda: checks.check_points(np.zeros((4, 3))), r'points must be \[n, 5 or more\].*not \[4, 3\]'),
    (lambda: checks.check_points(np.full((4, 5), np.nan)), 'point 0 is'),
    (lambda: checks.check_boxes(np.zeros((2, 7)), np.zeros(2), 10), r'\[n, 9\].*not \[2, 7\]'),
    (lambda: checks.check_boxes(np.zeros((2, 9)), np.zeros(2), 10), 'size of box 0.*must be positive'),
    (lambda: checks.check_boxes(np.full((2, 9), np.inf), np.zeros(2), 10), 'box 0 is'),
    (lambda: checks.check_boxes(np.ones((2, 9)), np.asarray([0, 10]), 10), 'label of box 1 is 10; classes are 0..9'),
    (lambda: checks.image_to_lidar(np.ones((5, 4, 4)), 6), r'must be \[6, 4, 4\].*not \[5, 4, 4\]'),
    (lambda: checks.image_to_lidar(np.full((6, 4, 4), np.nan), 6), 'camera 0 is not finite'),
    (lambda: checks.image_to_lidar(np.ones((6, 4, 4)), 6), 'camera 0 has no inverse'),
  ],
)
def test_bad_scenes_are_named(check, message):
  with pytest.raises(UserError, match=message):
    check()


def test_matrices_are_inverted():
  matrices = np.stack([np.diag([k, 1, 1, 1.0]) for k in range(1, 7)])
  np.testing.assert_allclose(checks.image_to_lidar(matrices, 6)[:, 0, 0], 1 / np.arange(1, 7), rtol=1e-6)


def test_points_file_is_read_as_written(dataset):
  frame = dataset.frame('scene-0061-0')
  points = sweeps.read_points(frame.lidar)
  wanted = nuscenes_set.to_sensor(nuscenes_set.world_points(0.0), 0, 0.0)
  np.testing.assert_allclose(points[:, :3], wanted, atol=1e-5)
