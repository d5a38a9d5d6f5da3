"""Records of a JSON list one at a time: those of a table of gigabytes never lie in memory together."""

import json
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from jaxpapers.engine.errors import UserError

_space = re.compile(r'\s*').match


def records(path: epath.Path) -> Iterator[dict[str, Any]]:
  """The mappings of a file that holds a list of them.

  Raises:
    UserError: naming a file that is no complete JSON list, or a record that is no mapping.
  """
  try:
    text = path.read_text(encoding='utf-8')
    decode = json.JSONDecoder().raw_decode
    at = _space(text).end()
    if text[at : at + 1] != '[':
      raise UserError(f'{path} is no list of records.')
    at = _space(text, at + 1).end()
    if text[at : at + 1] == ']':
      return
    number, mark = 0, ','
    while mark == ',':
      record, at = decode(text, at)
      if not isinstance(record, dict):
        raise UserError(f'{path}: record {number} is no mapping of fields.')
      yield record
      number, at = number + 1, _space(text, at).end()
      mark = text[at : at + 1]
      at = _space(text, at + 1).end()
    if mark != ']' or at < len(text):
      raise json.JSONDecodeError('Expecting a comma or the end of the list', text, at)
  except ValueError as error:
    raise UserError(f'{path} is no complete JSON file: {error}.') from None
