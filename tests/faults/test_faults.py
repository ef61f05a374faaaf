"""The fault laboratory: kills, full disks and flipped bits in a small run.

Right are: it goes on to the same bits; it says what is damaged and takes the one before; it refuses
before anything is computed. Wrong are other values without a word, tracebacks, and runs that are
lost. The quick version takes a few of the faults, the slow one (`pytest -m slow tests/faults`) all.
"""

from __future__ import annotations

import collections
import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import small_run
import states

from isnet_jax import UserError
from isnet_jax.commands.main import exit_codes

# Orbax's writers, when the disk is full, tell loops that have ended.
of_closed_loops = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
some_or_all = pytest.mark.parametrize(
    "share", [pytest.param(0, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)


def chosen(faults: Sequence[Any], few: int, share: int) -> Sequence[Any]:
    """All of the faults, or a few evenly spread."""
    step = 1 if share else max(1, (len(faults) - 1) // (few - 1))
    return faults[::step]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[int, small_run.Start]:
    """What an undisturbed run would go on from, by step."""
    out = tmp_path_factory.mktemp("reference") / "run"
    small_run.run(out, keep=9)
    return small_run.starts(out)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[states.Contents]:
    """All that a kill can leave of the run."""
    out = tmp_path_factory.mktemp("killed") / "run"
    return states.kills(out, lambda: small_run.run(out))


@pytest.fixture(scope="module")
def finished(killed: list[states.Contents], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run at its end."""
    return states.write(killed[-1], tmp_path_factory.mktemp("finished") / "run")


def judge(out: Path, reference: dict[int, small_run.Start]) -> tuple[str, int]:
    """The outcome of going on in a folder, in a word or two, and the step it goes on from."""
    try:
        start = small_run.start(out)
    except UserError:
        return "refused", -1
    place = dict(start.place)
    if start.told and place:  # Of a damaged best one: another of the run's.
        best = place.pop("best")
        assert best in [other.place.get("state") for other in reference.values()]
    expected = reference[start.step].place
    assert place == {name: expected[name] for name in place}, start.step
    return "the one before" if start.told else "bit-equal", start.step


@some_or_all
def test_a_kill_at_any_operation_loses_nothing(
    share: int, killed: list[states.Contents], reference: dict[int, small_run.Start], tmp_path: Path
):
    steps = []
    for state in chosen(killed, 5, share):
        out = states.write(state, tmp_path / "run")
        outcome, step = judge(out, reference)
        assert outcome == "bit-equal"
        steps.append(step)
    assert steps == sorted(steps)
    assert {0, 6} <= {*steps}
    print(f"{len(steps)} kills: all went on, from the steps {collections.Counter(steps)}")


@some_or_all
def test_killed_runs_end_like_others(
    share: int, killed: list[states.Contents], finished: Path, tmp_path: Path
):
    expected, count = small_run.result(finished), 0
    for state in chosen(killed[:-1], 30, 0) if share else [killed[len(killed) // 2]]:
        out = states.write(state, tmp_path / "run")
        small_run.run(out)
        assert small_run.result(out) == expected
        count += 1
    print(f"{count} killed runs were trained to the end: all alike")


def flips(path: Path, regions: int) -> Iterator[tuple[Path, int]]:
    """A place in each of so many equal parts of a file."""
    size = path.stat().st_size
    for part in range(min(regions, size)):
        yield path, (2 * part + 1) * size // (2 * min(regions, size))


@some_or_all
def test_a_flipped_bit_in_any_stored_file_is_noticed_or_harmless(
    share: int, killed: list[states.Contents], reference: dict[int, small_run.Start], tmp_path: Path
):
    """In the run as it is after four steps of six: two checkpoints and a best one are there."""
    out = tmp_path / "run"
    whole = next(
        state
        for state in killed
        if {"isnet/last/3", "isnet/last/4", "isnet/best/3"} <= state.keys()
        and not any("tmp" in name for name in state)
    )
    states.write(whole, out)
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    read = [path for path in files if not {"tensorboard", ".lock"} & {*path.parts}]
    faults = [fault for path in read for fault in flips(path, 4)]
    outcomes: collections.Counter[str] = collections.Counter()
    for number, (path, place) in enumerate(chosen(faults, 8, share)):
        states.write(whole, out)
        data = bytearray(path.read_bytes())
        data[place] ^= 1 << number % 8
        path.write_bytes(data)
        try:
            outcomes[judge(out, reference)[0]] += 1
        except Exception as error:
            raise AssertionError(f"{path.relative_to(out)}, bit {number % 8} of {place}") from error
    print(f"{len(read)} files, {outcomes.total()} flipped bits: {dict(outcomes)}")


@of_closed_loops
@some_or_all
def test_a_full_disk_is_one_message_and_the_run_goes_on(
    share: int, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    expected = small_run.result(finished)
    with states.full_disk(tmp_path / "counted", after=10**9) as made:
        small_run.run(tmp_path / "counted")
    count = 0
    for after in chosen(range(made[0]), 40, 0) if share else [made[0] // 2]:
        out = tmp_path / f"run{after}"
        told = fails(out, states.full_disk(out, after))
        assert "Traceback" not in told + capfd.readouterr().err
        small_run.run(out)
        assert small_run.result(out) == expected, after
        count += 1
    print(f"a disk full after each of {count} of {made[0]} operations: all said so and went on")


@of_closed_loops
@some_or_all
def test_a_disk_without_room_for_a_file_is_one_message_and_the_run_goes_on(
    share: int,
    killed: list[states.Contents],
    finished: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    """Files that are written without Python too, by a limit to their size."""
    expected = small_run.result(finished)
    sizes = sorted({len(data) for data in killed[-1].values() if data})
    sizes = chosen(sizes, 20, 0) if share else [sizes[len(sizes) // 2]]
    for size in sizes:
        out = tmp_path / f"run{size}"
        told = fails(out, states.smaller_files(size - 1))
        assert "Traceback" not in told + capfd.readouterr().err
        small_run.run(out)
        assert small_run.result(out) == expected, size
    print(f"no room for files of {len(sizes)} sizes: all said so and went on")


def fails(out: Path, full: contextlib.AbstractContextManager[object]) -> str:
    """What is said where the disk is full: one message, exit code 2."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), pytest.raises(SystemExit, match="2"), full, exit_codes():
        small_run.run(out)
    assert told.getvalue().count("error:") == 1
    return told.getvalue()
