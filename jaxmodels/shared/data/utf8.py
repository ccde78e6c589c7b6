"""Bytes to text, for every source of text."""


def decode_utf8(encoded: bytes, where: str) -> str:
    """The text of `encoded`, which errors call `where`.

    Raises:
        ValueError: the first byte that is not UTF-8, with its place.
    """
    try:
        return encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        line = encoded.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{where}: byte 0x{encoded[error.start]:02x} at offset {error.start} (line {line}) is "
            f"not UTF-8; save the text as UTF-8 (iconv -f LATIN1 -t UTF-8, if it is Latin-1)"
        ) from error
