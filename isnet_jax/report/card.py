"""A model card: what a network is, what it was trained on, what it is worth, its limits.

After Mitchell et al., Model Cards for Model Reporting (FAT* 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isnet_jax.report.html import MISSING, NO_TEST_SETS, network_title, percent, to_number
from isnet_jax.report.statistics import MEASURES, between, interval

_USE = """```python
import jax
import numpy as np
from jax import export  # `import jax` alone does not bring it

network = export.deserialize(open("network.stablehlo", "rb").read())
images = np.zeros((4, {height}, {width}, {channels}), np.float32)  # in [0, 1]; any number of them
logits = network.call(images)
```"""


def model_card(
    name: str,
    description: Mapping[str, Any],
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    *,
    multi_label: bool,
    reading: Mapping[str, Any],
) -> str:
    """The card as Markdown.

    Args:
      name: of the network in its run: of its method, or "plain".
      description: architecture, class_names, image_shape and options of the network.
      settings: what makes the run the same as another: options, and a digest of the data.
      metrics: what metrics.json holds; empty if they are not known.
      multi_label: any number of classes in an image.
      reading: how image files become what the network takes.
    """
    return "\n\n".join(
        [
            f"# {network_title(name)}: {description['architecture']}",
            *_network(name, description, multi_label, reading),
            *_data(description, settings, metrics),
            *_training(name, settings),
            *_worth(name, metrics),
            *_limits(name, metrics, multi_label),
        ]
    ) + "\n"  # fmt: skip


def is_card(path: Path) -> bool:
    """Whether a file is a card of this program."""
    try:
        return _USE.split("{")[0] in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _network(
    name: str, description: Mapping[str, Any], multi_label: bool, reading: Mapping[str, Any]
) -> Iterator[str]:
    height, width, channels = description["image_shape"]
    task = "any number of classes in an image" if multi_label else "one class of each image"
    apply = "a sigmoid of each logit" if multi_label else "a softmax of the logits"
    kinds = {
        "isnet": "trained against relevance on the background, with masks of the objects; it needs "
        "no mask now",
        "plain": "trained without regard to masks, to compare with",
    }
    kind = kinds.get(name, f"trained by the method {name}")
    yield (
        f"A classifier {kind}. It takes images (batch, {height}, {width}, {channels}) from 0 to 1 "
        f"and returns logits; {apply} gives the probability of {task}."
    )
    yield _USE.format(height=height, width=width, channels=channels)
    grey = ", in grey" if reading["grey"] else ""
    yield (
        f"Images of another size are brought to this one by `{reading['fit']}`{grey}. "
        "`isnet-jax predict` does it as it was done in training. `weights.safetensors` has the "
        "names and layouts of torchvision; options that are not in it:"
    )
    yield _table(("option", "value"), sorted(description["options"].items()) or [("none", "")])


def _data(
    description: Mapping[str, Any], settings: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Iterator[str]:
    yield "## Data"
    names = description["class_names"]
    yield f"{len(names)} classes: {', '.join(names)}."
    counts = metrics.get("images", {})
    if counts:
        yield _table(("split", "images"), counts.items())
    if "content" in settings:
        yield f"Digest of the prepared files and options: `{settings['content']}`."
    elif "data" in settings:
        yield f"A data set that isnet_jax draws: `{settings['data']}`."


def _training(name: str, settings: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training"
    own = name == settings.get("method", "isnet")
    chosen: dict[str, Any] = {
        "epochs": settings.get("epochs" if own else "plain_epochs"),
        "batch size": settings.get("batch_size"),
        "seed": settings.get("seed"),
        "optimiser": settings.get("optimiser"),
        "augmentation": settings.get("augmentation"),
    }
    if own and name != "plain":
        chosen["objective"] = settings.get(name.replace("-", "_"))
    if "weights" in settings:
        chosen["started from"] = f"a file of weights, SHA-256 {settings['weights']}"
        chosen["fine-tuning"] = settings.get("fine_tune")
    yield _table(("option", "value"), ((key, _words(value)) for key, value in chosen.items()))


def _worth(name: str, metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "## What it is worth"
    judged = metrics.get(name)
    if not judged:
        yield "Not known: the run was not finished, or its metrics were changed."
        return
    tests = [key for key in judged if key not in NO_TEST_SETS]
    found = {test: (judged.get("statistics") or {}).get(test) for test in tests}
    known = {test: of for test, of in found.items() if of}
    rows = []
    for test in tests:
        bounds = known[test]["accuracy"] if test in known else {"low": None, "high": None}
        rows.append((test, percent(judged[test]), between(bounds) or MISSING))
    yield _table(("accuracy on the test set", "", "95 % interval"), rows)
    if known:
        rows = [
            (words, *(interval(of[key]) for of in known.values()))
            for key, words in MEASURES.items()
            if key != "accuracy"
        ]
        yield _table(("on the test set", *known), rows)
        yield (
            "Intervals are of 95 %, for independent images like those of the test set: of accuracy "
            "Wilson's, of F1 Bayesian, of AUC DeLong's."
        )
    more = [
        ("worst class in any test set", percent(to_number(judged.get("worst_group")))),
        ("relevance on the background", percent(to_number(judged.get("background_relevance")))),
    ]
    for key in ("interventions", "explanations"):
        for measure, value in (judged.get(key) or {}).items():
            more.append((measure.replace("_", " "), percent(to_number(value))))
    yield _table(("on the test images", ""), more)


def _limits(name: str, metrics: Mapping[str, Any], multi_label: bool) -> Iterator[str]:
    yield "## Known limits"
    judged = metrics.get(name) or {}
    changes = judged.get("interventions") or {}
    found = [
        "Accuracy holds for images like the test images; of another source nothing is known here.",
        "Probabilities are the network's own and were not calibrated.",
    ]
    if not multi_label:
        found.append("An image of none of the classes gets one of them all the same.")
    agreed = changes.get("agreement_exchanged")
    if agreed is not None:
        found.append(
            f"With the background of another image {percent(1 - agreed)} of its predictions change."
        )
    else:
        found.append("What it does when backgrounds change was not measured: no masks.")
    found.append(
        "Heatmaps show relevance, and a network can decide by the background without its showing "
        "there: the interventions say more."
    )
    yield "\n".join(f"- {text}" for text in found)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _words(value: Any) -> str:
    """Options on one line, without those that are off."""
    if not isinstance(value, Mapping):
        return str(value)
    shown = ((k, v) for k, v in value.items() if v not in (None, False, 0, [], ()))
    return ", ".join(f"{key} {_words(v)}" for key, v in shown) or "none"
