"""Freed memory that stays with the process: no page is faulted in twice, steps included."""

from __future__ import annotations

import contextlib
import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from isnet_jax import UserError, memory

SIDE, STEPS = 3000, 20
PROGRAM = """
import resource
import jax, jax.numpy as jnp
from isnet_jax.memory import keep_freed_memory
{call}
step = jax.jit(lambda x: (jnp.outer(x, x) @ x) / len(x))
def run(count):
    x = jnp.ones({side})
    for _ in range(count):
        x = step(x).block_until_ready()  # So many arrays are alive at once on any machine.
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(-run(3) + run({steps}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(("call", "keeps"), [("keep_freed_memory()", True), ("", False)])
def test_memory_is_used_again(call: str, keeps: bool):
    """Now and then one more product than before is alive, so that it is new."""
    program = PROGRAM.format(call=call, side=SIDE, steps=STEPS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    faults = STEPS * SIDE * SIDE * 4 / resource.getpagesize()
    assert (int(done.stdout) < faults / 4) == keeps, done


def test_a_limit_that_nothing_starts_in_is_said():
    command = "from isnet_jax.commands.main import main; main(['inspect', '--model', 'small'])"
    program = f"ulimit -v 1000000; exec {sys.executable} -c {shlex.quote(command)}"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "may use 0.95 GiB of addresses (ulimit -v)" in done.stderr


@pytest.mark.parametrize(("more", "told"), [(0.5, True), (1.5, False)])
def test_readers_of_records_have_room(more: float, told: bool, monkeypatch: pytest.MonkeyPatch):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(more * 2**30)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (limit, limit))
    expected = pytest.raises(UserError, match=r"needs 1 GiB more\. Raise the limit")
    with expected if told else contextlib.nullcontext():
        memory.require_free_addresses()
