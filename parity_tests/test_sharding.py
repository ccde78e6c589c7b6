"""Parameters on a mesh: what the table says, and weights that go from disk to their places."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels
from jaxmodels import state
from jaxmodels.models import create
from jaxmodels.sharding import make_mesh, parameter_sharding
from jaxmodels.shared.hub.stored_tensors import StoredTensor
from jaxmodels.shared.model_output import logits_of
from jaxmodels.shared.tasks import TASKS
from jaxmodels.state import read_leaves, read_shapes

FLAX = Path(__file__).parent / "fixtures" / "flax"
MESHES = {"fsdp": {"fsdp": 4}, "fsdp-tensor": {"data": 2, "fsdp": 2, "tensor": 2}}


def mesh_of(sizes):
    return make_mesh(sizes, jax.devices()[: np.prod(list(sizes.values()))])


def leaves_of(model):
    return {
        ".".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(nnx.state(model))
    }


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["bert-sequence-classification", "gpt2", "resnet-basic"])
def test_weights_go_from_disk_to_their_places(name, mesh, monkeypatch):
    whole = read_leaves(jaxmodels.from_pretrained(FLAX / name))
    read, sizes = StoredTensor.read, []

    def counted(self, index=None):
        array = read(self, index)
        sizes.append(array.size)
        return array

    monkeypatch.setattr(StoredTensor, "read", counted)
    mesh = mesh_of(MESHES[mesh])
    leaves = leaves_of(jaxmodels.from_pretrained(FLAX / name, mesh=mesh))
    for path, leaf in leaves.items():
        assert leaf.sharding == parameter_sharding(path, leaf.shape, mesh)
        assert np.array_equal(leaf, whole[path]), path
    cut = {path for path, leaf in leaves.items() if not leaf.is_fully_replicated}
    assert len(cut) > 5
    largest = max(leaf.addressable_shards[0].data.size for leaf in leaves.values())
    assert max(sizes) == largest < max(leaf.size for leaf in leaves.values())


def test_a_new_head_is_placed_too():
    mesh = mesh_of({"fsdp": 4})
    change = {"head": "token-classification", "num_classes": 8}
    model = jaxmodels.from_pretrained(FLAX / "bert-masked-lm", mesh=mesh, **change)
    kernel = leaves_of(model)["classifier.kernel"]
    assert kernel.sharding.spec == jax.P(None, "fsdp")
    alone = jaxmodels.from_pretrained(FLAX / "bert-masked-lm", **change)
    assert np.array_equal(kernel, leaves_of(alone)["classifier.kernel"])


@pytest.mark.parametrize("mesh", MESHES)
def test_a_sharded_models_logits_are_those_of_one_device(mesh):
    tokens = jnp.asarray(np.random.default_rng(0).integers(11, size=(4, 5)))
    with jax.enable_x64(True):
        call = jax.jit(lambda model: logits_of(model(tokens)))
        alone, sharded = (
            call(state.cast(jaxmodels.from_pretrained(FLAX / "gpt2", mesh=m), jnp.dtype("float64")))
            for m in (None, mesh_of(MESHES[mesh]))
        )
    error = np.linalg.norm(sharded - alone) / np.linalg.norm(alone)
    assert error < 1e-12
    assert np.linalg.norm(alone) > 1  # the control: not all zero


@pytest.mark.parametrize("name", TASKS)
def test_every_leaf_of_a_task_that_can_be_cut_is(name):
    """By four devices, but what has one axis: biases, norms, statistics."""
    shapes = read_shapes(nnx.eval_shape(lambda: create(TASKS[name].model)))
    mesh = mesh_of({"fsdp": 4})
    for path, shape in shapes.items():
        whole = parameter_sharding(path, shape, mesh).is_fully_replicated
        assert whole == (len(shape) == 1 or all(size % 4 for size in shape)), path


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("token_embedding.embedding", (64, 32), ("tensor", "fsdp")),
        ("token_embedding.embedding", (63, 32), (None, "fsdp")),  # 63 words do not divide by 2
        ("blocks.0.attention.query_key_value.kernel", (32, 96), ("fsdp", "tensor")),
        ("blocks.0.attention.query_key_value.bias", (96,), ("tensor",)),
        ("blocks.0.attention.output.kernel", (32, 32), ("tensor", "fsdp")),
        ("blocks.11.linear2.kernel", (128, 32), ("tensor", "fsdp")),
        ("blocks.0.convnorm1.conv.kernel", (3, 3, 16, 32), (None, None, None, "fsdp")),
        ("recurrent.layers.0.weight_hh_l0", (64, 16), ("fsdp",)),
        ("recurrent.layers.0.weight_ih_l0_reverse", (64, 16), ("fsdp",)),
        ("classifier.kernel", (32, 8), (None, "fsdp")),
        ("classifier.kernel", (32, 9), ("fsdp",)),  # 9 classes do not divide by 2
        ("stem.conv.kernel", (7, 7, 4, 9), (None, None, "fsdp")),
        ("classifier.kernel", (31, 9), ()),
        ("norm.scale", (32,), ()),
        ("blocks.0.linear2.bias", (32,), ()),
    ],
)
def test_the_table(name, shape, spec):
    mesh = mesh_of({"data": 2, "fsdp": 2, "tensor": 2})
    assert parameter_sharding(name, shape, mesh).spec == jax.P(*spec)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"fsdp": 3}, "fsdp=3 needs 3 devices, and there are 8; .* as in fsdp=8"),
        ({"data": 0}, "data=0 needs 0 devices"),
        ({"model": 8}, "has the axis model; expected some of data, fsdp, tensor"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(sizes)


def test_a_mesh_of_ones_own_axes_is_refused():
    mesh = jax.make_mesh((8,), ("x",))
    with pytest.raises(ValueError, match="x=8 has the axis x; expected some of"):
        jaxmodels.from_pretrained(FLAX / "gpt2", mesh=mesh)
