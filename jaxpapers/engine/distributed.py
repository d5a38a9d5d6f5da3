"""Several processes: when to join, and as which."""

import os

import jax

from jaxpapers.engine.errors import UserError


def initialize(coordinator: str = '', processes: int = 0, process_id: int = -1, timeout: int = 300) -> None:
  """Joins the other processes when flags, a TPU pod, SLURM or GKE say so. Must come before any JAX call.

  Args:
    coordinator: 'host:port' of process 0, with `processes` and `process_id`; empty to look at the environment.
    processes: how many there are.
    process_id: which one this is.
    timeout: seconds to wait for the others.

  Raises:
    UserError: if the flags do not belong together, or the others did not come.
  """
  given = (bool(coordinator), processes > 0, process_id >= 0)
  if any(given) and not all(given):
    raise UserError(
      '--coordinator, --processes and --process_id go together: host:port of process 0, how many, and which.'
    )
  if all(given) and process_id >= processes:
    raise UserError(f'--process_id={process_id} must be below --processes={processes}.')
  if not all(given) and not _environment_says_so():
    return
  arguments = {'initialization_timeout': timeout}
  if all(given):
    arguments |= {'coordinator_address': coordinator, 'num_processes': processes, 'process_id': process_id}
  try:
    jax.distributed.initialize(**arguments)
  except Exception as error:
    who = f' of {processes} at {coordinator}' if all(given) else ''
    raise UserError(
      f'This process did not meet the other processes{who} within {timeout} s: start the same command on every host. '
      f'({str(error).splitlines()[0] if str(error) else type(error).__name__})'
    ) from error


def _environment_says_so() -> bool:
  """More than one TPU worker, SLURM task or Open MPI rank, or a launcher's JAXPAPERS_DISTRIBUTED=1.

  A TPU VM has nothing in its environment on the other workers of its slice, so its launcher has to say it.
  In an salloc shell a plain `python` also sees SLURM's variables, with no task id of its own step: one process then.
  """
  env = os.environ
  workers = [w for w in env.get('TPU_WORKER_HOSTNAMES', '').split(',') if w]
  in_step = 'SLURM_STEP_ID' in env and int(env.get('SLURM_STEP_NUM_TASKS', env.get('SLURM_NTASKS', '1'))) > 1
  ranks = int(env.get('OMPI_COMM_WORLD_SIZE', '1')) > 1
  slices = int(env.get('MEGASCALE_NUM_SLICES', '1')) > 1
  told = env.get('JAXPAPERS_DISTRIBUTED') == '1'
  return told or len(workers) > 1 or in_step or ranks or slices


def device_table() -> str:
  """One line on the devices of all processes, so that a missing one is seen at the start of the log."""
  kinds = sorted({d.device_kind for d in jax.devices()})
  text = f'{jax.device_count()} x {", ".join(kinds)}'
  if jax.process_count() > 1:
    text += f' in {jax.process_count()} processes; process {jax.process_index()} has {jax.local_device_count()}'
  return text


def check_local_devices(expected: int) -> None:
  """Stops if this process sees another number of devices than its launcher gave it (0: not told)."""
  if expected and jax.local_device_count() != expected:
    raise UserError(
      f'Process {jax.process_index()} sees {jax.local_device_count()} devices, but its launcher gave it {expected}.'
    )
