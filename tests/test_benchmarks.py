"""Every benchmark runs at a tiny size; those for PyTorch and accelerators where they can."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = ("--network", "small", "--size", "16", "--batch", "2")


@pytest.mark.parametrize(
    ("name", "arguments", "needs", "writes"),
    [
        (
            "cost",
            (*TINY, "--class-counts", "2", "--chunks", "1", "--sizes", "24", "--repeats", "1"),
            "matplotlib",
            ("cost.json", "cost.md", "cost.png"),
        ),
        ("step_cost", (*TINY, "--repeats", "1"), "jax", ("step_cost.jsonl",)),
        ("step_cost", (*TINY, "--repeats", "1", "--plain"), "jax", ("step_cost.jsonl",)),
        ("relevance_cost", (*TINY, "--repeats", "1"), "jax", ("relevance_cost.json",)),
        (
            "loader_throughput",
            (*TINY, "--images", "20", "--repeats", "2", "--steps", "1"),
            "jax",
            ("loader_throughput.json",),
        ),
        ("commands_throughput", ("--small",), "jax", ("commands_throughput.json",)),
        (
            "step_throughput",
            ("--quick", "--rows", "compact-32", "--modes", "selective"),
            "torch",
            ("step_throughput.json", "step_throughput.md"),
        ),
        (
            "heatmap_throughput",
            ("--quick", "--networks", "vgg16", "--composites", "Epsilon", "--batch", "1"),
            "zennit",
            ("heatmap_throughput.json", "heatmap_throughput.md"),
        ),
        (
            "accelerator_compile",
            ("--targets", "v5e-4", *TINY),
            "libtpu",
            ("accelerator_compile.json", "accelerator_compile.md"),
        ),
    ],
)
def test_it_runs(name: str, arguments: tuple, needs: str, writes: tuple, tmp_path: Path):
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"needs {needs}; make bench or .venv-accelerators/installed has it")
    single = writes[0] if len(writes) == 1 else "."
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *arguments, "--out", tmp_path / single],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= set(writes)


def test_a_row_and_a_part_of_the_accelerator_script(tmp_path: Path):
    arguments = (
        *("--small", "--rows", "compact", "--modes", "selective", "--precisions", "float32"),
        *("--parts", "leads", "--without", "torch", "--turns", "1"),
    )
    done = subprocess.run(
        [sys.executable, FOLDER / "accelerator.py", *arguments, "--out", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "accelerator.json").read_text())
    (row,) = found["rows"].values()
    assert row["sides"]["jax"]["seconds"] > 0
    assert row["sides"]["jax"]["ready"]["flops"] > 0
    assert set(found["parts"]["leads/gwrp"]) >= {"top_k", "chunks", "threshold"}
    assert "| compact | selective | float32 |" in (tmp_path / "accelerator.md").read_text()
