"""The golden runner: `python -m tests.golden <slug> [--dir D]` compares public functions with stored reference outputs.

Every file of the folder except README* is a case. The adapter of the room, `tests/<slug>/golden_adapter.py`, exposes
`run(path) -> Iterable[Check]`; it decides what a file is from the file's contents (its `meta`), so that folders with
other sizes and options of the same schema run unchanged. Where an adapter names `SUPPORT` (glob patterns), those files
are read by other cases and are no cases of their own. A file that raises, yields no check, or is of an unknown kind
counts as FAILED.
"""

import argparse
import fnmatch
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Check(NamedTuple):
  """One output of a case against its reference.

  Attributes:
    output: its name.
    got: what the public function gave, array-like.
    want: the reference; numbers, booleans or strings of the same shape.
    tolerance: largest allowed difference; 0 demands equality.
    relative: the difference counts relative to the largest magnitude in `want`.
    floor: least magnitude that a relative difference is divided by.
  """

  output: str
  got: Any
  want: Any
  tolerance: float
  relative: bool = False
  floor: float = 0.0


class Result(NamedTuple):
  """A judged Check; `note` says in words why it failed where the numbers do not."""

  output: str
  max_abs: float
  rel: float
  tolerance: float
  ok: bool
  note: str = ''


class UnknownKindError(ValueError):
  """The adapter does not know what a file holds."""


def judge(check: Check) -> Result:
  """Compares; NaN equals NaN and an infinity equals itself, any other non-finite difference fails."""
  got, want = np.asarray(check.got), np.asarray(check.want)

  def failed(note):
    return Result(check.output, np.inf, np.inf, check.tolerance, False, note)

  if got.shape != want.shape:
    return failed(f'shape {got.shape}, not {want.shape}')
  if want.dtype.kind in 'USO' or got.dtype.kind in 'USO':
    same = bool(np.all(got == want))
    return Result(check.output, 0.0, 0.0, check.tolerance, True) if same else failed('differs')
  got, want = got.astype(np.float64), want.astype(np.float64)
  finite = np.isfinite(want)
  if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.all(np.isfinite(got[finite])):
    return failed('not finite in other places')
  max_abs = float(np.max(np.abs(got[finite] - want[finite]), initial=0.0))
  scale = max(float(np.max(np.abs(want[finite]), initial=0.0)), check.floor)
  rel = 0.0 if max_abs == 0.0 else (max_abs / scale if scale > 0.0 else np.inf)
  return Result(check.output, max_abs, rel, check.tolerance, (rel if check.relative else max_abs) <= check.tolerance)


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Arrays of an .npz case (float16 as float32, exact), and its `meta` JSON."""
  with np.load(path) as file:
    data = {name: file[name] for name in file.files if name != 'meta'}
    meta = json.loads(str(file['meta'])) if 'meta' in file.files else {}
  return {name: x.astype(np.float32) if x.dtype == np.float16 else x for name, x in data.items()}, meta


def group(data: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  """The arrays under `prefix/`, without it."""
  return {name[len(prefix) + 1 :]: value for name, value in data.items() if name.startswith(prefix + '/')}


def dispatch(kind: str, kinds: Mapping[str, Callable[..., Iterable[Check]]], *args: Any) -> Iterable[Check]:
  """`kinds[kind](*args)`.

  Raises:
    UnknownKindError: listing the known kinds.
  """
  if kind not in kinds:
    raise UnknownKindError(f'unknown kind {kind!r}; known: {", ".join(sorted(kinds))}')
  return kinds[kind](*args)


def cases(folder: Path, adapter: Any) -> list[Path]:
  """The case files of a folder, sorted; README*, hidden files and the adapter's SUPPORT files are none."""
  support = ('README*', '.*', *getattr(adapter, 'SUPPORT', ()))
  return sorted(
    path
    for path in folder.rglob('*')
    if path.is_file() and not any(fnmatch.fnmatch(path.name, pattern) for pattern in support)
  )


def run_case(path: Path, adapter: Any) -> list[Result]:
  """Every output of one file, judged; an exception becomes a failed result."""
  results = []
  try:
    for check in adapter.run(path):
      results.append(judge(check))
  except Exception as error:
    if not isinstance(error, UnknownKindError):
      traceback.print_exc()
    results.append(Result('-', np.nan, np.nan, 0.0, False, f'{type(error).__name__}: {error}'))
  return results or [Result('-', np.nan, np.nan, 0.0, False, 'no output was compared')]


def default_folder(slug: str) -> Path:
  """Where the reference data of a room lies: $JAXPAPERS_SHARED/golden/<slug>, by default beside the checkout."""
  root = os.environ.get('JAXPAPERS_SHARED') or Path(__file__).resolve().parents[2] / 'shared'
  return Path(root) / 'golden' / slug


def main(argv: list[str] | None = None) -> int:
  """Runs a folder; 0 only if there was a case and every file passed."""
  parser = argparse.ArgumentParser(prog='python -m tests.golden', description='Compare with stored reference outputs.')
  parser.add_argument('slug', help='a room, such as emo')
  parser.add_argument('--dir', type=Path, help='folder of case files; default $JAXPAPERS_SHARED/golden/<slug>')
  args = parser.parse_args(argv)
  try:
    adapter = importlib.import_module(f'tests.{args.slug}.golden_adapter')
  except ModuleNotFoundError as error:
    if error.name not in (f'tests.{args.slug}', f'tests.{args.slug}.golden_adapter'):
      raise
    print(f'No golden adapter for {args.slug!r}: tests/{args.slug}/golden_adapter.py is missing.', file=sys.stderr)
    return 2
  folder = args.dir or default_folder(args.slug)
  if not folder.is_dir():
    print(f'No such folder: {folder}; name one with --dir or set JAXPAPERS_SHARED.', file=sys.stderr)
    return 2
  passed = failed = 0
  for path in cases(folder, adapter):
    results = run_case(path, adapter)
    for r in results:
      verdict = 'ok' if r.ok else 'FAILED' + (f' ({r.note})' if r.note else '')
      print(f'{path.stem}  {r.output}  {r.max_abs:.3g}  {r.rel:.3g}  {r.tolerance:.3g}  {verdict}', flush=True)
    good = all(r.ok for r in results)
    passed, failed = passed + good, failed + (not good)
  print(f'{passed + failed} cases: {passed} ok, {failed} failed')
  return 0 if passed and not failed else 1


if __name__ == '__main__':
  # Adapters import this file by its name: run that copy, so that both mean the same classes.
  sys.exit(importlib.import_module('tests.golden').main())
