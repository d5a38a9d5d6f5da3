"""Raw logs to memory-mapped shards.

    python -m jaxpapers.xdeepint.prepare --dataset=criteo --input=train.txt --output=DIR

Pass 1 reads everything once: it checks every line, counts levels over the training rows, and notes how many rows each
chunk gives to each split. Pass 2 encodes. What is written depends on the input and the options alone, not on the number
of workers; an interrupted run goes on with --resume and ends in the same bytes.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.xdeepint.columns import Encoding, make_encoding
from jaxpapers.xdeepint.formats import Format
from jaxpapers.xdeepint.layouts import DATASETS, layout_of
from jaxpapers.xdeepint.passes import CHUNK_BYTES, Task, chunks, count, encode, ordered_map
from jaxpapers.xdeepint.shard_files import FORMAT_VERSION, META, SPLITS, ShardWriter, shard_lengths

PLAN = 'plan.json'


@dataclasses.dataclass(frozen=True)
class Options:
  """What decides the bytes that are written.

  Attributes:
    split: see `splitter`.
    threshold: a level is kept if its count in the training rows is above (`gt`) or at least (`ge`) this.
    rule: 'gt' or 'ge'.
    rows_per_shard: of the shards.
    seed: of the random split.
    on_bad_line: 'stop' or 'skip'.
  """

  split: str = 'official'
  threshold: int = 20
  rule: str = 'gt'
  rows_per_shard: int = 1_000_000
  seed: int = 0
  on_bad_line: str = 'stop'


def prepare(
  dataset: str,
  layout: Format,
  groups: Sequence[Sequence[str]],
  output: str | os.PathLike,
  options: Options,
  *,
  workers: int = 1,
  resume: bool = False,
  chunk_bytes: int = CHUNK_BYTES,
  say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Writes `output`: meta.json, vocab/<field>.txt, and ids-00000.npy and labels-00000.npy per split.

  Args:
    dataset: its name, for meta.json.
    layout: of the lines.
    groups: files of --input, and of --test-input.
    output: folder; must be new, unless `resume`.
    options: what decides the bytes.
    workers: processes; they do not change what is written.
    resume: go on where an interrupted call with the same options stopped.
    chunk_bytes: how much is read at once.
    say: told what happens.

  Returns:
    The contents of meta.json.

  Raises:
    UserError: for what a person can put right.
  """
  if options.rows_per_shard < 1 or options.threshold < 0 or workers < 1:
    raise UserError('--rows-per-shard and --workers must be at least 1, and --threshold at least 0.')
  folder = Path(output)
  if folder.exists() and any(folder.iterdir()) and not resume:
    raise UserError(f'{folder} is not empty; name a new --output, or add --resume to go on with an interrupted run.')
  folder.mkdir(parents=True, exist_ok=True)
  sizes = [[[Path(p).name, Path(p).stat().st_size] for p in paths] for paths in groups]
  fields = [[c.name, c.kind, c.missing] for c in layout.columns]
  settings = {'dataset': dataset, 'sources': sizes, 'fields': fields, **dataclasses.asdict(options)}
  plan = _read_plan(folder, settings)
  task = Task(layout, options.split, 0, options.seed, options.on_bad_line == 'skip')
  if plan is None:
    plan = _first_pass(folder, settings, task, groups, options, workers, chunk_bytes, say)
  else:
    say('pass 1 was finished before')
  encodings = [
    Encoding(c, _read_levels(folder, c.name) if not c.numeric else (), plan['edges'].get(c.name, ()))
    for c in layout.columns
  ]
  task = dataclasses.replace(task, rows=plan['lines'], encodings=encodings)
  _second_pass(folder, plan, task, groups, options, workers, say)
  meta = _meta(plan, settings, encodings, options)
  _write_text(folder / META, json.dumps(meta, indent=1, sort_keys=True) + '\n')
  return meta


def _read_plan(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
  if not (folder / PLAN).exists():
    return None
  plan = json.loads((folder / PLAN).read_text())
  changed = [key for key in settings if plan['settings'].get(key) != settings[key]]
  if changed:
    raise UserError(f'{folder} was begun with other settings ({", ".join(changed)}); name a new --output.')
  return plan


def _read_levels(folder: Path, name: str) -> list[bytes]:
  return (folder / 'vocab' / f'{name}.txt').read_bytes().split(b'\n')[:-1]


def _write_text(path: Path, text: str | bytes) -> None:
  """Writes and renames, so that the file is whole or absent."""
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
  os.replace(temporary, path)


def _first_pass(folder, settings, task, groups, options, workers, chunk_bytes, say) -> dict[str, Any]:
  """Counts levels, writes the vocabularies and the plan of pass 2."""
  if options.split == 'time':
    task.rows = sum(chunk.text.count(b'\n') + 1 for chunk in chunks(groups, task.layout, chunk_bytes))
  digest = hashlib.sha256()
  totals: dict[str, Counter] = {c.name: Counter() for c in task.layout.columns if c.counted}
  per_chunk, positives, bad, started = [], np.zeros(3, np.int64), 0, time.monotonic()
  reader = chunks(groups, task.layout, chunk_bytes, digest)
  lines = 0
  for rows, positive, skipped, counts in ordered_map(count, reader, task, workers):
    per_chunk.append(rows)
    positives += positive
    bad += skipped
    lines += sum(rows) + skipped
    for name, counter in counts.items():
      totals[name].update(counter)
    say(f'pass 1: {lines:,} lines, {lines / (time.monotonic() - started):,.0f} a second')
  if not lines:
    raise UserError(f'There is no data line in {", ".join(p for paths in groups for p in paths)}.')
  (folder / 'vocab').mkdir(exist_ok=True)
  edges = {}
  for column in task.layout.columns:
    encoding = make_encoding(column, totals.get(column.name, {}), options.threshold, options.rule)
    if column.kind == 'categorical':
      _write_text(folder / 'vocab' / f'{column.name}.txt', b''.join(level + b'\n' for level in encoding.levels))
    elif column.counted:
      edges[column.name] = encoding.edges.tolist()
  plan = {
    'settings': json.loads(json.dumps(settings)),
    'lines': lines,
    'bad_lines': bad,
    'positives': positives.tolist(),
    'sha256': digest.hexdigest(),
    'edges': edges,
    'chunk_bytes': chunk_bytes,
    'chunks': per_chunk,
  }
  _write_text(folder / PLAN, json.dumps(plan) + '\n')
  return plan


def _second_pass(folder, plan, task, groups, options, workers, say) -> None:
  """Encodes the chunks that an unfinished shard needs."""
  per_chunk = np.asarray(plan['chunks'], np.int64).reshape(-1, 3)
  starts = np.cumsum(per_chunk, axis=0) - per_chunk
  totals = per_chunk.sum(axis=0)
  fields = len(task.layout.columns)
  writers = [ShardWriter(folder, SPLITS[s], int(totals[s]), options.rows_per_shard, fields) for s in range(3)]
  needed = [
    any(w.needs(int(starts[c, s]), int(per_chunk[c, s])) for s, w in enumerate(writers)) for c in range(len(per_chunk))
  ]
  reader = chunks(groups, task.layout, plan['chunk_bytes'])
  wanted = (chunk for chunk, need in zip(reader, needed, strict=True) if need)
  where = (c for c, need in enumerate(needed) if need)
  done, started = 0, time.monotonic()
  try:
    for c, parts in zip(where, ordered_map(encode, wanted, task, workers), strict=True):
      for s, (ids, labels) in enumerate(parts):
        if len(ids) != per_chunk[c, s]:
          raise UserError(f'The input changed since pass 1 (chunk {c}); name a new --output.')
        writers[s].write(int(starts[c, s]), ids, labels)
        done += len(ids)
      say(f'pass 2: {done:,} rows, {done / (time.monotonic() - started):,.0f} a second')
  except ValueError as error:
    raise UserError(f'The input changed since pass 1, or cannot be encoded: {error}.') from error


def _meta(plan, settings, encodings, options) -> dict[str, Any]:
  totals = np.asarray(plan['chunks'], np.int64).reshape(-1, 3).sum(axis=0).tolist()
  fields, offset = [], 0
  for encoding in encodings:
    column = encoding.column
    entry = {'name': column.name, 'kind': column.kind, 'missing': column.missing, 'size': encoding.size}
    entry['offset'] = offset
    if encoding.edges.size:
      entry['edges'] = encoding.edges.tolist()
    fields.append(entry)
    offset += encoding.size
  return {
    **{key: value for key, value in settings.items() if key != 'fields'},
    'format_version': FORMAT_VERSION,
    'fields': fields,
    'rows': dict(zip(SPLITS, totals, strict=True)),
    'positive_rate': {s: p / n if n else None for s, p, n in zip(SPLITS, plan['positives'], totals, strict=True)},
    'shards': {s: len(shard_lengths(n, options.rows_per_shard)) for s, n in zip(SPLITS, totals, strict=True)},
    'bad_lines': plan['bad_lines'],
    'sha256': plan['sha256'],
  }


def main(argv: Sequence[str] | None = None) -> int:
  """The command; 0 when done, 2 with one sentence for what a person can put right."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.xdeepint.prepare', description=__doc__.split('\n')[0])
  parser.add_argument('--dataset', required=True, choices=DATASETS)
  parser.add_argument('--input', nargs='+', required=True, help='raw files, or one folder with the known file names')
  parser.add_argument('--test-input', nargs='*', default=[], help='files of the test part, with --split=given')
  parser.add_argument('--output', required=True, help='folder to write')
  parser.add_argument('--split', default='official', choices=('official', 'random811', 'time', 'given'))
  parser.add_argument('--threshold', type=int, default=20, help='least count of a level in the training rows')
  parser.add_argument('--min-count-rule', default='gt', choices=('gt', 'ge'), help='above, or at least, the threshold')
  parser.add_argument('--workers', type=int, default=1)
  parser.add_argument('--rows-per-shard', type=int, default=1_000_000)
  parser.add_argument('--seed', type=int, default=0, help='of --split=random811')
  parser.add_argument('--on-bad-line', default='stop', choices=('stop', 'skip'))
  parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')
  parser.add_argument('--published', action='store_true', help='criteo: leave I13 out and read missing integers as 0')
  parser.add_argument('--label', default='label', help='csv: column of the label')
  parser.add_argument('--numeric', nargs='*', default=[], help='csv: NAME=log_square or NAME=quantile:N')
  parser.add_argument('--skip', nargs='*', default=[], help='csv: columns that are no inputs')
  args = parser.parse_args(argv)
  try:
    layout, groups = layout_of(args)
    options = Options(args.split, args.threshold, args.min_count_rule, args.rows_per_shard, args.seed, args.on_bad_line)
    meta = prepare(
      args.dataset, layout, groups, args.output, options, workers=args.workers, resume=args.resume, say=_progress
    )
  except UserError as error:
    print(f'\nerror: {error}', file=sys.stderr)
    return error.exit_code
  print(f'\n{args.output}: rows {meta["rows"]}, {sum(f["size"] for f in meta["fields"]):,} levels in all fields')
  return 0


def _progress(text: str) -> None:
  end = '\r' if sys.stdout.isatty() else '\n'
  with contextlib.suppress(BrokenPipeError):
    print(f'{text:70}', end=end, flush=True)


if __name__ == '__main__':
  sys.exit(main())
