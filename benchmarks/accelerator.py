"""Training steps and heatmaps on an accelerator, beside PyTorch, and whether they are right there.

    python benchmarks/accelerator.py --out results --budget 480
    python benchmarks/accelerator.py --out results --small     (on a CPU: that all of it runs)

Each row has a process for JAX and one for PyTorch, timed in turns on the same weights, data and
precision; where both do not fit into the card's memory, one after the other. Processes of the next
rows get ready meanwhile, but compile only while none is timed. The parts of accelerator_parts.py
(correctness, profiles, leads, largest batches) run in between. Everything is written to
accelerator.json as it comes, and as tables to accelerator.md; what is there already is not measured
again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import accelerator_table
from accelerator_parts import NAMES
from accelerator_workers import MODES, PRECISIONS, ROWS, VARIANTS, Setting, make_slots, quiet
from workers import Worker, WorkerEndedError

FOLDER = Path(__file__).parent
HEATMAPS = (
    ("resnet50", "Epsilon"),
    ("vgg16", "EpsilonPlusFlat"),
    ("resnet50", "EpsilonPlusFlat"),
    ("vgg16", "Epsilon"),
    ("vit_b_16", "AttnLRP"),
)
SIDES = ("torch", "torch-compile", "zennit", "authors")
AUTHORS = ("resnet18", "resnet50", "densenet121")
PARTS = [f"{part}/{name}" for part, names in NAMES.items() for name in names]
_UNTRIED = [("checks", name) for name in ("golden", "devices", "launchers", "precisions")]


@dataclasses.dataclass(frozen=True)
class Work:
    """A row: what is timed, and by which sides."""

    kind: str
    network: str
    mode: str
    precision: str

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.network}/{self.mode}/{self.precision}"

    def sides(self, there: Collection[str]) -> list[str]:
        """Those that can measure it, of the ones that are there."""
        if self.kind == "heatmap":
            wanted = ["jax", "torch" if self.mode == "AttnLRP" else "zennit"]
        elif self.mode in VARIANTS:
            wanted = ["jax"]
        elif self.mode == "plain":
            wanted = ["jax", "torch"]
            if self.network != "densenet121":  # Its compilation takes as long as ten rows.
                wanted.append("torch-compile")
        else:
            wanted = ["jax", "torch"]
            if self.mode != "quarter" and self.precision == "float32" and self.network in AUTHORS:
                wanted.append("authors")
        return [side for side in wanted if side in there]


def all_work() -> list[Work]:
    """The most valuable rows first."""

    def steps(networks: Iterable[str], modes: Iterable[str], precisions=PRECISIONS):
        modes, precisions = tuple(modes), tuple(precisions)
        return [Work("step", n, mode, p) for n in networks for p in precisions for mode in modes]

    core = ("selective", "plain")
    heatmaps = [Work("heatmap", n, composite, "float32") for n, composite in HEATMAPS]
    heatmaps += [Work("heatmap", n, composite, "bfloat16") for n, composite in HEATMAPS]
    variants = [
        Work("step", n, v, "float32") for v in VARIANTS for n in ("densenet121", "resnet50")
    ]
    # What compiles together is timed together: DenseNet121's, the slowest, come last.
    order = [
        *steps(["resnet50"], core),
        *steps(["vit_b_16", "vgg16", "resnet18"], core, ["float32"]),
        *heatmaps[:5],
        *steps(["resnet50", "resnet18"], ["quarter"], ["float32"]),
        *steps(["resnet18", "vit_b_16", "vgg16"], core, ["bfloat16"]),
        *steps(["resnet18"], ["original", "stochastic"], ["float32"]),
        *steps(["densenet121"], core, ["float32"]),
        *steps(["densenet121"], ["no-fusion-autotuner"], ["float32"]),
        *steps(["densenet121"], core, ["bfloat16"]),
        *steps(["densenet121"], ["quarter", "original"], ["float32"]),
        *variants,
        *steps(ROWS, MODES),
        *heatmaps[5:],
    ]
    return list(dict.fromkeys(order))


class Results:
    """What is known so far, written at every change."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "accelerator.json"
        self._lock = threading.Lock()
        self.found: dict[str, Any] = {"rows": {}, "parts": {}}
        if self._file.exists():
            self.found = json.loads(self._file.read_text())

    def add(self, section: str, key: str, value: Any) -> None:
        with self._lock:
            self.found[section][key] = value
            waiting = self._file.with_suffix(".part")
            waiting.write_text(json.dumps(self.found, indent=1) + "\n")
            waiting.replace(self._file)
            self._file.with_suffix(".md").write_text(accelerator_table.markdown(self.found))
        print(f"{key}: {accelerator_table.line(key, value)}", flush=True)

    def set_machine(self, machine: dict[str, Any]) -> None:
        earlier = self.found.get("machine", machine)
        if earlier["device"] != machine["device"]:
            raise SystemExit(
                f"the results there are of {earlier['device']}, this is {machine['device']}: give "
                "another --out."
            )
        self.found["machine"] = machine


def machine() -> dict[str, Any]:
    """Card, driver, versions, date."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        device = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        device = f"CPU {platform.machine()}"
    names = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "torch", "torchvision", "zennit")
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "device": device,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


class Run:
    """One run of the script: its options, its results, its time."""

    def __init__(self, options: argparse.Namespace, slots: Path):
        self.options, self.slots = options, slots
        make_slots(slots, slots / "alone")
        self.started = time.monotonic()
        self._one_row_is_done, self._rows_are_done = threading.Event(), threading.Event()
        self._running: subprocess.Popen[str] | None = None
        self.results = Results(options.out)
        self.results.set_machine(machine())
        self.setting = Setting(
            slots=str(slots),
            slot_count=options.slots,
            small=options.small,
            cache=options.cache,
            authors=options.authors,
        )
        # All slots are held while a row is timed: what is tried again then needs others.
        self.alone = dataclasses.replace(self.setting, slots=str(slots / "alone"))
        there = {"torch": "torch", "torch-compile": "torch", "zennit": "zennit", "authors": "torch"}
        self._sides = {"jax"} | {
            n for n, package in there.items() if importlib.util.find_spec(package)
        }
        self._sides -= set(options.without) | (set() if options.authors else {"authors"})

    def is_over(self) -> bool:
        return time.monotonic() - self.started > self.options.budget

    def work(self) -> Iterator[Work]:
        """The rows that are wanted and of which we have no time yet."""
        o, rows = self.options, self.results.found["rows"]
        for work in all_work():
            name = "heatmaps" if work.kind == "heatmap" else work.mode
            chosen = (not o.rows or work.network in o.rows) and (not o.modes or name in o.modes)
            known = rows.get(work.key, {"sides": {"jax": {}}})["sides"]["jax"]
            if chosen and work.precision in o.precisions and "seconds" not in known:
                yield work

    def start(self, work: Work) -> dict[str, Worker]:
        """Its processes, on their way to be ready."""
        return {side: self._worker(work, side) for side in work.sides(self._sides)}

    def _worker(self, work: Work, side: str, setting: Setting | None = None) -> Worker:
        name = "accelerator_workers" if work.kind == "step" else "accelerator_heatmaps"
        arguments = (side, work.network, work.mode, work.precision)
        setting = json.dumps(dataclasses.asdict(setting or self.setting))
        return Worker(FOLDER / f"{name}.py", *arguments, setting, wait=False)

    def rows(self) -> None:
        """Measure the rows that are ready while nothing compiles; then let others get ready."""
        todo, ahead = list(self.work()), {}
        alone = self.options.ahead if self.results.found["rows"] else 1
        if alone > 1 or not todo:
            self._one_row_is_done.set()
        try:
            while todo and not self.is_over():
                for work in todo[:alone]:
                    if work not in ahead:
                        ahead[work] = self.start(work)
                if not self._ready(ahead, 0.5):
                    continue
                with quiet(self.slots, self.options.slots):
                    for work in self._ready(ahead, 0):
                        if not self.is_over():
                            todo.remove(work)
                            found = self.measure(work, ahead.pop(work))
                            self.results.add("rows", work.key, found)
                alone = self.options.ahead
                self._one_row_is_done.set()
        finally:
            for worker in [w for workers in ahead.values() for w in workers.values()]:
                worker.kill()

    def _ready(self, ahead: dict[Work, dict[str, Worker]], seconds: float) -> list[Work]:
        """The rows whose workers are all ready, after such a wait for those that are not."""
        return [
            work
            for work, workers in ahead.items()
            if all(worker.is_ready(seconds) for worker in workers.values())
        ]

    def measure(self, work: Work, workers: dict[str, Worker]) -> dict[str, Any]:
        """One row, while all slots are held: what each side took, or why it has nothing."""
        sides: dict[str, dict[str, Any]] = {name: {} for name in workers}
        with contextlib.ExitStack() as stack:
            for worker in workers.values():
                stack.enter_context(worker)
            self._time(workers, sides)
        failed = [name for name, found in sides.items() if "error" in found]
        for name in failed if len(sides) > 1 else ():  # Perhaps two did not fit into the memory.
            with self._worker(work, name, self.alone) as again:
                found = {name: {"alone": True}}
                self._time({name: again}, found)
                sides[name] = found[name] | {"beside": sides[name]["error"]}
        return {"sides": sides, "load": os.getloadavg()[0]}

    def _time(self, workers: dict[str, Worker], sides: dict[str, dict[str, Any]]) -> None:
        alive = dict(workers)

        def ask(name: str, question: Any) -> Any:
            try:
                return question(workers[name])
            except WorkerEndedError as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                sides[name]["error"] = " / ".join(line[:300] for line in lines[-3:])
                alive.pop(name)
                return None

        for name in workers:
            if (ready := ask(name, lambda worker: worker.ready())) is not None:
                sides[name]["ready"] = ready
        counts = {}
        for name in list(alive):
            if (first := ask(name, lambda worker: worker.time(1))) is None:
                continue
            loss = sides[name]["ready"].get("loss", first["value"])
            sides[name] |= {"first_step": first["seconds"], "loss": loss}
            if (warm := ask(name, lambda worker: worker.time(2))) is not None:
                counts[name] = self._steps(warm["seconds"])
                sides[name] |= {"turns": []}
        for number in range(self.options.turns):
            for name in list(alive):
                if number and sum(sides[name]["turns"]) * counts[name] > self.options.row_seconds:
                    continue
                if (turn := ask(name, lambda worker, n=counts[name]: worker.time(n))) is None:
                    continue
                sides[name]["turns"].append(turn["seconds"])
                sides[name]["peak_gb"] = turn["peak_gb"]
        for name in alive:
            turns = sides[name]["turns"]
            sides[name] |= {"seconds": statistics.median(turns), "steps": len(turns) * counts[name]}

    def _steps(self, seconds: float) -> int:
        """Steps a turn: half a second's, at least 20 in all turns, less where they are long."""
        o = self.options
        if o.small:
            return 1
        least = -(-20 // o.turns)
        most = max(1, int(o.row_seconds / (o.turns * seconds)))
        return min(max(least, int(0.5 / seconds)), most)

    def parts(self) -> None:
        """One process after the other, told line by line; the largest batches need all memory."""
        self._one_row_is_done.wait()
        for key in (k for chosen in self.options.parts for k in PARTS if k.startswith(chosen)):
            part, name = key.split("/")
            there = self.results.found["parts"].get(key, {"complete": False})
            if there.get("complete", True) or ("torch" in name and "torch" not in self._sides):
                continue
            if part == "largest":
                self._rows_are_done.wait()
            if self.is_over():
                return
            self._part(key, part, name)

    def _part(self, key: str, *names: str) -> None:
        setting = json.dumps(dataclasses.asdict(self.setting))
        # What is right is so with the kernels that are not chosen by trials too, and sooner.
        untried = {"XLA_FLAGS": "--xla_gpu_autotune_level=0"} if names in _UNTRIED else {}
        with tempfile.TemporaryFile("w+") as errors:
            self._running = subprocess.Popen(
                [
                    sys.executable,
                    FOLDER / "accelerator_parts.py",
                    *names,
                    setting,
                    self.options.out,
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | untried,
            )
            assert self._running.stdout is not None
            for line in self._running.stdout:
                if line.startswith("{"):
                    self.results.add("parts", key, json.loads(line))
            if self._running.wait() and not self.is_over():
                errors.seek(0)
                failed = {"error": errors.read()[-600:], "complete": False}
                known = self.results.found["parts"].get(key, {})
                self.results.add("parts", key, known | failed)

    def all(self) -> None:
        """Rows, and the parts beside them, until the time is over."""
        parts = threading.Thread(target=self.parts)
        parts.start()
        try:
            self.rows()
        finally:
            self._one_row_is_done.set()
            self._rows_are_done.set()
        while parts.is_alive() and not self.is_over():
            parts.join(1)
        if parts.is_alive() and self._running is not None:
            self._running.kill()
            parts.join()


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    some: dict[str, Any] = {"nargs": "*"}
    networks, modes = [*ROWS, "none"], [*MODES, *VARIANTS, "heatmaps"]
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--budget", type=float, default=1e9, help="seconds; then no row begins")
    parser.add_argument("--small", action="store_true", help="tiny shapes, few steps: for a CPU")
    parser.add_argument("--rows", **some, choices=networks, default=[], help="networks; none: all")
    parser.add_argument("--modes", **some, choices=modes, default=[], help="none: all")
    parser.add_argument("--precisions", **some, choices=PRECISIONS, default=list(PRECISIONS))
    parts = [*NAMES, *PARTS]
    parser.add_argument(
        "--parts", **some, choices=parts, default=list(NAMES), metavar="PART[/NAME]"
    )
    parser.add_argument("--without", **some, choices=SIDES, default=[], help="sides to leave out")
    parser.add_argument("--authors", default="", help="folder of the authors' code: a third side")
    parser.add_argument("--cache", default="", help="folder of JAX's persistent compilation cache")
    parser.add_argument("--turns", type=int, default=5, help="timings of each side, interleaved")
    parser.add_argument("--row-seconds", type=float, default=20, help="most for a side's timings")
    parser.add_argument("--slots", type=int, default=2, help="how many may compile at a time")
    parser.add_argument("--ahead", type=int, default=4, help="rows whose processes get ready")
    options = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as slots:
        run = Run(options, Path(slots))
        run.all()
    minutes = (time.monotonic() - run.started) / 60
    print(f"{len(run.results.found['rows'])} rows, {minutes:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
