"""What a task needs and costs on a TPU slice, told without one.

usage: pod_plan.py TASK --topology v5e:16x16 [--mesh data=16,fsdp=16] [--batch-size N]
                   [--size gpt2|gpt2-medium|gpt2-large|gpt2-xl] [--search] [--out DIR]
                   [--training.precision bfloat16 ...]

Compiles the task's own training step for the slice, on this machine and without weights, and tells
of each chip's memory, the FLOPs, what the chips send each other, and a lower bound of the step's
time. --search compiles the most promising meshes, batch sizes and rematerialisations instead.
Exit code 1: the step does not fit into a chip's memory.

It needs libtpu: pip install 'jaxmodels[pod-plan]'
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmodels.pod_plan.topology import find_topology, parse_topology, prepare_environment
from jaxmodels.shared.command_line import (
    parse,
    run_script,
    settings_of,
    take_task,
    with_arguments,
)
from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.lora import LoRAConfig
from jaxmodels.shared.schedules import ScheduleConfig
from jaxmodels.shared.tasks import DataConfig, OptimizerConfig, Task, TrainingConfig

EINSUM_OPTION = "xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"
_TASKS_OWN = tyro.conf.arg(metavar="N", help_behavior_hint="(default: the task's)")


@dataclass(frozen=True)
class Arguments:
    """The slice, what to lay out on it, and the task's own settings."""

    model: ModelConfig
    data: DataConfig
    lora: LoRAConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    training: TrainingConfig
    topology: str = "v5e:4x4"
    """The slice: v5e:4x4, v5e:16x16, v5p:2x4x4, v6e:16x16, ..."""
    mesh: str = "auto"
    """auto, or the size of each axis, as in data=4,fsdp=4."""
    batch_size: Annotated[int | None, _TASKS_OWN] = None
    """Short for --training.batch-size: rows of all chips together."""
    xla: tuple[str, ...] = ()
    """Options of the compiler, as NAME=VALUE; a training takes them from LIBTPU_INIT_ARGS."""
    size: str = ""
    """A published GPT-2 in the model's place, with scanned layers and gradient checkpointing."""
    search: tyro.conf.FlagCreatePairsOff[bool] = False
    """Try meshes, batch sizes (unless --batch-size is given) and rematerialisation."""
    compilations: int = 6
    """Of --search, at most."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: none)")
    ] = None
    """Also write plan.json and plan.md here."""


def main() -> int:
    prepare_environment()  # before anything imports jax
    task = take_task(sys.argv[1:], (__doc__ or "").partition("\n\n")[2].strip())
    prog = f"pod_plan.py {task.name}"
    arguments = parse(Arguments(**settings_of(task)), sys.argv[2:], prog=prog)
    parse_topology(arguments.topology)
    if arguments.size:  # whose settings the flags change
        from jaxmodels.pod_plan.settings import with_size

        task = with_size(task, arguments.size)
        arguments = parse(Arguments(**settings_of(task)), sys.argv[2:], prog=prog)
    task = with_arguments(task, arguments, shortcuts=("batch_size",))
    return search_all(task, arguments) if arguments.search else plan_one(task, arguments)


def plan_one(task: Task, arguments: Arguments) -> int:
    from jaxmodels.pod_plan.program import DoesNotFitError, compile_step
    from jaxmodels.pod_plan.report import as_text, plan_tables, write_plan
    from jaxmodels.pod_plan.roofline import estimate
    from jaxmodels.pod_plan.settings import mesh_for

    topology = find_topology(arguments.topology)
    mesh = mesh_for(task, topology, arguments.mesh)
    try:
        facts = compile_step(task, topology, mesh, compiler_options=compiler_options(arguments))
    except DoesNotFitError as error:
        print(f"{task.name} on {topology.name}: {error}; {what_to_try(task, mesh)}")
        return 1
    estimated = estimate(facts, topology)
    print(as_text(plan_tables(facts, estimated, topology)))
    if arguments.out:
        write_plan(arguments.out, facts, estimated, topology)
        print(f"\nwritten: {arguments.out}")
    return 0


def compiler_options(arguments: Arguments) -> dict[str, str]:
    """Raises a ValueError where one of `--xla` is no NAME=VALUE."""
    pairs = [option.lstrip("-").partition("=") for option in arguments.xla]
    wrong = next((name for name, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise ValueError(f"--xla {wrong}: expected NAME=VALUE, as in {EINSUM_OPTION}")
    return {name: value for name, _, value in pairs}


def what_to_try(task: Task, mesh: Mapping[str, int]) -> str:
    """Settings that need less memory, of those that are not set yet."""
    ideas = []
    if mesh.get("fsdp", 1) == 1:
        ideas.append("--mesh with fsdp")
    if not getattr(task.model, "gradient_checkpointing", True):
        ideas.append("--model.gradient-checkpointing")
    if task.training.precision == "float32":
        ideas.append("--training.precision bfloat16")
    ideas.append(f"--training.micro-batches {2 * task.training.micro_batches}")
    return f"try {', '.join(ideas)}, a smaller --batch-size, a larger slice, or --search"


def search_all(task: Task, arguments: Arguments) -> int:
    from jaxmodels.pod_plan.report import as_text, plan_tables, search_table, write_plan
    from jaxmodels.pod_plan.search import search

    topology = find_topology(arguments.topology)
    found = search(
        task,
        topology,
        limit=arguments.compilations,
        fixed_batch=arguments.batch_size is not None,
        compiler_options=compiler_options(arguments),
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(as_text([search_table(found)]))
    if not found.ranked:
        print("none that was compiled fits; try a larger slice or more --compilations")
        return 1
    best = found.ranked[0]
    print("\n" + as_text(plan_tables(best.facts, best.estimate, topology)))
    if arguments.out:
        write_plan(arguments.out, best.facts, best.estimate, topology, found)
        print(f"\nwritten: {arguments.out}")
    return 0


if __name__ == "__main__":
    run_script(main)
