"""Weights in each format a Hugging Face folder may have are torch's tensors, or are refused."""

import json
import os
import zipfile

import flax.serialization
import flax.traverse_util
import msgpack
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from jaxmodels.shared.hub.stored_tensors import DTYPES
from jaxmodels.shared.hub.tensor_files import SOURCES, open_tensors, read_all
from parity_tests.fresh_processes import BLOCK, run

# One tensor of each dtype and of each rule by which Flax's names and axes differ from torch's.
TENSORS = {
    "encoder.embeddings.weight": torch.randn(5, 4),
    "encoder.layer.0.dense.weight": torch.randn(3, 4).half(),
    "encoder.layer.0.dense.bias": torch.randn(3).bfloat16(),
    "encoder.norm.weight": torch.randn(4),
    "encoder.norm.bias": torch.randn(4),
    "conv.weight": torch.randn(2, 3, 4, 5).bfloat16(),
    "bn.running_mean": torch.randn(2),
    "bn.running_var": torch.rand(2),
    "cls_token": torch.randn(1, 1, 4),
    "position_ids": torch.arange(4)[None],
    "logit_scale": torch.tensor(2.5),
}
FLAX_LEAVES = {
    "encoder.embeddings.weight": "encoder.embeddings.embedding",
    "encoder.layer.0.dense.weight": "encoder.layer.0.dense.kernel",
    "encoder.norm.weight": "encoder.norm.scale",
    "conv.weight": "conv.kernel",
    "bn.running_mean": "bn.mean",
    "bn.running_var": "bn.var",
}


def dtype_of(tensor):
    return DTYPES[str(tensor.dtype).removeprefix("torch.")]


def flax_arrays(tensors):
    arrays = {}
    for name, tensor in tensors.items():
        if "dense.weight" in name:
            tensor = tensor.T
        if "conv.weight" in name:
            tensor = tensor.permute(2, 3, 1, 0)
        array = np.array(tensor.double().numpy().astype(dtype_of(tensor)), order="C")
        arrays[FLAX_LEAVES.get(name, name)] = array
    return arrays


# ---- One file of each format


def save_safetensors(path, tensors=TENSORS, metadata: str | None = "pt"):
    safetensors.torch.save_file(tensors, path, {"format": metadata} if metadata else None)


def save_flax_safetensors(path, tensors=TENSORS, metadata: str | None = "flax"):
    header = {"format": metadata} if metadata else None
    safetensors.numpy.save_file(flax_arrays(tensors), path, header)


def save_unmarked_safetensors(path, tensors=TENSORS):
    save_safetensors(path, tensors | {"scale": torch.ones(1)}, metadata=None)


def save_unmarked_flax_safetensors(path, tensors=TENSORS):
    save_flax_safetensors(path, tensors, metadata=None)


def save_bin(path, tensors=TENSORS, **options):
    state = torch.nn.Module().state_dict()  # an OrderedDict that is pickled with an attribute
    state.update(tensors)
    torch.save(state, path, **options)


def save_legacy_bin(path, tensors=TENSORS):
    save_bin(path, tensors, _use_new_zipfile_serialization=False)


def save_old_names(path, tensors=TENSORS):
    old = {"encoder.norm.weight": "encoder.norm.gamma", "encoder.norm.bias": "encoder.norm.beta"}
    save_bin(path, {old.get(name, name): tensor for name, tensor in tensors.items()})


def save_msgpack(path, tensors=TENSORS):
    tree = flax.traverse_util.unflatten_dict(flax_arrays(tensors), sep=".")
    path.write_bytes(flax.serialization.to_bytes(tree))


def save_collections(path, tensors=TENSORS):
    arrays = flax_arrays(tensors)
    statistics = {name: arrays.pop(name) for name in ("bn.mean", "bn.var")}
    tree = {"params": arrays, "batch_stats": statistics}
    tree = {key: flax.traverse_util.unflatten_dict(value, sep=".") for key, value in tree.items()}
    path.write_bytes(flax.serialization.to_bytes(tree))


def save_chunked(path, tensors=TENSORS):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 12)  # 1 GiB otherwise
        save_msgpack(path, tensors)
    assert path.read_bytes().count(b"__msgpack_chunked_array__") > 3


def save_sharded(path, save, separator="."):
    """Two shards and an index, named as transformers names them."""
    names = list(TENSORS)
    shard_of = {}
    for number, part in enumerate((names[:4], names[4:]), start=1):
        shard = path.with_name(f"{path.stem}-{number:05}-of-00002{path.suffix}")
        save(shard, {name: TENSORS[name] for name in part})
        stored = [FLAX_LEAVES.get(name, name) for name in part] if separator == "/" else part
        shard_of |= {name.replace(".", separator): shard.name for name in stored}
    index = {"metadata": {"total_size": 1}, "weight_map": shard_of}
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))


def sharded(save, separator="."):
    return lambda path: save_sharded(path, save, separator)


ONE_FILE = {
    "safetensors": ("model.safetensors", save_safetensors),
    "unmarked-safetensors": ("model.safetensors", save_unmarked_safetensors),
    "flax-safetensors": ("flax_model.safetensors", save_flax_safetensors),
    "flax-in-model.safetensors": ("model.safetensors", save_flax_safetensors),
    "unmarked-flax-safetensors": ("model.safetensors", save_unmarked_flax_safetensors),
    "bin": ("pytorch_model.bin", save_bin),
    "legacy-bin": ("pytorch_model.bin", save_legacy_bin),
    "old-names": ("pytorch_model.bin", save_old_names),
    "msgpack": ("flax_model.msgpack", save_msgpack),
    "msgpack-collections": ("flax_model.msgpack", save_collections),
    "msgpack-chunked": ("flax_model.msgpack", save_chunked),
}
SHARDED = {
    "sharded-safetensors": ("model.safetensors", sharded(save_safetensors)),
    "sharded-bin": ("pytorch_model.bin", sharded(save_bin)),
    "sharded-msgpack": ("flax_model.msgpack", sharded(save_msgpack, "/")),
}
FORMATS = ONE_FILE | SHARDED


def write(folder, form):
    name, save = FORMATS[form]
    save(folder / name)
    return folder


def assert_equal(array, tensor):
    assert array.shape == tuple(tensor.shape)
    assert type(array) is np.ndarray
    np.testing.assert_array_equal(array.astype(np.float64), tensor.detach().double().numpy())


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_torchs_tensors(tmp_path, form):
    stored = open_tensors(write(tmp_path, form))
    assert stored.keys() - {"scale"} == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert stored[name].dtype == stored[name].read().dtype == dtype_of(tensor)
        assert stored[name].shape == tuple(tensor.shape)
        assert_equal(stored[name].read(), tensor)
        index = (slice(0, 1), slice(1, 3))[: tensor.ndim]
        assert_equal(stored[name].read(index), tensor[index])


@pytest.mark.parametrize("save", [save_bin, save_legacy_bin])
def test_views_of_one_storage_are_told_apart(tmp_path, save):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "base": base,
        "transposed": base.T,
        "strided": base[1::2, 1:5:3],
        "row": base[2],
        "expanded": base[3:].expand(3, 6),
        "parameter": torch.nn.Parameter(base[:, 1]),
        "scalar": base[3, 5],
        "empty": torch.zeros(0, 3),
    }
    save(tmp_path / "pytorch_model.bin", tensors)
    stored = open_tensors(tmp_path)
    for name, tensor in tensors.items():
        assert_equal(stored[name].read(), tensor)
    assert_equal(stored["transposed"].read((slice(1, 3), slice(2))), base.T[1:3, :2])


def test_a_slice_of_a_tensor_larger_than_memory_is_read(tmp_path):
    size = 2**40
    entry = {"dtype": "F32", "shape": [size // 16, 4], "data_offsets": [0, size]}
    header = json.dumps({"weight": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)  # a hole: it takes no space
    rows = open_tensors(tmp_path)["weight"].read((slice(2**35, 2**35 + 2),))
    np.testing.assert_array_equal(rows, np.zeros((2, 4), np.float32))


def test_the_first_of_the_sources_is_read(tmp_path):
    """safetensors before Flax's, Flax's safetensors before .bin, .bin before msgpack."""
    forms = ["safetensors", "flax-safetensors", "bin", "msgpack"]
    for form in forms:
        write(tmp_path, form)
    for source in SOURCES:
        assert {tensor.path.name for tensor in open_tensors(tmp_path).values()} == {source}
        (tmp_path / source).unlink()


@pytest.mark.parametrize("form", ["flax-safetensors", "bin", "msgpack"])
def test_no_format_needs_its_framework(tmp_path, form):
    code = (
        "import pathlib, sys\n"
        "from jaxmodels.shared.hub.tensor_files import open_tensors, read_all\n"
        "print(len(read_all(open_tensors(pathlib.Path(sys.argv[1])))))"
    )
    block = BLOCK.format(blocked=("torch", "jax", "jaxlib", "flax", "msgpack"))
    assert run(block + code, write(tmp_path, form)).split() == [str(len(TENSORS))]


# ---- read_all


def test_read_all_gives_float32_and_keeps_integers(tmp_path):
    tensors = TENSORS | {"double": torch.randn(3).double(), "mask": torch.tensor([True, False])}
    save_bin(tmp_path / "pytorch_model.bin", tensors)
    arrays = read_all(open_tensors(tmp_path))
    kept = {name: array.dtype.name for name, array in arrays.items() if array.dtype != np.float32}
    assert kept == {"position_ids": "int64", "mask": "bool"}
    np.testing.assert_array_equal(arrays["double"], tensors["double"].float().numpy())
    assert_equal(arrays["conv.weight"], TENSORS["conv.weight"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_values_that_float32_lacks_are_refused(tmp_path, value, dtype):
    tensors = TENSORS | {"bad": torch.tensor([0, value, 1], dtype=dtype)}
    save_safetensors(tmp_path / "model.safetensors", tensors)
    message = r"model\.safetensors: 1 of 3 values of 'bad' are NaN or infinite"
    with pytest.raises(ValueError, match=message):
        read_all(open_tensors(tmp_path))


# ---- Pickles that hold code


class Payload:
    """Unpickled in the ordinary way, creates a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, new):
    attack, path = tmp_path / "attack", tmp_path / "pytorch_model.bin"
    content = TENSORS | {"evil": Payload(attack)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match=r"model\.bin: it asks for (posix|nt)\.mkdir, .* code"):
        open_tensors(tmp_path)
    assert not attack.exists()
    torch.load(path, weights_only=False)
    assert attack.exists(), "the payload is a dud, so the test above proves nothing"


def rewrite_zip(path, compression=zipfile.ZIP_STORED, **changed):
    """Writes a zip anew, some entries (by the last part of their names) changed by a function."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            change = changed.get(name.rpartition("/")[2].partition(".")[0], lambda data: data)
            archive.writestr(name, change(content))


STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x01tQ"


def opcodes(text):
    """A pickle of protocol 2 with the given body in place of data.pkl."""
    return lambda _: b"\x80\x02" + text + b"."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"cbuiltins\neval\n", "asks for builtins.eval, so the file holds code"),
        (b"ctorch\nComplexFloatStorage\n", "asks for torch.ComplexFloatStorage"),
        # BUILD sets attributes of what a pickle made; a storage that had any could be made to lie.
        (STORAGE + b"}U\x05dtypeU\x05int64sb", "is not a whole PyTorch file .*no attribute"),
        (STORAGE, "holds a _Storage, expected a dict"),
        (b"]", "holds a list, expected a dict"),
        (b"}U\x01aK\x01s", "'a' is a int, expected a tensor"),
    ],
)
def test_other_pickles_are_refused(tmp_path, body, message):
    path = tmp_path / "pytorch_model.bin"
    save_bin(path)
    rewrite_zip(path, data=opcodes(body))
    with pytest.raises(ValueError, match=message):
        open_tensors(tmp_path)


# ---- Damage


@pytest.mark.parametrize("form", ONE_FILE)
def test_truncated_file_is_refused_wherever_it_ends(tmp_path, form):
    write(tmp_path, form)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for size in (*range(0, len(content), 41), len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is not a whole") as caught:
            open_tensors(tmp_path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_file_shortened_after_it_was_opened_is_refused(tmp_path):
    stored = open_tensors(write(tmp_path, "safetensors"))
    os.truncate(tmp_path / "model.safetensors", 9)
    with pytest.raises(ValueError, match=r"model\.safetensors changed after it was opened"):
        read_all(stored)


def file(name, content):
    content = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(content)


def safetensors_of(metadata, *names, shape=(2, 2), dtype=torch.float32):
    tensors = {name: torch.zeros(shape, dtype=dtype) for name in names}
    return lambda folder: save_safetensors(folder / "model.safetensors", tensors, metadata)


def zip_of(**options):
    def damage(folder):
        save_bin(folder / "pytorch_model.bin")
        rewrite_zip(folder / "pytorch_model.bin", **options)

    return damage


def msgpack_of(value):
    return file("flax_model.msgpack", msgpack.packb(value))


def shards(change, form="sharded-safetensors"):
    """Sharded files, their index's weight_map changed by `change(weight_map, folder)`."""

    def damage(folder):
        (path,) = write(folder, form).glob("*.index.json")
        index = json.loads(path.read_text())
        change(index["weight_map"], folder)
        path.write_text(json.dumps(index))

    return damage


FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
INDEX = "model.safetensors.index.json"
ARRAY = msgpack.ExtType(1, msgpack.packb(((3,), "float32", b"1234")))
WHOLE_ARRAY = msgpack.ExtType(1, msgpack.packb(((1,), "float32", b"1234")))
DAMAGES = {
    "empty folder": (lambda folder: None, r"expected model\.safetensors, .*, found nothing"),
    "tensorflow": (
        file("tf_model.h5", b"x"),
        r"found 'tf_model\.h5'; TensorFlow's files are not read",
    ),
    "git-lfs": (
        file("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid"),
        r"model\.safetensors is a Git LFS pointer.*git lfs pull",
    ),
    "index not JSON": (file(INDEX, "{"), r"index\.json is not a whole JSON file"),
    "index not text": (file(INDEX, b"\xff"), r"index\.json is not a whole JSON file"),
    "index empty": (file(INDEX, "[]"), r"index\.json has no weight_map"),
    "index of numbers": (file(INDEX, '{"weight_map": {"a": 1}}'), "must give a file name"),
    "index twice": (
        file(INDEX, '{"weight_map": {"a": "b", "a": "c"}}'),
        "the name 'a' occurs twice",
    ),
    "shard missing": (
        shards(lambda names, folder: (folder / SECOND).unlink()),
        rf"{INDEX} names '{SECOND}', which is not beside it; fetch the shard",
    ),
    "shard elsewhere": (
        shards(lambda names, folder: names.update(cls_token=f"../{folder.name}/{SECOND}")),
        rf"names '../.*{SECOND}', which is not beside it",
    ),
    "tensor missing": (
        shards(lambda names, folder: names.update(lost=SECOND)),
        rf"{SECOND} lacks tensors that {INDEX} places in it: 'lost';",
    ),
    "tensor extra": (
        shards(lambda names, folder: names.pop("cls_token")),
        rf"{SECOND} holds tensors that {INDEX} does not place in it: 'cls_token';",
    ),
    "tensor in another": (
        shards(lambda names, folder: names.update(cls_token=FIRST)),
        rf"{FIRST} lacks tensors .*: 'cls_token';",
    ),
    "tensor extra in msgpack": (
        shards(lambda names, folder: names.pop("bn/mean"), "sharded-msgpack"),
        r"does not place in it: 'bn/mean';",
    ),
    "formats mixed": (
        shards(lambda names, folder: save_safetensors(folder / FIRST, FIRST_HALF, None)),
        r"the shards have the formats 'None', 'pt'",
    ),
    "no tensors": (safetensors_of("pt"), "holds no tensors"),
    "duplicate": (
        safetensors_of("pt", "norm.gamma", "norm.weight"),
        r"'norm.gamma' and 'norm.weight' are both 'norm.weight'|'norm.weight' and 'norm.gamma'",
    ),
    "duplicate in flax": (
        safetensors_of("flax", "a.embedding", "params.a.embedding"),
        r"are both 'a.weight'",
    ),
    "rank": (
        safetensors_of("flax", "a.kernel", shape=(2, 2, 2)),
        r"'a.kernel' has shape \(2, 2, 2\)",
    ),
    "layout": (safetensors_of("tf", "a"), "has the format 'tf', expected 'pt' or 'flax'"),
    "float8": (
        safetensors_of("pt", "a", dtype=torch.float8_e5m2),
        r"safetensors: dtype F8_E5M2 is not read",
    ),
    "compressed": (zip_of(compression=zipfile.ZIP_DEFLATED), "zip entries are compressed"),
    "big-endian": (zip_of(byteorder=lambda data: b"big"), "its numbers are big-endian"),
    "storage short": (
        zip_of(**{"0": lambda data: data[:-4]}),
        r"'encoder.embeddings.weight': its storage should have 80 bytes and has 76",
    ),
    "msgpack bytes": (msgpack_of({"a": ARRAY}), r"float32 \(3,\) takes 12 bytes, found 4"),
    "msgpack extension": (
        msgpack_of({"a": msgpack.ExtType(1, ARRAY.data[:-5] + b"\x0c" + bytes(13))}),
        "an array ends at byte .* instead of",
    ),
    "msgpack names": (
        msgpack_of({"a/b": WHOLE_ARRAY, "a": {"b": WHOLE_ARRAY}}),
        "two arrays are called 'a/b'",
    ),
    "msgpack number": (msgpack_of({"a": {"b": 3}}), r"msgpack: 'a/b' is the number 3"),
    "msgpack text": (msgpack_of({"a": "b"}), r"found a value of type str"),
    "msgpack complex": (
        msgpack_of({"a": msgpack.ExtType(2, msgpack.packb((1.0, 2.0)))}),
        "extension 2 .* is not an array",
    ),
    "msgpack dtype": (
        msgpack_of({"a": msgpack.ExtType(1, msgpack.packb(((1,), "object", b"12345678")))}),
        "msgpack: dtype object is not read",
    ),
    "msgpack twice": (
        file("flax_model.msgpack", b"\x82\xa1a\x80\xa1a\x80"),
        "the name 'a' occurs twice",
    ),
    "msgpack deep": (file("flax_model.msgpack", b"\x81\xa1a" * 9999), "is not a whole Flax"),
    "msgpack longer": (file("flax_model.msgpack", b"\x80\x80"), "1 bytes are left over"),
    "msgpack pieces": (
        msgpack_of({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 1}, "chunks": {}}}),
        "'a' is cut into pieces that do not fit",
    ),
}
FIRST_HALF = {name: TENSORS[name] for name in list(TENSORS)[:4]}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused(tmp_path, name):
    damage, message = DAMAGES[name]
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        open_tensors(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        open_tensors(tmp_path / "nowhere")
