"""What a checkpoint says of itself: its position, and each tensor's type, shape and checksum.

Neither orbax nor safetensors notices a flipped byte, and orbax casts a wrong dtype without a word.

>>> record = seal({"step": 3}, {"kernel": np.ones((2, 3))})  # JSON, saved beside the tensors
>>> check_tensors(record, {"kernel": np.ones((2, 3))}, where="last")
{'step': 3}
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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


def crc32s(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """A checksum of each tensor; an engine whose tensors are no numpy arrays has its own."""
    return {
        name: zlib.crc32(np.ascontiguousarray(value).tobytes()) for name, value in tensors.items()
    }


Checksums = Callable[[Mapping[str, Any]], Mapping[str, int]]


def seal(position: Position, tensors: Mapping[str, Typed], checksums: Checksums = crc32s) -> Record:
    """The record of a position and its tensors, as JSON."""
    found = checksums(tensors)
    content = {
        "position": position,
        "tensors": {
            name: [str(value.dtype), list(value.shape), found[name]]
            for name, value in tensors.items()
        },
    }
    return content | {"checksum": zlib.crc32(_text(content))}


def saved_steps(folder: Path) -> list[int]:
    """The steps of the whole checkpoints in a folder, ascending: of 20.safetensors, or of 20/."""
    names = (path.name.removesuffix(".safetensors") for path in folder.glob("*"))
    return sorted(int(name) for name in names if name.isdecimal())


def choose_step(folder: Path, steps: Sequence[int], wanted: int | None) -> tuple[int, int | None]:
    """Which of a folder's checkpoints to restore (None: the newest), and the one before it.

    Raises:
        ValueError: there is none, or not the one that is wanted.
    """
    if not steps:
        raise ValueError(
            f"{folder} holds no checkpoint to resume from; start again without --resume, in "
            "another --out"
        )
    step = max(steps) if wanted is None else wanted
    if step not in steps:
        held = ", ".join(map(str, sorted(steps)))
        raise ValueError(f"--resume-from {step}: {folder} holds the checkpoints of steps {held}")
    return step, max((other for other in steps if other < step), default=None)


def check_record(
    record: Any,
    expected: Mapping[str, Typed],
    *,
    where: str,
    prefix: str = "",
    before: int | None = None,
) -> None:
    """Raises a ValueError unless the record is whole and describes the `expected` tensors.

    `prefix` is of the tensors' names that are compared; the others may be any. `before` is the step
    of the checkpoint that is offered instead.
    """
    try:
        content = {key: record[key] for key in ("position", "tensors")}
        whole = record["checksum"] == zlib.crc32(_text(content))
    except (KeyError, TypeError) as error:
        raise damaged(where, f"its record has no {error}", before) from None
    if not whole:
        raise damaged(where, "its record differs from its checksum", before)
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


def check_tensors(
    record: Record,
    tensors: Mapping[str, Typed],
    checksums: Checksums = crc32s,
    *,
    where: str,
    before: int | None = None,
) -> Position:
    """The record's position, once every tensor is found to be what was written.

    Raises:
        ValueError: tensors differ from their checksums; the first is named.
    """
    written, found = record["tensors"], seal({}, tensors, checksums)["tensors"]
    wrong = sorted(k for k in written.keys() | found.keys() if written.get(k) != found.get(k))
    if wrong:
        many = f"{len(wrong)} of {len(written)} tensors differ from their checksums, the first is "
        raise damaged(where, many + wrong[0], before)
    return record["position"]


def _text(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def damaged(where: object, why: str | Exception, before: int | None = None) -> ValueError:
    """The error of a checkpoint that cannot be read, for a reason in words or as it was raised.

    It offers the one of the step `before`, where there is one.
    """
    if isinstance(why, Exception):
        first = str(why).strip().partition("\n")[0][:200]
        why = f"{type(why).__name__}: {first}" if first else type(why).__name__
    mend = "start again without --resume, in another --out"
    if before is not None:
        mend = f"continue from the one before it, of step {before}, by --resume-from {before}"
    return ValueError(f"checkpoint {where} is damaged: {why}; {mend}, or restore it from a copy")
