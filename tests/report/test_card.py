"""What a model card says a network is worth."""

from __future__ import annotations

from typing import Any

from isnet_jax.report.card import model_card

DESCRIPTION: dict[str, Any] = {
    "architecture": "small",
    "class_names": ["a", "b"],
    "image_shape": [8, 8, 3],
    "options": {},
}
READING = {"grey": False, "fit": "crop"}
ESTIMATE = {"value": 0.75, "low": 0.61, "high": 0.84}
STATISTICS = {
    "accuracy": ESTIMATE,
    "macro_f1": ESTIMATE | {"low": None, "high": None},
    "auc": ESTIMATE,
    "auc_pairs": None,
    "calibration_error": 0.031,
}
SPACE = "\N{NO-BREAK SPACE}"


def card(judged: dict[str, Any]) -> str:
    metrics = {"isnet": judged, "images": {"train": 8, "test": 40}}
    return model_card("isnet", DESCRIPTION, {}, metrics, multi_label=False, reading=READING)


def test_accuracy_and_statistics_have_intervals():
    found = card({"test": 0.75, "worst_group": 0.5, "statistics": {"test": STATISTICS}})
    assert f"| test | 75.0{SPACE}% | 61.0{SPACE}% to 84.0{SPACE}% |" in found
    assert f"| macro-averaged F1 | 75.0{SPACE}% |" in found
    assert f"| calibration error | 3.1{SPACE}% |" in found


def test_metrics_of_an_earlier_version_have_none():
    found = card({"test": 0.75, "background_relevance": 0.1})
    assert f"| test | 75.0{SPACE}% | \N{EN DASH} |" in found
    assert "Wilson" not in found
