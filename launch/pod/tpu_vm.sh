#!/usr/bin/env bash
# A TPU VM slice through gcloud: the same program on all its workers. Runs on your machine.
#
#   tpu_vm.sh create | install | start [--FLAG=VALUE ...] | status | logs | stop | delete
#
# Environment (nothing that costs money has a default):
#   NAME PROJECT ZONE                  which slice; all commands
#   ACCELERATOR_TYPE RUNTIME_VERSION   create: what to ask for, e.g. v5litepod-16 and v2-alpha-tpuv5-lite
#   SPOT                               create: 1 for a spot slice (cheaper, may be taken away), 0 for on demand
#   CONFIG WORKDIR                     start: FILE[:VARIANT], and gs://BUCKET/FOLDER or a mount that all workers have
#   LOCAL_DEVICES                      start, optional: stop unless every worker sees so many devices
#   PACKAGES                           install, optional: beside requirements.txt (default "jax[tpu] gcsfs")
#   POLL_SECONDS STOP_SECONDS LOG_LINES   optional: 30 between looks at the queue, 120 to save in, 50 lines of each log
#   DRY_RUN=1 HOSTS=N                  only print what this machine ("here") and each of N workers would run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=launch/pod/common.sh
source launch/pod/common.sh
action="${1:-}"
[ $# -eq 0 ] || shift
program="tpu_vm.sh $action"
[[ $action =~ ^(create|install|start|status|logs|stop|delete)$ ]] ||
  fail "unknown command '$action': tpu_vm.sh create | install | start | status | logs | stop | delete."
[ $# -eq 0 ] || [ "$action" = start ] || fail "$program takes no argument, but got '$1'."
need NAME 'what the slice is called' PROJECT 'Google Cloud project' ZONE 'zone of the TPU'
dry="${DRY_RUN:-0}"
yes_or_no dry
if [ "$dry" = 1 ]; then
  need HOSTS 'how many workers a dry run prints'
  whole HOSTS
fi

# What worker.sh gets. Nothing in a TPU VM's environment says that it has siblings: JAXPAPERS_DISTRIBUTED does.
STOP_SECONDS="${STOP_SECONDS:-120}" LOG_LINES="${LOG_LINES:-50}" POLL_SECONDS="${POLL_SECONDS:-30}"
whole STOP_SECONDS LOG_LINES POLL_SECONDS
settings="JAXPAPERS_DISTRIBUTED=1 STOP_SECONDS=$STOP_SECONDS LOG_LINES=$LOG_LINES"

# here COMMAND ...: on this machine.
here() {
  if [ "$dry" = 1 ]; then echo "here: $(quoted "$@")"; else "$@"; fi
}

# tpu COMMAND ...: gcloud compute tpus, in our project and zone.
tpu() { here gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"; }

# everywhere LINE: in a shell on all workers at once; a program on one of them alone would wait for ever.
everywhere() {
  local host
  if [ "$dry" = 0 ]; then
    tpu tpu-vm ssh "$NAME" --worker=all --command="$1"
  else
    for ((host = 0; host < HOSTS; host++)); do echo "worker $host: $1"; done
  fi
}

# worker COMMAND ...: worker.sh in the repository of all workers.
worker() { everywhere "cd jaxpapers && $settings bash launch/pod/worker.sh $(quoted "$@")"; }

case "$action" in
  create)
    need ACCELERATOR_TYPE 'e.g. v5litepod-16' RUNTIME_VERSION 'e.g. v2-alpha-tpuv5-lite' SPOT '1 or 0'
    yes_or_no SPOT
    [ "$SPOT" = 0 ] || set -- --spot
    tpu queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$ACCELERATOR_TYPE" \
      --runtime-version="$RUNTIME_VERSION" "$@"
    [ "$dry" = 0 ] || exit 0
    while :; do
      now="$(tpu queued-resources describe "$NAME" --format='value(state.state)')"
      echo "$(date +%T) $NAME: $now"
      case "$now" in
        ACTIVE) exit 0 ;;
        FAILED | SUSPENDING | SUSPENDED | DELETING)
          echo "error: the request for $NAME ended as $now: 'tpu_vm.sh delete', then create again." >&2
          exit 1
          ;;
      esac
      sleep "$POLL_SECONDS"
    done
    ;;
  install)
    # The committed files, so that every worker has the same and a run can be traced to a commit.
    [ -z "$(git status --porcelain --untracked-files=no)" ] || echo 'note: uncommitted changes stay here.' >&2
    archive="$(git rev-parse --git-path jaxpapers-pod.tar.gz)"
    here git archive --prefix=jaxpapers/ --output="$archive" HEAD
    tpu tpu-vm scp "$archive" "$NAME:jaxpapers.tar.gz" --worker=all
    everywhere 'tar -xzf jaxpapers.tar.gz'
    read -ra packages <<<"${PACKAGES:-jax[tpu] gcsfs}"
    worker install "${packages[@]}"
    ;;
  start)
    need CONFIG 'FILE[:VARIANT]' WORKDIR 'gs://BUCKET/FOLDER, or a mount that all workers have'
    shared WORKDIR
    worker start .venv/bin/python launch/train.py \
      --config="$CONFIG" --workdir="$WORKDIR" --local_devices="${LOCAL_DEVICES:-0}" "$@"
    ;;
  status | logs | stop) worker "$action" ;;
  delete) tpu queued-resources delete "$NAME" --force --quiet ;;
esac
