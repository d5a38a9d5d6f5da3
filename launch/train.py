"""Runs an experiment: all stages, resumable.

python launch/train.py --config=configs/emo.py
python launch/train.py --config=configs/emo.py:imagenet1k --workdir=runs/imagenet --config.data.dir=/data/imagenet
"""

from absl import flags

from jaxpapers.engine import cli

cli.define_config()
_WORKDIR = flags.DEFINE_string('workdir', '', 'folder of the run; an existing one is resumed')
_COORDINATOR = flags.DEFINE_string(
  'coordinator', '', 'host:port of process 0, for several processes without a scheduler'
)
_PROCESSES = flags.DEFINE_integer('processes', 0, 'how many processes, with --coordinator')
_PROCESS_ID = flags.DEFINE_integer('process_id', -1, 'which of them this is, with --coordinator')
_LOCAL_DEVICES = flags.DEFINE_integer('local_devices', 0, 'stop unless this process sees so many devices (0: any)')
_TIMEOUT = flags.DEFINE_integer('initialization_timeout', 300, 'seconds to wait for the other processes')


def main() -> None:
  """Trains what --config says."""
  config = cli.config()
  from jaxpapers.engine import distributed, logs, loop

  distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value, _TIMEOUT.value)
  distributed.check_local_devices(_LOCAL_DEVICES.value)
  workdir = _WORKDIR.value or cli.default_workdir(config)
  logs.say(f'{config.method} · {config.variant} on {distributed.device_table()}; workdir {workdir}')
  loop.run(cli.room(config.method).experiment(config), config, workdir)


if __name__ == '__main__':
  cli.main(main)
