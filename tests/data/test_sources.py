import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxpapers import data
from jaxpapers.engine.errors import UserError

ARRAYS = {'x': np.arange(12, dtype=np.float32).reshape(6, 2), 'label': np.arange(6, dtype=np.int32)}


def encoded(size=(5, 4), color=(200, 10, 10), kind='PNG'):
  file = io.BytesIO()
  Image.new('RGB', size, color).save(file, kind)
  return file.getvalue()


def test_array_source():
  source = data.ArraySource(ARRAYS)
  assert len(source) == 6 and source[4]['label'] == 4
  np.testing.assert_array_equal(source.gather(np.array([5, 0]))['x'], ARRAYS['x'][[5, 0]])


@pytest.mark.parametrize('arrays', [{'x': np.zeros(3), 'y': np.zeros(4)}, {'x': np.float32(1)}, {}])
def test_array_source_refuses_unequal_lengths(arrays):
  with pytest.raises(UserError, match='equally many rows'):
    data.ArraySource(arrays)


def test_memmap_round_trip_in_chunks(tmp_path):
  chunks = [{key: array[i : i + 4] for key, array in ARRAYS.items()} for i in (0, 4)]
  data.write_memmap(tmp_path / 'set', iter(chunks), length=6)
  source = data.MemmapSource(tmp_path / 'set')
  for copy in (source, pickle.loads(pickle.dumps(source))):
    for key, array in ARRAYS.items():
      assert copy.arrays[key].dtype == array.dtype and isinstance(copy.arrays[key].base, np.memmap)
      np.testing.assert_array_equal(copy.gather(np.arange(6))[key], array)
  assert len(pickle.dumps(source)) < 500
  one = data.batches(source, seed=0, batch_size=4)(3)
  np.testing.assert_array_equal(one['x'], data.batches(data.ArraySource(ARRAYS), seed=0, batch_size=4)(3)['x'])


def damage_missing_folder(folder):
  (folder / 'x.npy').unlink(), (folder / 'label.npy').unlink(), (folder / 'arrays.json').unlink(), folder.rmdir()


def damage_missing_file(folder):
  (folder / 'x.npy').unlink()


def damage_unfinished(folder):
  (folder / 'arrays.json').unlink()


def damage_truncated(folder):
  (folder / 'x.npy').write_bytes((folder / 'x.npy').read_bytes()[:-5])


def damage_header(folder):
  (folder / 'x.npy').write_bytes(b'no numpy')


def damage_shape(folder):
  np.save(folder / 'x.npy', np.zeros((6, 3), np.float32))


def damage_manifest(folder):
  (folder / 'arrays.json').write_text('{')


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (damage_missing_folder, 'No folder'),
    (damage_missing_file, r'x\.npy is missing'),
    (damage_unfinished, 'interrupted'),
    (damage_truncated, r'x\.npy is truncated'),
    (damage_header, r'x\.npy is truncated or damaged'),
    (damage_shape, r'\(6, 3\).*\(6, 2\)'),
    (damage_manifest, r'arrays\.json is damaged'),
  ],
)
def test_memmap_damage_is_named(tmp_path, damage, message):
  folder = tmp_path / 'set'
  data.write_memmap(folder, ARRAYS)
  damage(folder)
  with pytest.raises(UserError, match=message):
    data.MemmapSource(folder)


def test_memmap_writer_checks_chunks(tmp_path):
  with pytest.raises(UserError, match='6 examples, not the 7'):
    data.write_memmap(tmp_path / 'a', [ARRAYS], length=7)
  with pytest.raises(UserError, match='more than the 5'):
    data.write_memmap(tmp_path / 'b', [ARRAYS], length=5)
  with pytest.raises(UserError, match='Chunk 1'):
    data.write_memmap(tmp_path / 'c', [ARRAYS, {'x': np.zeros(2)}], length=8)
  with pytest.raises(UserError, match='length'):
    data.write_memmap(tmp_path / 'd', [ARRAYS])
  with pytest.raises(UserError, match='interrupted'):
    data.MemmapSource(tmp_path / 'a')
  assert not any(json.loads(file.read_text()) for file in tmp_path.rglob('*.json'))


def image_folder(root):
  for name in ('train/b/2.JPEG', 'train/a/1.png', 'train/a/0.jpg', 'train/c/x.jpeg'):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(kind='PNG' if name.endswith('png') else 'JPEG'))
  (root / 'train' / '.DS_Store').write_bytes(b'')
  (root / 'train/a/.hidden').write_bytes(b'')
  return root


def test_image_folder(tmp_path):
  source = data.ImageFolder(image_folder(tmp_path), 'train')
  assert source.classes == ('a', 'b', 'c')
  assert source.names == ['a/0.jpg', 'a/1.png', 'b/2.JPEG', 'c/x.jpeg']
  assert [int(source[i]['label']) for i in range(len(source))] == [0, 0, 1, 2]
  assert source[2]['image'] == (tmp_path / 'train/b/2.JPEG').read_bytes() and source[2]['name'].endswith('b/2.JPEG')


def test_image_folder_says_what_would_be_right(tmp_path):
  with pytest.raises(UserError, match=r'No folder .*val; expected .*<class>/<image>'):
    data.ImageFolder(image_folder(tmp_path), 'val')
  (tmp_path / 'val').mkdir()
  with pytest.raises(UserError, match='is empty; expected'):
    data.ImageFolder(tmp_path, 'val')
  (tmp_path / 'train/d').mkdir()
  with pytest.raises(UserError, match='class folder .*d is empty'):
    data.ImageFolder(tmp_path, 'train')
  (tmp_path / 'train/d').rmdir()
  (tmp_path / 'train/b/notes.txt').write_text('hello')
  with pytest.raises(UserError, match=r'b/notes\.txt is no image'):
    data.ImageFolder(tmp_path, 'train')
  (tmp_path / 'train/b/notes.txt').unlink()
  (tmp_path / 'train/list.txt').write_text('hello')
  with pytest.raises(UserError, match=r'list\.txt lies beside'):
    data.ImageFolder(tmp_path, 'train')
