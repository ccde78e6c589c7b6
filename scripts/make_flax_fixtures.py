"""Writes tiny checkpoints of transformers' Flax classes, with their outputs, as the tests' oracle.

usage: make_flax_fixtures.py [--out DIR]

transformers 5 dropped Flax, so what the last classes wrote and computed is kept with the tests, in
parity_tests/fixtures/flax/NAME: config.json, the weights as save_pretrained wrote them, and in
golden.npz the inputs and what the Flax class made of them. The weights are random and far from any
initialisation: a parameter that is left out, mixed up or transposed shows in the outputs.
versions.json names the versions that wrote them. The files come out the same each time; anew:

    python3.11 -m venv build/flax
    build/flax/bin/pip install transformers==4.57.6 flax==0.10.2 jax==0.4.38 jaxlib==0.4.38 \
        numpy==2.2.6 safetensors==0.8.0
    build/flax/bin/python scripts/make_flax_fixtures.py

Later releases of jax may lack names that transformers' Flax classes use.
"""

# pyright: reportMissingImports=false
# transformers 4 is in an environment of its own.

import argparse
import json
import platform
import shutil
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict

_FIXTURES = Path(__file__).parent.parent / "parity_tests" / "fixtures" / "flax"
_PACKAGES = ("transformers", "flax", "jax", "jaxlib", "numpy", "safetensors")
_OUTPUTS = ("logits", "last_hidden_state", "pooler_output")
_LIMIT = 1_000_000  # bytes of all fixtures together

_LENGTHS = (13, 7, 13, 4)  # tokens of each row; the rest is padding, on the right
_IMAGES = 3
_IMAGE_SIZE = 32

# Sizes that could stand in for one another differ, so that a wrong transpose has a wrong shape.
_BERT = {
    "vocab_size": 37,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
# As published: positions count from pad_token_id + 1, so the table has two rows more.
_ROBERTA = _BERT | {
    "max_position_embeddings": 18,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
_DISTILBERT = {
    "vocab_size": 37,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 20,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}
_GPT2 = {
    "vocab_size": 37,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "n_inner": 20,
    "n_positions": 16,
    "bos_token_id": 36,
    "eos_token_id": 36,
}
# As in ResNet-18, the first stage has no shortcut convolution; as in ResNet-50, it has one.
_RESNET_BASIC = {
    "layer_type": "basic",
    "embedding_size": 8,
    "hidden_sizes": [8, 12],
    "depths": [1, 2],
    "num_labels": 3,
}
_RESNET_BOTTLENECK = _RESNET_BASIC | {"layer_type": "bottleneck", "hidden_sizes": [20, 28]}

_THREE = {"num_labels": 3}
_FIVE = {"num_labels": 5}

# NAME -> Flax class, its config
_MODELS = {
    "bert": ("FlaxBertModel", _BERT),
    "bert-masked-lm": ("FlaxBertForMaskedLM", _BERT),
    "bert-sequence-classification": ("FlaxBertForSequenceClassification", _BERT | _THREE),
    "bert-token-classification": ("FlaxBertForTokenClassification", _BERT | _FIVE),
    "distilbert": ("FlaxDistilBertModel", _DISTILBERT),
    "distilbert-masked-lm": ("FlaxDistilBertForMaskedLM", _DISTILBERT),
    "distilbert-sequence-classification": (
        "FlaxDistilBertForSequenceClassification",
        _DISTILBERT | _THREE,
    ),
    "distilbert-token-classification": (
        "FlaxDistilBertForTokenClassification",
        _DISTILBERT | _FIVE,
    ),
    "roberta": ("FlaxRobertaModel", _ROBERTA),
    "roberta-masked-lm": ("FlaxRobertaForMaskedLM", _ROBERTA),
    "roberta-sequence-classification": ("FlaxRobertaForSequenceClassification", _ROBERTA | _THREE),
    "roberta-token-classification": ("FlaxRobertaForTokenClassification", _ROBERTA | _FIVE),
    "gpt2": ("FlaxGPT2LMHeadModel", _GPT2),
    "gpt2-base": ("FlaxGPT2Model", _GPT2),
    "resnet-basic": ("FlaxResNetForImageClassification", _RESNET_BASIC),
    "resnet-bottleneck": ("FlaxResNetForImageClassification", _RESNET_BOTTLENECK),
}

# NAME -> suffix of a further folder with the same weights, save_pretrained's options
_VARIANTS = {
    "bert-sequence-classification": {
        "-safetensors": {"safe_serialization": True},
        "-sharded": {"max_shard_size": 5_000},
    },
    "gpt2": {"-sharded": {"max_shard_size": 5_000}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=_FIXTURES, help="where the folders go")
    out: Path = parser.parse_args().out
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_default_matmul_precision", "highest")
    transformers.logging.set_verbosity_error()

    for name, (class_name, settings) in _MODELS.items():
        saves = {"": {}} | _VARIANTS.get(name, {})
        write_model(out, name, class_name, settings, saves)
    versions = {"python": platform.python_version()} | {each: version(each) for each in _PACKAGES}
    (out / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")

    total = _bytes_in(out)
    print(f"{total:>9,} bytes in all")
    if total > _LIMIT:
        raise SystemExit(f"expected at most {_LIMIT:,} bytes, got {total:,}; try smaller sizes")


def write_model(
    out: Path, name: str, class_name: str, settings: dict[str, Any], saves: dict[str, dict]
) -> None:
    """Writes one model's folders, `name` + suffix for each way it is saved."""
    flax_class = getattr(transformers, class_name)
    config = flax_class.config_class(**settings)
    model = flax_class(config, _do_init=False)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    # GPT-2's FlaxConv1D keeps its kernels as (out, in).
    fan_in_axis = -1 if config.model_type == "gpt2" else -2
    params = draw_params(rng, model.params_shape_tree, fan_in_axis)
    inputs = draw_images(rng) if config.model_type == "resnet" else draw_tokens(rng, config)

    result = model(**inputs, params=params, train=False)
    outputs = {key: np.asarray(result[key]) for key in _OUTPUTS if result.get(key) is not None}
    for key, values in outputs.items():
        assert values.dtype == np.float32, f"{name}: {key} is {values.dtype}"
        assert np.isfinite(values).all(), f"{name}: {key} is not finite"
    golden: dict[str, Any] = inputs | outputs
    for suffix, options in saves.items():
        folder = out / (name + suffix)
        shutil.rmtree(folder, ignore_errors=True)  # or a file that is no longer written would stay
        model.save_pretrained(folder, params=params, **options)
        np.savez_compressed(folder / "golden.npz", **golden)
        shapes = ", ".join(f"{key} {values.shape}" for key, values in outputs.items())
        print(f"{_bytes_in(folder):>9,} bytes  {folder.name}: {shapes}")


def draw_params(rng: np.random.Generator, shapes: Any, fan_in_axis: int) -> dict[str, Any]:
    """The tree of a model's shapes -> the same tree of float32 arrays."""
    leaves = sorted(flatten_dict(shapes).items())
    return unflatten_dict({path: _draw(rng, path[-1], leaf, fan_in_axis) for path, leaf in leaves})


def _draw(rng: np.random.Generator, leaf: str, like: Any, fan_in_axis: int) -> np.ndarray:
    """leaf: the last name of a parameter's path; like: has its shape."""
    normal = rng.standard_normal(like.shape)
    if leaf == "kernel":  # (in, out), or (height, width, in, out) of a convolution
        window = np.prod(like.shape[:-2])
        values = normal * np.sqrt(2 / (window * like.shape[fan_in_axis]))
    elif leaf == "embedding":
        values = normal
    elif leaf == "scale":
        values = 1 + 0.3 * normal
    elif leaf in ("bias", "mean"):
        values = 0.3 * normal
    elif leaf == "var":
        values = np.exp(0.5 * normal)
    else:
        raise ValueError(f"expected kernel, embedding, scale, bias, mean or var, got {leaf}")
    return values.astype(np.float32)


def draw_tokens(rng: np.random.Generator, config: Any) -> dict[str, np.ndarray]:
    """-> input_ids and attention_mask, (B, T) int32, padded on the right."""
    lengths = np.array(_LENGTHS)
    real = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
    # No token but padding has the padding's id: RoBERTa counts its positions by it.
    pad = config.eos_token_id if config.pad_token_id is None else config.pad_token_id
    others = np.delete(np.arange(config.vocab_size), pad)
    input_ids = np.where(real, rng.choice(others, real.shape), pad)
    return {"input_ids": input_ids.astype(np.int32), "attention_mask": real.astype(np.int32)}


def draw_images(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """-> pixel_values, (B, C, height, width) float32, which the Flax class takes too."""
    shape = (_IMAGES, 3, _IMAGE_SIZE, _IMAGE_SIZE)
    return {"pixel_values": rng.standard_normal(shape).astype(np.float32)}


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
