"""What the benchmark measures, and its table. Knows no paper."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
  """Settings that `launch/benchmark.py --all` times a room under; `CASES` of the room's `benchmarks.py` holds them.

  Attributes:
    variant: of the room's config.
    overrides: 'key=value' without the leading 'config.'.
    stages: those to be timed; all where empty.
  """

  variant: str = 'default'
  overrides: tuple[str, ...] = ()
  stages: tuple[str, ...] = ()
