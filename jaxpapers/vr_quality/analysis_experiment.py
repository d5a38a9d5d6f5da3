"""The report of the real tables as an experiment: bootstrap replicates are its stage, the tables its evaluation."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpapers.engine import Evaluation, Experiment, UserError
from jaxpapers.vr_quality import (
  analysis_report,
  bootstrap,
  database,
  database_statistics,
  panoramas,
  scanpath_data,
  scanpath_files,
)
from jaxpapers.vr_quality.database import Tables, number, read_rows
from jaxpapers.vr_quality.mos import ratings_matrix


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """Statistics of the database in `config.data.dir` (default: $JAXPAPERS_SHARED/data/vr_quality).

  Raises:
    UserError: if there is no database, or what its readers find.
  """
  options = config.analysis
  folder = data_folder(config.data.dir)
  if not folder:
    raise UserError(
      f'The analysis needs the tables of VRVQW: --config.data.dir=FOLDER with infoA.csv, ... from {database.PAGE}.'
    )
  readers = {
    'auto': database.load,
    'csv': database.read_csv,
    'npz': lambda f: database.read_npz(Path(f) / database.NPZ),
  }
  if options.tables not in readers:
    raise UserError(f'config.analysis.tables={options.tables!r} is not known; known: {", ".join(readers)}.')
  tables = readers[options.tables](folder)
  ratings = _ratings(options.ratings)
  paths = _scanpaths(folder, tables, config.seed)
  test = Evaluation('tables', lambda: [{'valid': np.ones(1, bool)}], _nothing, lambda _: metrics(tables))
  stage = bootstrap.stage(tables.mos, steps=options.steps, batch_size=options.batch_size, evaluations=(test,))

  def draw(states: Mapping[str, Any], page: Any) -> None:
    replicates = states['bootstrap']['replicates']
    analysis_report.draw(page, tables, replicates, ratings, paths, config.seed)

  return Experiment([stage], draw)


def data_folder(folder: str) -> str:
  """`folder`, or the shared one that $JAXPAPERS_SHARED names; '' if there is none."""
  if folder:
    return folder
  shared = Path(os.environ.get('JAXPAPERS_SHARED') or Path(__file__).resolve().parents[3] / 'shared')
  default = shared / 'data' / 'vr_quality'
  return str(default) if (default / database.NPZ).exists() else ''


def metrics(tables: Tables) -> dict[str, float]:
  """The headline numbers of the tables as metrics of the run."""
  facts = database_statistics.score_facts(tables)
  found = {f'mos_{name}': facts['mos'][name]['mean'] for name in database.CONDITIONS}
  for name, row in facts['rm_anova'].items():
    found |= {name: row['mean'], f'{name}_F': row['F']}
  found['icc31'] = facts['icc31']
  for protocol in ('official', 'by_video', 'by_source'):
    rows = database_statistics.lookups(tables, protocol)
    best = 'video' if protocol == 'official' else 'source'
    found[f'{protocol}_lookup_srcc'] = rows[best][1]
    found[f'{protocol}_leak_video'] = rows['leak_video']
  return found


def _nothing(state: Any, batch: Any) -> Any:
  del state
  return {'valid': jnp.asarray(batch['valid'])}


def _ratings(path: str) -> np.ndarray | None:
  """[subjects, stimuli] from a CSV of subject, stimulus, score; None without a path."""
  if not path:
    return None
  columns = ('subject', 'stimulus', 'score')
  rows = [(s, v, number(score, path, line, 'score')) for line, (s, v, score) in read_rows(path, columns)]
  try:
    return ratings_matrix(rows, source=path)[0]
  except ValueError as error:
    raise UserError(str(error)) from error


def _scanpaths(folder: str, tables: Tables, seed: int) -> analysis_report.Paths:
  """Recorded scanpaths of start A if the folder has them, else synthetic observers, which the report says."""
  for suffix in ('.csv', '.csv.gz'):
    path = Path(folder) / f'scanpathA{suffix}'
    if path.exists():
      found = scanpath_files.read_csv(path, set(tables.video_name.tolist()), unequal='cut')
      scenes = scanpath_data.recorded(found)
      note = f'Recorded, start A, {len(scenes)} videos; {found.dropped} points left out to make lengths equal.'
      return analysis_report.Paths(scenes, note, _panorama(folder))
  note = 'SYNTHETIC observers: the folder holds no scanpathA.csv (the raw scanpaths are in the authors’ download).'
  return analysis_report.Paths(scanpath_data.synthetic(seed, 20, 20, 15), note, _panorama(folder))


def _panorama(folder: str) -> np.ndarray | None:
  """One real panorama, where the folder has some."""
  path = Path(folder) / panoramas.PHOTOGRAPHS
  if not path.exists():
    return None
  with np.load(path) as file:
    return file['image'][0]
