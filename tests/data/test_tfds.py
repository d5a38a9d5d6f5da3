import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxpapers import data
from jaxpapers.data import image
from jaxpapers.engine.errors import UserError
from tests.data import tiny_dataset


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  builder = tiny_dataset.TinyPictures(data_dir=folder, file_format='array_record')
  builder.download_and_prepare()
  assert 'tensorflow' not in sys.modules
  return folder


def test_reads_array_records_without_tensorflow(prepared):
  source = data.tfds_source('tiny_pictures', 'train', prepared, keys=('image', 'label'))
  assert len(source) == 7 and set(source[0]) == {'image', 'label'}
  means = sorted(int(source[i]['image'].mean()) for i in range(7))
  assert means == [10 * i for i in range(7)]
  batch = data.batches(source, seed=0, batch_size=4)(0)
  assert batch['image'].shape == (4, 6, 5, 3) and batch['image'].dtype == np.uint8
  assert 'tensorflow' not in sys.modules


def test_undecoded_images_and_sub_splits(prepared):
  source = data.tfds_source('tiny_pictures', 'train[:3]', prepared, decode_images=False)
  assert len(source) == 3
  example = source[0]
  assert isinstance(example['image'], bytes) and 'tiny_pictures' in example['name']
  decoded = image.decode(example['image'], example['name'])
  assert decoded.shape == (6, 5, 3) and decoded.max() == decoded.min()


def test_mock_data():
  with tfds.testing.mock_data(num_examples=5):
    source = data.tfds_source('mnist', 'train')
    assert len(source) == 5 and source[0]['image'].shape == (28, 28, 1)


def test_errors_say_what_to_do(prepared, tmp_path):
  with pytest.raises(UserError, match=r'mnist \(split train\) is not in .*tfds build mnist --file_format=array_record'):
    data.tfds_source('mnist', 'train', tmp_path)
  with pytest.raises(UserError, match="no dataset 'no_such_set'"):
    data.tfds_source('no_such_set', 'train', tmp_path)
  with pytest.raises(UserError, match='validation'):
    data.tfds_source('tiny_pictures', 'validation', prepared)
  with pytest.raises(UserError, match="no key 'mask'; it has image, label, text"):
    data.tfds_source('tiny_pictures', 'train', prepared, keys=('mask',))[0]


def test_truncated_file(prepared, tmp_path):
  where = tmp_path / 'tiny_pictures' / '1.0.0'
  where.mkdir(parents=True)
  for file in (prepared / 'tiny_pictures' / '1.0.0').iterdir():
    content = file.read_bytes()
    (where / file.name).write_bytes(content[:1000] if 'array_record' in file.name else content)
  with pytest.raises(UserError, match=r'tiny_pictures.*tfds build tiny_pictures'):
    data.tfds_source('tiny_pictures', 'train', tmp_path)[0]
