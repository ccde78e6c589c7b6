"""The pod plan of real slices, by the TPU's own compiler: run by `make test-pod-plan`."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from jaxmodels.pod_plan.topology import find_topology, prepare_environment
from jaxmodels.shared.tasks import TASKS

pytestmark = pytest.mark.podplan
SCRIPT = Path(__file__).parents[1] / "scripts" / "pod_plan.py"


@pytest.fixture(scope="module", autouse=True)
def environment():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JAX_PLATFORMS", "TPU_WORKER_HOSTNAMES"):
            patch.setenv(name, "")  # what prepare_environment sets is taken back at the end
        prepare_environment()
        yield


def plan(task, topology, mesh):
    from jaxmodels.pod_plan.program import compile_step
    from jaxmodels.pod_plan.roofline import estimate

    found = find_topology(topology)
    facts = compile_step(task, found, mesh)
    return facts, estimate(facts, found)


def wide(batch_size):
    """A network whose products outweigh all else."""
    task = TASKS["houses-mlp"]
    model = replace(task.model, hidden_dims=(2048, 2048), dropout_rate=0.0)
    return replace(task, model=model, training=replace(task.training, batch_size=batch_size))


@pytest.fixture(scope="module")
def plans():
    task = wide(2**16)
    return {
        (axis, size): plan(task, topology, {axis: size})
        for axis in ("data", "fsdp")
        for topology, size in (("v5e:2x2", 4), ("v5e:4x4", 16))
    }


@pytest.mark.parametrize("size", [4, 16])
def test_data_parallel_sends_the_gradients_and_no_more(plans, size):
    facts, _ = plans["data", size]
    sent = sum(c.bytes * c.times for c in facts.collectives)
    assert {c.kind for c in facts.collectives} == {"all-reduce"}
    metrics = 16  # loss, metric, and what they are means over
    assert facts.parameter_bytes <= sent <= facts.parameter_bytes + metrics
    assert {c.axes for c in facts.collectives} == {("data",)}


def test_more_devices_hold_less_and_take_no_longer(plans):
    for axis in ("data", "fsdp"):
        (few, slow), (many, fast) = plans[axis, 4], plans[axis, 16]
        assert few.model_flops == many.model_flops
        assert fast.arithmetic_seconds == pytest.approx(slow.arithmetic_seconds / 4)
        assert fast.step_seconds <= slow.step_seconds
    few, many = plans["fsdp", 4][0], plans["fsdp", 16][0]
    whole = plans["data", 4][0]
    assert many.parameter_bytes < few.parameter_bytes < whole.parameter_bytes
    assert many.optimizer_bytes < few.optimizer_bytes < whole.optimizer_bytes
    assert whole.parameter_bytes == plans["data", 16][0].parameter_bytes  # the control


def test_the_compiler_agrees_with_the_arithmetic(plans):
    """Its cycles are at least those of full matrix units, and not many times as many."""
    _, found = plans["data", 4]
    assert 0.9 < found.kernel_seconds / found.arithmetic_seconds < 4
    assert 0 < found.mfu <= 1


@pytest.mark.parametrize("topology", ["v5e:1x1", "v5p:2x4x4", "v6e:16x16"])
def test_every_kind_of_slice_compiles(topology):
    chips = prod(map(int, topology.partition(":")[2].split("x")))
    task = TASKS["cifar10-logistic"]
    task = replace(task, training=replace(task.training, batch_size=128 * chips))
    facts, found = plan(task, topology, {"data": chips})
    assert facts.parameter_bytes == 4 * 30_730
    assert found.step_seconds > 0


def run(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": ""},  # the script sets what it needs
    )
    return done.returncode, done.stdout, done.stderr


def test_the_script_tells_and_writes_a_plan(tmp_path):
    code, printed, errors = run(
        "cifar10-logistic", "--topology", "v5e:4x4", "--mesh", "data=16", "--out", tmp_path
    )
    assert code == 0, errors
    assert "at least, bound by" in printed
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["facts"]["mesh"] == {"data": 16}
    assert content["chip"]["source"].startswith("cloud.google.com")
    assert "## Collectives of a step" in (tmp_path / "plan.md").read_text()


def test_the_script_searches():
    code, printed, errors = run(
        "houses-mlp", "--topology", "v5e:2x2", "--search", "--compilations", 2
    )
    assert code == 0, errors
    assert "2 compiled of" in printed


def test_what_does_not_fit_is_said_with_exit_code_1():
    code, printed, _ = run(
        *("houses-mlp", "--topology", "v5e:2x2", "--mesh", "data=4"),
        *("--model.hidden-dims", "50000", "50000"),
    )
    assert code == 1
    assert "does not fit: needs" in printed
    assert "--mesh with fsdp" in printed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--topology", "v9:4x4"), "v5e, v5p, v6e"),
        (("--topology", "v5e:4x4", "--mesh", "data=5"), "as in data="),
        (("--topology", "v5e:16x16", "--mesh", "data=256"), "--batch-size 256"),
        (("--topology", "v5e:2x2", "--xla", "fast"), "expected NAME=VALUE"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, told):
    code, printed, errors = run("houses-mlp", *arguments)
    assert (code, printed) == (2, "")
    assert told in errors
    assert len(errors.strip().splitlines()) == 1
