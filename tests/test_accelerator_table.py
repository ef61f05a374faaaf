"""The tables of benchmarks/accelerator.py, of made-up results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import accelerator_table


def side(seconds: float, **more: Any) -> dict[str, Any]:
    ready = {"import": 1.0, "build": 1.0, "trace": 5.0, "compile": 20.0, "flops": 1e12, "images": 4}
    return {
        "seconds": seconds,
        "turns": [seconds, 1.1 * seconds],
        "first_step": 1.0,
        "peak_gb": 2.0,
        "loss": 3.0,
        "ready": ready,
        **more,
    }


FOUND = {
    "machine": {"device": "a card", "python": "3.12", "versions": {"jax": "1"}, "date": "today"},
    "rows": {
        "step/densenet121/plain/float32": {
            "sides": {"jax": side(0.1), "torch": side(0.12), "torch-compile": side(0.09)}
        },
        "step/densenet121/selective/float32": {
            "sides": {
                "jax": side(0.2),
                "torch": side(0.35),
                "authors": {"error": "CUDA out of memory"},
            }
        },
        "step/densenet121/nhwc/float32": {"sides": {"jax": side(0.18)}},
        "heatmap/vgg16/Epsilon/float32": {"sides": {"jax": side(0.1), "zennit": side(0.5)}},
    },
    "parts": {
        "ceilings/card": {
            "float32_tflops": 400.0,
            "bfloat16_tflops": 700.0,
            "copy_gb_per_second": 3000.0,
        },
        "checks/golden": {"small": {"values": 1e-6}, "took_seconds": 3.0},
        "profiles/resnet50-float32": {"program": {"sort": 1}, "error": "cut"},
    },
}


def test_steps_take_the_better_of_eager_and_compiled():
    text = accelerator_table.markdown(FOUND)
    (plain,) = [line for line in text.splitlines() if line.startswith("| densenet121 | plain")]
    assert "90.0" in plain
    assert "(compiled)" in plain
    assert "| 0.90 |" in plain
    assert "10.0 (2 %)" in plain  # 1 TFLOP in 0.1 s of 400


def test_aims_name_what_missed_them():
    text = accelerator_table.markdown(FOUND)
    assert "| plain steps as fast as PyTorch's | 0 of 1 | densenet121 plain float32 |" in text
    assert "| ISNet steps 1.5 times as fast as PyTorch's | 1 of 1 | - |" in text
    assert "| ISNet steps twice as fast | 0 of 1 | densenet121 selective float32 |" in text
    assert "| selective at most 2.1 plain steps | 1 of 1 | - |" in text
    assert "| heatmaps 3 times as fast | 1 of 1 | - |" in text
    assert "| first DenseNet121 step within 60 s | 1 of 1 | - |" in text


def test_everything_else_is_there():
    text = accelerator_table.markdown(FOUND)
    assert "| densenet121 | nhwc | float32 | 180.0" in text
    assert "- golden: small (values 1e-06)" in text
    assert "## Profile of resnet50-float32" in text


def test_nothing_measured_yet():
    assert accelerator_table.markdown({"rows": {}, "parts": {}})
