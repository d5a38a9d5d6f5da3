"""Runs what claims are measured in, each in a process of its own, resumable. Knows no paper."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxpapers.engine import scoreboard
from jaxpapers.engine.claims import Claim, Judgement, Run, judge, unchecked
from jaxpapers.engine.errors import EXIT_DONE, EXIT_PREEMPTED, PreemptedError, UserError, suggest
from jaxpapers.engine.machine import described
from jaxpapers.engine.scoreboard import Row

# What this program leaves in a workdir: exit code and seconds of all its starts.
RECORD = 'reproduce.json'
Start = Callable[[Sequence[str], Path], int]


class Plan(NamedTuple):
  """What is to be run.

  Attributes:
    claims: of every room.
    seeds: runs of each setting, with config.seed 0, 1, ...
    out: folder of everything.
    data_dir: folder with a subfolder of real data for each room, or None.
    root: folder with configs/ and launch/.
  """

  claims: Mapping[str, Sequence[Claim]]
  seeds: int
  out: Path
  data_dir: Path | None
  root: Path


def rooms(root: Path, only: str = '') -> list[str]:
  """Names of the rooms under `root` that have a config and claims.

  Raises:
    UserError: if `only` is none of them; names the nearest.
  """
  found = sorted(
    path.stem for path in (root / 'configs').glob('*.py') if (root / 'jaxpapers' / path.stem / 'claims.py').exists()
  )
  if only and only not in found:
    raise UserError(f'--only={only} names no method with claims.{suggest(only, found)}')
  return [only] if only else found


def claims_of(slug: str) -> tuple[Claim, ...]:
  """CLAIMS of a room."""
  return importlib.import_module(f'jaxpapers.{slug}.claims').CLAIMS


def reproduce(plan: Plan, start: Start, say: Callable[[str], None] = print) -> list[Row]:
  """Carries out every run, and writes the scoreboard after every room.

  Args:
    plan: what is to be run.
    start: (arguments of launch/train.py, file for what it prints) -> exit code; `in_a_process` usually.
    say: takes a line of progress.
  """
  left = {
    (slug, run, seed): None
    for slug, claims in plan.claims.items()
    for run in dict.fromkeys(c.run for c in claims if _checkable(c, slug, plan))
    for seed in range(plan.seeds if run.seeded else 1)
  }
  total, taken, rows = len(left), [], []
  for slug, claims in plan.claims.items():
    for _, run, seed in [key for key in left if key[0] == slug]:
      number = total - len(left) + 1
      del left[slug, run, seed]
      folder = workdir(plan, slug, run, seed)
      if _record(folder).get('exit') == EXIT_DONE:
        say(f'[{number}/{total}] {slug} {run.name} seed {seed}: finished before')
        continue
      say(f'[{number}/{total}] {slug} {run.name} seed {seed} ...')
      seconds, code = _carry_out(plan, slug, run, seed, claims, start)
      taken.append(seconds)
      rest = sum(taken) / len(taken) * len(left) / 60
      ended = 'done' if code == EXIT_DONE else f'ended with exit code {code}, see {folder / "log.txt"}'
      say(f'    {ended} after {seconds:.0f} s; about {rest:.0f} min left')
    mine = [_row(plan, slug, claim) for claim in claims]
    rows += mine
    for row in mine:
      why = f' ({row.judgement.why})' if row.judgement.why else ''
      say(f'  {row.judgement.verdict}: {slug} {row.claim.name}: {scoreboard.measured(row)}{why}')
    write(plan.out, rows, machine(plan))
  say(f'{scoreboard.counts(rows)}; {plan.out / "scoreboard.html"}')
  return rows


def write(out: Path, rows: Sequence[Row], about: Mapping[str, str]) -> None:
  """The three files of the scoreboard."""
  out.mkdir(parents=True, exist_ok=True)
  for name, text in (
    ('scoreboard.json', scoreboard.as_json(rows, about)),
    ('scoreboard.md', scoreboard.as_markdown(rows, about)),
    ('scoreboard.html', scoreboard.as_page(rows, about)),
  ):
    temporary = out / f'{name}.tmp'
    temporary.write_text(text)
    temporary.replace(out / name)


def workdir(plan: Plan, slug: str, run: Run, seed: int) -> Path:
  """Where a run lives."""
  return plan.out / 'runs' / slug / run.name / f'seed{seed}'


def in_a_process(arguments: Sequence[str], log: Path) -> int:
  """launch/train.py in a process of its own, from its repository's root; what it prints goes to the end of `log`."""
  with log.open('a') as file:
    process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT)
    try:
      return process.wait()
    except BaseException:
      process.terminate()
      process.wait()
      raise


def machine(plan: Plan) -> dict[str, str]:
  """Processor, cores, versions and date; no names of folders or hosts."""
  return {**described(), 'devices': _devices(plan.out), 'seeds': str(plan.seeds)}


def _devices(out: Path) -> str:
  """What the runs' logs say that they ran on; asking JAX here would take memory of an accelerator from the runs."""
  logs = sorted(out.glob('runs/*/*/seed*/log.txt'))
  found = (re.search(r' on (.+); workdir ', log.read_text()) for log in logs)
  return ', '.join(dict.fromkeys(match[1] for match in found if match)) or 'none used'


def _checkable(claim: Claim, slug: str, plan: Plan) -> bool:
  if claim.run is None or not claim.data:
    return claim.run is not None
  return plan.data_dir is not None and (plan.data_dir / slug / claim.data).exists()


def _carry_out(plan: Plan, slug: str, run: Run, seed: int, claims: Sequence[Claim], start: Start) -> tuple[float, int]:
  folder = workdir(plan, slug, run, seed)
  folder.mkdir(parents=True, exist_ok=True)
  arguments = [
    str(plan.root / 'launch' / 'train.py'),
    f'--config={plan.root / "configs" / f"{slug}.py"}:{run.variant}',
    f'--workdir={folder}',
    f'--config.seed={seed}',
    *(f'--config.{override}' for override in run.overrides),
  ]
  if any(claim.data for claim in claims if claim.run == run):
    arguments.append(f'--config.data.dir={plan.data_dir / slug}')
  began, before, code = time.monotonic(), _record(folder).get('seconds', 0.0), EXIT_PREEMPTED
  try:
    code = start(arguments, folder / 'log.txt')
  except KeyboardInterrupt as error:
    raise PreemptedError(f'Told to stop; the same command goes on with {slug} {run.name} seed {seed}.') from error
  finally:
    seconds = time.monotonic() - began
    (folder / RECORD).write_text(json.dumps({'exit': code, 'seconds': before + seconds}))
  return seconds, code


def _record(folder: Path) -> dict[str, Any]:
  """What was written when the last start ended; {} if none did, or if its report is gone."""
  try:
    record = json.loads((folder / RECORD).read_text())
  except (OSError, ValueError):
    return {}
  return record if record['exit'] != EXIT_DONE or (folder / 'report' / 'results.json').exists() else {}


def _row(plan: Plan, slug: str, claim: Claim) -> Row:
  if not _checkable(claim, slug, plan):
    return Row(slug, claim, unchecked(claim.needs))
  folders = [workdir(plan, slug, claim.run, seed) for seed in range(plan.seeds if claim.run.seeded else 1)]
  records = [_record(folder) for folder in folders]
  seconds = sum(record.get('seconds', 0.0) for record in records)
  codes = [record.get('exit') for record in records]
  failed = [f'seed {k} ended with exit code {code}' for k, code in enumerate(codes) if code != EXIT_DONE]
  if failed:
    return Row(slug, claim, unchecked(', '.join(failed)), seconds)
  found: Judgement = judge(claim, [json.loads((f / 'report' / 'results.json').read_text()) for f in folders])
  return Row(slug, claim, found, seconds, _picture(plan.out, folders[0], slug, claim))


def _picture(out: Path, folder: Path, slug: str, claim: Claim) -> str:
  """Copies the claim's picture beside the page, so that the page and its pictures can be moved without the runs."""
  source = folder / 'report' / f'{claim.picture}.png'
  if not claim.picture or not source.exists():
    return ''
  (out / 'pictures').mkdir(parents=True, exist_ok=True)
  name = f'pictures/{slug}-{claim.run.name}-{claim.picture}.png'
  shutil.copyfile(source, out / name)
  return name
