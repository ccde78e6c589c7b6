"""scripts/convert.py: every fixture there and back, the proof that it is right, and its failing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

import jaxmodels
from jaxmodels.shared.configs import SimpleCNNConfig
from parity_tests import conversion

ROOT = Path(__file__).parents[1]
FLAX = Path(__file__).parent / "fixtures" / "flax"


def run(*arguments):
    command = [sys.executable, ROOT / "scripts" / "convert.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("name", ["roberta-token-classification", "gpt2", "resnet-basic"])
def test_a_flax_checkpoint_goes_to_the_hub_and_back_bit_by_bit(name, tmp_path):
    console = Console(quiet=True)
    hub, flax = tmp_path / "hub", tmp_path / "flax"
    conversion.convert(FLAX / name, hub, "hub")
    assert conversion.prove(FLAX / name, hub, "hub", console)
    conversion.convert(hub, flax, "flax")
    assert conversion.prove(hub, flax, "flax", console)
    written = (tmp_path / "flax" / "flax_model.msgpack").read_bytes()
    assert written == (FLAX / name / "flax_model.msgpack").read_bytes()


@pytest.mark.slow
def test_the_script_prints_its_proof_and_the_ladder(tmp_path):
    code, output, errors = run(FLAX / "distilbert-masked-lm", tmp_path / "hub", "--to", "hub")
    assert code == 0, errors
    assert output.count("holds") == 3
    code, output, errors = run(tmp_path / "hub", "--check", "--rungs", "forward,gradient")
    assert code == 0, output + errors
    assert output.count("holds") == 8  # two models, two rungs, two precisions


def test_the_proof_fails_where_the_conversion_is_wrong(tmp_path):
    """GPT-2's square kernel turned: the very mistake that no shape tells."""
    source, destination = FLAX / "gpt2", tmp_path / "hub"
    conversion.convert(source, destination, "hub")
    path = destination / "model.safetensors"
    tensors = load_file(path)
    square = "transformer.h.0.attn.c_proj.weight"
    tensors[square] = np.ascontiguousarray(tensors[square].T)
    save_file(tensors, path, metadata={"format": "pt"})
    assert not conversion.prove(source, destination, "hub", Console(quiet=True))


def test_names_of_classes_and_special_tokens_are_kept(tmp_path):
    source = tmp_path / "source"
    conversion.convert(FLAX / "bert-sequence-classification", source, "hub")
    content = json.loads((source / "config.json").read_text())
    content |= {"id2label": {"0": "bad", "1": "good", "2": "fair"}, "eos_token_id": 5}
    (source / "config.json").write_text(json.dumps(content))
    (source / "vocab.txt").write_text("[PAD]")
    conversion.convert(source, tmp_path / "copy", "flax")
    copied = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert copied["id2label"] == content["id2label"]
    assert copied["eos_token_id"] == 5
    assert (tmp_path / "copy" / "vocab.txt").read_text() == "[PAD]"


def test_mistakes_are_told_in_one_line(tmp_path):
    config = SimpleCNNConfig(image_size=8, channels=(2, 3), hidden_dims=(4, 5))
    own = tmp_path / "own"
    jaxmodels.save_pretrained(jaxmodels.create(config), config, own)
    for arguments, message in (
        ((FLAX / "bert",), "DST is missing"),
        ((FLAX / "bert", FLAX / "gpt2"), "gpt2 exists; choose a new folder"),
        ((FLAX / "bert", tmp_path / "x", "--check"), "--check writes nothing"),
        ((own, tmp_path / "x"), "holds a SimpleCNN, an architecture that the Hub does not know"),
        ((tmp_path / "none", tmp_path / "x"), "none is not a folder"),
    ):
        code, _, errors = run(*arguments)
        assert code == 2, arguments
        assert message in errors
        assert len(errors.strip().splitlines()) == 1, errors
