"""The tables from CSV and npz, their statistics, and readers' errors with file and line."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxpapers.engine import UserError
from jaxpapers.vr_quality import clips, database, database_statistics, scanpath_files, splits, videos

SHARED = Path(os.environ.get('JAXPAPERS_SHARED') or Path(__file__).resolve().parents[3] / 'shared')
REAL = SHARED / 'data' / 'vr_quality'


def make_tables(videos_=12, seed=0):
  rng = np.random.default_rng(seed)
  return database.Tables(
    np.array([f'V_{i:02d}.mp4' for i in range(videos_)]),
    np.round(rng.uniform(1, 5, (videos_, 4)) * 20) / 20,
    rng.uniform(-180, 180, (videos_, 2)),
    rng.uniform(-20, 20, (videos_, 2)),
    rng.integers(300, 450, videos_),
    np.full(videos_, 30),
    np.full((videos_, 2), 2),
    np.full(videos_, -1),
  )


def write_csv(path, header, rows):
  with (gzip.open if path.suffix == '.gz' else open)(path, 'wt', newline='') as file:
    csv.writer(file).writerows([header, *rows])


def write_database(folder, tables):
  names, mos = tables.video_name, tables.mos
  for s, letter in enumerate('AB'):
    header = ('VideoName', 'HM_pitch', 'HM_yaw', '7s_MOS', '15s_MOS')
    rows = [
      (n, *map(repr, map(float, v)))
      for n, *v in zip(names, tables.start_pitch[:, s], tables.start_yaw[:, s], mos[:, s], mos[:, 2 + s], strict=True)
    ]
    write_csv(folder / f'info{letter}.csv', header, rows)
    write_csv(
      folder / f'scanpath{letter}_mos.csv.gz', ('VideoName',), [(f'{n}/sub{k}',) for n in names for k in (1, 2)]
    )
  info = zip(names, tables.n_frames, tables.fps, strict=True)
  write_csv(folder / 'video_info.csv', ('video_names', 'video_length', 'video_frame_rate'), info)
  rows = zip(tables.row_names(), map(repr, map(float, tables.scores)), strict=True)
  write_csv(folder / 'infoAB_all.csv', ('VideoName', 'MOS'), rows)


def write_npz(path, tables):
  arrays = tables._asdict()
  arrays |= {'start_yaw_deg': arrays.pop('start_yaw'), 'start_pitch_deg': arrays.pop('start_pitch')}
  np.savez(path, condition=np.array(database.CONDITIONS), **arrays)


@pytest.fixture
def folder(tmp_path):
  write_database(tmp_path, make_tables())
  return tmp_path


def test_csv_and_npz_give_the_same_tables_and_numbers(tmp_path):
  tables = make_tables(40)
  write_database(tmp_path, tables)
  write_npz(tmp_path / database.NPZ, tables)
  read = [database.read_csv(str(tmp_path)), database.load(str(tmp_path))]
  for name in tables._fields:
    for one in read:
      np.testing.assert_array_equal(getattr(one, name), getattr(tables, name))
  assert database_statistics.summary(read[0]) == database_statistics.summary(read[1])
  np.testing.assert_array_equal(tables.design[:, 1, 0], tables.mos[:, 1])
  assert tables.row_names()[41] == '7_B_V_01.mp4' and tables.scores[41] == tables.mos[1, 1]


@pytest.mark.skipif(not REAL.exists(), reason='the real tables are not here (set JAXPAPERS_SHARED)')
def test_the_real_tables_reproduce_the_published_facts():
  tables = database.read_csv(str(REAL))
  compact = database.load(str(REAL))
  facts = database_statistics.summary(tables)
  other = database_statistics.summary(compact)
  assert other.pop('sources') == {'n_groups': 329, 'unknown': 25, 'largest': 6}
  assert facts == other
  assert round(facts['rm_anova']['interaction']['F']) == 1603
  assert round(facts['lookup_mean']['all'][1], 3) == 0.842
  split = splits.by_source(0, compact.source_group)
  group = splits.own_groups(compact.source_group)[splits.rows_of(502)[1]]
  assert splits.leak(split, group) == 0


@pytest.mark.parametrize(
  ('file', 'old', 'new', 'message'),
  [
    ('infoA.csv', 'HM_yaw', 'yaw', r"infoA.csv, line 1: no column 'HM_yaw'"),
    ('infoB.csv', 'V_03.mp4,', 'V_03.mp4,x', r"infoB.csv, line 5: HM_pitch is 'x.*not a number"),
    ('infoB.csv', 'V_03.mp4,', 'V_02.mp4,', r"infoB.csv, line 5: 'V_02.mp4' was there before"),
    ('infoB.csv', 'V_03.mp4,', 'V_99.mp4,', r'infoA and infoB name different videos'),
    ('infoA.csv', 'V_03.mp4,', 'V_03.mp4,1,', r'infoA.csv, line 5: 6 values under 5 columns'),
    ('video_info.csv', 'V_03.mp4', 'V_98.mp4', r'infoA and video_info name different videos'),
    ('infoAB_all.csv', '15_B_V_03.mp4,', '15_B_V_03.mp4,9', r"infoAB_all gives '15_B_V_03.mp4'"),
    ('infoAB_all.csv', '15_B_V_03.mp4', '15_C_V_03.mp4', r"infoAB_all gives '15_C_V_03.mp4'"),
  ],
)
def test_damaged_tables_are_named(folder, file, old, new, message):
  text = (folder / file).read_text()
  assert old in text
  (folder / file).write_text(text.replace(old, new, 1))
  with pytest.raises(UserError, match=message):
    database.read_csv(str(folder))


def test_missing_and_unreadable_files_are_named(folder):
  (folder / 'infoB.csv').unlink()
  with pytest.raises(UserError, match='no infoB.csv'):
    database.load(str(folder))
  (folder / database.NPZ).write_bytes(b'PK\x03\x04 nothing')
  with pytest.raises(UserError, match='cannot be read'):
    database.load(str(folder))
  tables = make_tables()
  tables.mos[2, 1] = 5.5
  write_npz(folder / database.NPZ, tables)
  with pytest.raises(UserError, match=r"mos of 'V_02.mp4' is 5.5, outside 1..5"):
    database.load(str(folder))


ROWS = [(v, s, p, y) for v in ('a.mp4', 'b.mp4') for s in (1, 2) for p, y in ((10, 170), (-20, 190), (0, -181.5))]


def scanpath_file(tmp_path, rows, header=scanpath_files.COLUMNS):
  write_csv(tmp_path / 'scanpathA.csv', header, rows)
  return tmp_path / 'scanpathA.csv'


def test_scanpaths_are_read_with_wrapped_yaw_and_latitude_up(tmp_path):
  found = scanpath_files.read_csv(scanpath_file(tmp_path, ROWS), {'a.mp4', 'b.mp4'})
  assert found.lonlat.shape == (4, 3, 2) and found.dropped == 0 and list(found.length) == [3] * 4
  np.testing.assert_allclose(np.rad2deg(found.lonlat[0]), [[170, -10], [-170, 20], [178.5, 0]], atol=1e-9)
  assert found.of('b.mp4').shape == (2, 3, 2)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({2: ('a.mp4', 1, 'up', 3)}, r"scanpathA.csv, line 4: HM_pitch is 'up', not a number"),
    ({2: ('a.mp4', 1, 'nan', 3)}, r"line 4: HM_pitch is 'nan', not a number"),
    ({2: ('a.mp4', 1, 90.5, 3)}, r'line 4: HM_pitch is 90.5, outside -90..90'),
    ({2: ('a.mp4', '', 0, 3)}, r'line 4: the subject is empty'),
    ({2: ('c.mp4', 1, 0, 3)}, r"line 4: unknown video 'c.mp4'"),
    ({8: ('a.mp4', 1, 10, 170)}, r"line 10: duplicate rows of subject '1', 'a.mp4': see line 2"),
    ({5: None}, r"line 5: subject '2' has 2 rows for 'a.mp4', subject '1' has 3"),
  ],
)
def test_bad_scanpath_rows_are_named_with_their_line(tmp_path, change, message):
  rows = [change.get(i, row) for i, row in enumerate(ROWS)]
  with pytest.raises(UserError, match=message):
    scanpath_files.read_csv(scanpath_file(tmp_path, [row for row in rows if row]), {'a.mp4', 'b.mp4'})


def test_unequal_lengths_are_padded_or_cut_with_a_count(tmp_path):
  path = scanpath_file(tmp_path, ROWS[:5] + ROWS[6:])
  padded = scanpath_files.read_csv(path, unequal='pad')
  assert list(padded.length) == [3, 2, 3, 3] and padded.dropped == 0
  cut = scanpath_files.read_csv(path, unequal='cut')
  assert list(cut.length) == [2, 2, 3, 3] and cut.dropped == 1
  with pytest.raises(UserError, match="'drop'"):
    scanpath_files.read_csv(path, unequal='drop')
  doubled = scanpath_file(tmp_path, [*ROWS[:3], *ROWS[:3]])
  with pytest.raises(UserError, match='line 5: duplicate rows.*all occur twice'):
    scanpath_files.read_csv(doubled)
  with pytest.raises(UserError, match="no column 'HM_pitch'"):
    scanpath_files.read_csv(scanpath_file(tmp_path, ROWS, ('VideoName', 'subject', 'pitch', 'HM_yaw')))
  with pytest.raises(UserError, match='no rows'):
    scanpath_files.read_csv(scanpath_file(tmp_path, []))


def test_npy_scanpaths_have_their_longitude_from_the_left_edge(tmp_path):
  np.save(tmp_path / '012_s1.npy', np.array([[180, 0], [359, 45], [1, -45]], np.float32))
  found = scanpath_files.read_npy(tmp_path)
  np.testing.assert_allclose(np.rad2deg(found.lonlat[0]), [[0, 0], [179, 45], [-179, -45]], atol=1e-4)
  assert (found.video[0], found.subject[0], found.rate) == ('012', 's1', 5.0)
  across = scanpath_files.resample(found.lonlat[0, 1:], 5.0, 10.0)
  assert across.shape == (3, 2) and abs(abs(across[1, 0]) - np.pi) < 1e-6
  for array, message in (
    (np.zeros(3), r'not \[time, 2\]'),
    (np.array([[0.0, 91.0]]), 'row 0.*outside'),
    (np.array([[np.nan, 0.0]]), 'row 0.*outside'),
  ):
    np.save(tmp_path / '012_s2.npy', array)
    with pytest.raises(UserError, match=message):
      scanpath_files.read_npy(tmp_path)
  with pytest.raises(UserError, match="unknown video '012'"):
    scanpath_files.read_npy(tmp_path, {'013'})
  with pytest.raises(UserError, match='holds no .npy'):
    scanpath_files.read_npy(tmp_path / 'none')


def test_clips_take_the_frames_of_their_condition_from_extracted_pictures(tmp_path, monkeypatch):
  tables = make_tables(2)
  for name in ('V_00', 'V_01'):
    (tmp_path / 'frames' / name).mkdir(parents=True)
    for second in range(14):
      Image.fromarray(np.full((4, 8, 3), 10 * second, np.uint8)).save(tmp_path / 'frames' / name / f'{second:03d}.png')
  source = clips.ClipSource(tmp_path, tables, np.arange(8), (4, 8))
  first, last = source[0], source[7]
  assert len(source) == 8 and first['frames'].shape == (7, 4, 8, 3)
  np.testing.assert_array_equal(first['frames'][:, 0, 0, 0], np.arange(7) * 10)
  np.testing.assert_array_equal(last['frames'][:, 0, 0, 0], np.arange(0, 14, 2) * 10)
  assert (last['time'], last['condition'], last['video']) == (1, 3, 1) and last['mos'] == np.float32(tables.mos[1, 3])
  np.testing.assert_allclose(last['start'], np.deg2rad([tables.start_yaw[1, 1], -tables.start_pitch[1, 1]]), rtol=1e-6)
  frames = videos.keyframes(tmp_path / 'frames' / 'V_00', (2, 4))
  assert frames.shape == (15, 2, 4, 3) and np.all(frames[13] == frames[14])
  with pytest.raises(UserError, match=r"No frames or video of 'V_02.mp4'"):
    clips.ClipSource(tmp_path, make_tables(3), [2])
  (tmp_path / 'V_02.mp4').write_bytes(b'no video')
  monkeypatch.setitem(__import__('sys').modules, 'av', None)
  with pytest.raises(UserError, match='needs imageio with PyAV'):
    videos.keyframes(tmp_path / 'V_02.mp4')
  with pytest.raises(UserError, match='does not exist'):
    videos.keyframes(tmp_path / 'V_77.mp4')
  (tmp_path / 'frames' / 'V_00' / '013.png').write_bytes(b'broken')
  with pytest.raises(UserError, match='013.png cannot be read as a picture'):
    videos.keyframes(tmp_path / 'frames' / 'V_00')
  with pytest.raises(ValueError, match='7 or 15'):
    videos.condition_frames(frames, 10)


def test_videos_are_decoded_at_one_frame_a_second(tmp_path):
  av = pytest.importorskip('av', reason='PyAV is not installed (pip install "imageio[pyav]")')
  with av.open(str(tmp_path / 'clip.mp4'), 'w') as file:
    stream = file.add_stream('mpeg4', rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 32, 'yuv420p'
    for index in range(35):
      frame = np.zeros((32, 64, 3), np.uint8)
      frame[..., 0] = 7 * index
      for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')):
        file.mux(packet)
    for packet in stream.encode():
      file.mux(packet)
  frames = videos.keyframes(tmp_path / 'clip.mp4', (16, 32))
  assert frames.shape == (15, 16, 32, 3) and frames.dtype == np.uint8
  np.testing.assert_allclose(frames[:5, 8, 16, 0], [0, 70, 140, 210, 210], atol=12)
  (tmp_path / 'cut.mp4').write_bytes((tmp_path / 'clip.mp4').read_bytes()[:500])
  with pytest.raises(UserError, match='cut.mp4 cannot be decoded as a video'):
    videos.keyframes(tmp_path / 'cut.mp4')
