"""From the arguments of `prepare` to a format and its files, for every dataset."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from jaxpapers.engine.errors import UserError
from jaxpapers.xdeepint import formats
from jaxpapers.xdeepint.formats import Format

DATASETS = ('criteo', 'avazu', 'ipinyou', 'movielens100k', 'csv')


def layout_of(args: argparse.Namespace) -> tuple[Format, list[list[str]]]:
  """(format, [files of --input, files of --test-input]).

  Raises:
    UserError: naming a file that is missing and the page that has it.
  """
  if (args.split == 'given') != bool(args.test_input):
    raise UserError('--split=given needs --test-input, and --test-input needs --split=given.')
  return {
    'criteo': _criteo,
    'avazu': _avazu,
    'ipinyou': _ipinyou,
    'movielens100k': _movielens,
    'csv': _csv,
  }[args.dataset](args)


def find(inputs: Sequence[str], names: Sequence[str], page: str) -> list[str]:
  """The files named by --input; in a folder, the first of `names` that is there.

  Raises:
    UserError: naming the file expected and where to get it.
  """
  found = []
  for given in inputs:
    path = Path(given)
    if path.is_dir():
      here = [path / name for name in names if (path / name).is_file()]
      if not here:
        raise UserError(f'{path} holds no {" or ".join(names)}; get it from {page}.')
      path = here[0]
    if not path.is_file():
      raise UserError(f'There is no file {path}; expected {" or ".join(names)} from {page}.')
    found.append(str(path))
  return found


def _groups(args: argparse.Namespace, names: Sequence[str], page: str) -> list[list[str]]:
  return [find(args.input, names, page), find(args.test_input, names, page)]


def _criteo(args):
  groups = _groups(args, ('train.txt', 'train.txt.gz'), formats.CRITEO_PAGE)
  return formats.criteo(12, 'zero') if args.published else formats.criteo(), groups


def _avazu(args):
  return formats.avazu(), _groups(args, ('train', 'train.csv', 'train.gz'), formats.AVAZU_PAGE)


def _logs(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
  """(impression logs, click logs) among files and folders, each sorted by name."""
  paths = []
  for given in inputs:
    path = Path(given)
    paths += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
  logs = {kind: [str(p) for p in paths if p.name.startswith(kind + '.')] for kind in ('imp', 'clk')}
  for kind, found in logs.items():
    missing = [p for p in found if not Path(p).is_file()]
    if not found or missing:
      raise UserError(
        f'There is no {kind}.*.txt.bz2 in {", ".join(map(str, inputs))}; get it from {formats.IPINYOU_PAGE}.'
      )
  return logs['imp'], logs['clk']


def _ipinyou(args):
  groups, clicked = [], set()
  for inputs in (args.input, args.test_input):
    impressions, clicks = _logs(inputs) if inputs else ([], [])
    groups.append(impressions)
    for path in clicks:
      try:
        with formats.open_text(path) as file:
          clicked.update(line.split(b'\t', 1)[0] for line in file)
      except (OSError, EOFError) as error:
        raise UserError(f'{path} cannot be read to its end: {error}.') from error
  return formats.ipinyou(frozenset(clicked)), groups


_INTER = ('user_id:token', 'item_id:token', 'rating:float', 'timestamp:float')


def _movielens(args):
  ratings = find(args.input, ('u.data', 'ml-100k.inter'), formats.MOVIELENS_PAGE)
  if len(ratings) != 1 or args.test_input:
    raise UserError('MovieLens takes one --input: the folder, u.data or ml-100k.inter.')
  typed = ratings[0].endswith('.inter')
  beside = Path(ratings[0]).parent
  read = _typed_tables if typed else _plain_tables
  try:
    users, items = read(beside)
  except FileNotFoundError as error:
    raise UserError(
      f'{error.filename} is missing beside {ratings[0]}; get it from {formats.MOVIELENS_PAGE}.'
    ) from error
  except (ValueError, IndexError) as error:
    raise UserError(f'The user or item table beside {ratings[0]} is not as expected: {error}.') from error
  return formats.movielens(users, items, _INTER if typed else ()), [ratings, []]


def _plain_tables(folder: Path):
  """u.user (user|age|gender|occupation|zip) and u.item (item|title|date|video date|url|19 genre flags)."""
  users, items = {}, {}
  for line in (folder / 'u.user').read_bytes().splitlines():
    user, *rest = line.split(b'|')
    users[user] = formats.movielens_user(*rest)
  for line in (folder / 'u.item').read_bytes().splitlines():
    cells = line.split(b'|')
    genres = b'+'.join(str(i).encode() for i, flag in enumerate(cells[5:24]) if flag == b'1')
    items[cells[0]] = genres, cells[2][-4:]
  return users, items


def _typed_tables(folder: Path):
  """ml-100k.user and ml-100k.item: tab-separated, with a header of name:type."""
  users, items = {}, {}
  for line in (folder / 'ml-100k.user').read_bytes().splitlines()[1:]:
    user, *rest = line.split(b'\t')
    users[user] = formats.movielens_user(*rest)
  for line in (folder / 'ml-100k.item').read_bytes().splitlines()[1:]:
    item, _, year, genres = line.split(b'\t')
    items[item] = genres.replace(b' ', b'+'), year
  return users, items


def _csv(args):
  groups = [
    find(args.input, ('train.csv',), 'where you have it'),
    find(args.test_input, ('test.csv',), 'where you have it'),
  ]
  with formats.open_text(groups[0][0]) as file:
    names = file.readline().rstrip(b'\r\n').decode('utf-8', 'replace').split(',')
  numeric = {}
  for entry in args.numeric:
    match = re.fullmatch(r'(.+)=(log_square|quantile:\d+)', entry)
    if not match:
      raise UserError(f'--numeric={entry!r} must be NAME=log_square or NAME=quantile:N.')
    numeric[match[1]] = match[2]
  return formats.csv(names, args.label, numeric, args.skip), groups
