"""The grooves in the package against known counts, and three readers against each other."""

import csv
import io
import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxpapers.drums import data, encoding, midi, notation
from jaxpapers.engine.errors import UserError

SHARED = Path(os.environ.get('JAXPAPERS_SHARED') or Path(__file__).parents[3] / 'shared') / 'data' / 'drums'
ZIP = SHARED / 'groove_midi.zip'


@pytest.fixture(scope='module')
def bundled():
  return data.bundled()


def rates(grooves):
  return np.concatenate([groove.grid for groove in grooves]).mean(axis=0).round(4).tolist()


def test_the_package_carries_what_the_paper_used(bundled):
  by_split = {split: [g for g in bundled if g.split == split] for split in data.SPLITS}
  assert {split: len(several) for split, several in by_split.items()} == {'train': 373, 'dev': 47, 'test': 37}
  assert Counter(g.time_signature for g in bundled) == {'4-4': 451, '3-4': 5, '5-4': 1}
  assert {(g.time_signature, len(g.grid)) for g in bundled} == {('4-4', 256), ('3-4', 192), ('5-4', 320)}
  primary = Counter(g.style.split('-')[0] for g in by_split['train'])
  assert [primary[s] for s in ('rock', 'jazz', 'latin', 'funk', 'hiphop')] == [169, 41, 37, 31, 26]
  assert [primary[s] for s in ('neworleans', 'afrobeat', 'soul')] == [13, 10, 10]
  assert rates(by_split['train']) == [0.0087, 0.0840, 0.2272, 0.1688, 0.2325, 0.0490]
  assert rates(by_split['test']) == [0.0079, 0.0893, 0.2302, 0.1911, 0.2607, 0.0456]
  assert all(g.bpm == int(g.name.split('_')[3]) and 40 <= g.bpm <= 300 for g in bundled)
  folder = Path(data.__file__).parent
  assert (folder / data.BUNDLE).stat().st_size < 200_000
  notice = (folder / 'grooves.ATTRIBUTION.txt').read_text()
  assert all(word in notice for word in ('CC BY 4.0', 'Google LLC', 'Gillick', 'Changes made', 'derivative'))


def test_records_are_those_of_the_paper(bundled):
  records = data.records(bundled, official=True)
  assert {split: len(several) for split, several in records.items()} == {'train': 372, 'dev': 47, 'test': 37}
  lines = Counter(len(g.grid) - 32 for g in records['train'])
  assert lines == {224: 281, 208: 81, 192: 4, 176: 1, 160: 2, 144: 2, 288: 1}
  full = {g.name: len(g.grid) for g in bundled}
  kept = [g for several in records.values() for g in several]
  assert Counter((full[g.name] - len(g.grid)) // 16 for g in kept) == {0: 343, 1: 107, 2: 4, 3: 1, 4: 1}
  assert set(full) - {g.name for g in kept} == {'7_22_rock_118_beat_4-4'}
  for several in records.values():
    assert [g.name for g in several] == sorted(g.name for g in several)
  assert len(set(np.concatenate([notation.line_ids(g.grid) for g in records['train']]).tolist())) == 42


def test_other_signatures_are_left_out_unless_wanted(bundled):
  records = data.records(bundled)
  assert {split: len(several) for split, several in records.items()} == {'train': 367, 'dev': 46, 'test': 37}
  waltz = data.records(bundled, time_signatures=('3-4',))
  assert [len(several) for several in waltz.values()] == [4, 1, 0]


def test_a_record_has_more_than_eight_measures(bundled):
  grid = np.zeros((256, 6), bool)
  grooves = [bundled[0]._replace(name=f'x{n}', grid=grid.copy()) for n in (7, 8)]
  for silent, groove in zip((8, 7), grooves, strict=True):
    groove.grid[16 * silent :, 3] = True
  assert [(g.name, len(g.grid)) for g in data.records(grooves)['train']] == [('x8', 144)]


ROWS = [
  ('drummer1', 'session1', 1, 'funk', 'beat', '4-4', 'train'),
  ('drummer1', 'session1', 2, 'funk', 'fill', '4-4', 'train'),
  ('drummer10', 'session2', 3, 'latin/brazilian-samba', 'beat', '4-4', 'validation'),
  ('drummer2', 'eval_session', 4, 'rock/groove4', 'beat', '4-4', 'test'),
  ('drummer2', 'session3', 5, 'jazz/swing', 'beat', '3-4', 'test'),
  ('drummer2', 'session3', 6, 'blues', 'beat', '6-8', 'test'),
]


def six_eight(content):
  return content.replace(bytes.fromhex('ff580404'), bytes.fromhex('ff580406')).replace(
    bytes.fromhex('ff58040602'), bytes.fromhex('ff58040603')
  )


@pytest.fixture(scope='module')
def dataset():
  """(rows of info.csv, {file: bytes}, {name: grid})."""
  rows, files, grids = [], {}, {}
  generator = np.random.default_rng(3)
  for drummer, session, number, style, kind, signature, split in ROWS:
    stem = f'{number}_{style.replace("/", "-")}_{90 + number}_{kind}_{signature}'
    file = f'{drummer}/{session}/{stem}.mid'
    numerator = int(signature[0])
    grid = generator.random((16 * 4 * min(numerator, 4), 6)) < 0.3
    files[file] = midi.write(grid, numerator=min(numerator, 4))
    if signature == '6-8':
      files[file] = six_eight(files[file])
    grids[f'{drummer.removeprefix("drummer")}_{stem}'] = grid
    rows.append(
      {
        'drummer': drummer,
        'session': f'{drummer}/{session}',
        'id': f'{drummer}/{session}/{number}',
        'style': style,
        'bpm': str(90 + number),
        'beat_type': kind,
        'time_signature': signature,
        'midi_filename': file,
        'audio_filename': '',
        'duration': '30.0',
        'split': split,
      }
    )
  return rows, files, grids


def info(rows):
  output = io.StringIO()
  writer = csv.DictWriter(output, list(rows[0]))
  writer.writeheader()
  writer.writerows(rows)
  return output.getvalue()


def unpack(folder, dataset, **changed):
  rows, files, _ = dataset
  for name, content in {'info.csv': info(rows).encode(), **files, **changed}.items():
    if content is not None:
      path = folder / 'groove' / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
  return folder


def pack(path, folder):
  with zipfile.ZipFile(path, 'w') as file:
    for member in sorted(folder.rglob('*')):
      file.write(member, member.relative_to(folder))
  return path


def same(a, b):
  assert [g[:-1] for g in a] == [g[:-1] for g in b]
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x.grid, y.grid)


def test_zip_folder_and_tfds_are_read_alike(dataset, tmp_path):
  from tests.drums import tiny_groove

  rows, files, grids = dataset
  folder = unpack(tmp_path / 'data', dataset)
  reading = data.read_gmd(folder)
  wanted = ['1_1_funk_91_beat_4-4', '10_3_latin-brazilian-samba_93_beat_4-4', '2_5_jazz-swing_95_beat_3-4']
  assert [(g.name, g.split) for g in reading.grooves] == list(zip(wanted, ('train', 'dev', 'test'), strict=True))
  for groove in reading.grooves:
    np.testing.assert_array_equal(groove.grid, grids[groove.name])
  assert list(reading.skipped) == ['2_6_blues_96_beat_6-8'] and '6/8' in reading.skipped['2_6_blues_96_beat_6-8']
  assert reading.counts == {
    'hits': sum(int(grids[name].sum()) for name in wanted), 'merged': 0, 'late': 0, 'ignored': 0, 'unknown': 0
  }  # fmt: skip
  same(data.read_gmd(folder / 'groove').grooves, reading.grooves)
  backwards = unpack(tmp_path / 'backwards', dataset, **{'info.csv': info(rows[::-1]).encode()})
  same(data.read_gmd(backwards).grooves, reading.grooves)
  same(data.load('gmd', str(pack(tmp_path / 'gmd.zip', folder))), reading.grooves)
  for row in rows:
    tiny_groove.ROWS.setdefault(row['split'], []).append(row)
  tiny_groove.FILES.update(files)
  tiny_groove.Groove(data_dir=tmp_path / 'tfds', file_format='array_record').download_and_prepare()
  same(data.load('tfds', str(tmp_path / 'tfds')), reading.grooves)
  data.pack(folder, tmp_path / 'packed.npz')
  with np.load(tmp_path / 'packed.npz') as packed:
    assert str(packed['names']).split('\n') == wanted and packed['lines'].tolist() == [256, 256, 192]


def test_errors_name_file_and_line(dataset, tmp_path):
  rows, files, _ = dataset
  first = rows[0]['midi_filename']

  def says(words, name, **changed):
    with pytest.raises(UserError, match=words):
      data.read_gmd(unpack(tmp_path / name, dataset, **changed))

  says('info.csv cannot be read', 'no_table', **{'info.csv': None})
  says(f'{first} cannot be read', 'no_file', **{first: None})
  says('the MIDI of drummer1/session1/1 cannot be read: .*cut short', 'short', **{first: files[first][:200]})
  says("no column 'split'", 'column', **{'info.csv': info(rows).replace(',split', ',part').encode()})
  says("line 2: split is 'dev'", 'split', **{'info.csv': info([rows[0] | {'split': 'dev'}]).encode()})
  says("line 2: 'a.mid' is not named", 'name', **{'info.csv': info([rows[0] | {'midi_filename': 'a.mid'}]).encode()})
  says('no groove that can be encoded', 'fills', **{'info.csv': info(rows[1:2]).encode()})
  says('is no CSV file', 'bytes', **{'info.csv': b'\xff\xfe'})
  with pytest.raises(UserError, match=r'There is no .*nowhere\.zip'):
    data.read_gmd(tmp_path / 'nowhere.zip')
  broken = tmp_path / 'broken.zip'
  broken.write_bytes(b'PK')
  with pytest.raises(UserError, match='cannot be read as the zip'):
    data.read_gmd(broken)
  with zipfile.ZipFile(tmp_path / 'empty.zip', 'w') as file:
    file.writestr('readme', 'x')
  with pytest.raises(UserError, match=r'has no info\.csv'):
    data.read_gmd(tmp_path / 'empty.zip')
  with pytest.raises(UserError, match='full-midionly is not in .*tfds build'):
    data.read_tfds(tmp_path)
  with pytest.raises(UserError, match='cut into bars'):
    data.read_tfds(tmp_path, '2bar-midionly')
  with pytest.raises(UserError, match="source of grooves 'gdm'. Did you mean 'gmd'"):
    data.load('gdm')


def test_unknown_pitches_are_counted_not_fatal(dataset, tmp_path):
  rows, _, _ = dataset
  first = rows[0]['midi_filename']
  # Running status: the kick's number follows that of another drum's note-on.
  content = midi.write(np.eye(6, dtype=bool)[3:4].repeat(16, axis=0)).replace(bytes([36, 100]), bytes([20, 100]))
  reading = data.read_gmd(unpack(tmp_path, dataset, **{first: content}))
  assert reading.counts['unknown'] == 16
  assert encoding.encode(content).unknown == {20: 16}


@pytest.mark.skipif(not ZIP.exists(), reason=f'{ZIP} is absent')
def test_the_bundle_is_made_from_the_data_set(bundled, tmp_path):
  reading = data.read_gmd(ZIP)
  same(reading.grooves, bundled)
  assert len(reading.skipped) == 6 and all('denominator' in reason for reason in reading.skipped.values())
  assert reading.counts['unknown'] == 0 and reading.counts['ignored'] > 0


@pytest.mark.skipif(not (SHARED / 'drumroll_official.zip').exists(), reason=f'{SHARED} is absent')
def test_prompts_and_completions_are_those_of_the_authors(bundled):
  records = data.records(bundled, official=True)
  with zipfile.ZipFile(SHARED / 'drumroll_official.zip') as file:
    for split, grooves in records.items():
      want = [json.loads(line) for line in file.read(f'gpt3_{split}.jsonl').decode().splitlines()]
      got = [json.loads(line) for line in data.json_lines(grooves).splitlines()]
      assert got == sorted(want, key=lambda record: record['name'])


def test_a_record_of_the_package_by_hand(bundled):
  groove = next(g for g in data.records(bundled)['test'] if g.name == '1_110_rock-prog_190_beat_4-4')
  record = json.loads(data.json_lines([groove]))
  assert list(record) == ['prompt', 'completion', 'name'] and record['name'] == groove.name
  assert record['prompt'].endswith('SEP\n') and record['completion'].endswith('\nEND')
  lines = (record['prompt'] + record['completion']).split('\n')
  assert (lines.count('SEP'), len(lines)) == (14, 240 + 14 + 1)
