"""The code in README and docs runs as it stands; commands in sh blocks run at a small size."""

import re
import shlex
from pathlib import Path

import pytest
from flax import nnx

from isnet_jax import models
from isnet_jax.commands.main import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
_BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Instead of the network on the page; options that are given twice count as given last.
_SMALLER = {"resnet18": "small"}
_SHORTER = ("--epochs", "1")


def _code(page: Path) -> str:
    """The page's blocks in order, at the lines where they stand on the page."""
    text = page.read_text()
    lines = [""] * len(text.splitlines())
    for block in _BLOCK.finditer(text):
        start = text.count("\n", 0, block.start(2))
        for offset, line in enumerate(block.group(2).splitlines()):
            lines[start + offset] = f"command({line!r})" if block.group(1) == "sh" else line
    return "\n".join(lines)


def _command(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "isnet-jax"
    words = [_SMALLER.get(word, word) for word in words]
    main([*words, *(_SHORTER if words[0] == "train" else ())])


@pytest.mark.parametrize("page", [p for p in PAGES if _BLOCK.search(p.read_text())], ids=str)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "```sh" in page.read_text():
        pretrained = models.create("small", num_classes=10, rngs=nnx.Rngs(0))
        models.save_weights(pretrained, "resnet18.safetensors")
    code = compile(_code(page), str(page), "exec")
    exec(code, {"__name__": "__docs__", "command": _command})


def test_how_to_pages_are_short():
    for page in (ROOT / "docs").glob("how-to/*.md"):
        assert len(page.read_text().splitlines()) < 100, page
