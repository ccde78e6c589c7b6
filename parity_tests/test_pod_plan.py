"""What the pod plan counts and estimates, without a compiler for TPUs: on texts and by hand."""

from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxmodels.pod_plan import table
from jaxmodels.pod_plan import topology as topologies
from jaxmodels.pod_plan.chips import CHIPS
from jaxmodels.pod_plan.collectives import Collective, find_collectives
from jaxmodels.pod_plan.hlo import parse, walk
from jaxmodels.pod_plan.memory_traffic import hbm_bytes
from jaxmodels.pod_plan.program import (
    Facts,
    batch_shapes,
    count_flops,
    out_of_memory,
)
from jaxmodels.pod_plan.report import amount, as_markdown, as_text, duration, plan_tables
from jaxmodels.pod_plan.roofline import collective_seconds, estimate
from jaxmodels.pod_plan.settings import with_size
from jaxmodels.pod_plan.topology import Topology, check_compiler, parse_topology
from jaxmodels.shared.configs import GPT2_SIZES
from jaxmodels.shared.files import write_json
from jaxmodels.shared.tasks import TASKS

# A loop of 3 turns that gathers 1 KiB, reduces it, and cuts 16 numbers from 4096 in place.
PROGRAM = (Path(__file__).parent / "fixtures" / "pod_plan.hlo").read_text()


def test_loops_count_as_often_as_they_turn():
    program = parse(PROGRAM)
    assert program.entry == "main"
    times = {instruction.name: times for _, instruction, times in walk(program)}
    assert (times["r"], times["f"]) == (3, 1)
    assert sum(i.cycles * n for _, i, n in walk(program)) == 3 * 7 + 100


def test_collectives_have_kind_axes_and_bytes():
    found = find_collectives(parse(PROGRAM), {"data": 2, "fsdp": 4})
    assert found == [
        Collective("all-gather", ("fsdp",), 1024, 3, (0, 1, 2, 3)),
        Collective("all-reduce", ("data",), 1024, 3, (0, 4)),
    ]
    # The same groups are of all axes where the mesh is another; a channel counts once.
    other = find_collectives(parse(PROGRAM.replace("channel_id=2", "channel_id=1")), {"data": 8})
    assert [(c.kind, c.axes) for c in other] == [("all-gather", ("data",))]


@pytest.mark.parametrize(
    ("written", "group"),
    [
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", (0, 4)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups={}", tuple(range(8))),
        ("source_target_pairs={{0,4},{4,0}}", (0, 4)),
    ],
)
def test_groups_are_read_however_they_are_written(written, group):
    text = PROGRAM.replace("replica_groups=[2,4]<=[8]", written)
    assert find_collectives(parse(text), {"data": 2, "fsdp": 4})[0].group == group


def test_hbm_traffic_counts_what_leaves_the_chip():
    gather = 256  # reads 64 numbers; its result is in the chip's own memory
    reduce = 1024  # writes 256 numbers, of which none comes from HBM
    copy, cut = 4 * 4096, 4 * 16 + 4 * 16
    loops = PROGRAM.replace("f32[256]{0:T(256)}) parameter(0)", "f32[64]{0:T(256)}) parameter(0)")
    assert hbm_bytes(parse(loops)) == 3 * (gather + reduce) + copy + cut
    whole = PROGRAM.replace("dynamic-slice(%q, %zero)", "negate(%q)")  # the control: all is read
    assert hbm_bytes(parse(whole)) == 3 * (gather + reduce) + copy + 4 * 4096 + 4 * 16


def shapes(rows, **entries):
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype)
        for name, (shape, dtype) in entries.items()
    }


def test_flops_of_a_transformer_are_those_counted_by_hand():
    task = with_size(TASKS["wikitext-gpt2"], "gpt2")
    batch = shapes(1, tokens=((1024,), "int32"), targets=((1024,), "int32"))
    width, layers, vocabulary, length = 768, 12, 50257, 1024
    parameters = 124_439_808
    found = count_flops(task, batch, rematerialised=False)
    attention = 12 * layers * width * length**2
    assert found == pytest.approx(6 * parameters * length + attention, rel=0.02)
    forward = 24 * width**2 * layers + 2 * width * vocabulary + 4 * length * width * layers
    assert found == 3 * length * forward  # to the last one, without biases and norms
    again = count_flops(task, batch, rematerialised=True)
    # All of the blocks is computed again but each one's last product, whose result nobody needs.
    assert again - found == length * layers * (16 * width**2 + 4 * length * width)


def test_flops_of_convolutions_are_those_counted_by_hand():
    task = TASKS["cifar10-resnet20"]
    first, layers = 9 * 3 * 16 * 32**2, []
    for size, width in ((32, 16), (16, 32), (8, 64)):
        layers += [9 * width**2 * size**2] * (6 if width == 16 else 5)
    downwards = 9 * 16 * 32 * 16**2 + 9 * 32 * 64 * 8**2
    forward = first + sum(layers) + downwards + 640
    batch = shapes(8, image=((32, 32, 3), "float32"), label=((), "int32"))
    found = count_flops(task, batch, rematerialised=True)
    assert found == 2 * 8 * (3 * forward - first)  # no gradient goes to the pixels


def test_the_batch_is_the_tasks_own():
    task: Any = TASKS["imdb-bert"]
    found = batch_shapes(replace(task, training=replace(task.training, batch_size=512)))
    assert found["input_ids"].shape == (512, task.data.max_length)
    assert found["label"].shape == (512,)


def slice_of(name):
    chip, sides = parse_topology(name)
    places = np.stack(np.meshgrid(*map(range, sides), indexing="ij"), -1).reshape(-1, len(sides))
    return Topology(name, chip, sides, []), places


def test_collectives_take_as_long_as_the_links_let_them():
    pod, places = slice_of("v5e:16x16")
    row, everyone, pair = tuple(range(16)), tuple(range(256)), (0, 1)
    link, size = CHIPS["v5e"].link_bandwidth, 16 * 10**6

    def seconds(kind, group, pod=pod, places=places):
        return collective_seconds(Collective(kind, ("data",), size, 1, group), pod, places)

    assert seconds("all-gather", row) == pytest.approx(size * 15 / 16 / (2 * link))
    assert seconds("all-reduce", row) == pytest.approx(2 * seconds("reduce-scatter", row))
    assert seconds("all-gather", everyone) == pytest.approx(size * 255 / 256 / (4 * link))
    assert seconds("collective-permute", pair) == pytest.approx(size / link)
    assert seconds("all-to-all", row) == pytest.approx(size * 16 / 4 / (2 * link))
    # A side of four has open ends, where one link alone goes on.
    small = slice_of("v5e:4x4")
    assert seconds("all-gather", (0, 1, 2, 3), *small) == pytest.approx(size * 3 / 4 / link)
    assert slice_of("v5p:2x4x4")[0].links(1) == 2


def facts(**changes):
    base = Facts(
        task="made-up",
        topology="v5e:4x4",
        mesh={"data": 16},
        batch_size=160,
        tokens_per_row=10,
        precision="bfloat16",
        rematerialised=False,
        num_parameters=10**6,
        parameter_bytes=4 * 10**6,
        optimizer_bytes=8 * 10**6,
        other_bytes=0,
        temporary_bytes=10**9,
        code_bytes=10**6,
        model_flops=16 * 197 * 10**9,  # one ms
        program_flops=2 * 16 * 197 * 10**9,
        cycles=3 * 10**6,  # two ms
        traffic_bytes=819 * 10**6,  # one ms
        kernels=10,
        collectives=[],
    )
    return replace(base, **changes)


@pytest.fixture
def coordinates(monkeypatch):
    """Devices without a place in a slice: those of the mesh in order."""
    monkeypatch.setattr(
        "jaxmodels.pod_plan.roofline.device_coordinates",
        lambda mesh, pod: slice_of(pod.name)[1][: prod(mesh.values())],
    )


@pytest.mark.usefixtures("coordinates")
def test_the_longest_term_is_the_step():
    pod = slice_of("v5e:4x4")[0]
    found = estimate(facts(), pod)
    assert found.step_seconds == pytest.approx(2e-3)
    assert found.mfu == pytest.approx(0.5)
    assert found.samples_per_second == pytest.approx(160 / 2e-3)
    assert found.tokens_per_second == pytest.approx(1600 / 2e-3)
    assert estimate(facts(traffic_bytes=819 * 10**7), pod).bound == "HBM"
    assert estimate(facts(program_flops=16 * 197 * 10**10), pod).bound == "arithmetic"
    # Two rows of a 4x4 slice have one link each way: 1 GB there and back takes 2 * 15/16 / 100 s.
    sent = Collective("all-reduce", ("data",), 10**9, 1, tuple(range(16)))
    found = estimate(facts(collectives=[sent]), pod)
    assert found.bound == "interconnect"
    assert found.interconnect_seconds == pytest.approx(2 * 15 / 16 / 100)
    assert found.mfu_without_overlap < found.mfu < 0.5


@pytest.mark.usefixtures("coordinates")
def test_a_plan_is_told_in_words_markdown_and_json():
    pod = slice_of("v5e:4x4")[0]
    one = facts(collectives=[Collective("all-reduce", ("data",), 10**6, 2, tuple(range(16)))])
    tables = plan_tables(one, estimate(one, pod), pod)
    text = as_text(tables)
    for expected in ("2 ms at least, bound by arithmetic", "50.0% at most", "1.01 GB", "2.00 MB"):
        assert expected in text
    assert "| all-reduce | data | 2 | 2.00 MB |" in as_markdown(tables)
    assert Facts.from_json(one.to_json()) == one


@pytest.mark.usefixtures("coordinates")
def test_a_table_says_why_a_cell_has_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "find_topology", lambda name: slice_of(name)[0])
    write_json(table.cell_path(tmp_path, "lms", "v5e-16"), facts().to_json())
    write_json(table.cell_path(tmp_path, "lms", "v5e-256"), {"error": "does not fit"})
    line = next(row for row in table.markdown(tmp_path).splitlines() if "`lms`" in row)
    cells = line.strip("| ").split(" | ")
    assert cells[2:5] == [
        "not compiled yet",
        "80.0 k/s, 2 ms, arithmetic, MFU 50.0%, 6.0% of HBM",
        "does not fit",
    ]


def test_numbers_are_told_in_units_that_suit():
    assert (duration(2.5), duration(2.5e-3), duration(2.5e-6)) == ("2.5 s", "2.5 ms", "2.5 us")
    assert (amount(1.234e9, "B"), amount(12, "B"), amount(0, "B")) == (
        "1.23 GB",
        "12.0 B",
        "0.00 B",
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("v9:4x4", "v5e, v5p, v6e"),
        ("v5e", "as in v5e:4x4"),
        ("v5e:4x4x4", "2 sides"),
        ("v5e:3x4", "try v5e:4x4"),
        ("v5p:3x4x4", "try v5p:4x4x4"),
    ],
)
def test_an_unknown_slice_is_refused_with_one_that_exists(name, hint):
    with pytest.raises(ValueError, match=hint):
        parse_topology(name)


def test_slices_go_by_several_names():
    assert parse_topology("v5litepod:16x16") == parse_topology("v5e:16x16")
    assert parse_topology("v5e:1x1")[1] == (1, 1)


def test_another_compiler_than_jaxs_is_refused(monkeypatch):
    monkeypatch.setattr(topologies, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jaxmodels\[pod-plan\]'"):
        check_compiler()
    monkeypatch.setattr(topologies, "find_spec", lambda name: SimpleNamespace())
    versions = {"libtpu": "0.0.43", "jax": "0.10.2"}
    monkeypatch.setattr(topologies.metadata, "version", versions.__getitem__)
    named = ["numpy", 'libtpu==0.0.42.*; extra == "tpu"']
    monkeypatch.setattr(topologies.metadata, "requires", lambda name: named)
    with pytest.raises(ValueError, match=r"libtpu 0.0.43 .* made for 0.0.42.\*"):
        check_compiler()
    versions["libtpu"] = "0.0.42.1"
    check_compiler()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (49.80G) exceeds available HBM (15.75G).",
            "needs 49.80 GiB for activations alone of 15.75 GiB",
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space"
            " hbm. Used 20.15G of 15.75G hbm. Exceeded hbm capacity by 4.40G.",
            "needs 20.15 GiB of 15.75 GiB",
        ),
    ],
)
def test_what_does_not_fit_is_said_plainly(message, told):
    assert told in str(out_of_memory(RuntimeError(message)))
    assert out_of_memory(RuntimeError("INTERNAL: 49.80G")) is None


def test_a_size_is_for_a_gpt2():
    assert with_size(TASKS["wikitext-gpt2"], "gpt2-xl").model == replace(
        GPT2_SIZES["gpt2-xl"], scan_layers=True, gradient_checkpointing=True
    )
    with pytest.raises(ValueError, match="gpt2-xl"):
        with_size(TASKS["wikitext-gpt2"], "gpt2-xxl")
    with pytest.raises(ValueError, match="trains a GPT-2"):
        with_size(TASKS["houses-mlp"], "gpt2-xl")
