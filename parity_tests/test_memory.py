"""The peak of a process's memory is its own."""

import subprocess
import sys

import numpy as np

from jaxmodels.shared.memory import peak_memory_bytes
from parity_tests.tiny_runs import clean_environment

CHILD = """
import numpy as np
from jaxmodels.shared.memory import peak_memory_bytes
before = peak_memory_bytes()
np.ones(2**24)  # 128 MiB, gone at once
print(before, peak_memory_bytes() - before)
"""


def test_the_peak_is_kept_and_counts_nothing_of_who_started_the_process():
    held = np.ones(2**25)
    own = peak_memory_bytes()
    assert own is not None
    assert own > held.nbytes
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=True
    )
    before, grown = map(int, done.stdout.split())
    assert before < held.nbytes
    assert 2**26 < grown < 2**28
