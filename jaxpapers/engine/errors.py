"""What a person can get wrong, and how a program ends."""

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_SETTINGS = 2
EXIT_NON_FINITE = 3
EXIT_DAMAGED = 4
EXIT_PREEMPTED = 75


class UserError(Exception):
  """One clear sentence about something the person can put right; the program ends with `exit_code`."""

  exit_code = EXIT_SETTINGS


class NonFiniteError(UserError):
  """A metric became NaN or infinite; names the step, the metric and the last good checkpoint."""

  exit_code = EXIT_NON_FINITE


class DamagedError(UserError):
  """No checkpoint of a run can be read any more."""

  exit_code = EXIT_DAMAGED


class PreemptedError(UserError):
  """The run was told to stop, and saved its state; the same command goes on from there."""

  exit_code = EXIT_PREEMPTED


def suggest(word: str, known: Iterable[str]) -> str:
  """' Did you mean X?' for the known word nearest to `word`, or the list of known words."""
  known = sorted(known)
  close = difflib.get_close_matches(word, known, n=1)
  if close:
    return f' Did you mean {close[0]!r}?'
  return f' Known: {", ".join(known)}.' if len(known) <= 40 else ''
