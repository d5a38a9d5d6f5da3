"""The pod launchers without a pod: dry runs, missing settings, runs against stand-ins for the tools of a cluster."""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from jaxpapers.engine import distributed, errors

ROOT = Path(__file__).parents[2]
POD = ROOT / 'launch' / 'pod'
SCRIPTS = sorted([*POD.glob('*.sh'), POD / 'slurm.sbatch'])
TRAIN = ['launch/train.py', '--config=configs/emo.py:imagenet1k', '--workdir=gs://bucket/run']
RUN = {'CONFIG': 'configs/emo.py:imagenet1k', 'WORKDIR': 'gs://bucket/run'}
TPU_VM = {'NAME': 'pod', 'PROJECT': 'project', 'ZONE': 'zone'}
CREATE = {**TPU_VM, 'ACCELERATOR_TYPE': 'v5litepod-16', 'RUNTIME_VERSION': 'image', 'SPOT': '0'}
GKE = {**RUN, 'NAME': 'pod', 'NAMESPACE': 'team', 'QUEUE': 'line', 'IMAGE': 'image:1', 'ACCELERATOR': 'tpu-v5'} | {
  'TOPOLOGY': '4x4', 'SLICES': '2', 'HOSTS': '4', 'CHIPS': '4', 'SPOT': '1'
}  # fmt: skip
SLURM_JOB = {**RUN, 'SLURM_JOB_ID': '7', 'SLURM_NTASKS_PER_NODE': '2', 'SLURM_GPUS_ON_NODE': '2', 'PYTHON': 'python'}


def launch(script, *arguments, tools=None, **settings):
  """Runs a launcher with these settings only; `tools` is a folder whose programs come first."""
  path = f'{tools}:{os.environ["PATH"]}' if tools else os.environ['PATH']
  command = ['bash', str(POD / script), *arguments]
  env = {'PATH': path, 'HOME': os.environ.get('HOME', '/'), **settings}
  return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)


def dry(script, *arguments, **settings):
  result = launch(script, *arguments, DRY_RUN='1', **settings)
  assert result.returncode == 0, result.stderr
  return result.stdout


def refused(result):
  """The one sentence of a launcher that refused its settings."""
  assert result.returncode == errors.EXIT_SETTINGS, result
  assert result.stdout == '' and result.stderr.count('\n') == 1 and result.stderr.startswith('error: ')
  return result.stderr


@pytest.fixture
def tools(tmp_path):
  """A function that makes a stand-in program, which notes its arguments in `calls`; returns the folder."""

  def make(name, script='true'):
    program = tmp_path / 'bin' / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/usr/bin/env bash\necho {name} "$@" >>{tmp_path}/calls\n{script}\n')
    program.chmod(0o755)
    return program.parent

  make.calls = lambda: (tmp_path / 'calls').read_text().splitlines() if (tmp_path / 'calls').exists() else []
  return make


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
  assert subprocess.run(['bash', '-n', script], capture_output=True, text=True).stderr == ''


@pytest.mark.skipif(shutil.which('shellcheck') is None, reason='shellcheck is not installed')
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
  result = subprocess.run(['shellcheck', '-x', script], capture_output=True, text=True, cwd=ROOT)
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('hosts', [1, 4])
def test_tpu_vm_starts_the_same_program_on_every_worker(hosts):
  lines = dry(
    'tpu_vm.sh', 'start', '--config.note=a b', HOSTS=str(hosts), LOCAL_DEVICES='4', **TPU_VM, **RUN
  ).splitlines()
  names, commands = zip(*(line.split(': ', 1) for line in lines), strict=True)
  assert names == tuple(f'worker {i}' for i in range(hosts))
  assert len(set(commands)) == 1
  words = shlex.split(commands[0])
  assert words[:3] == ['cd', 'jaxpapers', '&&'] and 'JAXPAPERS_DISTRIBUTED=1' in words
  assert words[-5:] == [*TRAIN, '--local_devices=4', '--config.note=a b']


@pytest.mark.parametrize('spot', ['0', '1'])
def test_tpu_vm_asks_for_what_was_named(spot):
  (line,) = dry('tpu_vm.sh', 'create', HOSTS='4', **{**CREATE, 'SPOT': spot}).splitlines()
  assert line.startswith('here: gcloud compute tpus queued-resources create pod --node-id=pod')
  assert '--accelerator-type=v5litepod-16' in line and '--zone=zone' in line and ('--spot' in line) == (spot == '1')


def test_tpu_vm_installs_and_stops_everywhere():
  install = dry('tpu_vm.sh', 'install', HOSTS='2', **TPU_VM).splitlines()
  assert [line.split(':')[0] for line in install] == ['here', 'here', *['worker 0', 'worker 1'] * 2]
  assert '--worker=all' in install[1] and install[-1].endswith(r'worker.sh install jax\[tpu\] gcsfs')
  stop = dry('tpu_vm.sh', 'stop', HOSTS='2', STOP_SECONDS='9', **TPU_VM).splitlines()
  assert len(stop) == 2 and all(line.endswith('worker.sh stop') and 'STOP_SECONDS=9' in line for line in stop)


def test_tpu_vm_waits_until_the_slice_is_there(tools, tmp_path):
  states = (
    'case "$*" in *describe*) n=$(grep -c describe {0}/calls); [ $n -lt 3 ] && echo PROVISIONING || echo {1};; esac'
  )
  bin = tools('gcloud', states.format(tmp_path, 'ACTIVE'))
  result = launch('tpu_vm.sh', 'create', tools=bin, POLL_SECONDS='1', **CREATE)
  assert result.returncode == 0 and 'pod: ACTIVE' in result.stdout
  assert [call.split()[4] for call in tools.calls()] == ['create', 'describe', 'describe', 'describe']
  tools('gcloud', states.format(tmp_path, 'FAILED'))
  result = launch('tpu_vm.sh', 'create', tools=bin, POLL_SECONDS='1', **CREATE)
  assert result.returncode == 1 and 'ended as FAILED' in result.stderr


def test_tpu_vm_reaches_all_workers_in_one_call(tools):
  result = launch('tpu_vm.sh', 'start', tools=tools('gcloud'), **TPU_VM, **RUN)
  assert result.returncode == 0, result.stderr
  (call,) = tools.calls()
  assert call.startswith('gcloud compute tpus tpu-vm ssh pod --worker=all --command=cd jaxpapers && JAXPAPERS_DIS')


@pytest.mark.parametrize('nodes, gpus', [(1, 1), (2, 4)])
def test_slurm_runs_one_task_per_gpu(nodes, gpus):
  lines = dry(
    'slurm.sbatch', '--config.x=1', NODES=str(nodes), GPUS_PER_NODE=str(gpus), PYTHON='py', **RUN
  ).splitlines()
  places = [(node, gpu) for node in range(nodes) for gpu in range(gpus)]
  for task, ((node, gpu), line) in enumerate(zip(places, lines, strict=True)):
    place, command = line.split(': ')
    assert place == f'node {node} GPU {gpu}'
    assert shlex.split(command) == [f'SLURM_PROCID={task}', 'py', *TRAIN, '--local_devices=1', '--config.x=1']


@pytest.mark.parametrize('code', [0, 1, 2, 3, 4, 75])
def test_slurm_queues_again_only_what_was_told_to_stop(tools, code):
  bin = tools('srun', f'exit {code}') and tools('scontrol')
  result = launch('slurm.sbatch', tools=bin, **SLURM_JOB)
  assert result.returncode == code
  srun, *rest = tools.calls()
  assert '--kill-on-bad-exit=0' in srun and srun.endswith(shlex.join(['python', *TRAIN, '--local_devices=1']))
  assert rest == (['scontrol requeue 7'] if code == errors.EXIT_PREEMPTED else [])


def test_slurm_has_a_limit_of_requeues(tools):
  bin = tools('srun', 'exit 75') and tools('scontrol')
  result = launch('slurm.sbatch', tools=bin, SLURM_RESTART_COUNT='3', MAX_REQUEUES='3', **SLURM_JOB)
  assert result.returncode == 75 and 'MAX_REQUEUES' in result.stdout and len(tools.calls()) == 1


def test_slurm_refuses_fewer_tasks_than_gpus(tools):
  text = refused(launch('slurm.sbatch', tools=tools('srun'), **{**SLURM_JOB, 'SLURM_GPUS_ON_NODE': '8'}))
  assert '--ntasks-per-node=2' in text and '8 GPUs' in text and not tools.calls()


def manifest(*arguments, **settings):
  yaml = pytest.importorskip('yaml', reason='pyyaml is not installed')
  text = dry('gke_jobset.sh', *arguments, **settings)
  return yaml.safe_load(text), [line for line in text.splitlines() if line.startswith('# slice')]


def test_gke_manifest_says_what_to_do_with_every_exit_code():
  jobset, hosts = manifest('--config.note="a: $b"', **GKE)
  assert [line.split(':')[0] for line in hosts] == [f'# slice {s} host {h}' for s in range(2) for h in range(4)]
  assert jobset['kind'] == 'JobSet' and jobset['metadata']['labels']['kueue.x-k8s.io/queue-name'] == 'line'
  assert jobset['spec']['failurePolicy'] == {
    'maxRestarts': 3,
    'rules': [{'action': 'FailJobSet', 'onJobFailureReasons': ['PodFailurePolicy']}],
  }
  (slices,) = jobset['spec']['replicatedJobs']
  job = slices['template']['spec']
  assert (slices['replicas'], job['completions'], job['parallelism'], job['backoffLimit']) == (2, 4, 4, 0)
  actions = {rule['action']: rule['onExitCodes'] for rule in job['podFailurePolicy']['rules']}
  never = [errors.EXIT_SETTINGS, errors.EXIT_NON_FINITE, errors.EXIT_DAMAGED]
  assert {action: rule['values'] for action, rule in actions.items()} == {
    'FailJob': never,
    'Ignore': [errors.EXIT_PREEMPTED],
  }
  pod = job['template']['spec']
  (container,) = pod['containers']
  assert all(rule['operator'] == 'In' and rule['containerName'] == container['name'] for rule in actions.values())
  assert pod['restartPolicy'] == 'Never'  # a podFailurePolicy is refused without
  assert container['command'] == ['python', *TRAIN, '--local_devices=0', '--config.note="a: $b"']
  env = {entry['name']: entry['value'] for entry in container['env']}
  assert env == {'JAXPAPERS_DISTRIBUTED': '1', 'JAXPAPERS_TERMINATION_LOG': container['terminationMessagePath']}
  assert container['resources']['limits'] == container['resources']['requests'] == {'google.com/tpu': 4}


@pytest.mark.parametrize('spot', ['0', '1'])
def test_gke_nodes(spot):
  jobset, _ = manifest(**{**GKE, 'SPOT': spot, 'QUEUE': 'none', 'SLICES': '1', 'HOSTS': '1'})
  pod = jobset['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
  selector = {'cloud.google.com/gke-tpu-accelerator': 'tpu-v5', 'cloud.google.com/gke-tpu-topology': '4x4'}
  assert pod['nodeSelector'] == selector | ({'cloud.google.com/gke-spot': 'true'} if spot == '1' else {})
  assert len(pod['tolerations']) == 1 + int(spot)
  assert jobset['metadata']['labels'] == {'app': 'jaxpapers'}
  assert pod['containers'][0]['env'][0]['value'] == '0'  # alone: nobody to join


def test_gke_applies_the_manifest(tools, tmp_path):
  result = launch('gke_jobset.sh', tools=tools('kubectl', f'cat >{tmp_path}/applied'), **GKE)
  assert result.returncode == 0 and tools.calls() == ['kubectl apply --filename -']
  assert (tmp_path / 'applied').read_text().strip() in dry('gke_jobset.sh', **GKE)


@pytest.mark.parametrize(
  'script, arguments, settings',
  [
    ('tpu_vm.sh', ['create'], CREATE),
    ('tpu_vm.sh', ['start'], TPU_VM | RUN),
    ('tpu_vm.sh', ['start'], TPU_VM | RUN | {'DRY_RUN': '1', 'HOSTS': '1'}),
    ('gke_jobset.sh', [], GKE),
    ('slurm.sbatch', [], RUN | {'DRY_RUN': '1', 'NODES': '1', 'GPUS_PER_NODE': '1'}),
    (
      'slurm.sbatch',
      [],
      {name: value for name, value in SLURM_JOB.items() if name not in ('PYTHON', 'SLURM_GPUS_ON_NODE')},
    ),
  ],
)
def test_every_missing_variable_is_named(tools, script, arguments, settings):
  bin = [tools(name) for name in ('gcloud', 'kubectl', 'srun')][0]
  for name in settings.keys() - {'DRY_RUN'}:
    rest = {key: value for key, value in settings.items() if key != name}
    assert f' {name} (' in refused(launch(script, *arguments, tools=bin, **rest))
  assert tools.calls() == []


@pytest.mark.parametrize(
  'script, arguments, settings, text',
  [
    ('tpu_vm.sh', [], TPU_VM, 'create | install | start'),
    ('tpu_vm.sh', ['begin'], TPU_VM, "unknown command 'begin'"),
    ('tpu_vm.sh', ['stop', 'now'], TPU_VM, "no argument, but got 'now'"),
    ('tpu_vm.sh', ['create'], {**CREATE, 'SPOT': 'yes'}, "SPOT must be 1 or 0, not 'yes'"),
    ('tpu_vm.sh', ['start'], {**TPU_VM, **RUN, 'WORKDIR': 'runs/x'}, 'another folder on every host'),
    ('tpu_vm.sh', ['stop'], {**TPU_VM, 'STOP_SECONDS': '1; ls'}, 'STOP_SECONDS must be a whole number'),
    ('gke_jobset.sh', [], {**GKE, 'HOSTS': '0'}, "HOSTS must be a whole number above 0, not '0'"),
    ('gke_jobset.sh', [], {**GKE, 'WORKDIR': 'runs/x'}, 'another folder on every host'),
    ('slurm.sbatch', [], {**RUN, 'SLURM_SUBMIT_DIR': '/'}, 'from the root of the repository'),
    ('worker.sh', ['begin'], {}, "unknown command 'begin'"),
  ],
)
def test_wrong_settings(script, arguments, settings, text):
  assert text in refused(launch(script, *arguments, **settings))


@pytest.fixture
def worker(tmp_path):
  """worker.sh of a repository of its own; what still runs at the end is killed."""
  (tmp_path / 'launch' / 'pod').mkdir(parents=True)
  for name in ('worker.sh', 'common.sh'):
    shutil.copy(POD / name, tmp_path / 'launch' / 'pod')

  def run(*arguments, **settings):
    command = ['bash', str(tmp_path / 'launch' / 'pod' / 'worker.sh'), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, timeout=60)

  yield run
  run('stop', STOP_SECONDS='1')


def ended(worker):
  for _ in range(200):
    if 'running' not in (text := worker('status').stdout):
      return text
    time.sleep(0.05)
  raise AssertionError('still running')


@pytest.mark.skipif(shutil.which('flock') is None, reason='flock (util-linux) is not installed')
class TestWorker:
  def test_keeps_the_exit_code_and_the_log(self, worker):
    assert 'nothing was started' in worker('status').stdout
    assert worker('start', 'bash', '-c', 'echo "$1"; exit 3', '-', 'two  words').returncode == 0
    assert 'exit code 3' in ended(worker)
    assert 'two  words' in worker('logs').stdout

  def test_stop_lets_the_run_save(self, worker):
    worker('start', 'bash', '-c', 'trap "echo saved; exit 75" TERM; echo rea""dy; while :; do sleep 0.05; done')
    while 'ready' not in worker('logs').stdout:
      time.sleep(0.05)
    again = worker('start', 'true')
    assert again.returncode == errors.EXIT_SETTINGS and 'end it with stop' in again.stderr
    assert 'exit code 75' in worker('stop').stdout
    assert 'saved' in worker('logs').stdout
    assert 'nothing of ours runs' in worker('stop').stdout
    assert worker('start', 'true').returncode == 0 and 'exit code 0' in ended(worker)

  def test_stop_ends_what_does_not_listen(self, worker):
    worker('start', 'bash', '-c', 'trap "" TERM; echo rea""dy; while :; do sleep 0.05; done')
    while 'ready' not in worker('logs').stdout:
      time.sleep(0.05)
    assert 'killed' in worker('stop', STOP_SECONDS='1').stdout
    assert 'exit code 137' in ended(worker)


@pytest.mark.parametrize('value, joins', [('1', True), ('0', False), (None, False)])
def test_a_launcher_can_say_that_there_are_siblings(monkeypatch, value, joins):
  for name in ('TPU_WORKER_HOSTNAMES', 'SLURM_STEP_ID', 'OMPI_COMM_WORLD_SIZE', 'MEGASCALE_NUM_SLICES'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.delenv('JAXPAPERS_DISTRIBUTED', raising=False)
  if value is not None:
    monkeypatch.setenv('JAXPAPERS_DISTRIBUTED', value)
  calls = []
  monkeypatch.setattr(distributed.jax.distributed, 'initialize', lambda **arguments: calls.append(arguments))
  distributed.initialize()
  assert calls == ([{'initialization_timeout': 300}] if joins else [])
