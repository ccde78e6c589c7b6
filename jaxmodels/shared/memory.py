"""How much memory this process has taken."""

import sys


def peak_memory_bytes() -> int | None:
    """The largest resident size of the process so far: model, data, frameworks and all.

    None on Windows, which does not say.
    """
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in kibibytes
