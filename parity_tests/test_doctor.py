"""What a machine lacks is said, with the mend: a TPU that JAX does not use first of all."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")

from jaxmodels.shared import machine
from jaxmodels.shared.tpu import check_uses_tpu, signs_of_a_tpu
from parity_tests.fresh_processes import BLOCK
from parity_tests.tiny_runs import SCRIPTS, clean_environment

V5P, V6E = "/dev/accel0", "/dev/vfio/0"
VM = {"TPU_WORKER_ID": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16"}
WELL = dict.fromkeys(machine.NEEDED, "1.0") | {"libtpu": None}
PLENTY = {"free_memory": 2**34, "free_disk": 2**34}


@pytest.mark.parametrize(
    ("environment", "paths", "libtpu", "said"),
    [
        ({}, [V5P, "/dev/null"], True, r"has a TPU \(/dev/accel0\), and JAX fell back .*lsof"),
        (
            {},
            [V6E],
            False,
            r"\(/dev/vfio/0\).* libtpu is not installed: pip install 'jaxmodels",
        ),
        (VM, [], False, "TPU_ACCELERATOR_TYPE=v5litepod-16, TPU_WORKER_ID=1"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, [], False, "ask for the CPU by JAX_PLATFORMS=cpu"),
    ],
)
def test_a_tpu_that_is_not_used_is_refused(
    environment: dict[str, str], paths: list[str], libtpu: bool, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_uses_tpu(environment, paths, "cpu", libtpu=libtpu)
    check_uses_tpu(environment, paths, "tpu", libtpu=True)
    check_uses_tpu(environment | {"JAX_PLATFORMS": "cpu"}, paths, "cpu", libtpu=libtpu)
    with pytest.raises(ValueError, match=said):  # where the CPU is but the second choice
        check_uses_tpu(environment | {"JAX_PLATFORMS": "tpu,cpu"}, paths, "cpu", libtpu=libtpu)


def test_other_machines_have_no_tpu() -> None:
    compiles_for_one = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    for environment in ({}, compiles_for_one, {"JAX_PLATFORMS": "cuda"}):
        assert signs_of_a_tpu(environment, ["/dev/vfio/vfio", "/dev/nvidia0"]) == []


def wrong(packages: dict[str, str | None] = WELL, **changes: object) -> list[str]:
    given = {"pinned_libtpu": "", "environment": {}} | PLENTY | changes
    pinned, environment = given.pop("pinned_libtpu"), given.pop("environment")
    return machine.wrong(packages, pinned, environment, **given)  # type: ignore[arg-type]


def test_what_is_wrong_is_said_with_its_mend() -> None:
    assert wrong() == []
    assert wrong(free_memory=0) == []  # unknown
    for found, said in (
        (wrong(WELL | {"flax": None, "optax": None}), "flax, optax not installed; .*pip install"),
        (
            wrong(WELL | {"jaxlib": "0.9"}),
            "jax 1.0 with jaxlib 0.9; .* pip install jaxlib==1.0",
        ),
        (
            wrong(WELL | {"libtpu": "0.0.50"}, pinned_libtpu="0.0.42.*"),
            r"libtpu 0.0.50; jax 1.0 expects 0.0.42.\*; run: pip install 'jax\[tpu\]==1.0'",
        ),
        (
            wrong(environment={"WORLD_SIZE": "2", "https_proxy": "http://proxy"}),
            "https_proxy is set; .*: unset https_proxy",
        ),
        (wrong(free_memory=2**29), "0.5 GiB of memory free; expected 1 GiB at least; end other"),
        (wrong(free_disk=2**20), "0.0 GiB of disk free; expected 1 GiB at least; remove old runs"),
    ):
        assert len(found) == 1
        assert re.match(said, found[0])
    assert wrong(WELL | {"libtpu": "0.0.42.1"}, pinned_libtpu="0.0.42.*") == []
    assert wrong(environment={"https_proxy": "http://proxy"}) == []  # of the only process
    assert machine.pinned_libtpu().startswith("0.0.")


def doctor(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    script = str(SCRIPTS / "doctor.py")
    code = f"{before}\nimport runpy; runpy.run_path({script!r}, run_name='__main__')"
    names = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")
    clean = {name: value for name, value in clean_environment().items() if name not in names}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_doctor_tells_of_devices_and_needs_no_torch() -> None:
    blocked = BLOCK.format(blocked=("torch", "lightning", "accelerate"))
    done = doctor(blocked, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="3")
    assert done.returncode == 0, done.stderr
    for line in (
        r"python +3\.",
        r"packages +jax \d.*, jaxlib \d.*, flax \d.*, orbax-checkpoint \d",
        r"memory +[\d.,]+ GiB free of",
        r"disk +[\d.,]+ GiB free of .* in " + re.escape(os.getcwd()),
        r"variable +JAX_NUM_CPU_DEVICES=3",
        r"process +0 of 1",
        r"platform +cpu",
        r"devices +3 here of 3",
        r"all is well",
    ):
        assert re.search(f"^{line}", done.stdout, re.MULTILINE), line


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (VM | {"TPU_SKIP_MDS_QUERY": "1"}, "this machine has a TPU"),
        (
            {"JAX_PLATFORMS": "cuda"},
            "JAX finds no device: .*; expected those of JAX_PLATFORMS=cuda",
        ),
        ({"WORLD_SIZE": "2"}, "--engine flax finds no coordinator"),
    ],
)
def test_the_doctor_says_what_is_wrong(environment: dict[str, str], said: str) -> None:
    done = doctor(**environment)
    assert done.returncode == 1, done.stderr
    assert re.search(f"^WRONG +{said}", done.stdout, re.MULTILINE)
    assert "all is well" not in done.stdout
    assert "Traceback" not in done.stderr


def test_a_training_is_refused_where_the_tpu_is_not_used(tmp_path: Path) -> None:
    train = [sys.executable, SCRIPTS / "train.py", "houses-ridge", "--out", tmp_path / "run"]
    environment = clean_environment() | VM | {"TPU_SKIP_MDS_QUERY": "1"}
    environment.pop("JAX_PLATFORMS", None)
    done = subprocess.run(train, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: this machine has a TPU .*JAX_PLATFORMS=cpu\n", done.stderr)
    assert not (tmp_path / "run").exists()
