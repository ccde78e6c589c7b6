"""Where WikiText comes from: the Hub, its parquet files, the original's text files, any text.

`read_wikitext` turns any of them into the splits that it has. A source that cannot be had raises;
nothing else is read in its place.

>>> list(read_wikitext("wikitext-2").texts)  # a folder with valid.txt and test.txt
['validation', 'test']
"""

import re
from pathlib import Path
from typing import Any

from jaxmodels.shared.data.text_sources import (
    SPLITS,
    RawSplits,
    join_rows,
    read_file,
    read_hub,
    read_text,
    read_tfds,
    text_column,
)

HUB_NAME = "Salesforce/wikitext:wikitext-2-raw-v1"
# A file's split: train.txt, wiki.valid.tokens, wiki.test.raw, validation-00000-of-00001.parquet.
_FILE = re.compile(r"(?:wiki\.)?(train|validation|valid|test)\b.*\.(txt|tokens|raw|parquet)")
_LAYOUTS = (
    "train, valid and test as .txt, as wiki.*.tokens or wiki.*.raw, or the Hub's parquet files "
    "(train-00000-of-00001.parquet and so on), there or one folder down"
)


def read_wikitext(source: str) -> RawSplits:
    """Reads "sample", "hub", "hub:OWNER/NAME:SUBSET", "tfds:NAME", a folder or a UTF-8 file.

    What has no splits of its own is all in "train".

    Raises:
        ValueError: the source is unknown, unreachable, malformed or empty; one line, with the mend.
    """
    kind, _, name = source.partition(":")
    path = Path(source).expanduser()
    if kind == "hub":
        return read_hub(name or HUB_NAME)
    if source == "tfds":
        raise ValueError(
            "--source tfds: tensorflow-datasets has no WikiText; take hub, a folder, or tfds:NAME "
            "for another text"
        )
    if kind == "tfds":
        return read_tfds(name)
    if path.is_dir():
        return _read_folder(path)
    raw = read_text(source)
    return RawSplits(raw.source, {"train": raw.text})


def _read_folder(folder: Path) -> RawSplits:
    files = _split_files(folder)
    if not files:
        below = [(f, found) for f in sorted(folder.iterdir()) if (found := _split_files(f))]
        if len(below) != 1:
            names = ", ".join(str(f) for f, _ in below)
            mend = f"name one of {names}" if below else f"expected {_LAYOUTS}"
            raise ValueError(f"source {folder} has no files of splits; {mend}")
        folder, files = below[0]
    texts = {split: "".join(map(_read, files[split])) for split in SPLITS if split in files}
    for split, text in texts.items():
        if not text:
            named = ", ".join(map(str, files[split]))
            raise ValueError(f"{named}: empty; expected text; fetch it again")
    return RawSplits(f"{folder}: {', '.join(texts)}", texts)


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split, in the order of their names."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := _FILE.fullmatch(file.name):
            split = "validation" if match[1] == "valid" else match[1]
            found.setdefault(split, []).append(file)
    for files in found.values():
        if len({file.suffix for file in files}) > 1:
            raise ValueError(
                f"{', '.join(map(str, files))} are of one split; keep the one to be read"
            )
    return found


def _read(file: Path) -> str:
    if file.suffix != ".parquet":
        return read_file(str(file))
    import pyarrow.parquet

    try:
        table: Any = pyarrow.parquet.read_table(file)
    except Exception as error:  # arrow has many ways to say that a file is damaged
        reason = str(error).strip().partition("\n")[0][:200]
        raise ValueError(
            f"{file} is not a readable parquet file ({reason}); it may be truncated: fetch it again"
        ) from error
    return join_rows(str(file), table[text_column(str(file), table.column_names)].to_pylist())
