"""Freed memory that stays with the process: no page is faulted in twice."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from isnet_jax.memory import keep_freed_memory
{call}
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(10**7)
before = faults()
for _ in range(5):
    np.ones(10**7)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(("call", "keeps"), [("keep_freed_memory()", True), ("", False)])
def test_memory_is_used_again(call: str, keeps: bool):
    program = PROGRAM.format(call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (int(done.stdout) < 1000) == keeps, done


@pytest.mark.parametrize("command", ["train", "calibrate"])
def test_the_command_line_asks_for_it_before_jax_is_there(command: str):
    program = (
        "import sys; from isnet_jax import cli;"
        "cli.keep_freed_memory = lambda: print('jax' in sys.modules);"
        f"cli.main(['{command}', 'biased-digits', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("False\n"), done
