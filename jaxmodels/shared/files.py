"""Files written whole or not at all, and JSON read with errors that name the file."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError


class replaced:  # noqa: N801 (reads as a verb: `with replaced(path) as temporary`)
    """Gives a temporary path beside `path`; moves it into place on success, removes it if not."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.tmp")

    def __enter__(self) -> Path:
        try:
            self.temporary.unlink(missing_ok=True)  # of a process that was killed
            self.temporary.touch()
            self.mode = self.temporary.stat().st_mode
        except OSError as error:
            raise could_not_write(self.path, error) from error
        return self.temporary

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        try:
            if error is None:
                os.chmod(self.temporary, self.mode)  # safetensors makes its files private
                with open(self.temporary, "rb") as file:
                    os.fsync(file.fileno())  # a crash after the rename must not leave an empty file
                os.replace(self.temporary, self.path)
                return
        except OSError as failure:
            error = failure
        self.temporary.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):
            raise could_not_write(self.path, error) from error


def could_not_write(path: Path, error: Exception) -> OSError:
    """A failed write in one line: Python names no file when a disk is full."""
    reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0][:200]
    return OSError(
        f"{path} could not be written ({reason}); what was there is kept; free space or mend the "
        "permissions, and continue a training with --resume"
    )


def write_json(path: Path, content: object) -> None:
    """Writes strict JSON (no NaN), replacing the file whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> object:
    """Reads JSON; a missing or malformed file is a ValueError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is missing; expected a folder that a finished run wrote"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def place_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Puts the text in the place of what is between the two marks of a page.

    Raises:
        ValueError: the page has no such marks, one after the other.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(
            f"{page} has no place for the table; write {marks[0]} and {marks[1]} into it"
        )
    with replaced(page) as temporary:
        temporary.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")
