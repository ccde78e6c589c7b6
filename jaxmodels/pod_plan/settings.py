"""What a plan may be asked for beyond a task's own settings: a named size, a mesh by itself.

>>> with_size(TASKS["wikitext-gpt2"], "gpt2-xl").model.num_layers
48
"""

from collections.abc import Mapping
from dataclasses import replace

from jaxmodels.engine import abstract_state
from jaxmodels.optim import make_optimizer
from jaxmodels.pod_plan.program import device_bytes
from jaxmodels.pod_plan.topology import Topology
from jaxmodels.shared.configs import GPT2_SIZES
from jaxmodels.shared.data.text import TextDataConfig
from jaxmodels.shared.data.wikitext import WikiTextDataConfig
from jaxmodels.shared.meshes import choose_mesh, parse_mesh
from jaxmodels.shared.tasks import Task


def with_size(task: Task, size: str) -> Task:
    """The task with a published GPT-2's sizes, its whole context, scanned layers and remat.

    Raises:
        ValueError: the task trains no GPT-2, or the size is unknown.
    """
    if size not in GPT2_SIZES:
        raise ValueError(f"--size {size}: expected one of {', '.join(GPT2_SIZES)}")
    if not isinstance(task.model, type(GPT2_SIZES[size])):
        raise ValueError(f"--size {size} is for a task that trains a GPT-2, as wikitext-gpt2 does")
    assert isinstance(task.data, TextDataConfig | WikiTextDataConfig)
    model = replace(GPT2_SIZES[size], scan_layers=True, gradient_checkpointing=True)
    data = replace(task.data, sequence_length=model.context_length)
    return replace(task, model=model, data=data)


def mesh_for(task: Task, topology: Topology, wanted: str) -> Mapping[str, int]:
    """What `--mesh` says; of "auto" what training would choose.

    Raises:
        ValueError: the mesh is malformed, or none fits the task's batch.
    """
    if wanted != "auto":
        return parse_mesh(wanted)
    _, state = abstract_state(task, make_optimizer(task.optimizer, task.layers()))
    # weights, gradients and optimizer
    needed = device_bytes(state) + device_bytes(state["params"])
    sizes, _ = choose_mesh(
        task,
        num_devices=len(topology.devices),
        state_bytes=needed,
        memory_bytes=topology.chip.usable_hbm,
    )
    return sizes
