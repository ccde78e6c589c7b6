"""How much memory this process has taken."""

from pathlib import Path


def peak_memory_bytes() -> int | None:
    """The largest resident size of the process so far: model, data, frameworks, mapped files.

    None on Windows, which does not say.
    """
    status = Path("/proc/self/status")
    if status.exists():  # Linux; its getrusage counts what started the process too
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    try:
        import resource
    except ModuleNotFoundError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
