"""The ImageNet ResNets against transformers' own, and their configs to and from the Hub's."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from transformers import ResNetForImageClassification
from transformers.activations import ACT2FN

import jaxmodels.models
import torchref.models
from jaxmodels import state
from jaxmodels.models.layers import overlapping_max_pool
from jaxmodels.shared.configs import ImageNetResNetConfig
from jaxmodels.shared.hub.fields import ACTIVATIONS
from jaxmodels.shared.hub.folder import hub_name
from jaxmodels.shared.hub.resnet import SIZES, from_hub_config, to_hub_config
from jaxmodels.shared.weights import to_torch_layout, without_ignored
from parity_tests.ladder import BOUNDS, relative_error
from parity_tests.own_pairs import make_pair
from parity_tests.pairs import Recipe, call_flax, hot_leaves, observe_gradient, precision
from parity_tests.tiny_configs import config_of
from torchref.models.layers import ACTIVATIONS as TORCH_ACTIVATIONS
from torchref.models.layers import overlapping_max_pool as torch_overlapping_max_pool
from torchref.weights import load_tensors


def tiny(case: str) -> ImageNetResNetConfig:
    config = config_of(case)
    assert isinstance(config, ImageNetResNetConfig)
    return config


BASIC = tiny("imagenet-resnet-basic")
BOTTLENECK = tiny("imagenet-resnet-bottleneck")
VARIANTS = {
    "basic": BASIC,
    "bottleneck": BOTTLENECK,
    "basic-first": replace(BASIC, downsample_in_first_stage=True),
    "bottleneck-first": replace(BOTTLENECK, downsample_in_first_stage=True),
    "bottleneck-1x1": replace(BOTTLENECK, downsample_in_bottleneck=True),
    "bottleneck-both": replace(
        BOTTLENECK, downsample_in_first_stage=True, downsample_in_bottleneck=True
    ),
    "four-stages": replace(
        BOTTLENECK, stage_channels=(8, 12, 16, 20), depths=(2, 1, 3, 1), in_channels=2
    ),
    "narrow": replace(BOTTLENECK, stage_channels=(9, 15)),  # a quarter of them, rounded down
    "swish": replace(BASIC, activation="swish"),
    "gelu": replace(BOTTLENECK, activation="gelu"),
    "gelu_tanh": replace(BASIC, activation="gelu_tanh"),
}


def hub_model(config: ImageNetResNetConfig) -> ResNetForImageClassification:
    """transformers' model of the config that we would export."""
    content = json.loads(json.dumps(to_hub_config(config)))
    return ResNetForImageClassification(transformers.ResNetConfig(**content)).eval()


def logits_of_all(config: ImageNetResNetConfig, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Flax's, torch's and transformers' float64 logits for the same hot weights and images."""
    pair = make_pair("", config, Recipe())
    leaves = hot_leaves(pair, 0)
    images = 0.5 + np.random.default_rng(1).normal(size=shape)
    graphdef, *parts = state.split(pair.flax)
    with precision("float64"):
        values = [{n: jnp.asarray(leaves[n]) for n in part} for part in parts]
        run = jax.jit(
            lambda values, images: call_flax(state.merge(graphdef, *values), images, False)
        )
        ours = np.asarray(run(values, {"image": jnp.asarray(images)}))
    tensors = to_torch_layout(leaves)
    model, hub = pair.torch.double().eval(), hub_model(config).double()
    load_tensors(model, tensors)
    renamed = {hub_name(config, ours): torch.from_numpy(v) for ours, v in tensors.items()}
    missing, unexpected = hub.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    with torch.no_grad():
        twin = model(torch.from_numpy(images)).logits
        theirs = hub(torch.from_numpy(images).permute(0, 3, 1, 2)).logits
    return [ours, twin.numpy(), theirs.numpy()]


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_match_transformers(name):
    config = VARIANTS[name]
    shape = (3, config.image_size, config.image_size, config.in_channels)
    ours, twin, theirs = logits_of_all(config, shape)
    assert theirs.shape == (3, config.num_classes)
    assert relative_error(ours, theirs) <= 1e-12
    assert relative_error(twin, theirs) <= 1e-12


@pytest.mark.parametrize("size", [(1, 1), (33, 20)])
def test_logits_match_transformers_at_any_size(size):
    ours, twin, theirs = logits_of_all(BOTTLENECK, (2, *size, 3))
    assert relative_error(ours, theirs) <= 1e-12
    assert relative_error(twin, theirs) <= 1e-12


@pytest.mark.parametrize("flag", ["downsample_in_first_stage", "downsample_in_bottleneck"])
def test_each_flag_changes_the_logits(flag):
    """The negative control: a flag that nobody reads would agree with itself."""
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 21, 21, 3))).float()
    models = [torchref.models.create(c) for c in (BOTTLENECK, replace(BOTTLENECK, **{flag: True}))]
    plain, other = (model.eval()(images).logits.detach().numpy() for model in models)
    assert relative_error(plain, other) > 1e-2


@pytest.mark.parametrize("name", ["basic-first", "bottleneck-both"])
def test_flags_hold_in_training_too(name):
    pair = make_pair(name, replace(VARIANTS[name], activation="gelu"), Recipe())
    ((flax, twin),) = observe_gradient(pair, [hot_leaves(pair, 0)], "float64")
    assert flax.keys() == twin.keys()
    for leaf in twin:
        assert relative_error(flax[leaf], twin[leaf]) <= BOUNDS["gradient", "float64"], leaf


def test_max_pool_and_its_gradient_match_torch_where_maxima_tie():
    rng = np.random.default_rng(0)
    x = rng.integers(-9, -6, size=(2, 7, 8, 3)).astype(float)  # below 0, which must not pad
    dy = rng.normal(size=(2, 4, 4, 3))
    with precision("float64"):
        y, pull = jax.vjp(overlapping_max_pool, jnp.asarray(x))
        (dx,) = pull(jnp.asarray(dy))
    tensor = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    pooled = torch_overlapping_max_pool(tensor)
    pooled.backward(torch.from_numpy(dy).permute(0, 3, 1, 2))
    assert tensor.grad is not None
    assert np.array_equal(y, pooled.detach().permute(0, 2, 3, 1).numpy())
    assert relative_error(np.asarray(dx), tensor.grad.permute(0, 2, 3, 1).numpy()) <= 1e-15


COUNTS = {"resnet-18": 11_689_512, "resnet-34": 21_797_672, "resnet-50": 25_557_032}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_have_the_parameters_and_names_of_transformers(name):
    config = SIZES[name]
    with torch.device("meta"):
        hub = ResNetForImageClassification(transformers.ResNetConfig(**to_hub_config(config)))
    assert sum(p.numel() for p in hub.parameters()) == COUNTS[name]
    model = torchref.models.create(config)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]
    ours = without_ignored(model.state_dict())
    assert {hub_name(config, name): value.shape for name, value in ours.items()} == {
        name: tensor.shape for name, tensor in without_ignored(hub.state_dict()).items()
    }


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_flax_have_as_many(name):
    model = nnx.eval_shape(lambda: jaxmodels.models.create(SIZES[name]))
    values = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(value.size for value in values) == COUNTS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_names_are_complete_and_one_to_one(name):
    config = VARIANTS[name]
    ours = without_ignored(torchref.models.create(config).state_dict())
    names = [hub_name(config, name) for name in ours]
    assert len(set(names)) == len(names)
    assert set(names) == without_ignored(hub_model(config).state_dict()).keys()


@pytest.mark.parametrize("name", [*VARIANTS, *SIZES])
def test_config_survives_the_trip_to_the_hub(name):
    config = (VARIANTS | SIZES)[name]
    content = json.loads(json.dumps(to_hub_config(config)))
    assert replace(from_hub_config(content), image_size=config.image_size) == config


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_what_transformers_saves_is_read_back(num_classes, tmp_path):
    """Of a model with two classes it leaves id2label out."""
    config = replace(BOTTLENECK, num_classes=num_classes)
    hub_model(config).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert ("id2label" in content) == (num_classes != 2)
    assert replace(from_hub_config(content), image_size=21) == config


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_transformers_own(name):
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    theirs = ACT2FN[name](x)
    assert relative_error(TORCH_ACTIVATIONS[ACTIVATIONS[name]](x).numpy(), theirs.numpy()) <= 1e-15


def test_an_absent_field_has_transformers_default():
    content = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}
    theirs = transformers.ResNetConfig().to_dict() | content
    assert from_hub_config(content) == replace(from_hub_config(theirs), num_classes=2)
    assert from_hub_config(content | {"num_labels": 1000}) == ImageNetResNetConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["ResNetModel"]}, r"architectures is \['ResNetModel'\], expected"),
        ({"hidden_act": "selu"}, "hidden_act is 'selu', expected one of"),
        ({"layer_type": "wide"}, "layer_type is 'wide', expected 'basic'"),
        ({"hidden_sizes": None}, r"hidden_sizes is None, expected something like \(256"),
        ({"hidden_sizes": [8]}, "must name equally many stages"),
        ({"hidden_sizes": [8, "9"]}, "must be positive integers"),
        ({"hidden_sizes": [3, 8]}, "must be 4 or more"),
        ({"depths": [0, 1]}, r"depths \(0, 1\) must be positive integers"),
        ({"downsample_in_bottleneck": "yes"}, "downsample_in_bottleneck is 'yes', expected"),
        ({"num_channels": 3.0}, "num_channels is 3.0, expected something like 3"),
        ({"id2label": {}}, "the config has 0 labels"),
        ({"id2label": ["cat"]}, "id2label is .*expected something like"),
        ({"num_labels": 3}, "num_labels is 3, but id2label names 7"),
    ],
)
def test_what_we_do_not_have_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        from_hub_config(to_hub_config(BOTTLENECK) | change)


def test_an_epsilon_that_the_hub_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"batch_norm_epsilon is 0\.001, expected 1e-05"):
        to_hub_config(replace(BASIC, batch_norm_epsilon=1e-3))


@pytest.mark.parametrize("library", [jaxmodels, torchref])
def test_images_come_in_either_layout_and_no_other(library):
    array = jnp.asarray if library is jaxmodels else torch.from_numpy
    model = library.models.create(BASIC)
    images = np.random.default_rng(0).normal(size=(2, 24, 25, 3)).astype(np.float32)
    ours = model(array(images)).logits
    theirs = model(array(images.transpose(0, 3, 1, 2).copy())).logits
    assert relative_error(np.asarray(theirs.tolist()), np.asarray(ours.tolist())) < 1e-5
    for shape, mend in (((24, 25, 3), "images[None]"), ((2, 24, 25, 1), "(B, 3, H, W)")):
        with pytest.raises(ValueError, match="expected") as error:
            model(array(np.ones(shape, np.float32)))
        assert str(error.value).startswith(f"images have shape {shape}, expected (B, H, W, 3)")
        assert str(error.value).endswith(mend)
