"""The train loop: every stage of an experiment, resumable anywhere. Reads from top to bottom."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpapers.engine import parallel
from jaxpapers.engine.checkpoint import Checkpoints, check_config, workdir_path
from jaxpapers.engine.config import from_json, to_json
from jaxpapers.engine.errors import NonFiniteError, PreemptedError, UserError, suggest
from jaxpapers.engine.experiment import Evaluation, Experiment, Stage, State, iterate
from jaxpapers.engine.logs import MetricsLog, Progress, say
from jaxpapers.engine.preemption import Preemption
from jaxpapers.engine.prefetch import prefetch
from jaxpapers.engine.report import Report
from jaxpapers.engine.weights import IMPORTED


class _Stopped(Exception):
  """The run was told to stop inside an evaluation."""


def run(experiment: Experiment, config: ml_collections.ConfigDict, workdir: str) -> dict[str, dict[str, float]]:
  """Trains all stages in `workdir`, going on where an earlier call with the same config stopped.

  Args:
    experiment: what to train.
    config: the settings it was built from.
    workdir: local or remote folder; holds config.json, checkpoints/, metrics.jsonl, tensorboard/, report/.

  Returns:
    {stage: metrics of its last evaluation}.

  Raises:
    UserError: for what a person can put right; its subclasses tell preemption, non-finite numbers and damage.
  """
  path = _open_workdir(experiment, config, workdir)
  mesh = parallel.make_mesh(config.mesh)
  preemption = Preemption()
  log = MetricsLog(path)
  states: dict[str, State] = {}
  final: dict[str, dict[str, float]] = {}
  try:
    for index, stage in enumerate(experiment.stages):
      offset = sum(s.steps for s in experiment.stages[:index])
      states[stage.name], final[stage.name] = _StageRun(stage, index, offset, config, path, mesh, states).run(
        log, preemption
      )
  finally:
    log.close()
    preemption.close()
  write_report(experiment, config, path, states, final)
  return final


def evaluate(experiment: Experiment, config: ml_collections.ConfigDict, workdir: str) -> dict[str, dict[str, float]]:
  """Evaluates the newest checkpoint of every stage in `workdir`, finished or running, or its imported weights.

  The report is written when every stage has a state.

  Returns:
    {stage: metrics}.
  """
  path = workdir_path(workdir)
  mesh = parallel.make_mesh(config.mesh)
  preemption = Preemption()
  imported = (path / 'checkpoints' / IMPORTED).exists()
  states: dict[str, State] = {}
  final: dict[str, dict[str, float]] = {}
  try:
    for index, stage in enumerate(experiment.stages):
      stage_run = _StageRun(stage, index, 0, config, path, mesh, states)
      state, step = stage_run.imported_state() if imported else stage_run.newest_state()
      if state is None:
        say(f'{stage.name}: no checkpoint yet')
        break
      say(f'{stage.name}: evaluating step {step}')
      states[stage.name] = state
      final[stage.name] = stage_run.evaluate(state, stage.evaluations, preemption)
      if imported:
        break
  except _Stopped:
    raise PreemptedError('Told to stop while evaluating; nothing was written.') from None
  finally:
    preemption.close()
  if not states:
    raise UserError(f'{path} holds no complete checkpoint to evaluate.')
  write_report(experiment, config, path, states, final)
  return final


def read_config(workdir: str) -> ml_collections.ConfigDict:
  """The settings that `workdir` was made with."""
  path = workdir_path(workdir) / 'config.json'
  try:
    return from_json(path.read_text())
  except FileNotFoundError as error:
    raise UserError(f'{path.parent} is no workdir: it has no config.json.') from error
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {error}.') from error


def write_report(
  experiment: Experiment,
  config: ml_collections.ConfigDict,
  path: epath.Path,
  states: Mapping[str, State],
  final: Mapping[str, Mapping[str, float]],
) -> None:
  """Draws the report on process 0, and says where it is."""
  if jax.process_index() != 0:
    return
  report = Report(path, f'{config.method} · {config.variant}', config, final)
  if len(states) == len(experiment.stages):
    experiment.report(states, report)
  page = report.write()
  for stage, metrics in final.items():
    if metrics:
      say(f'{stage}: ' + '  '.join(f'{name} {value:.4g}' for name, value in metrics.items()))
  say(f'report: {page}')


def _open_workdir(experiment: Experiment, config: ml_collections.ConfigDict, workdir: str) -> epath.Path:
  path = workdir_path(workdir)
  best, known = config.checkpoint.best, {e.name for stage in experiment.stages for e in stage.evaluations}
  if best and best.split('/')[0] not in known:
    raise UserError(f'config.checkpoint.best={best!r} names no evaluation of this experiment.{suggest(best, known)}')
  if (path / 'checkpoints' / IMPORTED).exists():
    raise UserError(f'{path} holds imported weights, not a run: start from them with --config.init_from={path}.')
  settings = path / 'config.json'
  if settings.exists():
    check_config(json.loads(to_json(config)), json.loads(to_json(read_config(workdir))), path)
  if jax.process_index() == 0:
    try:
      path.mkdir(parents=True, exist_ok=True)
      names = json.dumps([stage.name for stage in experiment.stages])
      # Whole or absent: another process may read them, and this one be killed, at any moment.
      for name, text in (('config.json', to_json(config)), ('stages.json', names)):
        part = path / f'{name}.part'
        part.write_text(text)
        part.replace(path / name)
    except OSError as error:
      raise UserError(f'The workdir {path} cannot be used: {error.strerror or error}.') from error
  return path


class _StageRun:
  """One stage on one mesh."""

  def __init__(
    self,
    stage: Stage,
    index: int,
    offset: int,
    config: ml_collections.ConfigDict,
    path: epath.Path,
    mesh: Mesh,
    earlier: Mapping[str, State],
  ):
    self.stage, self.offset, self.config, self.mesh = stage, offset, config, mesh
    self.settings = json.loads(to_json(config))
    stage_key = jax.random.fold_in(jax.random.key(config.seed), index)
    init_key, self.step_key = jax.random.split(stage_key)
    batch = stage.batch(0)
    self.batch_size = parallel.check_batch(batch, mesh)
    self.init_arguments = (init_key, parallel.global_batch(batch, mesh), dict(earlier))
    self.abstract, self.shardings = parallel.abstract_state(stage.init, self.init_arguments, stage.sharding, mesh)
    options = config.checkpoint
    self.save_every = options.every or max(1, stage.steps // 5)
    self.best = options.best if any(options.best.startswith(f'{e.name}/') for e in stage.evaluations) else ''
    self.checkpoints = Checkpoints(
      path / 'checkpoints' / stage.name, keep=options.keep, best=self.best, best_mode=options.best_mode
    )
    self.eval_steps: dict[str, Callable] = {}

  def newest_state(self) -> tuple[State | None, int]:
    """State and step of the newest whole checkpoint; (None, 0) without one."""
    restored = self.checkpoints.restore_latest(self.abstract, self.settings, warn=say)
    self.checkpoints.close()
    return (None, 0) if restored is None else (restored[0], restored[1]['step'])

  def imported_state(self) -> tuple[State, int]:
    """The imported variables as a state of this stage that evaluations take."""
    checkpoints = Checkpoints(self.checkpoints.directory.parent / IMPORTED)
    fields = ('params', 'model_state')
    target = self.abstract.replace(opt_state=(), ema=None)
    restored = checkpoints.restore_latest(target, self.settings, warn=say)
    checkpoints.close()
    if restored is None:
      raise UserError(f'{checkpoints.directory} holds no complete checkpoint.')
    variables = {name: getattr(restored[0], name) for name in fields}
    ema = None if self.abstract.ema is None else variables
    return restored[0].replace(ema=ema), 0

  def run(self, log: MetricsLog, preemption: Preemption) -> tuple[State, dict[str, float]]:
    """From the newest checkpoint (or the start) to the last step; returns the final state and metrics."""
    stage, config = self.stage, self.config
    restored = self.checkpoints.restore_latest(self.abstract, self.settings, warn=say)
    if restored is None:
      step, metrics, evaluated = 0, {}, set()
      state = parallel.run_init(stage.init, self.init_arguments, self.shardings)
    else:
      state, meta = restored
      step, metrics, evaluated = meta['step'], meta['metrics'], set(meta['evaluated'])
      say(f'{stage.name}: resuming at step {step} of {stage.steps}')
    log.resume(stage.name, step, self.offset)
    compiled = parallel.compile_step(config.parallel, stage.step, self.shardings, self.mesh, self.step_key)
    state = compiled.wrap(state)
    progress = Progress(stage.name, step, stage.steps, self.batch_size)
    pending: list[tuple[int, Any]] = []
    batches = prefetch(lambda: map(compiled.put, iterate(stage.batch, step)), config.data.prefetch)
    guarded = config.transfer_guard and config.parallel == 'jit'
    first = True

    def flush() -> dict[str, float]:
      latest = self._check_finite(pending)
      pending.clear()
      return latest

    try:
      while True:
        due = [e for e in self._due(step) if e.name not in evaluated]
        stopped = preemption.reached()
        if due and not stopped:
          flush()
          try:
            with progress.paused():
              metrics = {**metrics, **self.evaluate(compiled.unwrap(state), due, preemption)}
            evaluated |= {e.name for e in due}
            fresh = {k: v for k, v in metrics.items() if k.split('/')[0] in evaluated}
            log.write(stage.name, step, self.offset, fresh)
            say(f'{stage.name}  step {step}/{stage.steps}  ' + '  '.join(f'{k} {v:.4g}' for k, v in fresh.items()))
          except _Stopped:
            stopped = True
        if stopped or step == stage.steps or (step and step % self.save_every == 0) or (due and self.best):
          flush()
          meta = {'config': self.settings, 'stage': stage.name, 'evaluated': sorted(evaluated)}
          with progress.paused():
            self.checkpoints.save(step, compiled.unwrap(state), meta, metrics)
        if stopped:
          self.checkpoints.wait()
          raise PreemptedError(
            f'Told to stop: {stage.name} saved at step {step} of {stage.steps}; the same command with '
            f'--workdir={self.checkpoints.directory.parent.parent} goes on from there.'
          )
        if step == stage.steps:
          break

        batch = next(batches)
        started = time.monotonic()
        with jax.transfer_guard('disallow' if guarded else 'allow'):
          state, step_metrics = compiled(state, batch, step)
        if first:
          jax.block_until_ready(step_metrics)
          seconds = time.monotonic() - started
          say(f'{stage.name}: first step (with compilation) took {seconds:.1f} s')
          log.write(stage.name, step + 1, self.offset, {'first_step_seconds': seconds})
          first = False
        step += 1
        evaluated = set()
        pending.append((step, step_metrics))
        progress.advance(step)
        if step % config.log_every == 0 or step == stage.steps:
          latest = flush()
          log.write(stage.name, step, self.offset, {**latest, **progress.show(step, latest)})
    finally:
      progress.close()
      batches.close()
    self.checkpoints.close()
    return compiled.unwrap(state), metrics

  def evaluate(self, state: State, evaluations: list[Evaluation], preemption: Preemption) -> dict[str, float]:
    """{name/metric: value} of `evaluations`, each over its whole set."""
    results = {}
    for evaluation in evaluations:
      summary = evaluation.summarize(self._outputs(state, evaluation, preemption))
      results |= {f'{evaluation.name}/{name}': float(value) for name, value in summary.items()}
    return results

  def _outputs(self, state: State, evaluation: Evaluation, preemption: Preemption) -> Iterator[Any]:
    step = self.eval_steps.get(evaluation.name)
    if step is None:
      step = jax.jit(evaluation.step, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
      self.eval_steps[evaluation.name] = step
    for batch in evaluation.batches():
      if preemption.reached():
        raise _Stopped
      parallel.check_batch(batch, self.mesh)
      yield jax.tree.map(np.asarray, step(state, parallel.global_batch(batch, self.mesh)))

  def _due(self, step: int) -> list[Evaluation]:
    last = step == self.stage.steps
    return [e for e in self.stage.evaluations if last or (e.every and step and step % e.every == 0)]

  def _check_finite(self, pending: list[tuple[int, Any]]) -> dict[str, float]:
    """The newest of the pending metrics as numbers; stops the run if any of them is not finite."""
    latest = {}
    for step, metrics in jax.device_get(pending):
      latest = {name: float(metrics[name]) for name in sorted(metrics, key=lambda name: (name != 'loss', name))}
      broken = [name for name, value in latest.items() if not np.isfinite(value)]
      if broken:
        self.checkpoints.wait()
        good = self.checkpoints.steps()
        where = (
          f'the last good checkpoint is step {good[-1]} in {self.checkpoints.directory}'
          if good
          else 'no checkpoint yet'
        )
        raise NonFiniteError(f'{self.stage.name}: {broken[0]} became {latest[broken[0]]} at step {step}; {where}.')
    return latest
