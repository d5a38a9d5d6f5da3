#!/usr/bin/env bash
# A JobSet on GKE: one Job per TPU slice, one pod per host. Fills gke_jobset.yaml and applies it with kubectl.
#
#   gke_jobset.sh [--FLAG=VALUE ...]      flags go to launch/train.py
#
# Environment (nothing that costs money has a default):
#   NAME NAMESPACE QUEUE        what it is called, where, and its Kueue LocalQueue (QUEUE=none: start without Kueue)
#   IMAGE                       container image with the repository in /jaxpapers (Dockerfile beside this file)
#   ACCELERATOR TOPOLOGY        node labels gke-tpu-accelerator and gke-tpu-topology, e.g. tpu-v5-lite-podslice and 4x4
#   SLICES HOSTS CHIPS          slices; hosts of one slice; TPU chips of one host (4x4 on hosts of 4 chips: 4 hosts)
#   SPOT                        1 for spot nodes (cheaper, may be taken away), 0 for on demand
#   CONFIG WORKDIR              FILE[:VARIANT], and gs://BUCKET/FOLDER or a mount that all pods have
#   SERVICE_ACCOUNT             optional: Kubernetes service account that may write WORKDIR (default "default")
#   MAX_RESTARTS GRACE_SECONDS  optional: restarts after a crash (default 3); SIGTERM to SIGKILL (default 120)
#   LOCAL_DEVICES               optional: stop unless every pod sees so many devices
#   DRY_RUN=1                   only print the manifest, after a comment per host on what it would run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=launch/pod/common.sh
source launch/pod/common.sh
program=gke_jobset.sh
need NAME 'what the JobSet is called' NAMESPACE 'Kubernetes namespace' QUEUE 'Kueue LocalQueue, or none' \
  IMAGE 'container image' ACCELERATOR 'e.g. tpu-v5-lite-podslice' TOPOLOGY 'e.g. 4x4' \
  SLICES 'how many slices' HOSTS 'hosts of one slice' CHIPS 'TPU chips of one host' SPOT '1 or 0' \
  CONFIG 'FILE[:VARIANT]' WORKDIR 'gs://BUCKET/FOLDER, or a mount that all pods have'
MAX_RESTARTS="${MAX_RESTARTS:-3}" GRACE_SECONDS="${GRACE_SECONDS:-120}" SERVICE_ACCOUNT="${SERVICE_ACCOUNT:-default}"
whole SLICES HOSTS CHIPS MAX_RESTARTS GRACE_SECONDS
yes_or_no SPOT
shared WORKDIR
dry="${DRY_RUN:-0}"
yes_or_no dry
# A pod that does not find its siblings must end in a sentence, never train alone.
DISTRIBUTED=0
[ $((SLICES * HOSTS)) -eq 1 ] || DISTRIBUTED=1
set -- python launch/train.py --config="$CONFIG" --workdir="$WORKDIR" --local_devices="${LOCAL_DEVICES:-0}" "$@"
export NAME NAMESPACE QUEUE IMAGE ACCELERATOR TOPOLOGY SLICES HOSTS CHIPS SPOT MAX_RESTARTS GRACE_SECONDS \
  SERVICE_ACCOUNT DISTRIBUTED

# Values go in as JSON, which YAML reads: no value can change the manifest's structure.
manifest="$(python3 - launch/pod/gke_jobset.yaml "$@" <<'PYTHON'
import json, os, string, sys

path, *command = sys.argv[1:]
numbers = ('SLICES', 'HOSTS', 'CHIPS', 'MAX_RESTARTS', 'GRACE_SECONDS')
values = {name: json.dumps(int(value) if name in numbers else value) for name, value in os.environ.items()}
values['COMMAND'] = json.dumps(command)
dropped = [f'# only with {name}' for name, off in (('SPOT', '0'), ('QUEUE', 'none')) if os.environ[name] == off]
with open(path) as file:
  lines = [line for line in file if not line.rstrip().endswith(tuple(dropped))] if dropped else list(file)
print(string.Template(''.join(lines)).substitute(values), end='')
PYTHON
)"

if [ "$dry" = 1 ]; then
  for ((host = 0; host < SLICES * HOSTS; host++)); do
    echo "# slice $((host / HOSTS)) host $((host % HOSTS)): $(quoted "$@")"
  done
  printf '%s\n' "$manifest"
else
  kubectl apply --filename - <<<"$manifest"
fi
