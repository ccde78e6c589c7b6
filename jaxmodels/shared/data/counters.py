"""Random numbers by counter, and a host's share of a batch: what every kind of batch needs.

A number is a function of (seed, counter, row) and of nothing drawn before, so that any host makes
its own rows and a run resumes at any step.
"""

import numpy as np

# SplitMix64: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"; the
# constants are those of Vigna's public-domain splitmix64.c.
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB

# Of a batch's n equal runs of rows, that of a host; or those that it has, where it has several.
Host = int | tuple[int, ...]


def draws(seed: int, counter: int, rows: np.ndarray, *, count: int) -> np.ndarray:
    """rows: (B,) -> (count, B) uint64, uniform, a pure function of (seed, counter, row)."""
    key = np.zeros(1, np.uint64)  # an array, since numpy warns when a scalar wraps around
    for value in (seed, counter):
        key = _mix(key + np.uint64(_GOLDEN) + np.array([value], np.uint64))
    state = _mix(key + np.uint64(_GOLDEN) + rows.astype(np.uint64))  # (B,), a stream a row
    positions = np.arange(1, count + 1, dtype=np.uint64)[:, None]
    return _mix(state + positions * np.uint64(_GOLDEN))


def _mix(state: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of uint64 that lets every bit reach every other."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_MIX_1)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_MIX_2)
    return state ^ (state >> np.uint64(31))


def below(limit: int, numbers: np.ndarray) -> np.ndarray:
    """numbers: uint64 -> int64 in [0, limit), by scaling the upper 32 bits (bias below 2^-28)."""
    return (((numbers >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32)).astype(np.int64)


def host_rows(batch_size: int, host: Host, num_hosts: int) -> np.ndarray:
    """-> (B / num_hosts,) int64, the rows of the global batch that are this host's; or hosts'."""
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    hosts = host if isinstance(host, tuple) else (host,)
    for one in hosts:
        if num_hosts < 1 or not 0 <= one < num_hosts:
            raise ValueError(f"host {one} must be at least 0 and below num_hosts {num_hosts}")
    if batch_size % num_hosts:
        near = max(num_hosts, batch_size // num_hosts * num_hosts)
        raise ValueError(
            f"batch_size {batch_size} must divide by num_hosts {num_hosts}; try {near}"
        )
    return np.arange(batch_size).reshape(num_hosts, -1)[list(hosts)].reshape(-1)
