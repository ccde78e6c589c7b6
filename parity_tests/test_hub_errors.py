"""What a Hub folder may have wrong with it: a line that names the file, field or tensor."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxmodels
import torchref
from parity_tests import conversion

FLAX = Path(__file__).parent / "fixtures" / "flax"
LIBRARIES = pytest.mark.parametrize("library", [jaxmodels, torchref])


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder in the Hub's layout: name -> path."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("bert-sequence-classification", "bert-masked-lm", "gpt2", "resnet-basic"):
        conversion.convert(FLAX / name, root / name, "hub")
    return root


def with_config(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def with_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def not_finite(tensors):
    tensors["transformer.h.1.ln_1.bias"][3] = np.nan


FAULTS = {
    "relative positions": (
        "bert-masked-lm",
        lambda f: with_config(f, position_embedding_type="relative_key"),
        "config.json: position_embedding_type is 'relative_key', and only 'absolute' is supported",
    ),
    "unknown field": (
        "gpt2",
        lambda f: with_config(f, alibi=True),
        "config.json: alibi is True, a field that is not known here",
    ),
    "scaled by layer": (
        "gpt2",
        lambda f: with_config(f, scale_attn_by_inverse_layer_idx=True),
        "scale_attn_by_inverse_layer_idx is True, and only False is supported",
    ),
    "untied": (
        "gpt2",
        lambda f: with_config(f, tie_word_embeddings=False),
        "tie_word_embeddings is False, and only True is supported",
    ),
    "untied in fact": (
        "gpt2",
        lambda f: with_tensors(
            f, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1})
        ),
        "model.safetensors: lm_head.weight differs from transformer.wte.weight",
    ),
    "activation": (
        "bert-masked-lm",
        lambda f: with_config(f, hidden_act="mish"),
        "hidden_act is 'mish', expected one of",
    ),
    "architecture": (
        "bert-masked-lm",
        lambda f: with_config(f, architectures=["BertForQuestionAnswering"]),
        r"architectures is \['BertForQuestionAnswering'\], expected one of",
    ),
    "model type": (
        "bert-masked-lm",
        lambda f: with_config(f, model_type="llama"),
        "config.json: model_type 'llama' is not served; expected one of",
    ),
    "field of another type": (
        "bert-masked-lm",
        lambda f: with_config(f, hidden_size="12"),
        "hidden_size is '12', expected something like 768",
    ),
    "no json": (
        "gpt2",
        lambda f: (f / "config.json").write_text("{"),
        "config.json is not JSON",
    ),
    "wrong shape": (
        "gpt2",
        lambda f: with_config(f, n_inner=21),
        r"! transformer.h.0.mlp.c_fc.bias has shape \(20,\), expected \(21,\)",
    ),
    "missing tensor": (
        "bert-sequence-classification",
        lambda f: with_tensors(f, lambda t: t.pop("bert.encoder.layer.1.output.LayerNorm.bias")),
        r"- missing bert.encoder.layer.1.output.LayerNorm.bias \(12,\)",
    ),
    "extra tensor": (
        "resnet-basic",
        lambda f: with_tensors(f, lambda t: t.update({"resnet.extra": np.zeros(3, np.float32)})),
        r"\+ unexpected resnet.extra \(3,\)",
    ),
    "another head": (
        "bert-masked-lm",
        lambda f: with_config(f, architectures=["BertForTokenClassification"]),
        "- missing classifier.bias",
    ),
    "not a number": (
        "gpt2",
        lambda f: with_tensors(f, not_finite),
        "1 of 12 values of .*transformer.h.1.ln_1.bias.* are NaN or infinite",
    ),
    "cut short": (
        "gpt2",
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-9]
        ),
        "model.safetensors",
    ),
}


@LIBRARIES
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(library, fault, hub, tmp_path):
    name, damage, message = FAULTS[fault]
    folder = tmp_path / name
    shutil.copytree(hub / name, folder)
    library.from_pretrained(folder)  # the control: whole, it loads
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        library.from_pretrained(folder)
    assert str(folder) in str(error.value)


@LIBRARIES
def test_a_new_head_is_drawn_and_the_old_one_left_out(library, hub):
    """Masked words -> two kinds of classes; the body stays, and a seed draws one head."""
    read = _tensors(library)
    old = read(library.from_pretrained(hub / "bert-masked-lm"))
    for head in ("sequence-classification", "token-classification", "none"):
        new, same, other = (
            read(
                library.from_pretrained(hub / "bert-masked-lm", head=head, num_classes=4, seed=seed)
            )
            for seed in (1, 1, 2)
        )
        body = {n for n in new if not n.startswith(("pooler", "classifier", "masked_lm"))}
        assert body == {n for n in old if not n.startswith("masked_lm")}
        assert all(np.array_equal(new[name], old[name]) for name in body)
        drawn = new.keys() - body
        assert all(np.array_equal(new[name], same[name]) for name in drawn)
        assert (head == "none") == ("classifier.bias" not in drawn)
        kernels = [name for name in drawn if new[name].ndim == 2]
        assert all(not np.array_equal(new[name], other[name]) for name in kernels)
        assert kernels


@LIBRARIES
def test_other_classes_draw_the_last_layer_alone(library, hub):
    read, folder = _tensors(library), hub / "bert-sequence-classification"
    old, new = (
        read(library.from_pretrained(folder)),
        read(library.from_pretrained(folder, num_classes=5)),
    )
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert {name.rpartition(".")[0] for name in changed} == {"classifier"}


def test_what_is_not_a_setting_is_refused(hub):
    with pytest.raises(ValueError, match="GPT2 has no num_classes"):
        jaxmodels.from_pretrained(hub / "gpt2", num_classes=3)


def test_a_changed_body_is_not_drawn_anew(hub):
    with pytest.raises(ValueError, match=r"! .*c_fc.bias has shape \(20,\), expected \(21,\)"):
        jaxmodels.from_pretrained(hub / "gpt2", mlp_dim=21)


@LIBRARIES
def test_another_dropout_rate_is_no_other_head(library, hub, tmp_path):
    """It draws no head anew: one that is missing is missing."""
    folder = tmp_path / "headless"
    shutil.copytree(hub / "bert-sequence-classification", folder)
    change = {"dropout_rate": 0.3}
    assert library.from_pretrained(folder, **change).config.dropout_rate == 0.3
    with_tensors(folder, lambda tensors: tensors.pop("classifier.weight"))
    with pytest.raises(ValueError, match=r"- missing classifier\.weight"):
        library.from_pretrained(folder, **change)


def _tensors(library):
    from jaxmodels.state import read_leaves
    from torchref.weights import read_tensors

    return read_leaves if library is jaxmodels else read_tensors
