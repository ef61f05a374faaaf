"""The code in README and docs runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _code(page: Path) -> str:
    """The page's Python blocks in order, at the lines where they stand on the page."""
    text = page.read_text()
    lines = [""] * len(text.splitlines())
    for block in _BLOCK.finditer(text):
        start = text.count("\n", 0, block.start(1))
        for offset, line in enumerate(block.group(1).splitlines()):
            lines[start + offset] = line
    return "\n".join(lines)


@pytest.mark.parametrize("page", [p for p in PAGES if _BLOCK.search(p.read_text())], ids=str)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(_code(page), str(page), "exec"), {"__name__": "__docs__"})


def test_how_to_pages_are_short():
    for page in (ROOT / "docs").glob("how-to/*.md"):
        assert len(page.read_text().splitlines()) < 100, page
