"""The bank of support: adding classes, saving, joining, and launch/support_bank.py on files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpapers import reft
from jaxpapers.engine.errors import UserError
from jaxpapers.reft import bank_files, experiment, fewshapes, shapes_batches
from tests.launch import program


@pytest.fixture(scope='module')
def network():
  """Untrained and smaller than the package's, which takes as long to compile as all of these tests."""
  model = reft.mini_reft(layers=1, convolutions=1)
  packaged = experiment.load_model('')
  params = jax.jit(functools.partial(experiment._initial, model))(jax.random.key(0))
  return packaged._replace(model=model, variables={'params': params})


@pytest.fixture(scope='module')
def shots():
  """Two examples of each class, by class."""
  scenes = fewshapes.shots(5, 2)
  images = np.asarray(shapes_batches.normalise(scenes.images))
  return [(images[[c, c + 12]], scenes.masks[[c, c + 12], 0]) for c in range(12)]


def added(network, shots, labels, bank=None):
  bank = bank or reft.SupportBank.empty(network.model, network.names)
  for c in labels:
    bank = bank.extend(network.model, network.variables, fewshapes.NAMES[c], *shots[c])
  return bank


def test_a_bank_is_what_encoding_all_at_once_gives(network, shots):
  """Cached support equals recomputed support, also when a class comes in two parts."""
  bank = added(network, shots, (8, 0))
  names, support, counts = bank
  assert names[:9] == (*fewshapes.BASE_NAMES, 'half_disk') and names[9:] == ('', '', '')
  assert counts.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]
  images = np.concatenate([shots[8][0], shots[0][0]])
  masks = np.concatenate([shots[8][1], shots[0][1]]).astype(np.float32)
  encode = jax.jit(lambda v, *args: network.model.apply(v, *args, method='support'))
  want = encode(network.variables, images, masks, jnp.asarray([8, 8, 0, 0]))
  for got, expected in zip(jax.tree.leaves(support), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(got, expected, atol=2e-4)
  halves = reft.SupportBank.empty(network.model, network.names)
  for i in (0, 1):
    halves = halves.join(_half(bank, i))
  np.testing.assert_allclose(halves.counts, bank.counts)
  np.testing.assert_allclose(halves.support.tokens.classes, bank.support.tokens.classes[np.asarray([0, 2, 1, 3])])


def _half(bank, i):
  """The i-th example of each class; its means are those of the whole."""
  support = bank.support
  tokens = type(support.tokens)(*(x[np.asarray([i, 2 + i])] for x in support.tokens))
  return reft.SupportBank(bank.names, support._replace(tokens=tokens), bank.counts // 2)


def test_round_trip_and_other_networks(network, shots, tmp_path):
  bank = added(network, shots, (8,))
  path = str(tmp_path / 'bank.npz')
  bank.save(path)
  back = reft.SupportBank.load(path, network.model)
  assert back.names == bank.names
  jax.tree.map(np.testing.assert_array_equal, back[1:], bank[1:])
  with pytest.raises(ValueError, match='is a bank of another network: 12 classes'):
    reft.SupportBank.load(path, reft.mini_reft(classes=5))
  (tmp_path / 'bad.npz').write_bytes(b'nothing')
  with pytest.raises(ValueError, match=r'bad\.npz cannot be read as a bank'):
    reft.SupportBank.load(str(tmp_path / 'bad.npz'), network.model)


def test_what_cannot_be_added_is_said(network, shots):
  bank = added(network, shots, (8,))
  images, masks = shots[9]
  with pytest.raises(ValueError, match="'L': the mask of example 1 is empty"):
    bank.extend(network.model, network.variables, 'L', images, masks * np.asarray([1, 0])[:, None, None])
  with pytest.raises(ValueError, match='do not outline images'):
    bank.extend(network.model, network.variables, 'L', images, masks[:1])
  full = bank._replace(names=tuple('abcdefghijkl'))
  with pytest.raises(ValueError, match="No place for class 'L'"):
    full.extend(network.model, network.variables, 'L', images, masks)
  with pytest.raises(ValueError, match="Class 8 is 'half_disk' in one bank and 'z' in the other"):
    bank.join(bank._replace(names=(*bank.names[:8], 'z', '', '', '')))
  with pytest.raises(ValueError, match='no example yet'):
    reft.SupportBank.empty(network.model).predict(network.model, network.variables, images)


def test_a_class_from_files_is_found_in_another_image(tmp_path, capsys, network, monkeypatch):
  monkeypatch.setattr(experiment, 'load_model', lambda workdir: network)
  scenes = fewshapes.shots(6, 3)
  for i in range(3):
    Image.fromarray(np.uint8(255 * scenes.images[9 + 12 * i])).save(tmp_path / f'{i}.png')
    Image.fromarray(scenes.masks[9 + 12 * i, 0]).save(tmp_path / f'{i}m.png')
  bank, out = str(tmp_path / 'bank.npz'), str(tmp_path / 'found.png')
  files = {kind: [str(tmp_path / f'{i}{end}.png') for i in (0, 1)] for kind, end in (('images', ''), ('masks', 'm'))}
  program.call('support_bank', bank=bank, name='corner', **files)
  assert 'corner (2)' in capsys.readouterr().out
  program.call('support_bank', bank=bank, find=str(tmp_path / '2.png'), out=out, threshold=0.0)
  told = capsys.readouterr().out.splitlines()
  assert told[0].startswith('corner  score') and told[-1] == out
  assert (tmp_path / 'found.png').stat().st_size > 3000
  program.call('support_bank', bank=bank, find=str(tmp_path / '2.png'), out=out, threshold=1.0)
  assert capsys.readouterr().out.startswith('nothing scored 1 or more')
  Image.new('L', (10, 10), 255).save(tmp_path / 'small.png')
  with pytest.raises(UserError, match=r'small\.png is 10x10, its image 48x48'):
    program.call(
      'support_bank', bank=bank, name='corner', images=files['images'][:1], masks=[str(tmp_path / 'small.png')]
    )
  with pytest.raises(UserError, match='2 images but 1 masks'):
    program.call('support_bank', bank=bank, name='corner', images=files['images'], masks=files['masks'][:1])
  with pytest.raises(UserError, match='Nothing to do'):
    program.call('support_bank', bank=bank)


def test_wide_images_are_fitted_and_their_masks_with_them(tmp_path):
  image = np.zeros((20, 40, 3), np.uint8)
  mask = np.zeros((20, 40), np.uint8)
  mask[:, 20:] = 1
  Image.fromarray(image + 200).save(tmp_path / 'a.png')
  Image.fromarray(mask).save(tmp_path / 'm.png')
  canvas, covered = bank_files.read_image(str(tmp_path / 'a.png'), 48)
  assert covered == (24, 48) and canvas[:24].min() == 200 and canvas[24:].max() == 0
  outline = bank_files.read_mask(str(tmp_path / 'm.png'), 48, (40, 20))
  assert outline[:24, 24:].all() and outline.sum() == 24 * 24
