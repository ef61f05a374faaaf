import base64
import io
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from isnet_jax.errors import UserError
from isnet_jax.report import page as report

pytestmark = pytest.mark.filterwarnings("error")

SETS = ("biased", "unbiased", "confounding")
NETWORKS = ("plain", "isnet")
EVIL = "<script>alert('x')</script>&\"$title"


def _samples(side=8, count=3, names=("zero", "one")):
    rng = np.random.default_rng(0)
    masks = np.zeros((count, side, side, 1), np.float32)
    masks[:, 2:5, 2:6] = 1

    def by_network(make):
        return {network: {name: make() for name in SETS} for network in NETWORKS}

    return report.Samples(
        images={name: rng.uniform(size=(count, side, side, 3)) for name in SETS},
        masks=masks,
        labels=np.arange(count) % 2,
        class_names=list(names),
        heatmaps=by_network(lambda: rng.normal(size=(count, side, side, 3))),
        predictions=by_network(lambda: np.zeros(count, np.int32)),
        confidences=by_network(lambda: np.full(count, 0.987)),
    )


def _metrics(**more):
    return {
        "plain": {
            "biased": 1.0,
            "unbiased": 0.682,
            "confounding": 0.091,
            "background_relevance": 0.743,
        },
        "isnet": {
            "biased": 0.942,
            "unbiased": 0.931,
            "confounding": 0.918,
            "background_relevance": 0.019,
        },
    } | more


def _history(epochs=3):
    plain = [
        {"epoch": e, "train_loss": 1 / e, "validation_accuracy": 0.9, "heatmap": math.nan}
        for e in range(1, epochs + 1)
    ]
    return {"plain": plain, "isnet": [record | {"heatmap": 2.0} for record in plain]}


def _write(tmp_path, metrics=None, history=None, samples=None, settings=None, **more):
    path = tmp_path / "report.html"
    report.write_report(
        path,
        _metrics() if metrics is None else metrics,
        _history() if history is None else history,
        samples or _samples(),
        {"a": {"b": 1}} if settings is None else settings,
        **more,
    )
    return path.read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Collects tags and checks that they close in order."""

    VOID = frozenset({"meta", "img", "br", "line", "circle", "path"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_the_page_is_well_formed_and_fetches_nothing(tmp_path):
    html = _write(tmp_path)
    page = _Page(html)
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"https?://|@import|url\(", html)
    for _, attributes in page.tags:
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert "href" not in attributes
    assert os.listdir(tmp_path) == ["report.html"]


def test_every_picture_decodes_and_has_a_text(tmp_path):
    page = _Page(_write(tmp_path))
    pictures = page.all("img")
    assert len(pictures) == 3 * 3 + 3 * 3 * 3
    for picture in pictures:
        data = base64.b64decode(picture["src"].split(",", 1)[1])
        assert Image.open(io.BytesIO(data)).size == (8, 8)
        assert len(picture["alt"]) > 10
    assert all("aria-label" in svg or "aria-hidden" in svg for svg in page.all("svg"))


def test_headline_shows_percent_drop_and_best(tmp_path):
    html = _write(tmp_path).replace("\N{NO-BREAK SPACE}", " ")
    assert "9.1 %" in html
    assert "\N{MINUS SIGN}90.9 pp" in html
    best = re.findall(r'<td class="(\w+) best"><span class="value">([\d.]+) %', html)
    assert best == [("plain", "100.0"), ("isnet", "93.1"), ("isnet", "91.8"), ("isnet", "1.9")]


def test_equal_numbers_have_no_best_and_missing_ones_are_dashes(tmp_path):
    same = {"biased": 0.5, "confounding": math.nan}
    html = _write(tmp_path, {"plain": same, "isnet": dict(same)})
    assert 'class="tag"' not in html
    assert html.count('<span class="value">\N{EN DASH}</span>') == 6
    assert not re.search(r"\bnan\b", html)


def test_a_single_network_is_enough_but_none_is_an_error(tmp_path):
    html = _write(tmp_path, {"isnet": _metrics()["isnet"]}, {"isnet": []})
    assert ">ISNet</th>" in html
    with pytest.raises(UserError, match=r"plain or isnet.*other"):
        _write(tmp_path, {"other": {}})


def test_everything_from_outside_is_escaped(tmp_path):
    samples = _samples(names=(EVIL, EVIL))
    for network in NETWORKS:
        for arrays in (samples.heatmaps, samples.predictions, samples.confidences):
            arrays[network][EVIL] = arrays[network]["biased"]
    samples.images[EVIL] = samples.images["biased"]
    for arrays in (samples.heatmaps, samples.predictions, samples.confidences):
        arrays[EVIL] = arrays["plain"]
    facts = {"command": EVIL, "machine": EVIL, "version": EVIL, EVIL: {EVIL: [EVIL]}}
    html = _write(
        tmp_path,
        _metrics(**facts),
        _history() | {EVIL: _history()["plain"]},
        samples,
        {EVIL: {EVIL: EVIL}},
        title=EVIL,
    )
    assert "<script" not in html.lower()
    assert "&lt;script&gt;" in html
    page = _Page(html)
    allowed = {"src", "alt", "class", "style", "width", "height"}
    assert {key for picture in page.all("img") for key in picture} <= allowed


def test_curves_bear_gaps_missing_keys_and_one_epoch(tmp_path):
    gap = [{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": None}, {"train_loss": 1.0}]
    html = _write(tmp_path, history={"plain": gap, "isnet": [{"heatmap": 1.5}]})
    assert "Heatmap loss in training" in html
    assert "Validation accuracy" not in html
    path = next(d for d in re.findall(r'series-line" d="([^"]+)"', html) if d.count("M") == 2)
    assert "L" not in path


def test_loss_over_decades_gets_a_log_axis(tmp_path):
    records = [{"train_loss": 10.0**-e} for e in range(4)]
    assert "Total loss, log scale" in _write(tmp_path, history={"plain": records})
    zero = [{"train_loss": 1.0}, {"train_loss": 0.0}]
    assert "log scale" not in _write(tmp_path, history={"plain": zero})


@pytest.mark.parametrize("history", [{}, {"plain": []}, {"plain": [{"epoch": 1}]}])
def test_without_history_there_are_no_curves(tmp_path, history):
    assert 'id="curves"' not in _write(tmp_path, history=history)


def test_plain_loss_serves_as_its_classification_loss(tmp_path):
    html = _write(tmp_path, history={"plain": [{"train_loss": 0.5, "heatmap": math.nan}]})
    assert "Classification loss in training" in html
    assert "Heatmap loss" not in html


def test_facts_settings_and_command(tmp_path):
    metrics = _metrics(seconds=4000, machine={"cores": 2}, command=["isnet-jax", "a b"])
    settings = {"data": {"augment": True, "range": (1.0, 25.0)}, "none": None}
    html = _write(tmp_path, metrics, settings=settings)
    for text in (
        "duration",
        "1 h 6 min",
        "machine.cores",
        "isnet-jax &#x27;a b&#x27;",
        "data.range",
        "1, 25",
    ):
        assert text in html
    assert "<summary>Settings</summary>" in html


def test_wrong_predictions_are_marked_in_words_and_signs(tmp_path):
    html = _write(tmp_path)
    assert html.count('class="frame wrong"') == 6
    assert "✗ zero (99" in html
    assert "predicts zero (99\N{NO-BREAK SPACE}%), wrong" in html


def test_share_outside_the_mask_counts_channels_by_absolute_value(tmp_path):
    samples = _samples(count=1)
    heatmap = np.zeros((1, 8, 8, 3))
    heatmap[0, 0, 0] = 1, -1, 0
    heatmap[0, 2, 2] = 3, 3, 0
    for by_set in samples.heatmaps.values():
        by_set.update(dict.fromkeys(SETS, heatmap))
    samples.heatmaps["plain"]["biased"] = np.zeros_like(heatmap)
    html = _write(tmp_path, samples=samples).replace("\N{NO-BREAK SPACE}", " ")
    assert html.count("25 % outside") == 5
    assert html.count("\N{EN DASH} outside") == 1


def test_large_images_stay_light(tmp_path):
    html = _write(tmp_path, samples=_samples(side=224, count=8))
    assert len(html) < 1_500_000


def test_broken_heatmaps_leave_no_file(tmp_path):
    samples = _samples()
    samples.heatmaps["isnet"]["unbiased"][0, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match="NaN"):
        _write(tmp_path, samples=samples)
    assert os.listdir(tmp_path) == []


def test_samples_name_the_array_that_does_not_fit():
    good = _samples()
    with pytest.raises(UserError, match=r"images\['biased'\].*\(3, 8, 8, C\).*\(3, 8, 7, 3\)"):
        report.Samples(**(vars(good) | {"images": {"biased": np.zeros((3, 8, 7, 3))}}))
    broken = good.predictions | {"plain": dict.fromkeys(SETS, np.zeros(2))}
    with pytest.raises(UserError, match=r"predictions\['plain'\]\['biased'\]"):
        report.Samples(**(vars(good) | {"predictions": broken}))


INTERVENTIONS = {
    "background_exchanged": 0.341,
    "agreement_exchanged": 0.352,
    "background_noise": 0.12,
    "agreement_noise": 0.13,
    "object_removed": 0.371,
}


def test_interventions_worst_group_and_warnings_are_shown(tmp_path):
    metrics = _metrics()
    for network in NETWORKS:
        metrics[network] |= {"worst_group": 0.057, "interventions": INTERVENTIONS}
    html = _write(tmp_path, metrics, warnings={"isnet": f"clean heatmaps, {EVIL}"})
    assert "Worst group" in html
    assert "5.7\N{NO-BREAK SPACE}%" in html
    for value in ("34.1", "35.2", "12.0", "13.0", "37.1"):
        assert f"{value}\N{NO-BREAK SPACE}%" in html
    assert html.index("clean heatmaps") < html.index("Worst group")
    assert EVIL not in html
    assert "Interventions test set" not in html
    assert 'class="warning"' not in _write(tmp_path, metrics)
    without = _metrics()
    for network in NETWORKS:
        without[network] |= {"interventions": None}
    assert 'class="interventions"' not in _write(tmp_path, without)


def _estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


OF_CLASS = {
    "images": 37,
    "sensitivity": _estimate(0.61, 0.5, 0.7),
    "specificity": None,
    "f1": 0.62,
    "auc": _estimate(1.0),
}
STATISTICS = {
    "images": 100,
    "accuracy": _estimate(0.711, 0.612, 0.793),
    "macro_f1": _estimate(0.72, 0.65, 0.78),
    "auc": _estimate(0.83, 0.74, 0.92),
    "auc_pairs": None,
    "calibration_error": 0.0451,
    "classes": {EVIL: OF_CLASS},
}
DIFFERENCE = {"value": 0.12, "low": 0.03, "high": 0.21, "p": 0.0123}
COMPARISON = {
    "images": 100,
    "accuracy": DIFFERENCE,
    "macro_f1": DIFFERENCE | {"p": None},
    "auc": DIFFERENCE | {"p": 1e-9},
    "classes": {EVIL: {"auc": DIFFERENCE, "p_adjusted": 0.0456}},
}


def test_intervals_and_tests_are_shown(tmp_path):
    metrics = _metrics(comparisons={"plain": {"biased": COMPARISON, "unbiased": None}})
    for network in NETWORKS:
        metrics[network] |= {
            "statistics": {"biased": STATISTICS, "unbiased": None},
            "explanations": {"relevance_mass": 0.437, "pixel_flipping": None},
        }
    html = _write(tmp_path, metrics)
    _Page(html)
    for value in ("61.2", "79.3", "4.5", "62.0", "43.7"):
        assert f"{value}\N{NO-BREAK SPACE}%" in html
    for text in ("+12.0 pp (+3.0 to +21.0), p 0.0123", "p &lt; 0.0001", "0.0456", "<td>37</td>"):
        assert text in html
    assert "<h3>Unbiased</h3>" not in html
    assert "Hand and Till" not in html
    assert EVIL not in html
    assert "Statistics test set" not in html
    assert "How sure the numbers are" not in _write(tmp_path)


def test_means_of_each_class(tmp_path):
    maps = np.zeros((14, 8, 8))
    maps[:13, 2, 3] = 1
    names = [f"{EVIL}{code}" for code in range(14)]
    means = report.ClassMeans(names, np.ones((14, 8, 8)), {"plain": maps, "isnet": maps})
    page = _write(tmp_path, means=means)
    _Page(page)
    assert "Where each class is looked for" in page
    assert page.count("mean heatmap of ISNet") == 12
    assert "2 more classes are not shown" in page
    assert "<script>" not in page
    nothing = report.ClassMeans(["a"], np.zeros((1, 8, 8)), {"isnet": np.zeros((1, 8, 8))})
    assert "Where each class is looked for" not in _write(tmp_path, means=nothing)
