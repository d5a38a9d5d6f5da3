"""The reader against a set whose world is known, and every kind of damage in one sentence."""

import json
import shutil

import numpy as np
import pytest

from jaxpapers.cmt import boxes, evaluation, geometry, json_stream, nuscenes, splits, sweeps
from jaxpapers.engine.errors import UserError
from tests.cmt import nuscenes_set


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return nuscenes_set.write(tmp_path_factory.mktemp('nuscenes'))


@pytest.fixture(scope='module')
def dataset(root):
  return nuscenes.NuScenes(root)


def test_a_keyframe_in_its_lidar_frame(dataset):
  token = 'scene-0103-1'
  frame, seconds = dataset.frame(token), 0.5
  world = np.asarray([place + np.asarray(v) * seconds for _, place, v, *_ in nuscenes_set.OBJECTS])
  np.testing.assert_allclose(
    boxes.to_gravity(frame.objects.boxes)[:, :3], nuscenes_set.to_sensor(world, 0, seconds), atol=1e-9
  )
  np.testing.assert_allclose(frame.objects.boxes[0, 3:6], [4.5, 2, 1.6])
  assert frame.objects.names.tolist()[:3] == ['car', 'car', 'pedestrian']
  assert frame.objects.names.tolist()[3:] == ['bicycle', 'static_object.bicycle_rack', 'animal']
  ahead = nuscenes_set.to_sensor(world[0] + np.asarray([[np.cos(0.4), np.sin(0.4), 0], [3, 0, 0]]), 0, seconds)
  offsets = ahead - nuscenes_set.to_sensor(world[:1], 0, seconds)
  assert frame.objects.boxes[0, 6] == pytest.approx(np.arctan2(offsets[0, 1], offsets[0, 0]))
  np.testing.assert_allclose(frame.objects.boxes[0, 7:], offsets[1, :2], atol=1e-6)
  assert frame.objects.attributes[0] == ('vehicle.moving',) and frame.objects.attributes[5] == ()


def test_landmarks_of_all_clouds_coincide(dataset):
  frame = dataset.frame('scene-0061-2')
  assert len(frame.sweeps) == 2 * (nuscenes_set.SWEEPS + 1)  # the chain ends where the scene starts
  assert not dataset.frame('scene-0061-0').sweeps
  clouds = sweeps.aggregate(frame).reshape(len(frame.sweeps) + 1, -1, 5)
  fixed = clouds[:, : len(nuscenes_set.LANDMARKS)]
  np.testing.assert_allclose(fixed[..., :3], np.broadcast_to(fixed[0, :, :3], fixed[..., :3].shape), atol=2e-5)
  np.testing.assert_allclose(clouds[:, 0, 4], np.arange(7) / 6, atol=1e-5)
  assert clouds[..., 3].min() == clouds[..., 3].max() == 7
  inside = boxes.points_in_boxes(clouds[0], frame.objects.boxes)
  assert (inside[:, len(nuscenes_set.LANDMARKS) :].sum(1) >= 10).all()
  assert len(sweeps.aggregate(dataset.frame('scene-0061-2', sweeps=1))) == clouds[:2, :, 0].size
  near = sweeps.aggregate(frame, ego_radius=8.0)
  assert 0 < len(near) < clouds[..., 0].size
  assert (np.abs(near[near[:, 4] == 0][:, :2]).max(1) >= 8).all()


def test_projection_is_the_camera_s_own(dataset):
  frame, world = dataset.frame('scene-0061-1'), nuscenes_set.LANDMARKS
  points = nuscenes_set.to_sensor(world, 0, 0.5)
  for channel, camera in enumerate(frame.cameras, 1):
    assert camera.channel == nuscenes_set.CHANNELS[channel]
    seen = nuscenes_set.to_sensor(world, channel, 0.5 + 0.01 * channel)
    wanted = seen @ np.asarray(nuscenes_set.intrinsics()).T
    pixels, depth = geometry.project(nuscenes.lidar2img(camera.intrinsics, camera.lidar2cam), points)
    np.testing.assert_allclose(depth, seen[:, 2], atol=1e-9)
    front = depth > 0.5
    np.testing.assert_allclose(pixels[front], (wanted[:, :2] / wanted[:, 2:])[front], atol=1e-6)
    picture = sweeps.read_picture(camera)
    assert picture.shape == (*nuscenes_set.SIZE, 3) and picture[0, 0, 0] > picture[0, 0, 2]  # blue first


def test_velocity_is_unknown_alone_or_after_a_gap(root, tmp_path):
  copy = shutil.copytree(root, tmp_path / 'copy')

  def edit(records):
    for record in records:
      if record['token'] == 'scene-0061-object-0-0':
        record['next'] = ''
      if record['token'] == 'scene-0061-object-0-1':
        record['prev'] = ''

  change(copy, 'sample_annotation', edit)
  change(copy, 'sample', lambda records: records[2].update(timestamp=records[1]['timestamp'] + 2_000_000))
  dataset = nuscenes.NuScenes(copy)
  assert np.isnan(dataset.frame('scene-0061-0').objects.boxes[0, 7:]).all()
  assert np.isnan(dataset.frame('scene-0061-1').objects.boxes[0, 7:]).all()  # one-sided, 2 s
  assert np.isfinite(dataset.frame('scene-0061-1').objects.boxes[2, 7:]).all()  # two-sided, 2.5 s
  assert np.isfinite(dataset.frame('scene-0103-0').objects.boxes[0, 7:]).all()


def change(root, table, edit):
  path = root / nuscenes_set.VERSION / f'{table}.json'
  records = json.loads(path.read_text())
  edit(records)
  path.write_text(json.dumps(records))


BROKEN = [
  ('scene', lambda r: r[0].update(first_sample_token='nowhere'), r"names the sample 'nowhere'"),
  ('scene', lambda r: r[1].update(nbr_samples=5), 'scene-0103 should have 5 samples'),
  ('sample', lambda r: r[0].update(next='nowhere'), r"sample.json: scene-0061-0 names the sample 'nowhere'"),
  ('sample', lambda r: r[2].update(next=r[0]['token']), 'its chain in sample.json has'),
  ('sample', lambda r: r[0].pop('timestamp'), "scene-0061-0 has no 'timestamp'"),
  ('sample', lambda r: r.append(r[0]), 'the token scene-0061-0 occurs twice'),
  ('sample', lambda r: r[0].update(token=None), 'the token None of record 0 is no text'),
  ('sample', lambda r: r.insert(1, 5), 'record 1 is no mapping'),
  ('sample_data', lambda r: r[0].update(sample_token=['x']), r"names the sample \['x'\]"),
  ('sample_annotation', lambda r: r[0].update(attribute_tokens=None), 'must be a list'),
  ('sample_data', lambda r: r[0].update(sample_token='nowhere'), "names the sample 'nowhere'"),
  ('sample_data', lambda r: r[0].update(ego_pose_token='nowhere'), "names the ego_pose 'nowhere'"),
  ('sample_data', lambda r: r[0].update(calibrated_sensor_token='x'), "names the calibrated_sensor 'x'"),
  ('sample_data', lambda r: r[9].update(prev='nowhere'), "names the sample_data 'nowhere'"),
  ('calibrated_sensor', lambda r: r[0].update(sensor_token='nowhere'), "names the sensor 'nowhere'"),
  ('calibrated_sensor', lambda r: r[1].update(camera_intrinsic=[]), "'camera_intrinsic' of m-CAM_FRONT"),
  ('calibrated_sensor', lambda r: r[1].update(camera_intrinsic=np.ones((3, 3)).tolist()), 'm-CAM_FRONT has no inverse'),
  ('ego_pose', lambda r: r[0].update(rotation=[0, 0, 0, 0]), 'must be a quaternion'),
  ('ego_pose', lambda r: r[0].update(translation=[1, 2]), r"'translation' of e-.* numbers of shape \(3,\)"),
  ('sample_annotation', lambda r: r[0].update(instance_token='nowhere'), "names the instance 'nowhere'"),
  ('sample_annotation', lambda r: r[0].update(attribute_tokens=['x']), "names the attribute 'x'"),
  ('sample_annotation', lambda r: r[0].update(next='nowhere'), "names the sample_annotation 'nowhere'"),
  ('sample_annotation', lambda r: r[0].update(size=[1, 0, 1]), 'it must be positive'),
  ('instance', lambda r: r[0].update(category_token='nowhere'), "names the category 'nowhere'"),
]


@pytest.mark.parametrize(('table', 'edit', 'message'), BROKEN)
def test_broken_tables_are_named(root, tmp_path, table, edit, message):
  tables = tmp_path / nuscenes_set.VERSION
  shutil.copytree(root / nuscenes_set.VERSION, tables)
  change(tmp_path, table, edit)
  with pytest.raises(UserError, match=message):
    nuscenes.NuScenes(tmp_path)


def test_missing_and_damaged_files_are_named(root, tmp_path):
  copy = shutil.copytree(root, tmp_path / 'copy')
  frame = nuscenes.NuScenes(copy).frame('scene-0061-1')
  frame.sweeps[1].path.unlink()
  with pytest.raises(UserError, match=r'sweeps/.*LIDAR_TOP.pcd.bin is missing'):
    sweeps.aggregate(frame)
  frame.lidar.write_bytes(frame.lidar.read_bytes()[:-3])
  with pytest.raises(UserError, match='is truncated or no point file'):
    sweeps.aggregate(frame)
  picture = frame.cameras[0].path
  picture.write_bytes(picture.read_bytes()[:200])
  with pytest.raises(UserError, match='CAM_FRONT.jpg cannot be decoded'):
    sweeps.read_picture(frame.cameras[0])
  with pytest.raises(UserError, match='is 128x96, not 10x10'):
    sweeps.read_picture(frame.cameras[1]._replace(size=(10, 10)))
  for name, message in (('sensor', 'sensor.json is missing'), ('map', 'map.json is missing')):
    path = copy / nuscenes_set.VERSION / f'{name}.json'
    kept = path.read_text()
    path.unlink()
    with pytest.raises(UserError, match=message):
      nuscenes.NuScenes(copy)
    path.write_text(kept[:-5])
    if name == 'sensor':
      with pytest.raises(UserError, match='no complete JSON'):
        nuscenes.NuScenes(copy)
    path.write_text(kept)
  change(copy, 'sample_data', lambda records: records.pop(2))
  with pytest.raises(UserError, match='no keyframe of CAM_FRONT_RIGHT for the sample scene-0061-0'):
    nuscenes.NuScenes(copy).frame('scene-0061-0')
  with pytest.raises(UserError, match='No folder .*v1.0-trainval.*nuscenes.org'):
    nuscenes.NuScenes(copy, 'v1.0-trainval')


def test_splits_are_the_official_ones(dataset):
  counts = {name: len(splits.scene_names(name)) for name in splits.SPLITS}
  assert counts == {'train': 700, 'val': 150, 'test': 150, 'mini_train': 8, 'mini_val': 2}
  assert len(set().union(*(splits.scene_names(name) for name in ('train', 'val', 'test')))) == 1000
  assert dataset.tokens('mini_val') == [f'scene-0103-{k}' for k in range(3)]
  assert len(dataset.tokens('mini_train+mini_val')) == 6
  assert dataset.tokens(['scene-0061']) == dataset.tokens('mini_train')
  for split, message in (
    ('vall', "Did you mean 'val'"),
    ('val', "'val' belongs to v1.0-trainval, not to v1.0-mini"),
    (['scene-0062'], "no scene 'scene-0062'"),
  ):
    with pytest.raises(UserError, match=message):
      dataset.tokens(split)
  with pytest.raises(UserError, match="no sample 'nowhere'"):
    dataset.frame('nowhere')


def test_splits_equal_the_official_kit_s():
  kit = pytest.importorskip('nuscenes.utils.splits', reason='nuscenes-devkit is not installed')
  for name in splits.SPLITS:
    assert sorted(splits.scene_names(name)) == sorted(getattr(kit, name))


def test_a_set_without_annotations_is_read_but_not_evaluated(root, tmp_path):
  tables = tmp_path / nuscenes_set.VERSION
  shutil.copytree(root / nuscenes_set.VERSION, tables)
  for name in ('sample_annotation', 'instance'):
    change(tmp_path, name, list.clear)
  dataset = nuscenes.NuScenes(tmp_path)
  assert dataset.frame('scene-0103-0').objects.boxes.shape == (0, 9)
  results = tmp_path / 'results.json'
  results.write_text(json.dumps({'results': {token: [] for token in dataset.tokens('mini_val')}}))
  with pytest.raises(UserError, match='nothing can be evaluated'):
    evaluation.evaluate_submission(dataset, 'mini_val', results)


@pytest.mark.parametrize(
  'text', ['', '[', '[{"token": 1}', '[{"token": 1},]', '[{}] x', '[{} {}]', '[{"a": }]', '{"token": 1}', '\xff']
)
def test_incomplete_lists_are_named(tmp_path, text):
  path = tmp_path / 'table.json'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(UserError, match=r'table.json is no (complete JSON file|list of records)'):
    list(json_stream.records(path))


def test_lists_are_read_record_by_record(tmp_path):
  path = tmp_path / 'table.json'
  for wanted in ([], [{}], [{'a': 'ü', 'b': [1, 2.5, None]}, {'c': {'d': ']'}}]):
    for indent in (None, 2):
      path.write_text(f' {json.dumps(wanted, indent=indent)}\n')
      assert list(json_stream.records(path)) == wanted
