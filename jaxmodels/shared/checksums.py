"""What a checkpoint says of itself: its position, and each tensor's type, shape and checksum.

Neither orbax nor safetensors notices a flipped byte, and orbax casts a wrong dtype without a word.

>>> record = seal({"step": 3}, {"kernel": np.ones((2, 3))})  # JSON, saved beside the tensors
>>> check_tensors(record, {"kernel": np.ones((2, 3))}, where="last")
{'step': 3}
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from jaxmodels.shared.weights import check_match

Position = dict[str, Any]  # JSON: the step, the epoch, and the sums of a begun epoch
Record = dict[str, Any]


class Typed(Protocol):
    """An array, or a description of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...


def seal(position: Position, tensors: Mapping[str, np.ndarray]) -> Record:
    """The record of a position and its tensors, as JSON."""
    content = {
        "position": position,
        "tensors": {
            name: [str(value.dtype), list(value.shape), _checksum(value)]
            for name, value in tensors.items()
        },
    }
    return content | {"checksum": _checksum(_text(content))}


def check_record(
    record: Any, expected: Mapping[str, Typed], *, where: str, prefix: str = ""
) -> None:
    """Raises a ValueError unless the record is whole and describes the `expected` tensors.

    `prefix` is of the tensors' names that are compared; the others may be any.
    """
    try:
        content = {key: record[key] for key in ("position", "tensors")}
        whole = record["checksum"] == _checksum(_text(content))
    except (KeyError, TypeError) as error:
        raise damaged(where, f"its record has no {error}") from None
    if not whole:
        raise damaged(where, "its record differs from its checksum")
    found = {k: v for k, v in record["tensors"].items() if k.startswith(prefix)}
    try:
        check_match(
            {name: tuple(shape) for name, (_, shape, _) in found.items()},
            {name: tuple(value.shape) for name, value in expected.items()},
        )
    except ValueError as error:
        raise ValueError(f"checkpoint {where}: {error}") from None
    wrong = [
        f"! {name} is {kind}, expected {expected[name].dtype}"
        for name, (kind, _, _) in found.items()
        if kind != str(expected[name].dtype)
    ]
    if wrong:
        raise ValueError(
            f"checkpoint {where}: {len(wrong)} tensors are of another type (was it written by "
            "another version or precision?):\n  " + "\n  ".join(wrong)
        )


def check_tensors(record: Record, tensors: Mapping[str, np.ndarray], *, where: str) -> Position:
    """The record's position, once every tensor is found to be what was written.

    Raises:
        ValueError: tensors differ from their checksums; the first is named.
    """
    written, found = record["tensors"], seal({}, tensors)["tensors"]
    wrong = sorted(k for k in written.keys() | found.keys() if written.get(k) != found.get(k))
    if wrong:
        many = f"{len(wrong)} tensors differ from their checksums, the first is {wrong[0]}"
        raise damaged(where, many)
    return record["position"]


def _checksum(value: np.ndarray | bytes) -> int:
    return zlib.crc32(value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes())


def _text(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def damaged(where: object, why: str | Exception) -> ValueError:
    """The error of a checkpoint that cannot be read, for a reason in words or as it was raised."""
    if isinstance(why, Exception):
        why = str(why).partition("\n")[0] or type(why).__name__
    return ValueError(
        f"checkpoint {where} is damaged: {why}; restore it from a copy, or start again without "
        "--resume, in another --out"
    )
