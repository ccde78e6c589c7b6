"""scripts/tpu_pod.sh with a gcloud that writes down what it is asked, and a home for each host."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from parity_tests.tiny_runs import SCRIPTS

HOSTS = 2
# What a host is asked by ssh it does, in its home; the archive is copied to each.
GCLOUD = """#!/usr/bin/env bash
printf '%q ' gcloud "$@" >> "$FAKE/calls"; echo >> "$FAKE/calls"
worker=all
for argument in "$@"; do
    case $argument in
        --worker=*) worker=${argument#*=} ;;
        --command=*) command=${argument#*=} ;;
        *.tar.gz) archive=$argument ;;
    esac
done
[[ $worker == all ]] && workers="0 1" || workers=$worker
case $4 in
    describe) echo "$(head -1 "$FAKE/states")"; sed -i 1d "$FAKE/states" ;;
    scp) for worker in $workers; do cp "$archive" "$FAKE/$worker/"; done ;;
    ssh) for worker in $workers; do
        (cd "$FAKE/$worker" && HOME=$PWD bash -c "$command") || exit
    done ;;
esac
"""
Pod = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    """Runs the script; the fake pod is in tmp_path."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gcloud").write_text(GCLOUD)
    (tmp_path / "bin" / "gcloud").chmod(0o755)
    for host in range(HOSTS):
        (tmp_path / str(host)).mkdir()
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "FAKE": str(tmp_path), "POLL_SECONDS": "0.01"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(SCRIPTS / "tpu_pod.sh"), *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run


def calls(folder: Path) -> list[list[str]]:
    path = folder / "calls"
    return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_slice_is_queued_for_until_it_is_there(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "states").write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    done = pod("--zone", "us-west4-a", "create", "pod", "v5litepod-16", "v2-alpha", "--spot")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    first, *looks = calls(tmp_path)
    assert first == [
        *("gcloud", "compute", "tpus", "queued-resources", "create", "pod", "--node-id=pod"),
        *("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha", "--spot"),
        "--zone=us-west4-a",
    ]
    assert [call[4] for call in looks] == ["describe"] * 3


def test_a_slice_that_is_refused_is_an_error(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "states").write_text("FAILED\n")
    done = pod("create", "pod", "v5litepod-16", "v2-alpha")
    assert done.returncode == 2
    assert done.stderr == "error: the slice pod is FAILED; delete it, and create it anew\n"


def test_the_code_comes_to_all_hosts_and_a_command_runs_there(pod: Pod, tmp_path: Path) -> None:
    assert pod("sync", "pod").returncode == 0
    for host in range(HOSTS):
        copied = tmp_path / str(host) / "jaxmodels"
        assert (copied / "scripts" / "train.py").read_bytes() == (SCRIPTS / "train.py").read_bytes()
        assert not list(copied.glob(".git*"))
    words = ["it's", "two  spaces", "$HOME", "a;b"]
    show = "import os, sys; print(os.path.basename(os.path.dirname(os.getcwd())), sys.argv[1:])"
    done = pod("run", "pod", "--", "python3", "-c", f"{show}; sys.exit(7)", *words)
    assert done.returncode == 0, done.stderr
    assert f"0 {words}" in done.stdout  # the log of host 0
    assert done.stdout.count(": exit code 7\n") == HOSTS
    assert (tmp_path / "1" / "jaxmodels" / "run.log").read_text() == f"1 {words}\n"


def test_sigterm_reaches_the_command_on_every_host(pod: Pod, tmp_path: Path) -> None:
    for host in range(HOSTS):
        (tmp_path / str(host) / "jaxmodels").mkdir()
    sleeper = subprocess.Popen(
        ["bash", str(SCRIPTS / "tpu_pod.sh"), "run", "pod", "--", "sleep", "30"],
        env=os.environ
        | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "FAKE": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = [tmp_path / str(host) / "jaxmodels" / "run.pid" for host in range(HOSTS)]
    while not all(path.exists() and path.read_text().strip() for path in pids):
        assert sleeper.poll() is None
    assert pod("stop", "pod").returncode == 0
    assert sleeper.communicate(timeout=20)[0].count(": exit code 143\n") == HOSTS


def test_a_dry_run_asks_nothing_of_gcloud(pod: Pod, tmp_path: Path) -> None:
    for arguments in (
        ("create", "pod", "v5litepod-16", "v2-alpha"),
        ("sync", "pod"),
        ("install", "pod"),
        ("run", "pod", "--", "python", "scripts/doctor.py"),
        ("logs", "pod", "1"),
        ("delete", "pod"),
    ):
        done = pod("--dry-run", "--project", "mine", *arguments)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            command = shlex.split(line)
            assert command[:3] == ["gcloud", "compute", "tpus"]
            assert command[-1] == "--project=mine"
    assert calls(tmp_path) == []
    assert shlex.split(done.stdout)[3:7] == ["queued-resources", "delete", "pod", "--force"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "usage: tpu_pod.sh"),
        (("sync",), "usage: tpu_pod.sh"),
        (("start", "pod"), "start is unknown; expected create, sync"),
        (("--fast", "sync", "pod"), "--fast is unknown"),
        (("--zone",), "--zone needs a value"),
        (("create", "pod"), "create pod needs TYPE and VERSION"),
        (("run", "pod"), "run pod needs a command"),
    ],
)
def test_what_is_missing_is_said(
    arguments: tuple[str, ...], said: str, pod: Pod, tmp_path: Path
) -> None:
    done = pod(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert calls(tmp_path) == []
