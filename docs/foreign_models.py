"""Write docs/foreign-models.md: the LRP engine on networks that it was not made for.

    pip install -e ".[dev]" keras "transformers<5" && python docs/foreign_models.py

Each row is measured in float64 and kept in docs/foreign-models.json, so a run that was interrupted
goes on where it stopped; a new engine, JAX or machine measures all rows again. A library that is
not installed leaves its rows out, and says so. The networks are in docs/foreign_networks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from foreign_networks import NETWORKS, Network
from foreign_networks.measuring import LIMITS, judged, measure

import isnet_jax
from isnet_jax.training.provenance import machine

HERE = Path(__file__).parent
LIBRARIES = ("jax", "flax", "equinox", "equimo", "dm-haiku", "keras", "transformers")


def cells(network: Network, row: dict[str, Any]) -> list[str]:
    """A row of the table behind the network's name."""
    if "missing" in row:
        return ["not installed", *("" for _ in LIMITS)]
    failed, numbers = judged(network, row), row["numbers"]
    refused = len(failed["runs"])
    tried = len(numbers) + refused
    found = ["✓" if not refused else f"✗ {refused} of {tried}"]
    for column in LIMITS:
        known = {rule: values[column] for rule, values in numbers.items() if column in values}
        if column == "conservation":
            known = {rule: value for rule, value in known.items() if rule == "AttnLRP"}
        if not known:
            found.append("-")
        elif failed[column]:
            worst = max(known, key=lambda rule: (np.isnan(known[rule]), known[rule]))
            found.append(f"✗ {known[worst]:.0e} {worst}")
        elif column == "conservation" and not network.conserves:
            low, high = (numbers["AttnLRP"][f"{end} fraction"] for end in ("lowest", "highest"))
            found.append(f"{low:.2f} to {high:.2f}")
        else:
            found.append(f"✓ {max(known.values()):.0e}")
    return found


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        f"| network | library | runs | {' | '.join(LIMITS)} |",
        f"|---|---|---|{'---|' * len(LIMITS)}",
    ]
    for name, row in rows.items():
        network = NETWORKS[name]
        mark = " (float32)" if row.get("float32") else ""
        lines.append(f"| {name}{mark} | {network.library} | {' | '.join(cells(network, row))} |")
    return lines


def what_failed(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Under the table: each cross with its numbers, each error with its first line."""
    lines = []
    for name, row in rows.items():
        if "missing" in row:
            continue
        by_message: dict[str, list[str]] = {}
        for rule, message in row["errors"].items():
            by_message.setdefault(message, []).append(rule)
        parts = [f"{', '.join(rules)}: `{text}`" for text, rules in by_message.items()]
        for column, rules in judged(NETWORKS[name], row).items():
            if column in LIMITS and rules:
                numbers = ", ".join(f"{r} {row['numbers'][r][column]:.0e}" for r in rules)
                parts.append(f"{column}: {numbers}")
        if parts:
            lines.append(f"- **{name}**: {'; '.join(parts)}")
    return lines


def page(tables: dict[str, dict[str, Any]]) -> str:
    lines = [HERE.joinpath("foreign_networks/introduction.md").read_text().rstrip(), ""]
    for setting in tables.values():
        rows = {name: setting["rows"][name] for name in NETWORKS if name in setting["rows"]}
        made = {name: row for name, row in rows.items() if "missing" not in row}
        good = [n for n, row in made.items() if not any(judged(NETWORKS[n], row).values())]
        versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
        days = " to ".join(sorted({row["date"] for row in rows.values()}))
        lines += [
            f"## Python {setting['python']}, jax {setting['versions']['jax']}",
            "",
            f"{len(good)} of {len(made)} networks without a cross. {setting['machine']}; "
            f"{versions}; engine {setting['engine']}; {days}.",
            "",
            *table(rows),
            "",
        ]
        missing = [name for name in NETWORKS if name not in rows]
        lines += [f"Not measured yet: {'; '.join(missing)}.", ""] if missing else []
        failed = what_failed(rows)
        lines += ["What failed:", "", *failed, ""] if failed else []
    return "\n".join(lines)


def fingerprint() -> str:
    """Of the engine's source."""
    folder, digest = Path(isnet_jax.__file__).parent / "lrp", hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main():
    parser = argparse.ArgumentParser(description="The LRP engine on foreign networks.")
    parser.add_argument("--rows", nargs="*", help="parts of names; these are measured anew")
    parser.add_argument("--out", type=Path, default=HERE / "foreign-models.md")
    arguments = parser.parse_args()

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    file = arguments.out.with_suffix(".json")
    tables = json.loads(file.read_text()) if file.exists() else {}
    setting = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "versions": {name: v for name in LIBRARIES if (v := version(name))},
        "machine": machine(),
        "engine": fingerprint(),
    }
    known = tables.get(setting["python"], {})
    same = all(known.get(name) == value for name, value in setting.items())
    rows = known["rows"] if same else {}
    for name, network in NETWORKS.items():
        wanted = arguments.rows and any(part in name for part in arguments.rows)
        if wanted or (name not in rows and not arguments.rows):
            rows[name] = measure(network)
            print("| " + " | ".join([name, *cells(network, rows[name])]) + " |", flush=True)
            for line in what_failed({name: rows[name]}):
                print("   ", line, flush=True)
            tables[setting["python"]] = {**setting, "rows": rows}
            file.write_text(json.dumps(dict(sorted(tables.items())), indent=1) + "\n")
            arguments.out.write_text(page(dict(sorted(tables.items()))))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
