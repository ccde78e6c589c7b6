"""Checksums of arrays where they lie: on one device, on a mesh, over several processes.

A sum of integers is the same in any order, so a leaf's checksum depends neither on how it is cut
nor on which process holds what, and no part of it leaves its device.

>>> checksums({"kernel": jnp.ones((2, 3))})
{'kernel': 1262886054}
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksums(leaves: Mapping[str, Any]) -> dict[str, int]:
    """32 bits of each leaf; a change within one word of 32 bits always shows."""
    sums = {name: _checksum(leaf) for name, leaf in leaves.items()}
    return {name: int(value) for name, value in jax.device_get(sums).items()}


@jax.jit  # of one leaf: leaves of the same shape are compiled once
def _checksum(leaf: jax.Array) -> jax.Array:
    words = _words(leaf)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        count = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = place + count * np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
    return jnp.sum(_mixed(words + place * np.uint32(0x9E3779B9)), dtype=jnp.uint32)


def _words(leaf: jax.Array) -> jax.Array:
    """The leaf's bits as uint32; what is wider has one axis more."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    bits = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
    """Each word for another, one to one; every bit depends on all of its own (MurmurHash3)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
