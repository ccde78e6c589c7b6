"""The README's own example runs, holds, and fails where the README says it does."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from jaxmodels.shared.tasks import TASKS
from torchref.models import create

README = Path(__file__).parent.parent / "README.md"


def example() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (code,) = (block for block in blocks if "compare(" in block)
    return code


def test_the_pair_that_is_not_ours_holds():
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(example(), names)
    assert names["report"].ok
    assert "forward float64 True" in output.getvalue()


def test_gelu_for_tanh_diverges_first_where_the_readme_says():
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(example().replace("torch.nn.Tanh()", "torch.nn.GELU()"), names)
    diverged = [v.first_divergence for v in names["report"].verdicts if v.rung == "forward"]
    assert diverged == ["eval out", "eval out"]


@pytest.mark.parametrize("pattern", [r"`--([\w.-]+)", r" --([\w.-]+)"])
def test_every_flag_the_readme_names_exists(pattern):
    known = "".join(path.read_text() for path in (README.parent / "scripts").glob("*.*"))
    known += "".join(path.read_text() for path in (README.parent / "jaxmodels").rglob("*.py"))
    for flag in set(re.findall(pattern, README.read_text())):
        last = flag.split(".")[-1].replace("-", "_")
        assert last in known or f"--{flag}" in known, flag


def test_the_parameters_the_readme_counts_are_the_models():
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d,]+) \|$", README.read_text(), flags=re.MULTILINE)
    counted = {name: int(count.replace(",", "")) for name, count in rows}
    models = {name: create(task.model) for name, task in TASKS.items()}
    found = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert counted == found
