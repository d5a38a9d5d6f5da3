import io

import numpy as np
import pytest
from PIL import Image

from jaxpapers import data as pipelines
from jaxpapers.data import image
from jaxpapers.emo import backgrounds, data, digits
from jaxpapers.engine.errors import UserError


def test_digits_are_deterministic_and_typed():
  first, again, other = (digits.digits('train', 12, 48, seed) for seed in (0, 0, 1))
  assert first['image'].shape == (12, 48, 48, 3) and first['image'].dtype == np.uint8
  assert first['label'].dtype == np.int32 and first['other'].dtype == np.int32
  for key in first:
    np.testing.assert_array_equal(first[key], again[key])
  assert (first['image'] != other['image']).any()
  assert (digits.digits('test', 12, 48)['image'] != first['image']).any()


def test_digits_cover_the_classes():
  scenes = digits.digits('train', 3000, 32, task='cued')
  for key in ('label', 'other'):
    counts = np.bincount(scenes[key], minlength=10)
    assert len(counts) == 10 and counts.min() > 200
  assert 0.07 < (scenes['label'] == scenes['other']).mean() < 0.13


def test_label_of_a_pair_is_the_larger_digit():
  pair, cued = (digits.digits('train', 500, 32, task=task) for task in ('pair', 'cued'))
  np.testing.assert_array_equal(pair['label'], np.maximum(cued['label'], cued['other']))
  np.testing.assert_array_equal(pair['other'], np.minimum(cued['label'], cued['other']))
  both = 0.5 + 0.5 * (pair['label'] == pair['other']).mean()
  assert 0.52 < both < 0.58  # what reading one of the two would give


def test_splits_share_no_digit():
  train, test = (digits._handwriting(split, 14)[0] for split in ('train', 'test'))
  assert (len(train), len(test)) == (1437, 360)
  known = {picture.tobytes() for picture in train}
  assert sum(picture.tobytes() in known for picture in test) == 0


def test_disc_has_the_colour_of_the_digit_to_read():
  """Found by colour alone, the quarter of the disc holds as saturated a colour as one digit's quarter."""
  scenes = digits.digits('train', 200, 64, task='cued')
  pixels = scenes['image'] / 255
  right = 0
  for picture in pixels:
    near = (
      (np.abs(picture[:, :, None] - digits.COLORS).max(-1) < 0.06).reshape(2, 32, 2, 32, 4).sum((1, 3)).reshape(4, 4)
    )
    colors = np.flatnonzero(near.max(0) > 20)
    # One colour is in two quarters (disc and digit), the other in one.
    right += sorted((near[:, colors] > 8).sum(0)) == [1, 2]
  assert right > 150


def test_quarters_of_the_digits_are_opposite():
  quarters = digits._quarters(np.random.default_rng(0), 500)
  assert (np.sort(quarters, 1) == np.arange(4)).all()
  assert (quarters[:, 0] + quarters[:, 1] == 3).all()
  assert all(np.bincount(column, minlength=4).min() > 80 for column in quarters.T)


def test_single_digit_and_bad_arguments():
  assert (digits.digits('train', 5, 64, task='single')['other'] == -1).all()
  for arguments, message in ((('val', 1), "split 'val'"), (('train', 1, 16), 'at least 32')):
    with pytest.raises(UserError, match=message):
      digits.digits(*arguments)
  with pytest.raises(UserError, match="task 'pears'.*'pair'"):
    digits.digits('train', 1, task='pears')


def test_backgrounds_of_the_splits_share_no_pixels():
  widths = [[part.shape[1] for part in backgrounds._photographs(split, 40)] for split in backgrounds.SPLITS]
  assert all(train > test >= 40 for train, test in zip(*widths, strict=True))
  images = backgrounds.backgrounds('train', 50, 40, np.random.default_rng(0))
  assert images.shape == (50, 40, 40, 3) and images.min() >= 0 and images.max() <= 1
  assert images.std((1, 2)).mean() > 0.02


def jpeg(size, color, kind='JPEG'):
  file = io.BytesIO()
  Image.new('RGB', size, color).save(file, kind)
  return file.getvalue()


@pytest.fixture
def folder(tmp_path):
  """Three classes by colour, of which one image is damaged in val."""
  for split, count in (('train', 4), ('val', 3)):
    for label, color in enumerate([(250, 0, 0), (0, 250, 0), (0, 0, 250)]):
      where = tmp_path / split / f'n{label}'
      where.mkdir(parents=True)
      for index in range(count):
        (where / f'{index}.JPEG').write_bytes(jpeg((70 + 10 * index, 60), color))
  return tmp_path


@pytest.mark.parametrize('kind', data.AUGMENTATIONS)
@pytest.mark.parametrize('size', [32, 48])
def test_folder_to_batches(folder, kind, size):
  train = data.source('imagenet_folder', 'train', str(folder))
  assert data.num_classes('imagenet_folder', data_dir=str(folder)) == 3
  transforms = data.transforms('imagenet_folder', size, kind, 0.3)
  pipeline = pipelines.batches(train, seed=0, batch_size=6, **transforms.train)
  batch = pipeline(1)
  assert batch['image'].shape == (6, size, size, 3) and batch['image'].dtype == np.float32
  assert batch['label'].dtype == np.int32 and set(batch) == {'image', 'label'}
  np.testing.assert_array_equal(pipeline(1)['image'], batch['image'])

  test = data.source('imagenet_folder', 'test', str(folder))
  seen = list(pipelines.evaluation_batches(test, 4, **transforms.test)())
  assert [int(b['valid'].sum()) for b in seen] == [4, 4, 1]
  for b in seen:
    raw = (b['image'] * image.IMAGENET_STD + image.IMAGENET_MEAN)[b['valid']].mean((1, 2))
    np.testing.assert_array_equal(raw.argmax(-1), b['label'][b['valid']])


def test_damaged_image_is_named(folder):
  (folder / 'val/n1/1.JPEG').write_bytes(jpeg((300, 300), (3, 4, 5))[:700])
  batches = pipelines.evaluation_batches(
    data.source('imagenet_folder', 'test', str(folder)), 9, **data.transforms('imagenet_folder', 48).test
  )
  with pytest.raises(UserError, match=r'n1/1\.JPEG cannot be decoded'):
    list(batches())


@pytest.mark.parametrize('kind', data.DIGIT_AUGMENTATIONS)
def test_digits_to_batches(kind):
  source = data.source('digits', 'train', '', 32, 40, 'pair')
  transforms = data.transforms('digits', 32, kind)
  batch = pipelines.batches(source, seed=0, batch_size=8, **transforms.train)(0)
  assert batch['image'].shape == (8, 32, 32, 3) and batch['image'].dtype == np.float32
  plain = pipelines.batches(source, seed=0, batch_size=8)(0)
  np.testing.assert_array_equal(plain['label'], batch['label'])
  unchanged = np.allclose(image.normalize(plain['image']), batch['image'])
  assert unchanged == (kind == 'none')
  test = next(iter(pipelines.evaluation_batches(source, 64, **transforms.test)()))
  assert test['image'].dtype == np.float32 and test['valid'].sum() == 40


def test_wrong_settings():
  with pytest.raises(UserError, match=r'config\.data\.dir'):
    data.source('imagenet_folder', 'train')
  with pytest.raises(UserError, match="split 'val'"):
    data.source('digits', 'val')
  with pytest.raises(UserError, match='known: none, shift'):
    data.transforms('digits', 64, 'randaugment')
  with pytest.raises(UserError, match='known: none, flip'):
    data.transforms('imagenet2012', 64, 'autoaugment')
  with pytest.raises(UserError, match="Did you mean 'cifar10'"):
    data.num_classes('cifar1O')
