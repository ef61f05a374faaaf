"""accelerator.json as Markdown: `python accelerator_table.py results/accelerator.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def line(key: str, value: Any) -> str:
    """A result in one line, for the terminal."""
    if key.startswith(("step/", "heatmap/")):
        return ", ".join(f"{name} {_told(side)}" for name, side in value["sides"].items())
    return json.dumps(value)[:400]


def _told(side: Row) -> str:
    if "seconds" not in side:
        return side.get("error", "-")[-160:]
    ready = side["ready"]
    start = f", compile {ready['compile']:.0f} s" if "compile" in ready else ""
    return f"{1e3 * side['seconds']:.1f} ms ({side['peak_gb']:.1f} GB{start})"


def best_torch(sides: dict[str, Row]) -> tuple[str, Row] | None:
    """The faster of eager and compiled PyTorch."""
    there = [
        (name, sides[name])
        for name in ("torch", "torch-compile", "zennit")
        if "seconds" in sides.get(name, {})
    ]
    return min(there, key=lambda pair: pair[1]["seconds"]) if there else None


def markdown(found: dict[str, Any]) -> str:
    """All that was measured."""
    rows = {tuple(key.split("/")): row for key, row in found["rows"].items()}
    ceilings = found["parts"].get("ceilings/card", {})
    machine = found.get("machine", {})
    versions = ", ".join(f"{n} {v}" for n, v in machine.get("versions", {}).items())
    parts = [
        f"{machine.get('device')}; Python {machine.get('python')}; {versions}; "
        f"{machine.get('date')}. Medians of interleaved timings, device synchronised.\n"
    ]
    if ceilings:
        parts.append(
            f"Ceilings, measured: one product {ceilings['float32_tflops']:.0f} TFLOP/s in TF32 and "
            f"{ceilings['bfloat16_tflops']:.0f} in bfloat16, one copy "
            f"{ceilings['copy_gb_per_second']:.0f} GB/s read and written.\n"
        )
    parts += [_aims(rows), _steps(rows, ceilings), _heatmaps(rows), _variants(rows)]
    for title, prefix in (
        ("Correctness", "checks/"),
        ("Largest batch of DenseNet121", "largest/"),
        ("Leads", "leads/"),
    ):
        chosen = {
            k.removeprefix(prefix): v for k, v in found["parts"].items() if k.startswith(prefix)
        }
        if chosen:
            parts.append(f"## {title}\n\n" + _listed(chosen))
    parts += [
        _profile(key.removeprefix("profiles/"), value)
        for key, value in found["parts"].items()
        if key.startswith("profiles/")
    ]
    return "\n".join(part for part in parts if part)


def _table(columns: list[str], lines: list[list[str]]) -> str:
    if not lines:
        return ""
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *(f"| {' | '.join(cells)} |" for cells in lines), ""])


def _milliseconds(side: Row | None) -> str:
    if not side:
        return "-"
    if "seconds" not in side:
        return "out of memory" if "memory" in side.get("error", "").lower() else "failed"
    spread = (max(side["turns"]) - min(side["turns"])) / side["seconds"]
    return f"{1e3 * side['seconds']:.1f} (±{50 * spread:.0f} %)"


def _ratio(over: Row | None, ours: Row) -> str:
    if not over or "seconds" not in over or "seconds" not in ours:
        return "-"
    return f"{over['seconds'] / ours['seconds']:.2f}"


def _steps(rows: dict[tuple[str, ...], Row], ceilings: Row) -> str:
    lines = []
    for (kind, network, mode, precision), row in sorted(rows.items()):
        if kind != "step" or not (set(row["sides"]) - {"jax"} or mode in _MODES):
            continue
        sides = row["sides"]
        ours, best = sides["jax"], best_torch(sides)
        plain = rows.get((kind, network, "plain", precision), {}).get("sides", {}).get("jax", {})
        rate = "-"
        if "seconds" in ours:
            tflops = ours["ready"]["flops"] / ours["seconds"] / 1e12
            rate = f"{tflops:.1f}"
            if ceilings:
                rate += f" ({100 * tflops / ceilings[f'{precision}_tflops']:.0f} %)"
        apart = _apart(mode, ours, best)
        ready = ours.get("ready", {})
        lines.append(
            [
                network,
                mode,
                precision,
                _milliseconds(ours),
                _milliseconds(best[1] if best else sides.get("torch")) + _how(best),
                _ratio(best[1] if best else None, ours),
                _ratio(sides.get("authors"), ours),
                _ratio(ours, plain) if plain else "-",
                rate,
                " / ".join(
                    f"{side['peak_gb']:.1f}" if side and "peak_gb" in side else "-"
                    for side in (ours, best[1] if best else None)
                ),
                f"{ready.get('trace', 0):.0f} + {ready.get('compile', 0):.0f}",
                f"{_cold(ours):.0f}" if "first_step" in ours else "-",
                "-" if apart is None else f"{apart:.0e}",
            ]
        )
    columns = [
        "network", "mode", "precision", "isnet_jax ms/step", "PyTorch ms/step", "speed-up",
        "over authors'", "over our plain", "TFLOP/s (of the product's)", "peak GB, ours / PyTorch",
        "trace + compile s", "to first step s", "loss differs",
    ]  # fmt: skip
    if not lines:
        return ""
    notes = [f"- {' '.join(k[1:])}: {r['note']}\n" for k, r in sorted(rows.items()) if "note" in r]
    return "\n".join(["## Training steps\n", _table(columns, lines), "".join(notes)])


def _apart(mode: str, ours: Row, best: tuple[str, Row] | None) -> float | None:
    """How far the losses of the first steps are apart, relatively; None where they draw lots."""
    if mode in ("stochastic", "quarter") or not best or not ours.get("loss"):
        return None
    return abs(best[1]["loss"] / ours["loss"] - 1)


def _aims(rows: dict[tuple[str, ...], Row]) -> str:
    """How many rows reach what, and which do not."""
    found: dict[str, dict[str, bool]] = {}

    def judge(aim: str, key: tuple[str, ...], one: Row | None, other: Row | None, factor: float):
        """Whether `one` takes at least `factor` times as long as `other`."""
        if one and other and "seconds" in one and "seconds" in other:
            reached = one["seconds"] >= factor * other["seconds"]
            found.setdefault(aim, {})[" ".join(key[1:])] = reached

    for key, row in sorted(rows.items()):
        kind, network, mode, precision = key
        ours, best = row["sides"]["jax"], best_torch(row["sides"])
        theirs = best[1] if best else None
        plain = rows.get((kind, network, "plain", precision), {}).get("sides", {}).get("jax")
        if kind == "heatmap":
            judge("heatmaps 3 times as fast", key, theirs, ours, 3)
        elif mode == "plain":
            judge("plain steps as fast as PyTorch's", key, theirs, ours, 1)
        elif mode in _MODES:
            judge("ISNet steps 1.5 times as fast as PyTorch's", key, theirs, ours, 1.5)
            judge("ISNet steps twice as fast", key, theirs, ours, 2)
            judge("3 times as fast as the authors'", key, row["sides"].get("authors"), ours, 3)
            most = {"selective": 2.1, "quarter": 1.3}.get(mode)
            if most:
                judge(f"{mode} at most {most} plain steps", key, plain, ours, 1 / most)
        if (apart := _apart(mode, ours, best)) is not None:
            agreed = found.setdefault("first losses within 3 % of PyTorch's", {})
            agreed[" ".join(key[1:])] = apart <= 0.03
        if key == ("step", "densenet121", "selective", "float32") and "first_step" in ours:
            found["first DenseNet121 step within 60 s"] = {
                f"{_cold(ours):.0f} s": _cold(ours) <= 60
            }
    lines = []
    for aim, reached in found.items():
        missed = ", ".join(name for name, there in reached.items() if not there)
        lines.append([aim, f"{sum(reached.values())} of {len(reached)}", missed or "-"])
    table = _table(["aim", "reached by", "missed by"], lines)
    return f"## Aims\n\n{table}" if table else ""


_MODES = ("plain", "selective", "stochastic", "quarter", "original")


def _cold(side: Row) -> float:
    ready = side["ready"]
    return side["first_step"] + sum(
        ready.get(name, 0) for name in ("import", "build", "trace", "compile")
    )


def _how(best: tuple[str, Row] | None) -> str:
    if best is None:
        return ""
    alone = ", alone" if best[1].get("alone") else ""
    return f" ({'compiled' if best[0] == 'torch-compile' else 'eager'}{alone})"


def _heatmaps(rows: dict[tuple[str, ...], Row]) -> str:
    lines = []
    for (kind, network, composite, precision), row in sorted(rows.items()):
        if kind != "heatmap":
            continue
        ours, best = row["sides"]["jax"], best_torch(row["sides"])

        def rate(side: Row | None) -> str:
            if not side or "seconds" not in side:
                return "-"
            return f"{side['ready']['images'] / side['seconds']:.0f}"

        apart = _apart(composite, ours, best)
        theirs = best[1] if best else None
        name = best[0] if best else "zennit"
        cells = [network, composite, precision, rate(ours), f"{rate(theirs)} ({name})"]
        lines.append([*cells, _ratio(theirs, ours), "-" if apart is None else f"{apart:.0e}"])
    columns = [
        "network", "composite", "precision", "isnet_jax heatmaps/s", "theirs", "speed-up",
        "sum of magnitudes differs",
    ]  # fmt: skip
    table = _table(columns, lines)
    return f"## Heatmaps\n\n{table}" if table else ""


def _variants(rows: dict[tuple[str, ...], Row]) -> str:
    lines = []
    for (kind, network, mode, precision), row in sorted(rows.items()):
        base = rows.get((kind, network, "selective", precision), {}).get("sides", {}).get("jax", {})
        ours = row["sides"]["jax"]
        if kind == "step" and mode not in _MODES:
            peak = f"{ours['peak_gb']:.1f}" if "peak_gb" in ours else "-"
            cells = [network, mode, precision, _milliseconds(ours), _ratio(ours, base), peak]
            lines.append(cells)
    columns = ["network", "changed", "precision", "ms/step", "over Selective as it is", "peak GB"]
    table = _table(columns, lines)
    return f"## Our Selective step in other forms\n\n{table}" if table else ""


def _listed(chosen: dict[str, Any]) -> str:
    lines = []
    for name, value in chosen.items():
        told = ", ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in value.items())
        lines.append(f"- {name}: {told}")
    return "\n".join([*lines, ""])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_short(v)}" for k, v in value.items()) + ")"
    return str(value)


def _profile(name: str, value: Row) -> str:
    if "kernels" not in value:
        return f"## Profile of {name}\n\n{_short(value)}\n"
    lines = [
        [k["name"][:90].replace("|", "/"), str(k["calls"]), f"{k['milliseconds']:.2f}",
         f"{100 * k['share']:.0f} %"]
        for k in value["kernels"]
    ]  # fmt: skip
    groups = ", ".join(f"{n} {100 * share:.0f} %" for n, share in value["groups"].items())
    counts = ", ".join(f"{count} {n}" for n, count in value["program"].items())
    return (
        f"## Profile of {name}\n\n{_table(['kernel', 'calls', 'ms a step', 'share'], lines)}\n"
        f"By kind: {groups}. {value['milliseconds']:.1f} ms of kernels a step of "
        f"{value['step_milliseconds']:.1f} ms. The program: {counts}.\n"
    )


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.with_suffix(".md").write_text(markdown(json.loads(file.read_text())))
