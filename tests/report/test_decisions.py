"""The report's confusion matrices and ROC curves."""

from __future__ import annotations

import numpy as np

from isnet_jax.report.decisions import Decisions, decisions_section

CURVE = (np.array([0, 0, 1.0]), np.array([0, 0.5, 1.0]), 0.75)


def test_a_matrix_and_curves_for_each_network():
    found = Decisions(
        ("cat", "<dog>"),
        {"plain": np.array([[3, 1], [0, 4]]), "isnet": np.eye(2, dtype=int)},
        {"plain": {1: CURVE}, "isnet": {1: CURVE}},
    )
    page = decisions_section(found)
    assert page.count('<table class="confusion') == 2
    assert '<td style="--part:45%">3</td>' in page
    assert "&lt;dog&gt;: area 0.750" in page
    assert "<dog>" not in page
    assert page.count("<polyline") == 2
    assert "75.0" in page


def test_of_many_classes_the_most_frequent_mistakes():
    names = [f"class{n}" for n in range(20)]
    matrix = np.eye(20, dtype=int) * 9
    matrix[3, 5], matrix[7, 2] = 4, 6
    page = decisions_section(Decisions(names, {"isnet": matrix}, {"isnet": {}}))
    assert page.index("class7") < page.index("class3")
    assert "class11" not in page


def test_nothing_to_show():
    assert decisions_section(Decisions(("a", "b"), None, {"isnet": {}})) == ""
