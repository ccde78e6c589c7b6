#!/usr/bin/env bash
# A slice of a TPU pod: made, filled with this code, put to work on all hosts, and deleted.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: tpu_pod.sh [--dry-run] [--zone ZONE] [--project PROJECT] SUBCOMMAND NAME [...]

  create NAME TYPE VERSION [FLAG ...]   queue for a slice and wait until it is there, as in
                                        create pod v5litepod-16 v2-alpha-tpuv5-lite --spot
  sync NAME                             send this project's files to all hosts
  install NAME                          install it on all hosts, in an environment of its own
  run NAME -- COMMAND ...               start the command on all hosts, and show its log, as in
                                        run pod -- python scripts/train.py wikitext-gpt2 --mesh auto
  logs NAME [WORKER]                    show the log of a host (0) until the command ends
  status NAME                           the exit codes of all hosts' last command
  stop NAME                             SIGTERM on all hosts: a training saves, and ends
  delete NAME                           give the slice back

The command goes on when this script is interrupted; `logs` shows it again. --dry-run prints the
gcloud commands, and runs none. ZONE and PROJECT are gcloud's own unless given; POLL_SECONDS (20)
is the time between two looks at the queue.
USAGE
}

fail() {
    echo "error: $*" >&2
    exit 2
}

dry_run=false
where=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --dry-run) dry_run=true && shift ;;
        --zone | --project)
            [[ $# -ge 2 ]] || fail "$1 needs a value"
            where+=("$1=$2") && shift 2
            ;;
        -h | --help) usage && exit 0 ;;
        -*) fail "$1 is unknown; --help lists the flags" ;;
        *) break ;;
    esac
done
[[ $# -ge 2 ]] || { usage >&2 && exit 2; }
subcommand=$1 name=$2
shift 2
folder=jaxmodels # in each host's home
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

tpus() {
    if $dry_run; then
        printf '%q ' gcloud compute tpus "$@" "${where[@]}" && echo
    else
        gcloud compute tpus "$@" "${where[@]}"
    fi
}

# on WORKER COMMAND: a shell command on one host, or on all at once.
on() {
    tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2"
}

create() {
    [[ $# -ge 2 ]] || fail "create $name needs TYPE and VERSION, as in v5litepod-16 v2-alpha-tpuv5-lite"
    local type=$1 version=$2 state
    shift 2
    tpus queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" \
        "--runtime-version=$version" "$@"
    while true; do
        state=$(tpus queued-resources describe "$name" "--format=value(state.state)")
        echo "$state"
        case $state in
            ACTIVE) return ;;
            FAILED | SUSPENDED) fail "the slice $name is $state; delete it, and create it anew" ;;
        esac
        if $dry_run; then return; fi
        sleep "${POLL_SECONDS:-20}"
    done
}

sync() {
    local archive
    archive=$(mktemp -d)
    # shellcheck disable=SC2064  # the name of now
    trap "rm -rf '$archive'" EXIT
    tar -C "$root" -czf "$archive/$folder.tar.gz" --exclude='./.*' --exclude=./runs \
        --exclude='__pycache__' --exclude='*.egg-info' .
    tpus tpu-vm scp "$archive/$folder.tar.gz" "$name:" --worker=all
    on all "mkdir -p $folder && tar -C $folder -xzf $folder.tar.gz"
}

install() {
    # The hosts' own Python is older than 3.11.
    on all "cd $folder && python3 -m pip install --quiet --user uv && \
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 .venv && \
~/.local/bin/uv pip install --quiet --python .venv/bin/python --editable '.[tpu,hub,sample,text,forecast]' && \
.venv/bin/python scripts/doctor.py"
}

run() {
    [[ ${1:-} == -- ]] && shift
    [[ $# -ge 1 ]] || fail "run $name needs a command, as in run $name -- python scripts/doctor.py"
    local command
    command=$(printf '%q ' "$@")
    # Of its own session, so that it outlives this connection; `python` is the project's.
    on all "cd $folder && rm -f run.exit run.pid && PATH=\$PWD/.venv/bin:\$PATH PYTHONUNBUFFERED=1 \
setsid nohup bash -c $(printf '%q' "$command"'& echo $! > run.pid; wait $!; echo $? > run.exit') \
> run.log 2>&1 < /dev/null &"
    logs 0
    status
}

logs() {
    # The log ends with the command: `tail` looks for the process that writes it.
    on "${1:-0}" "cd $folder && until [ -s run.pid ]; do sleep 0.1; done && tail -n +1 -F --pid=\$(cat run.pid) run.log"
}

status() {
    # The last host may be a moment behind the first.
    on all "cd $folder && for try in 1 2 3 4 5 6 7 8; do [ -s run.exit ] || sleep 0.5; done && \
echo \$(hostname): exit code \$(cat run.exit 2> /dev/null || echo none, it runs)"
}

stop() {
    on all "cd $folder && kill -TERM \$(cat run.pid)"
}

delete() {
    tpus queued-resources delete "$name" --force --quiet
}

case $subcommand in
    create | sync | install | run | logs | status | stop | delete) "$subcommand" "$@" ;;
    *) fail "$subcommand is unknown; expected create, sync, install, run, logs, status, stop or delete" ;;
esac
