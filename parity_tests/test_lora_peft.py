"""Low-rank adapters in files: peft's own, in both libraries and both ways; what is refused."""

import json
from functools import partial

import numpy as np
import peft
import pytest
from safetensors.numpy import load_file, save_file

import torchref
import torchref.lora
from jaxmodels.shared.lora import LoRAConfig
from parity_tests.adapters import (
    BOUNDS,
    CONFIGS,
    LIBRARIES,
    MODELS,
    TARGETS,
    distance,
    leaves_of,
    loaded,
    logits,
    peft_model,
    randomize,
    save_base,
)
from parity_tests.hub_pairs import load_hub_model
from torchref.weights import read_tensors


@LIBRARIES
@MODELS
def test_an_adapter_of_peft_gives_the_logits_it_gives_there(library, name, tmp_path):
    base = save_base(name, tmp_path / "base")
    theirs = peft_model(name, base)
    theirs.save_pretrained(tmp_path / "adapter")
    model = loaded(library, name, base, tmp_path / "adapter")
    plain = logits(library, library.from_pretrained(base))
    expected = {"float32": logits(torchref, theirs), "float64": logits(torchref, theirs, "float64")}
    assert distance(name, plain, expected["float32"]) > 0.05
    for dtype, bound in BOUNDS.items():
        assert distance(name, logits(library, model, dtype), expected[dtype]) <= bound


@LIBRARIES
@MODELS
def test_another_scale_or_a_transposed_matrix_does_not(library, name, tmp_path):
    """The negative controls."""
    base = save_base(name, tmp_path / "base")
    theirs = peft_model(name, base)
    theirs.save_pretrained(tmp_path / "adapter")
    expected = logits(torchref, theirs, "float64")
    path = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"lora_alpha": 7}))
    wrong_scale = logits(library, loaded(library, name, base, tmp_path / "adapter"), "float64")
    path.write_text(json.dumps(content))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    for key, value in tensors.items():
        if ".lora_A." in key:
            tensors[key] = np.ascontiguousarray(value.T).reshape(value.shape)
    save_file(tensors, file)
    transposed = logits(library, loaded(library, name, base, tmp_path / "adapter"), "float64")
    for wrong in (wrong_scale, transposed):
        assert distance(name, wrong, expected) > 1e-3


@LIBRARIES
@pytest.mark.parametrize(
    ("name", "targets", "modules"),
    [
        ("gpt2", (r"attention\.", r"linear[12]$"), ["c_attn", "c_fc", "c_proj"]),
        ("gpt2", (r"linear2$",), ["mlp.c_proj"]),
        ("gpt2", (r"blocks\.1\.linear1$",), ["1.mlp.c_fc"]),
        ("bert", (r"\.(query|value)$",), ["query", "value"]),
        ("bert", (r"attention\.output$", "^classifier$"), ["attention.output.dense", "classifier"]),
        ("bert", (r"linear2$",), None),
    ],
)
def test_peft_loads_what_is_saved_and_gives_our_logits(library, name, targets, modules, tmp_path):
    base = save_base(name, tmp_path / "base")
    model = library.from_pretrained(base)
    library.lora.add_lora(model, LoRAConfig(3, 5.0, 0.1, targets), seed=0)
    randomize(library, model)
    library.lora.save_adapter(model, CONFIGS[name], tmp_path / "adapter", base=str(base))
    content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == str(base)
    assert modules is None or content["target_modules"] == modules
    theirs = load_hub_model(base)
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    theirs = peft.get_peft_model(theirs, config)
    report = theirs.load_adapter(tmp_path / "adapter", "default")
    assert not report.unexpected_keys
    assert not [key for key in report.missing_keys if "lora" in key]
    again = peft.PeftModel.from_pretrained(load_hub_model(base), tmp_path / "adapter")
    for found in (theirs, again):
        expected = logits(torchref, found, "float64")
        assert distance(name, logits(library, model, "float64"), expected) <= BOUNDS["float64"]
    back = loaded(library, name, base, tmp_path / "adapter")
    for leaf, value in leaves_of(library, model).items():
        assert np.array_equal(leaves_of(library, back)[leaf], value), leaf


def test_a_pattern_and_peft_s_own_names_select_what_peft_selects(tmp_path):
    base = save_base("gpt2", tmp_path / "base")
    pattern = r".*\.h\.1\.(attn\.c_attn|mlp\.c_fc)"
    theirs = peft_model("gpt2", base, target_modules=pattern, task_type="CAUSAL_LM")
    theirs.save_pretrained(tmp_path / "adapter")
    model = loaded(torchref, "gpt2", base, tmp_path / "adapter")
    assert list(torchref.lora.adapted_layers(model)) == [
        "blocks.1.attention.query_key_value",
        "blocks.1.linear1",
    ]
    expected = logits(torchref, theirs, "float64")
    assert distance("gpt2", logits(torchref, model, "float64"), expected) <= BOUNDS["float64"]


# What peft saves in full, of which model: by its own names, and by ours.
HEADS = {
    "bert": (["classifier"], ("^classifier$",)),
    "roberta": (["classifier"], ("^(pooler|classifier)$",)),  # one module there
    "distilbert": (["pre_classifier", "classifier"], ("^(pooler|classifier)$",)),
    "gpt2": (["1.mlp.c_proj", "ln_f"], (r"1\.linear2$", "^norm$")),  # the one is transposed there
}
# The targets beside them, where not TARGETS'.
BESIDE = TARGETS | {"gpt2": (["c_attn"], (r"attention\.query_key_value$",))}


@LIBRARIES
@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_peft_trained_beside_the_adapter_is_read(library, name, tmp_path):
    base = save_base(name, tmp_path / "base")
    changes = {"modules_to_save": HEADS[name][0], "target_modules": BESIDE[name][0]}
    model = peft_model(name, base, **changes)
    model.save_pretrained(tmp_path / "adapter")
    expected = logits(torchref, model, "float64")
    found = loaded(library, name, base, tmp_path / "adapter")
    assert distance(name, logits(library, found, "float64"), expected) <= BOUNDS["float64"]
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    saved = [key for key in tensors if "lora_" not in key]
    assert len(saved) == {"bert": 2}.get(name, 4)
    save_file(tensors | {saved[0]: 0 * tensors[saved[0]]}, path)  # the negative control
    wrong = loaded(library, name, base, tmp_path / "adapter")
    assert distance(name, logits(library, wrong, "float64"), expected) > 1e-3


@LIBRARIES
@pytest.mark.parametrize("name", HEADS)
def test_peft_reads_a_head_that_was_trained_beside_the_adapter(library, name, tmp_path):
    base = save_base(name, tmp_path / "base")
    model = library.from_pretrained(base)
    config = LoRAConfig(3, 5.0, 0.1, BESIDE[name][1], HEADS[name][1])
    library.lora.add_lora(model, config, seed=0)
    randomize(library, model)
    library.lora.save_adapter(model, CONFIGS[name], tmp_path / "adapter", base=str(base))
    theirs = peft.PeftModel.from_pretrained(load_hub_model(base), tmp_path / "adapter")
    expected = logits(torchref, theirs, "float64")
    assert distance(name, logits(library, model, "float64"), expected) <= BOUNDS["float64"]
    back = loaded(library, name, base, tmp_path / "adapter")
    assert leaves_of(library, back).keys() == leaves_of(library, model).keys()
    for leaf, value in leaves_of(library, model).items():
        assert np.array_equal(leaves_of(library, back)[leaf], value), leaf


def test_an_adapter_of_peft_s_task_of_classification_is_read(tmp_path):
    """Where peft itself adds the heads' usual names, of which the model may lack some."""
    base = save_base("bert", tmp_path / "base")
    theirs = peft_model("bert", base, task_type="SEQ_CLS")
    theirs.save_pretrained(tmp_path / "adapter")
    model = loaded(torchref, "bert", base, tmp_path / "adapter")
    content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert content["modules_to_save"] == ["classifier", "score"]
    expected = logits(torchref, theirs, "float64")
    assert distance("bert", logits(torchref, model, "float64"), expected) <= BOUNDS["float64"]


def test_a_head_that_peft_would_save_with_another_is_refused(tmp_path):
    model = torchref.create(CONFIGS["distilbert"])
    config = LoRAConfig(targets=TARGETS["distilbert"][1], modules_to_save=("^classifier$",))
    torchref.lora.add_lora(model, config, seed=0)
    with pytest.raises(ValueError, match=r"peft saves pooler as well.*add '\^pooler\$'"):
        torchref.lora.save_adapter(model, CONFIGS["distilbert"], tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, edit):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


FIRST = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
ERRORS = {
    **{
        f"{name} is": partial(edit_config, **{name: value})
        for name, value in {
            **{"use_dora": True, "use_rslora": True, "bias": "all", "lora_bias": True},
            **{"modules_to_save": ["wte"], "layers_pattern": "h", "layers_to_transform": [0]},
            **{"rank_pattern": {"c_fc": 2}, "alpha_pattern": {"c_fc": 2}},
            **{"exclude_modules": ["c_fc"], "trainable_token_indices": [0], "new_field": 3},
            **{"init_lora_weights": "pissa", "peft_type": "LOHA", "r": "four", "lora_alpha": -1},
            **{"layer_replication": [[0, 1]], "target_parameters": ["x"], "target_modules": ["q"]},
        }.items()
        if name not in ("lora_alpha", "target_modules")
    },
    "alpha is -1": partial(edit_config, lora_alpha=-1),
    "target_modules is ['q'], and": partial(edit_config, target_modules=["q"]),
    "target_modules is None": partial(edit_config, target_modules=None),
    f"missing {FIRST} (4, 15)": lambda folder: edit_tensors(folder, lambda t: t.pop(FIRST)),
    "unexpected more (1,)": lambda folder: edit_tensors(
        folder, lambda t: t.update(more=np.zeros(1, np.float32))
    ),
    f"{FIRST} has shape (15, 4), expected (4, 15)": lambda folder: edit_tensors(
        folder, lambda t: t.update({FIRST: np.zeros((15, 4), np.float32)})
    ),
    f"values of '{FIRST}' are NaN": lambda folder: edit_tensors(
        folder, lambda t: t.update({FIRST: np.full((4, 15), np.nan, np.float32)})
    ),
    "adapter_config.json is missing": lambda f: (f / "adapter_config.json").unlink(),
    "adapter_model.safetensors is missing": lambda f: (f / "adapter_model.safetensors").unlink(),
    "is not a whole safetensors file": lambda f: (f / "adapter_model.safetensors").write_bytes(
        b"cut"
    ),
}


@pytest.fixture(scope="module")
def gpt2_adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    peft_model("gpt2", save_base("gpt2", folder / "base")).save_pretrained(folder / "adapter")
    return folder / "adapter"


@pytest.mark.parametrize("message", ERRORS)
def test_what_would_compute_something_else_is_refused_by_name(message, gpt2_adapter, tmp_path):
    for file in gpt2_adapter.glob("adapter_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = torchref.create(CONFIGS["gpt2"])
    ERRORS[message](tmp_path)
    before = read_tensors(model)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        torchref.lora.load_adapter(model, CONFIGS["gpt2"], tmp_path)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert read_tensors(model).keys() == before.keys()
