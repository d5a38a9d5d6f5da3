"""Raw formats, `prepare`, shards and their batches, Adult and planted parity."""

import bz2
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpapers.data import ArraySource
from jaxpapers.engine import UserError
from jaxpapers.xdeepint import adult, data, formats, prepare
from jaxpapers.xdeepint.columns import Column, Encoding, RecordEncoder, make_encoding
from jaxpapers.xdeepint.keys import KeyColumns
from jaxpapers.xdeepint.passes import splitter
from jaxpapers.xdeepint.shards import EpochBatches, ShardSource, StackedBatches, encodings_of
from jaxpapers.xdeepint.transforms import log_square_bin, quantile_bin, quantile_edges


def criteo_text(rows=1200, seed=0) -> bytes:
  rng = np.random.default_rng(seed)
  lines = []
  for _ in range(rows):
    numbers = [str(rng.integers(-2, 500)) if rng.random() < 0.7 else '' for _ in range(13)]
    levels = [f'{rng.zipf(1.7) % 50:08x}' if rng.random() < 0.9 else '' for _ in range(26)]
    lines.append('\t'.join([str(int(rng.random() < 0.3)), *numbers, *levels]))
  return ('\n'.join(lines) + '\n').encode()


def run(tmp_path, name, text, layout=None, workers=1, resume=False, chunk_bytes=20_000, **options) -> Path:
  source = tmp_path / 'train.txt'
  source.write_bytes(text)
  options = prepare.Options(**{'threshold': 3, 'rows_per_shard': 300, **options})
  output = tmp_path / name
  prepare.prepare(
    'criteo',
    layout or formats.criteo(),
    [[str(source)], []],
    output,
    options,
    workers=workers,
    resume=resume,
    chunk_bytes=chunk_bytes,
    say=lambda text: None,
  )
  return output


def contents(folder: Path) -> dict[str, bytes]:
  return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def test_workers_and_chunks_do_not_change_a_byte(tmp_path):
  text = criteo_text()
  one = contents(run(tmp_path, 'one', text))
  assert contents(run(tmp_path, 'four', text, workers=4)) == one
  other = contents(run(tmp_path, 'large', text, chunk_bytes=1 << 20))
  assert {k: v for k, v in other.items() if k != 'plan.json'} == {k: v for k, v in one.items() if k != 'plan.json'}
  assert sum(name.startswith('train/ids') for name in one) == 4


def test_short_values_are_read_as_numbers_with_the_same_result(tmp_path):
  text = criteo_text()
  assert KeyColumns.read(text[:-1], formats.criteo()) is not None
  quick = contents(run(tmp_path, 'quick', text))
  # Carriage returns, or one long value in a column, send a piece through the general reader.
  slow = contents(run(tmp_path, 'slow', text.replace(b'\n', b'\r\n')))
  names = [name for name in quick if name.endswith(('npy', 'txt'))]
  assert len(names) > 30 and all(slow[name] == quick[name] for name in names)
  first, rest = text.split(b'\n', 1)
  long = b'\t'.join([*first.split(b'\t')[:-1], b'a-very-long-level']) + b'\n' + rest
  assert KeyColumns.read(long[:-1], formats.criteo()) is None
  mixed = run(tmp_path, 'mixed', long)
  assert (mixed / 'vocab' / 'C5.txt').read_bytes() == quick['vocab/C5.txt']
  assert ShardSource(mixed, 'train').gather(np.arange(1))['ids'][0, -1] == -1


def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path):
  text = criteo_text()
  whole = contents(run(tmp_path, 'whole', text))
  broken = tmp_path / 'broken'
  shutil.copytree(tmp_path / 'whole', broken)
  # As if killed in pass 2: two shards are missing, one was half written, meta.json was not reached.
  for name in ('meta.json', 'train/ids-00001.npy', 'train/labels-00001.npy', 'test/labels-00000.npy'):
    (broken / name).unlink()
  (broken / 'train' / 'ids-00001.npy.tmp').write_bytes(b'half')
  kept = (broken / 'train' / 'ids-00000.npy').stat().st_mtime_ns
  assert contents(run(tmp_path, 'broken', text, resume=True)) == whole
  assert (broken / 'train' / 'ids-00000.npy').stat().st_mtime_ns == kept
  with pytest.raises(UserError, match='threshold'):
    run(tmp_path, 'broken', text, resume=True, threshold=4)
  with pytest.raises(UserError, match='--resume'):
    run(tmp_path, 'broken', text)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda cells: cells[:-1], r'line 701: 40 columns expected'),
    (lambda cells: [b'2', *cells[1:]], r"line 701: label '2' is neither 0 nor 1"),
    (lambda cells: [*cells[:3], b'x7', *cells[4:]], r"line 701: column 'I3' holds 'x7', which is no number"),
    (lambda cells: [*cells[:3], b'nan', *cells[4:]], r"line 701: column 'I3' holds 'nan'"),
  ],
)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path, change, words):
  lines = criteo_text().splitlines()
  lines[700] = b'\t'.join(change(lines[700].split(b'\t')))
  text = b'\n'.join(lines)
  with pytest.raises(UserError, match=r'train\.txt, ' + words):
    run(tmp_path, 'out', text)
  shutil.rmtree(tmp_path / 'out')
  output = run(tmp_path, 'out', text, on_bad_line='skip')
  assert '"bad_lines": 1' in (output / 'meta.json').read_text()
  sources = [ShardSource(output, split) for split in ('train', 'test')]
  assert sum(map(len, sources)) == 1199


def test_a_damaged_source_or_shard_is_named(tmp_path):
  packed = tmp_path / 'train.txt.gz'
  packed.write_bytes(gzip.compress(criteo_text())[:-2000])
  with pytest.raises(UserError, match=r'train\.txt\.gz cannot be read to its end'):
    prepare.prepare('criteo', formats.criteo(), [[str(packed)], []], tmp_path / 'a', prepare.Options(), say=print)
  output = run(tmp_path, 'out', criteo_text())
  shard = output / 'train' / 'ids-00002.npy'
  whole = shard.read_bytes()
  shard.write_bytes(whole[:-40])
  with pytest.raises(UserError, match=r'ids-00002\.npy is truncated or damaged'):
    ShardSource(output, 'train')
  shard.unlink()
  with pytest.raises(UserError, match='holds 3 shards, but meta.json says 4'):
    ShardSource(output, 'train')
  shard.write_bytes(whole)
  np.save(shard, np.full((300, 39), 10_000, np.int32))
  with pytest.raises(UserError, match=r"field 'I1' has id 10000"):
    ShardSource(output, 'train').gather(np.array([650]))
  with pytest.raises(UserError, match='valid'):
    ShardSource(output, 'valid')


def test_missing_data_names_the_page_and_the_file(tmp_path, capsys):
  with pytest.raises(UserError, match='dac.tar.gz'):
    data.load('criteo', str(tmp_path / 'nowhere'))
  code = prepare.main(['--dataset=criteo', '--input', str(tmp_path), '--output', str(tmp_path / 'o')])
  assert code == 2 and 'train.txt' in capsys.readouterr().err
  with pytest.raises(UserError, match='uplift'):
    data.load('criteo_uplift')
  with pytest.raises(UserError, match='known'):
    data.load('adullt')


def test_avazu(tmp_path):
  rng = np.random.default_rng(0)
  rows = [','.join(formats.AVAZU_NAMES)]
  rows += [f'{i},{i % 5 == 0:d},14102100,' + ','.join(str(rng.integers(3)) for _ in range(21)) for i in range(900)]
  (tmp_path / 'train.gz').write_bytes(gzip.compress('\r\n'.join(rows).encode()))
  output = tmp_path / 'out'
  assert prepare.main(['--dataset=avazu', '--input', str(tmp_path), '--output', str(output), '--threshold=2']) == 0
  loaded = data.load('avazu', str(output))
  assert len(loaded.fields) == 21 and loaded.fields.names[0] == 'C1' and set(loaded.fields.sizes) == {3}
  assert len(loaded.splits['train']) == 801 and len(loaded.splits['test']) == 99
  batch = loaded.splits['train'].gather(np.arange(20))
  np.testing.assert_array_equal(batch['label'], np.arange(20) % 5 == 0)
  (tmp_path / 'train.gz').write_bytes(gzip.compress(b'id,clicks\n1,0\n'))
  assert prepare.main(['--dataset=avazu', '--input', str(tmp_path), '--output', str(tmp_path / 'b')]) == 2


def test_ipinyou(tmp_path):
  def line(i, agent='Mozilla Windows Chrome', price='20'):
    cells = [f'bid{i}', '20130606000104008', '1', 'u', agent, '1.2.3.*', '216', '217', '1', 'dom', 'url', 'null']
    return '\t'.join([*cells, 'slot', '300', '250', '1', '0', price, 'cr', '300', '100', 'null', '2821', 'tags'])

  (tmp_path / 'train').mkdir()
  (tmp_path / 'test').mkdir()
  for folder, first in (('train', 0), ('test', 50)):
    lines = '\n'.join(line(first + i, price=str(i * 10)) for i in range(20))
    (tmp_path / folder / 'imp.20130606.txt.bz2').write_bytes(bz2.compress(lines.encode()))
    (tmp_path / folder / 'clk.20130606.txt.bz2').write_bytes(bz2.compress(line(first + 3).encode()))
  output = tmp_path / 'out'
  arguments = ['--dataset=ipinyou', '--input', str(tmp_path / 'train'), '--test-input', str(tmp_path / 'test')]
  assert prepare.main([*arguments, '--split=given', '--output', str(output), '--threshold=0']) == 0
  loaded = data.load('ipinyou', str(output))
  assert loaded.fields.names == formats.IPINYOU_FIELDS
  encodings = {e.column.name: e.levels for e in encodings_of(output)}
  assert encodings['weekday'] == [b'3'] and encodings['useragent'] == [b'windows_chrome']
  assert encodings['slotprice'] == [b'0', b'1-10', b'11-50', b'51-100', b'101+']
  for split in ('train', 'test'):
    assert loaded.splits[split].gather(np.arange(20))['label'].tolist() == [i == 3 for i in range(20)]
  assert prepare.main([*arguments, '--output', str(tmp_path / 'x')]) == 2


@pytest.mark.parametrize('typed', [False, True])
def test_movielens(tmp_path, typed):
  ratings = [f'{u}\t{i}\t{(u + i) % 5 + 1}\t88' for u in (1, 2, 3) for i in (1, 2)]
  if typed:
    files = {
      'ml-100k.inter': ['user_id:token\titem_id:token\trating:float\ttimestamp:float', *ratings],
      'ml-100k.user': ['h', *(f'{u}\t{20 + u}\tM\twriter\t9{u}111' for u in (1, 2, 3))],
      'ml-100k.item': ['h', '1\tToy Story\t1995\tAnimation Comedy', '2\tHeat\t1996\tCrime'],
    }
  else:
    flags = '|'.join('1' if i in (3, 5) else '0' for i in range(19))
    files = {
      'u.data': ratings,
      'u.user': [f'{u}|{20 + u}|M|writer|9{u}111' for u in (1, 2, 3)],
      'u.item': [f'{i}|T|01-Jan-199{4 + i}||http|{flags}' for i in (1, 2)],
    }
  for name, lines in files.items():
    (tmp_path / name).write_text('\n'.join(lines) + '\n')
  output = tmp_path / 'out'
  arguments = ['--dataset=movielens100k', '--input', str(tmp_path), '--output', str(output), '--threshold=0']
  assert prepare.main([*arguments, '--split=time']) == 0
  loaded = data.load('movielens100k', str(output))
  assert loaded.fields.names == formats.MOVIELENS_FIELDS
  levels = {e.column.name: e.levels for e in encodings_of(output)}
  assert levels['age'] == [b'4'] and levels['year'] == [b'1995', b'1996']
  assert loaded.splits['train'].gather(np.arange(5))['label'].tolist() == [0, 1, 1, 1, 1]


def test_csv_with_numbers(tmp_path):
  lines = ['label,age,city,note', *(f'{i % 2},{i},c{i % 3},x' for i in range(100))]
  (tmp_path / 'train.csv').write_text('\n'.join(lines))
  output = tmp_path / 'out'
  arguments = ['--dataset=csv', '--input', str(tmp_path), '--output', str(output), '--threshold=0', '--skip', 'note']
  assert prepare.main([*arguments, '--numeric', 'age=quantile:4', '--split=random811']) == 0
  loaded = data.load('csv', str(output))
  assert loaded.fields.names == ('age', 'city') and loaded.fields.sizes == (4, 3)
  assert sum(len(s) for s in loaded.splits.values()) == 100
  assert prepare.main([*arguments, '--numeric', 'weight=quantile:4', '--output', str(tmp_path / 'b')]) == 2


def test_random_split_is_about_8_1_1_and_fixed():
  split = splitter('random811', 0, 7)(np.arange(50_000), 0)
  np.testing.assert_allclose(np.bincount(split) / 50_000, [0.8, 0.1, 0.1], atol=0.01)
  np.testing.assert_array_equal(split[100:200], splitter('random811', 0, 7)(np.arange(100, 200), 0))
  assert (split != splitter('random811', 0, 8)(np.arange(50_000), 0)).mean() > 0.2


def test_new_records_are_encoded_or_refused_by_name(tmp_path):
  text = criteo_text()
  output = run(tmp_path, 'out', text)
  encoder = RecordEncoder(encodings_of(output))
  columns = formats.parse(text.splitlines()[:50], formats.criteo())
  ids = encoder({c.name: columns[c.name] for c in formats.criteo().columns})
  np.testing.assert_array_equal(ids, ShardSource(output, 'train').gather(np.arange(50))['ids'])
  small = RecordEncoder([Encoding(Column('a'), [b'x', b'y']), Encoding(Column('b', 'log_square'))])
  assert small({'a': ['y', None, 'z'], 'b': [10, None, 3.0]}).tolist() == [[1, 4], [-1, -1], [-1, 2]]
  for records, words in (
    ({'a': ['x'], 'c': [1]}, r"unknown \['c'\], missing \['b'\]"),
    ({'a': ['x'], 'b': [float('nan')]}, "Field 'b', row 0 is NaN"),
    ({'a': ['x'], 'b': ['many']}, "'b' holds 'many'"),
    ({'a': ['x', 'y'], 'b': [1]}, 'different lengths'),
  ):
    with pytest.raises(ValueError, match=words):
      small(records)


def test_thresholds_and_missing_values():
  counts = {b'': 9, b'a': 3, b'b': 2, b'c': 4}
  assert make_encoding(Column('f'), counts, 2).levels == [b'a', b'c']
  assert make_encoding(Column('f'), counts, 2, 'ge').levels == [b'a', b'b', b'c']
  assert Encoding(Column('f', 'log_square', 'zero'))([b'', b'0', b'-1', b'-10']).tolist() == [0, 0, 0, 4]
  assert Encoding(Column('f', 'log_square'))([b'', b'1000']).tolist() == [-1, 13]
  with pytest.raises(ValueError, match='quantile:1'):
    Column('f', 'quantile:1')


def test_transforms():
  assert log_square_bin(np.array([0, 1, -1, 2, 3, 10, 1000, np.nan])).tolist() == [0, 0, 0, 1, 2, 4, 13, -1]
  edges = quantile_edges(np.arange(100.0), 4)
  assert np.bincount(quantile_bin(np.arange(100.0), edges)).tolist() == [25, 25, 25, 25]
  with pytest.raises(ValueError, match='0 finite values'):
    quantile_edges(np.array([np.nan]), 4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 17), st.integers(1, 30), st.booleans())
def test_every_row_counts_exactly_once_an_epoch(rows, batch_size, block, shuffle):
  source = ArraySource({'ids': np.arange(rows)[:, None], 'label': np.zeros(rows)})
  batches = EpochBatches(source, batch_size, 3, shuffle=shuffle, block=block, process=0, processes=1)
  for epoch in range(2):
    seen = [batches(epoch * batches.per_epoch + i) for i in range(batches.per_epoch)]
    ids = np.concatenate([b['ids'][:, 0] for b in seen])[np.concatenate([b['weight'] for b in seen]) > 0]
    assert sorted(ids) == list(range(rows))
    if not shuffle:
      assert ids.tolist() == list(range(rows))


def test_processes_share_one_batch_and_a_new_object_agrees():
  source = ArraySource({'ids': np.arange(100)[:, None], 'label': np.zeros(100)})

  def make(process, processes):
    return EpochBatches(source, 8, 5, block=16, process=process, processes=processes)

  whole = make(0, 1)
  assert any((whole(s)['ids'] != whole(s + whole.per_epoch)['ids']).any() for s in range(3))
  for step in (0, 12, 13, 29):
    parts = [make(p, 2)(step) for p in (0, 1)]
    for key, value in whole(step).items():
      np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), value)
  stacked = StackedBatches([whole, make(0, 1)])(3)
  assert stacked['ids'].shape == (8, 2, 1) and stacked['weight'].shape == (8, 2)
  with pytest.raises(UserError, match='multiple of the 3 processes'):
    make(0, 3)


def test_adult_is_whole_and_attributed():
  loaded = adult.load()
  assert {k: len(v['label']) for k, v in loaded.splits.items()} == {'train': 39_073, 'valid': 4_884, 'test': 4_885}
  assert [round(float(v['label'].mean()), 4) for v in loaded.splits.values()] == [0.2386, 0.2406, 0.2432]
  assert loaded.fields.rows == 422
  folder = Path(adult.__file__).parent
  assert (folder / 'adult.npz').stat().st_size < 300_000
  assert 'CC BY 4.0' in (folder / 'adult.ATTRIBUTION.txt').read_text()
  record = {e.column.name: [None] for e in loaded.encodings} | {'age': [39], 'gender': ['Male'], 'capital_gain': [2174]}
  ids = RecordEncoder(loaded.encodings)(record)[0]
  assert ids[0] >= 0 and ids[3] == 15 and ids[6] == -1


def test_adult_can_be_packed_again(tmp_path):
  shared = Path(os.environ.get('JAXPAPERS_SHARED', Path(__file__).resolve().parents[3] / 'shared'))
  source = shared / 'data' / 'xdeepint' / 'adult.csv.gz'
  if not source.exists():
    pytest.skip(f'{source} is absent')
  adult.pack(str(source), str(tmp_path / 'again.npz'))
  packaged = Path(adult.__file__).parent / 'adult.npz'
  with np.load(tmp_path / 'again.npz') as again, np.load(packaged) as stored:
    for key in stored.files:
      np.testing.assert_array_equal(again[key], stored[key])


def test_bad_arrays_are_named():
  fields = adult.load().fields
  good = {'ids': np.zeros((2, 14), np.int32), 'label': np.array([0, 1])}
  data.from_arrays(fields, {'train': good})
  outside = good['ids'].copy()
  outside[1, 6] = 6
  for arrays, words in (
    ({**good, 'ids': outside}, "train, row 1: field 'workclass' has id 6; ids go from 0 to 5"),
    ({**good, 'ids': good['ids'][:, :13]}, 'there are 14 fields'),
    ({**good, 'label': np.array([0, 2])}, 'train, row 1: label 2 is neither 0 nor 1'),
    ({'ids': good['ids'][:0], 'label': good['label'][:0]}, "'train' is empty"),
  ):
    with pytest.raises(ValueError, match=words):
      data.from_arrays(fields, {'train': arrays})


def test_planted_parity_is_balanced_and_of_the_planted_order():
  task = data.planted_parity(0, (1, 3), rows=20_000)
  arrays = task.splits['train'].arrays
  ids, labels = arrays['ids'], arrays['label'] - arrays['label'].mean(axis=0)
  assert len(ids) == 12_000 and task.bayes == pytest.approx((0.9526, 0.1909), abs=1e-4)

  def strongest(column, fields):
    cells = np.unravel_index(np.arange(4 ** len(fields)), (4,) * len(fields))
    index = np.ravel_multi_index(tuple(ids[:, f] for f in fields), (4,) * len(fields))
    means = np.bincount(index, labels[:, column], len(cells[0])) / np.bincount(index, minlength=len(cells[0]))
    return np.abs(means).max()

  assert strongest(0, (0,)) > 0.4 and strongest(1, (0, 1, 2)) > 0.35
  assert strongest(1, (0,)) < 0.05 and strongest(1, (0, 1)) < 0.1
  with pytest.raises(ValueError, match='even levels'):
    data.planted_parity(0, levels=3)
