import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from encas.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("cannot")
    sys.exit()
np.ones(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_freed_memory_is_used_again() -> None:
    """Ten times 32 MiB are 81,920 pages of 4 kB, if the system has to give out and clear each anew."""
    found = {}
    for word in ("keep", "return"):
        done = subprocess.run([sys.executable, "-c", CODE, word], capture_output=True, text=True, check=True)
        if done.stdout.strip() == "cannot":
            return
        found[word] = int(done.stdout)
    assert found["keep"] < found["return"] / 4
