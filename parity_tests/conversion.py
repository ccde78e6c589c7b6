"""A model's folder written in another layout, and the proof that it still is the same function."""

import shutil
import tempfile
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import jaxmodels
import torchref
from jaxmodels import state
from jaxmodels.shared.configs import ImageNetResNetConfig, ModelConfig
from jaxmodels.shared.hub.folder import open_checkpoint
from parity_tests.hub_pairs import hub_pair, load_hub_model
from parity_tests.ladder import BOUNDS, climb, relative_error
from parity_tests.own_pairs import make_pair
from parity_tests.pairs import Pair, Recipe, precision

Layout = Literal["hub", "flax"]

# What a folder holds beside config and weights, and every layout shares.
_COMPANIONS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "generation_config.json"),
    *("preprocessor_config.json", "README.md"),
)


def convert(source: Path, destination: Path, layout: Layout) -> None:
    """Writes `source` anew in the other layout, in float32, with tokenizer and labels.

    Raises:
        ValueError: the source cannot be read, or the destination holds a model.
    """
    if (destination / "config.json").exists() or destination.is_file():
        raise ValueError(f"{destination} exists; choose a new folder for DST")
    checkpoint = open_checkpoint(source)
    if "model_type" not in checkpoint.content:
        raise ValueError(
            f"{source} holds a {checkpoint.content.get('architecture')}, an architecture that the "
            "Hub does not know; any engine here loads it as it is"
        )
    model = jaxmodels.from_pretrained(source)
    jaxmodels.save_pretrained(
        model, checkpoint.config, destination, layout=layout, metadata=checkpoint.content
    )
    for name in _COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)


def prove(source: Path, destination: Path, layout: Layout, console: Console) -> bool:
    """Prints how far the logits of both folders are from transformers' torch model, in float64.

    transformers 5 reads no Flax layout: it then judges what `--to hub` would have written. Where
    it is not installed, the source as our Flax model has it is the truth.
    """
    config = open_checkpoint(source).config
    inputs = random_inputs(config)
    found = {
        "ours in Flax, of SRC": flax_outputs(source, inputs),
        "ours in Flax, of DST": flax_outputs(destination, inputs),
        "ours in torch, of DST": torch_outputs(torchref.from_pretrained(destination), inputs),
    }
    truth = "ours in Flax, of SRC"
    if find_spec("transformers"):
        with tempfile.TemporaryDirectory() as folder:
            hub = destination
            if layout == "flax":
                hub = Path(folder) / "hub"
                convert(destination, hub, "hub")
            model = load_hub_model(hub)
            truth = "transformers in torch, of DST"
            if isinstance(config, ImageNetResNetConfig):
                inputs = [inputs[0].transpose(0, 3, 1, 2)]
            found[truth] = torch_outputs(model, inputs)
    else:
        console.print("transformers is not installed: compared with our own models alone")
    table = Table("logits on random inputs", f"error against {truth}", "bound", "")
    bound, held = BOUNDS["forward", "float64"], True
    for name, values in found.items():
        if name != truth:
            error = relative_error(values, found[truth])
            held &= bool(error <= bound)
            table.add_row(
                name, f"{error:.1e}", f"{bound:.0e}", "holds" if error <= bound else "FAILS"
            )
    console.print(table)
    return held


def check(source: Path, rungs: list[str], console: Console) -> bool:
    """Climbs the ladder with the checkpoint's own weights and prints the verdicts."""
    config = _without_dropout(open_checkpoint(source).config)
    leaves = state.read_leaves(jaxmodels.from_pretrained(source))
    pairs = {"our torch model": make_pair(source.name, config, Recipe(), batch_size=4)}
    if find_spec("transformers"):
        pairs["transformers' torch model"] = hub_pair(source.name, config, batch_size=4)
    table = Table("our Flax model against", "rung", "precision", "worst", "bound", "where", "")
    held = True
    for name, pair in pairs.items():
        for verdict in climb(_with_leaves(pair, leaves), rungs, hot=False):
            held &= verdict.ok
            figures = (f"{verdict.value:.1e}", f"{verdict.bound:.0e}", verdict.where)
            mark = "holds" if verdict.ok else "FAILS"
            table.add_row(name, verdict.rung, verdict.dtype, *figures, mark)
    console.print(table)
    return held


def random_inputs(config: ModelConfig) -> list[np.ndarray]:
    """What the model is called with: (B, T) tokens and their mask, or (B, H, W, C) images."""
    batch = make_pair("", config, Recipe(), batch_size=3).batch
    names = ("input_ids", "attention_mask") if "input_ids" in batch else ("tokens", "image")
    return [batch[name] for name in names if name in batch]


def flax_outputs(folder: Path, inputs: list[np.ndarray]) -> np.ndarray:
    """The Flax model's logits, or last hidden state where there is no head, in float64."""
    model = jaxmodels.from_pretrained(folder)
    with precision("float64"):
        graphdef, params, rest = state.split(state.cast(model, jnp.dtype("float64")))
        arrays = [jnp.asarray(_widened(value)) for value in inputs]
        run = jax.jit(lambda p, r, arrays: _bare(state.merge(graphdef, p, r)(*arrays)))  # type: ignore[operator]
        return np.asarray(run(params, rest, arrays))


def torch_outputs(model: torch.nn.Module, inputs: list[np.ndarray]) -> np.ndarray:
    """Likewise of a torch model, ours or transformers'."""
    arrays = [torch.from_numpy(np.ascontiguousarray(_widened(value))) for value in inputs]
    with torch.no_grad():
        return _bare(model.double().eval()(*arrays)).numpy()


def _bare(output: Any) -> Any:
    logits = getattr(output, "logits", None)
    return output.last_hidden_state if logits is None else logits


def _widened(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64 if value.dtype == np.float32 else np.int64)


def _without_dropout(config: ModelConfig) -> ModelConfig:
    """transformers' dropout layers are others than ours, so masks cannot be shared."""
    rates = [field.name for field in fields(config) if field.name.endswith("dropout_rate")]
    return replace(config, **dict.fromkeys(rates, 0.0))


def _with_leaves(pair: Pair, leaves: dict[str, np.ndarray]) -> Pair:
    state.write_leaves(pair.flax, leaves)
    return pair
