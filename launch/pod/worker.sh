#!/usr/bin/env bash
# One host's share of a pod: keeps a command running after the SSH session that started it has ended.
#
#   worker.sh install PACKAGE ...   environment .venv in the repository: requirements.txt and the packages
#   worker.sh start COMMAND ...     starts the command in the background, unless an earlier one still runs
#   worker.sh stop                  SIGTERM: the run saves and ends (code 75); SIGKILL after STOP_SECONDS (default 120)
#   worker.sh status                "running", or the exit code of the last command
#   worker.sh logs                  the last LOG_LINES (default 50) lines it wrote
#
# The command holds a lock while it runs, so that a stale process id is never taken for ours. State and log: .worker/
set -euo pipefail
program=worker.sh
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=launch/pod/common.sh
source launch/pod/common.sh

state=.worker
mkdir -p "$state"
# `run` has the lock from `start` already, and hands it on to the command.
[ "${1:-}" = run ] || exec 9>>"$state/lock"
free() { flock --nonblock 9; }
say() { echo "$(uname -n): $*"; }

case "${1:-}" in
  install)
    # The images of TPU VMs may come with a Python that is too old for JAX: uv brings its own.
    command -v uv >/dev/null || export PATH="$HOME/.local/bin:$PATH"
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    [ -d .venv ] || uv venv --quiet --python "${PYTHON_VERSION:-3.12}" .venv
    uv pip install --quiet --python .venv/bin/python -r requirements.txt "${@:2}"
    say "installed $(.venv/bin/python --version)"
    ;;
  start)
    [ $# -gt 1 ] || fail 'worker.sh start needs a command.'
    free || fail "$(uname -n): a run of ours is still there (process $(cat "$state/pid")); end it with stop, or accelerators stay in use."
    rm -f "$state/exit" "$state/pid"
    # A session of its own: it outlives this shell, and can be ended as one group.
    setsid nohup bash launch/pod/worker.sh run "${@:2}" >>"$state/log" 2>&1 </dev/null &
    until [ -f "$state/pid" ]; do sleep 0.1; done
    say "started; log in $PWD/$state/log"
    ;;
  run)
    echo "== $(date -u +%FT%TZ) $(quoted "${@:2}")"
    echo $$ >"$state/group"
    "${@:2}" &
    echo $! >"$state/pid"
    code=0
    wait $! || code=$?
    echo "$code" >"$state/exit"
    echo "== $(date -u +%FT%TZ) exit code $code"
    ;;
  stop)
    free && { say 'nothing of ours runs'; exit 0; }
    kill -TERM "$(cat "$state/pid")" 2>/dev/null || true
    if flock --timeout "${STOP_SECONDS:-120}" 9; then
      say "stopped, exit code $(cat "$state/exit")"
    else
      kill -KILL -- "-$(cat "$state/group")" || true
      echo 137 >"$state/exit"
      say 'did not save in time: killed; the next start goes on from the last checkpoint'
    fi
    ;;
  status)
    if ! free; then
      say "running (process $(cat "$state/pid"))"
    elif [ -f "$state/exit" ]; then
      say "ended with exit code $(cat "$state/exit")"
    else
      say 'nothing was started, or the host went down while it ran'
    fi
    ;;
  logs) tail -n "${LOG_LINES:-50}" "$state/log" | sed "s/^/$(uname -n): /" ;;
  *) fail "unknown command '${1:-}': worker.sh install | start | stop | status | logs." ;;
esac
