"""Every kind of damage is noticed, set aside and survived; nothing on disk is lost."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpapers.engine import DamagedError, UserError
from jaxpapers.engine.checkpoint import Checkpoints, check_config, workdir_path
from jaxpapers.engine.fingerprint import fingerprints

META = {'config': {'seed': 0}, 'stage': 's', 'evaluated': []}


def state(scale=1.0):
  params = {
    'w': jnp.arange(12.0).reshape(3, 4) * scale,
    'b': jnp.ones(4, jnp.bfloat16),
    'flag': jnp.array([True, False]),
  }
  return {'params': params, 'opt': optax.adam(1e-3).init({'w': params['w']}), 'key': jax.random.key(3)}


def abstract(tree):
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


@pytest.fixture
def folder(tmp_path):
  checkpoints = Checkpoints(workdir_path(str(tmp_path / 'c')), keep=3)
  for step in (1, 2, 3):
    checkpoints.save(step, state(step), META, {})
  checkpoints.close()
  return tmp_path / 'c'


def restore(folder):
  warnings = []
  checkpoints = Checkpoints(workdir_path(str(folder)), keep=3)
  try:
    return checkpoints.restore_latest(abstract(state()), META['config'], warn=warnings.append), warnings, checkpoints
  finally:
    checkpoints.wait()


def largest(folder, pattern):
  return max((p for p in folder.glob(pattern) if p.is_file()), key=lambda p: p.stat().st_size)


def data_files(folder):
  """All of them: which ones are read is up to the storage library."""
  return [p for p in (folder / '3' / 'state').glob('**/d/*') if p.is_file()]


def flip(folder):
  for path in data_files(folder):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def truncate(folder):
  for path in data_files(folder):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete_data(folder):
  for path in data_files(folder):
    path.unlink()


def cut_meta(folder):
  path = largest(folder / '3' / 'meta', '*')
  path.write_text(path.read_text()[:20])


def lose_tree(folder):
  (folder / '3' / 'state' / '_METADATA').unlink()


def wrong_fingerprint(folder):
  path = largest(folder / '3' / 'meta', '*')
  meta = json.loads(path.read_text())
  meta['fingerprints']['params/w'] ^= 1
  path.write_text(json.dumps(meta))


@pytest.mark.parametrize('damage', [flip, truncate, delete_data, cut_meta, lose_tree, wrong_fingerprint])
def test_damage_falls_back_to_the_one_before(folder, damage):
  damage(folder)
  (restored, meta), warnings, checkpoints = restore(folder)
  assert meta['step'] == 2
  np.testing.assert_array_equal(restored['params']['w'], state(2)['params']['w'])
  assert 'set aside as damaged-3' in warnings[0] and (folder / 'damaged-3').is_dir()
  checkpoints.save(3, state(3), META, {})
  checkpoints.close()
  assert restore(folder)[0][1]['step'] == 3


def test_all_damaged_is_said_and_nothing_is_deleted(folder):
  for step in (1, 2, 3):
    (folder / str(step) / 'state' / '_METADATA').unlink()
  with pytest.raises(DamagedError, match='Every checkpoint'):
    restore(folder)
  assert sorted(p.name for p in folder.iterdir() if p.name.startswith('damaged')) == [
    'damaged-1',
    'damaged-2',
    'damaged-3',
  ]


def test_round_trip_is_exact(folder):
  (restored, _), warnings, _ = restore(folder)
  assert not warnings
  for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state(3)), strict=True):
    assert a.dtype == b.dtype
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_keeps_the_best_and_the_newest(tmp_path):
  checkpoints = Checkpoints(workdir_path(str(tmp_path)), keep=2, best='eval/accuracy')
  for step, value in enumerate([0.1, 0.9, 0.2, 0.3, 0.4], start=1):
    checkpoints.save(step, state(step), META, {'eval/accuracy': value})
  checkpoints.wait()
  assert checkpoints.steps() == [2, 4, 5]
  checkpoints.close()


def test_least_is_best_when_asked(tmp_path):
  checkpoints = Checkpoints(workdir_path(str(tmp_path)), keep=1, best='eval/loss', best_mode='min')
  for step, value in enumerate([0.5, 0.1, 0.7], start=1):
    checkpoints.save(step, state(step), META, {'eval/loss': value})
  checkpoints.wait()
  assert checkpoints.steps() == [2, 3]
  checkpoints.close()


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_fingerprint_sees_one_changed_element(dtype):
  x = jnp.zeros((5, 7), dtype)
  assert fingerprints({'x': x})['x'] != fingerprints({'x': x.at[3, 2].set(jnp.ones((), dtype))})['x']


def test_config_difference_names_the_field_and_free_ones_pass(tmp_path):
  where = workdir_path(str(tmp_path))
  check_config({'a': {'b': 1}, 'log_every': 1}, {'a': {'b': 1}, 'log_every': 5}, where)
  with pytest.raises(UserError, match=r'config\.a\.b \(saved 2, now 1\)'):
    check_config({'a': {'b': 1}}, {'a': {'b': 2}}, where)
