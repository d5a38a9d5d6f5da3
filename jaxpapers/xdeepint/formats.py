"""The raw text formats of the datasets, as their publishers ship them."""

import bz2
import dataclasses
import datetime
import functools
import gzip
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from jaxpapers.engine.errors import UserError
from jaxpapers.xdeepint.columns import Column

CRITEO_PAGE = 'https://ailab.criteo.com/ressources/ (Display Advertising Challenge, dac.tar.gz, train.txt)'
AVAZU_PAGE = 'https://www.kaggle.com/c/avazu-ctr-prediction/data (train.gz)'
IPINYOU_PAGE = 'https://contest.ipinyou.com (imp.*.txt.bz2 and clk.*.txt.bz2 of a season)'
MOVIELENS_PAGE = 'https://grouplens.org/datasets/movielens/100k/ (u.data, u.user and u.item)'

Columns = Mapping[str, Sequence[bytes]]


@dataclasses.dataclass(frozen=True)
class Format:
  """How lines become columns.

  Attributes:
    delimiter: between the values of a line.
    names: the columns of a line, in order.
    header: what the first line of every file must hold; () where there is no header.
    label: column that holds 0 or 1; after `derive`.
    columns: the model's fields, in order; after `derive`.
    derive: (columns) -> further columns of the same length, or None.
    missing: texts that stand for a missing value beside the empty one.
  """

  delimiter: bytes
  names: tuple[str, ...]
  header: tuple[str, ...]
  label: str
  columns: tuple[Column, ...]
  derive: Callable[[Columns], Columns] | None = None
  missing: frozenset[bytes] = frozenset()


CRITEO_INTEGERS = tuple(f'I{i}' for i in range(1, 14))
CRITEO_CATEGORIES = tuple(f'C{i}' for i in range(1, 27))


def criteo(integers: int = 13, missing: str = 'own') -> Format:
  """Criteo Display Advertising: label, 13 integers, 26 hashed categories, tab-separated, empty where missing.

  Args:
    integers: 13, or 12 for the published run, which leaves I13 out.
    missing: 'own', or 'zero' for the published run.
  """
  columns = [Column(name, 'log_square', missing) for name in CRITEO_INTEGERS[:integers]]
  columns += [Column(name) for name in CRITEO_CATEGORIES]
  return Format(b'\t', ('label', *CRITEO_INTEGERS, *CRITEO_CATEGORIES), (), 'label', tuple(columns))


AVAZU_NAMES = (
  *('id', 'click', 'hour', 'C1', 'banner_pos', 'site_id', 'site_domain', 'site_category', 'app_id', 'app_domain'),
  *('app_category', 'device_id', 'device_ip', 'device_model', 'device_type', 'device_conn_type'),
  *(f'C{i}' for i in range(14, 22)),
)


def avazu() -> Format:
  """Avazu: header, comma-separated; id and hour are no inputs."""
  return Format(b',', AVAZU_NAMES, AVAZU_NAMES, 'click', tuple(Column(name) for name in AVAZU_NAMES[3:]))


IPINYOU_NAMES = (
  *('bidid', 'timestamp', 'logtype', 'ipinyouid', 'useragent', 'IP', 'region', 'city', 'adexchange', 'domain', 'url'),
  *('urlid', 'slotid', 'slotwidth', 'slotheight', 'slotvisibility', 'slotformat', 'slotprice', 'creative', 'bidprice'),
  *('payprice', 'keypage', 'advertiser', 'usertag'),
)
IPINYOU_FIELDS = (
  *('weekday', 'hour', 'IP', 'region', 'city', 'adexchange', 'domain', 'slotid', 'slotwidth', 'slotheight'),
  *('slotvisibility', 'slotformat', 'creative', 'advertiser', 'useragent', 'slotprice'),
)
_SYSTEMS = (b'windows', b'ios', b'mac', b'android', b'linux')
_BROWSERS = (b'chrome', b'sogou', b'maxthon', b'safari', b'firefox', b'theworld', b'opera', b'ie')


@functools.lru_cache(maxsize=1 << 16)
def agent_of(text: bytes) -> bytes:
  """`system_browser` of a user agent, each 'other' where none is recognised."""
  text = text.lower()
  system = next((name for name in _SYSTEMS if name in text), b'other')
  return system + b'_' + next((name for name in _BROWSERS if name in text), b'other')


def floor_of(text: bytes) -> bytes:
  """Group of a floor price: 0, 1-10, 11-50, 51-100, 101+."""
  if not text:
    return text
  price = int(text)
  groups = ((0, b'0'), (10, b'1-10'), (50, b'11-50'), (100, b'51-100'))
  return next((name for most, name in groups if price <= most), b'101+')


def _ipinyou_columns(columns: Columns, clicked: frozenset[bytes]) -> Columns:
  stamps = [_day_and_hour(text[:10]) for text in columns['timestamp']]
  return {
    'label': [b'1' if bid in clicked else b'0' for bid in columns['bidid']],
    'weekday': [day for day, _ in stamps],
    'hour': [hour for _, hour in stamps],
    'useragent': [agent_of(text) for text in columns['useragent']],
    'slotprice': [floor_of(text) for text in columns['slotprice']],
  }


@functools.lru_cache(maxsize=4096)
def _day_and_hour(stamp: bytes) -> tuple[bytes, bytes]:
  """(weekday, Monday = 0; hour) of yyyymmddhh."""
  time = datetime.datetime.strptime(stamp.decode(), '%Y%m%d%H')
  return str(time.weekday()).encode(), str(time.hour).encode()


def ipinyou(clicked: frozenset[bytes]) -> Format:
  """iPinYou impression logs: 24 tab-separated columns; user tags and prices paid, which leak, are left out.

  Args:
    clicked: the bidids in the click logs; an impression is positive if its bidid is among them.
  """
  columns = tuple(Column(name) for name in IPINYOU_FIELDS)
  derive = functools.partial(_ipinyou_columns, clicked=clicked)
  return Format(b'\t', IPINYOU_NAMES, (), 'label', columns, derive, frozenset({b'null'}))


MOVIELENS_FIELDS = ('user', 'item', 'age', 'gender', 'occupation', 'zip', 'genres', 'year')


def _movielens_columns(columns: Columns, users: Mapping[bytes, Sequence[bytes]], items: Mapping) -> Columns:
  out = {name: [] for name in ('label', *MOVIELENS_FIELDS[2:])}
  for user, item, rating in zip(columns['user'], columns['item'], columns['rating'], strict=True):
    if user not in users or item not in items:
      raise ValueError(f'user {user.decode()!r} or item {item.decode()!r} is not in the tables beside the ratings')
    values = (b'1' if float(rating) >= 4 else b'0', *users[user], *items[item])
    for name, value in zip(out, values, strict=True):
      out[name].append(value)
  return out


def movielens(
  users: Mapping[bytes, Sequence[bytes]], items: Mapping[bytes, Sequence[bytes]], header: tuple[str, ...] = ()
) -> Format:
  """MovieLens-100K ratings; positive from 4 stars on.

  Args:
    users: user -> (age / 5, gender, occupation, first digit of the zip code).
    items: item -> (genre set, year).
    header: names that the first line must hold; () for `u.data`, which has none.
  """
  derive = functools.partial(_movielens_columns, users=users, items=items)
  columns = tuple(Column(name) for name in MOVIELENS_FIELDS)
  return Format(b'\t', ('user', 'item', 'rating', 'timestamp'), header, 'label', columns, derive)


def movielens_user(age: bytes, gender: bytes, occupation: bytes, zip_code: bytes) -> tuple[bytes, ...]:
  """Features of a user: age in steps of five years, gender, occupation, first digit of the zip code."""
  return str(int(age) // 5).encode(), gender, occupation, zip_code[:1]


def csv(names: Sequence[str], label: str, numeric: Mapping[str, str], skip: Sequence[str] = ()) -> Format:
  """A comma-separated file with a header; every column but the label and `skip` is a field.

  Args:
    names: the header.
    label: name of the label's column.
    numeric: kind of the numeric columns, such as {'age': 'quantile:10'}.
    skip: columns that are no inputs.

  Raises:
    UserError: for a column that the header does not have.
  """
  for name in (label, *numeric, *skip):
    if name not in names:
      raise UserError(f'The header has no column {name!r}; it has {", ".join(names)}.')
  columns = tuple(Column(n, numeric.get(n, 'categorical')) for n in names if n != label and n not in skip)
  return Format(b',', tuple(names), tuple(names), label, columns)


def open_text(path: str | os.PathLike) -> BinaryIO:
  """A plain, .gz or .bz2 file as bytes."""
  opener = {'.gz': gzip.open, '.bz2': bz2.open}.get(Path(path).suffix, open)
  return opener(path, 'rb')


class BadLineError(ValueError):
  """A line that is not as its format says."""


def parse(lines: Sequence[bytes], layout: Format) -> dict[str, Sequence[bytes]]:
  """Lines -> columns, the derived ones among them, with missing texts as empty.

  Raises:
    ValueError: without a line number, if any line is not as it should be; see `problem`.
  """
  rows = [line.split(layout.delimiter) for line in lines]
  width = len(layout.names)
  if set(map(len, rows)) - {width}:
    raise BadLineError(f'{width} columns expected')
  columns: dict[str, Sequence[bytes]] = dict(zip(layout.names, zip(*rows, strict=True), strict=True)) if rows else {}
  if not rows:
    columns = {name: [] for name in layout.names}
  if layout.missing:
    columns = {name: [b'' if v in layout.missing else v for v in values] for name, values in columns.items()}
  if layout.derive is not None:
    columns |= layout.derive(columns)
  strange = set(columns[layout.label]) - {b'0', b'1'}
  if strange:
    raise BadLineError(f'label {next(iter(strange)).decode("utf-8", "replace")!r} is neither 0 nor 1')
  return columns
