"""Each library works without the other's framework, and importing either starts nothing."""

import importlib.util
from pathlib import Path

import pytest

from parity_tests.fresh_processes import BLOCK, run
from parity_tests.tiny_runs import call

WITHOUT_TORCH = BLOCK.format(blocked=("torch", "lightning", "pytorch_lightning", "torchmetrics"))
WITHOUT_JAX = BLOCK.format(blocked=("jax", "jaxlib", "flax", "optax", "orbax"))
TORCH, JAX = ("torch", "lightning"), ("jax", "jaxlib", "flax", "optax", "orbax")


TRAIN = """
from pathlib import Path
from parity_tests.tiny_runs import train_tiny
import {library}
engine, recorder = train_tiny(sys.argv[1], Path(sys.argv[2]))
{library}.save_pretrained({library}.create({library}.TASKS["cifar10-cnn"].model),
                          {library}.TASKS["cifar10-cnn"].model, sys.argv[2])
{library}.from_pretrained(sys.argv[2])
print(len(recorder.rows), sorted({unwanted} & {{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize(
    ("block", "library", "engine", "unwanted"),
    [
        pytest.param(WITHOUT_TORCH, "jaxmodels", "flax", set(TORCH), id="flax-without-torch"),
        pytest.param(WITHOUT_JAX, "torchref", "torch", set(JAX), id="torch-without-jax"),
        pytest.param(
            *(WITHOUT_JAX, "torchref", "lightning", set(JAX)),
            id="lightning-without-jax",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_trains_without_the_other_framework(
    block: str, library: str, engine: str, unwanted: set[str], tmp_path: Path
) -> None:
    code = block + TRAIN.format(library=library, unwanted=unwanted)
    assert run(code, engine, tmp_path).splitlines()[-1] == "3 []"


def test_the_block_blocks() -> None:
    """The negative control: the other framework really cannot be imported there."""
    for block, module in ((WITHOUT_TORCH, "torchref.models"), (WITHOUT_JAX, "jaxmodels.models")):
        attempt = f"try:\n    import {module}\nexcept ImportError as error:\n    print(error.name)"
        assert run(block + attempt).strip() in ("torch", "jax")


EVALUATE = """
from parity_tests.tiny_runs import call
for arguments in (("evaluate", sys.argv[1]), ("train", "cifar10-cnn", "--engine", sys.argv[2],
                                              "--out", sys.argv[1] + "/new")):
    print(*call(*arguments)[::2], sep="|", end="")
"""


@pytest.mark.parametrize(
    ("block", "engine", "extra", "other"),
    [(WITHOUT_TORCH, "lightning", "torch", "flax"), (WITHOUT_JAX, "flax", "jax", "torch")],
    ids=["torch", "jax"],
)
def test_missing_framework_names_the_extra(
    block: str, engine: str, extra: str, other: str, tmp_path: Path
) -> None:
    from jaxmodels.shared import run as runs
    from jaxmodels.shared.hub.folder import save_checkpoint
    from jaxmodels.shared.run import Run
    from parity_tests.tiny_runs import TASK

    runs.start(tmp_path, Run(TASK, engine, "sample"), resume=False)
    save_checkpoint(tmp_path, TASK.model, {})
    first, second = run(block + EVALUATE, tmp_path, engine).splitlines()
    needed = "jax" if extra == "jax" else "torch"
    assert first.startswith(f"2|error: --engine {needed if needed == 'torch' else 'flax'} needs")
    assert f"pip install 'jaxmodels[{extra}]'" in first
    assert f"--engine {other}" in first
    assert second.startswith(f"2|error: --engine {engine} needs")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("torch_xla") is not None, reason="torch_xla is installed"
)
def test_without_torch_xla_one_line_says_what_to_install(tmp_path: Path) -> None:
    command = ("train", "cifar10-logistic", "--engine", "xla", "--out", tmp_path / "new")
    code, _, errors = call(*command)
    assert (code, errors) == (
        2,
        "error: --engine xla needs torch_xla, which is not installed; run: pip install "
        "'jaxmodels[xla]', in an environment of its own\n",
    )
    assert not (tmp_path / "new").exists()


def test_import_starts_no_backend() -> None:
    code = (
        "import sys, jaxmodels, torchref\n"
        f"print([m for m in {TORCH + JAX} if m in sys.modules])\n"
        "import jaxmodels.engine, jaxmodels.pretrained, jaxmodels.shared.loop\n"
        "import torchref.engines.plain, torchref.pretrained\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())\n"
        "import jax; jax.devices(); print(xla_bridge.backends_are_initialized())"
    )
    assert run(code).split("\n")[:3] == ["[]", "False", "True"]


@pytest.mark.parametrize("library", ["jaxmodels", "torchref"])
def test_import_is_quick(library: str) -> None:
    code = f"import time\nt = time.process_time()\nimport {library}\nprint(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(2)) < 0.3


@pytest.mark.parametrize("library", ["jaxmodels", "torchref"])
def test_unknown_name_is_an_attribute_error(library: str) -> None:
    code = (
        f"import {library} as m\nprint(set(m.__all__) <= set(dir(m)))\n"
        "try:\n    m.creat\nexcept AttributeError as e:\n    print('from_pretrained' in str(e))"
    )
    assert run(code).split() == ["True", "True"]
