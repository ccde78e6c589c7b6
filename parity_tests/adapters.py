"""Models with adapters, ours and peft's, and what they compute: for the tests of LoRA."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch

import jaxmodels
import jaxmodels.lora
import torchref
import torchref.lora
from jaxmodels import state
from jaxmodels.shared.lora import LoRAConfig
from parity_tests.hub_pairs import load_hub_model
from parity_tests.tiny_configs import config_of
from torchref.weights import read_tensors

LIBRARIES = pytest.mark.parametrize("library", [jaxmodels, torchref])
CONFIGS = {
    "gpt2": replace(config_of("gpt2"), dropout_rate=0.0, attention_dropout_rate=0.0),
    "bert": config_of("bert"),
    "roberta": replace(config_of("roberta"), head="sequence-classification"),
    "distilbert": replace(config_of("bert"), family="distilbert", type_vocabulary_size=0),
}
MODELS = pytest.mark.parametrize("name", ["gpt2", "bert"])
# peft's names of what is adapted, and ours.
TARGETS = {
    "gpt2": (["c_attn", "c_proj", "c_fc"], (r"attention\.", r"linear[12]$")),
    "bert": (["query", "value"], (r"attention\.(query|value)$",)),
    "roberta": (["query", "value"], (r"attention\.(query|value)$",)),
    "distilbert": (["q_lin", "v_lin"], (r"attention\.(query|value)$",)),
}
BOUNDS = {"float64": 1e-12, "float32": 2e-5}
IDS = np.random.default_rng(0).integers(1, 13, size=(3, 8))
MASK = np.arange(8) < np.array([[8], [5], [2]])


def save_base(name, folder):
    """A model's folder, with weights that show differences."""
    model = torchref.create(CONFIGS[name], seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    torchref.save_pretrained(model, CONFIGS[name], folder)
    return folder


def peft_model(name, base, **changes):
    """peft's model with a random A, B and saved modules, in evaluation mode."""
    options = {
        **{"r": 4, "lora_alpha": 6, "lora_dropout": 0.3, "target_modules": TARGETS[name][0]},
        **{"fan_in_fan_out": name == "gpt2"},
    }
    model = peft.get_peft_model(load_hub_model(base), peft.LoraConfig(**options | changes))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.eval()


def loaded(library, name, base, adapter):
    return library.lora.load_adapter(library.from_pretrained(base), CONFIGS[name], adapter)


def adapted(library, name, **changes):
    """A fresh model of ours, whose A and B are random."""
    model = library.create(CONFIGS[name], seed=4)
    library.lora.add_lora(model, LoRAConfig(4, 6.0, 0.0, TARGETS[name][1], **changes), seed=5)
    randomize(library, model)
    return model


def randomize(library, model):
    rng = np.random.default_rng(6)
    with torch.no_grad():
        for layer in library.lora.adapted_layers(model).values():
            value = (0.4 * rng.normal(size=tuple(layer.lora_b.shape))).astype(np.float32)
            if library is jaxmodels:
                layer.lora_b[...] = jnp.asarray(value)
            else:
                layer.lora_b.copy_(torch.from_numpy(value))


def logits(library, model, dtype="float32"):
    """In evaluation mode, of our model or of transformers'."""
    if library is jaxmodels:
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
            cast = state.cast(model, jnp.dtype(dtype))
            return np.asarray(cast(jnp.asarray(IDS), jnp.asarray(MASK)).logits)
    model = model.eval().to(getattr(torch, dtype))
    inputs = (torch.from_numpy(IDS), torch.from_numpy(MASK))
    if not isinstance(model, peft.PeftModel):
        inputs = [inputs[0], inputs[1]]
        return model(*inputs).logits.detach().numpy()
    output = model(input_ids=inputs[0], attention_mask=inputs[1].long())
    return output.logits.detach().numpy()


def distance(name, found, expected):
    """The largest difference, where GPT-2's tokens after the last real one say nothing."""
    real = MASK if name == "gpt2" else slice(None)
    return np.abs(found[real] - expected[real]).max() / np.abs(expected[real]).max()


def leaves_of(library, model):
    return state.read_leaves(model) if library is jaxmodels else read_tensors(model)
