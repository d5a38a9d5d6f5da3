"""K-shot files of both public layouts, and writing them."""

import json
import shutil

import pytest

from jaxpapers.engine.errors import UserError
from jaxpapers.reft import annotations, kshot, kshot_files, splits
from tests.reft import toy_coco
from tests.reft.test_annotations import REAL

PER_IMAGE = ((3, 5), (3,), (5, 9), (9, 3), (5, 5), (9,), (3, 3))


@pytest.fixture
def everything(tmp_path):
  return toy_coco.read(tmp_path, toy_coco.content(PER_IMAGE))


@pytest.fixture
def split(everything):
  return splits.make_split(everything, ['cat', 'dog'], ['owl'])


def test_written_sets_are_the_sampler_s_and_are_read_back(tmp_path, everything, split):
  folder = tmp_path / 'cocosplit'
  paths = kshot_files.write_shots(everything, folder, (0, 4), (1, 2))
  assert len(paths) == 2 * 2 * 3 and str(folder / 'seed4' / 'full_box_2shot_owl_trainval.json') in paths
  assert str(folder / 'full_box_1shot_cat_trainval.json') in paths
  for seed in (0, 4):
    chosen = kshot.sample_shots(everything.entries, everything.names, seed, (1, 2))
    found = kshot_files.read_shots(folder, 2, seed, split)
    assert found.entries == [entry for entries in chosen[2].values() for entry in entries]
    assert set(found.images) == {entry['image_id'] for entry in found.entries}
    assert [count.objects for count in splits.class_counts(found, split)] == [2, 2, 2]
  only = kshot_files.read_shots(folder, 1, 4, split, classes=split.novel)
  assert [entry['category_id'] for entry in only.entries] == [9]


def test_a_class_file_must_hold_exactly_k(tmp_path, everything, split):
  kshot_files.write_shots(everything, tmp_path, (0,), (2,))
  path = tmp_path / 'full_box_2shot_dog_trainval.json'
  data = json.loads(path.read_text())
  path.write_text(json.dumps({**data, 'annotations': data['annotations'][:1]}))
  with pytest.raises(UserError, match=r"2shot_dog_trainval\.json: class 'dog' should have 2 objects, found 1"):
    kshot_files.read_shots(tmp_path, 2, 0, split)
  path.unlink()
  with pytest.raises(UserError, match=r'neither seed0/2shot\.json nor full_box_2shot_dog_trainval\.json'):
    kshot_files.read_shots(tmp_path, 2, 0, split)


def test_one_list_of_classes(tmp_path, everything, split):
  kshot_files.write_shots(everything, tmp_path, (0,), (1,))
  path = tmp_path / 'full_box_1shot_dog_trainval.json'
  data = json.loads(path.read_text())
  data['categories'][2]['name'] = 'eagle'
  path.write_text(json.dumps(data))
  with pytest.raises(UserError, match=r"Category 9 differs: .*cat_trainval\.json calls it 'owl', .* calls it 'eagle'"):
    kshot_files.read_shots(tmp_path, 1, 0, split)
  seed = tmp_path / 'seed1'
  seed.mkdir()
  data = toy_coco.content(PER_IMAGE)
  data['categories'].append({'id': 11, 'name': 'fox'})
  (seed / '1shot.json').write_text(json.dumps(data))
  with pytest.raises(UserError, match=r'1shot\.json lists 4 classes that are not the 3 of the split'):
    kshot_files.read_shots(tmp_path, 1, 1, split)


@pytest.mark.skipif(not REAL.is_dir(), reason=f'{REAL} is absent')
def test_one_file_a_seed_lists_every_object(tmp_path):
  (tmp_path / 'seed1').mkdir()
  shutil.copy(REAL / 'coco_fewshot_seed1_5shot.json.gz', tmp_path / 'seed1' / '5shot.json.gz')
  whole = annotations.read_annotations(REAL / 'coco_fewshot_seed1_5shot.json.gz')
  split = splits.coco_split(whole)
  found = kshot_files.read_shots(tmp_path, 5, 1, split)
  assert len(found.entries) == 1003 and len(found.images) == 308
  novel = kshot_files.read_shots(tmp_path, 5, 1, split, classes=split.novel)
  assert {entry['category_id'] for entry in novel.entries} == set(split.novel)
  assert 0 < len(novel.images) < 308


def test_a_class_without_objects(tmp_path, split):
  (tmp_path / 'seed1').mkdir()
  data = toy_coco.content(((3, 5), (3,)))
  (tmp_path / 'seed1' / '1shot.json').write_text(json.dumps(data))
  with pytest.raises(UserError, match=r"1shot\.json: class 'owl' should have 1 objects, found 0"):
    kshot_files.read_shots(tmp_path, 1, 1, split)


def test_sets_that_cannot_be_drawn_write_nothing(tmp_path, everything):
  folder = tmp_path / 'out'
  with pytest.raises(
    UserError, match=r'instances\.json, seed 1: Category 3 \(cat\): 5 shots .*; found 5 objects in 4\.'
  ):
    kshot_files.write_shots(everything, folder, (1,), (1, 5))
  assert not folder.exists()


def test_files_that_disagree_about_an_image(tmp_path, everything):
  image = {**everything.images[10], 'height': 41}
  other = annotations.Annotations('b.json', {10: image}, everything.categories, [])
  with pytest.raises(UserError, match=r'b\.json: image 10 is 60x41, but 60x40'):
    annotations.merge_annotations([everything, other], 'both')
  other = annotations.Annotations('b.json', {}, everything.categories, [{**everything.entries[0], 'area': 1}])
  with pytest.raises(UserError, match=r'b\.json: annotation 1 is another one'):
    annotations.merge_annotations([everything, other], 'both')
