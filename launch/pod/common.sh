# shellcheck shell=bash
# What the launchers share; sourced by them, not run. `program` is the name that errors begin with.

# fail SENTENCE: ends with the exit code of wrong settings, which nothing retries.
fail() {
  echo "error: $*" >&2
  exit 2
}

# need VARIABLE MEANING [VARIABLE MEANING ...]: names every variable that is not set, in one sentence.
need() {
  local missing=''
  while [ $# -gt 0 ]; do
    [ -n "${!1:-}" ] || missing+="${missing:+, }$1 ($2)"
    shift 2
  done
  [ -z "$missing" ] || fail "${program:?} needs $missing in the environment."
}

# whole VARIABLE ...: each must be a whole number above 0.
whole() {
  local variable
  for variable in "$@"; do
    [[ ${!variable} =~ ^[1-9][0-9]*$ ]] || fail "$variable must be a whole number above 0, not '${!variable}'."
  done
}

# yes_or_no VARIABLE
yes_or_no() {
  [[ ${!1} =~ ^[01]$ ]] || fail "$1 must be 1 or 0, not '${!1}'."
}

# shared VARIABLE: hosts without a common disk can only share a bucket, or a folder that is mounted on all of them.
shared() {
  [[ ${!1} == *://* || ${!1} == /* ]] ||
    fail "$1=${!1} would be another folder on every host: give gs://BUCKET/FOLDER, or the absolute path of a mount that all hosts have."
}

# quoted WORD ...: the words as one line that a shell reads back as the same words.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}
