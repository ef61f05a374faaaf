"""The command line: help, exit codes, errors of one screen, named configs."""

import contextlib
import gc
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isnet_jax import ISNetConfig, UserError, lrp
from isnet_jax.commands import custom, digits
from isnet_jax.commands.main import exit_codes, main
from isnet_jax.training import MeshConfig

TRAIN = ("train", "biased-digits")
OWN = ("train", "own-data")
INSPECT = ("inspect", "--model", "small")
PREPARE = [("prepare", kind) for kind in ("folder", "csv", "coco", "voc")]


class Started(Exception):  # noqa: N818
    """Carries the job that would have run."""

    def __init__(self, job: digits.BiasedDigitsJob):
        self.job = job


@pytest.fixture(autouse=True)
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(job, console):
        raise Started(job)

    monkeypatch.setattr(digits, "run", started)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "kept as the tests have it")


def job(*options: str) -> digits.BiasedDigitsJob:
    with pytest.raises(Started) as started:
        main([*TRAIN, *options])
    return started.value.job


def failed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert len(shown.splitlines()) <= 24
    return " ".join(shown.replace("│", " ").split())


def helped(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_of_the_program(capsys):
    main([])
    nothing = capsys.readouterr().out
    main(["--help"])
    assert capsys.readouterr().out == nothing
    assert max(map(len, nothing.splitlines())) <= 80
    commands = ("prepare", *map(" ".join, (TRAIN, OWN)), "evaluate", "explain", "inspect")
    for word in (*commands, "--help"):
        assert word in nothing


def test_help_needs_neither_jax_nor_flax():
    program = (
        "import sys; from isnet_jax.commands.main import main; main(['--help']); "
        "sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("command", [TRAIN, OWN, *PREPARE, ("evaluate",), ("explain",)])
def test_help_explains_every_option(capsys, command: tuple[str, ...]):
    sections = re.split(r"^\W*(?=--[a-z])", helped(capsys, *command), flags=re.MULTILINE)[1:]
    assert sections
    for section in sections:
        option = section.split()[0]
        text = section.split("options ─")[0].split("options --")[0]
        text = re.sub(r"\(default:.*?\)|\{.*?\}|--[a-z.-]+", "", text, flags=re.DOTALL)
        assert len(re.findall(r"\b[a-z]{2,}\b", text)) >= 2, option
        assert "``" not in text, option


def test_no_options_are_the_demo_and_configs_can_be_overridden():
    assert job() == digits.CONFIGS["demo"]
    full = job("--config", "full", "--epochs", "3", "--isnet.heatmap-weight", "0.5")
    assert (full.config, full.epochs, full.isnet.heatmap_weight) == ("full", 3, 0.5)
    assert full.plain_epochs == digits.CONFIGS["full"].plain_epochs
    assert full.isnet.variant == digits.CONFIGS["full"].isnet.variant
    assert job("--config=full") == digits.CONFIGS["full"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--isnet.box-rule", "False"), {"box_rule": False}),
        (("--isnet.deep-supervision", "True"), {"deep_supervision": True}),
        (("--isnet.deep-supervision", "a", "b"), {"deep_supervision": ("a", "b")}),
        (("--isnet.foreground-range", "1", "9"), {"foreground_range": (1.0, 9.0)}),
        (("--isnet.foreground-range", *"1928"), {"foreground_range": ((1.0, 9.0), (2.0, 8.0))}),
    ],
)  # fmt: skip
def test_objectives_options_of_several_types(options: tuple[str, ...], expected: dict):
    isnet = job(*options).isnet
    assert {name: getattr(isnet, name) for name in expected} == expected


def test_a_rule_for_the_first_layer_survives_as_a_default():
    assert isinstance(ISNetConfig(box_rule=lrp.ZBox(0.0, 1.0)).composites()[0].first, lrp.ZBox)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "did you mean 'train'"),
        (("train", "biased"), "did you mean 'biased-digits'"),
        ((*TRAIN, "--epoch", "3"), "Perhaps you meant: --epochs"),
        ((*TRAIN, "--optimiser.learning-rat", "3"), "--optimiser.learning-rate"),
        ((*TRAIN, "--epochs", "three"), "invalid literal"),
        ((*TRAIN, "--epochs", "0"), "epochs is 0; expected at least 1"),
        ((*TRAIN, "--model", "compct"), "did you mean 'compact'"),
        ((*TRAIN, "--config", "ful"), "did you mean 'full'"),
        ((*TRAIN, "--config"), "Missing value"),
        ((*TRAIN, "--isnet.variant", "selctive"), "invalid choice 'selctive'"),
        ((*TRAIN, "--isnet.heatmap-weight", "2"), "heatmap_weight is 2.0; expected in [0, 1]"),
        ((*TRAIN, "--isnet.foreground-range", "9", "1"), "expected 0 < C1 < C2"),
        ((*TRAIN, "--isnet.box-rule", "maybe"), "'maybe'"),
        ((*TRAIN, "--optimiser.momentum", "1"), "momentum is 1.0; expected"),
        ((*TRAIN, "--data.mark.kind", "colr"), "invalid choice 'colr'"),
        ((*TRAIN, "--data.mark.strength", "2"), "strength is 2.0"),
        ((*TRAIN, "--data.canvas", "20"), "canvas is 20"),
        ((*TRAIN, "--optimiser.learning-rate", "inf"), "learning_rate is inf; expected"),
        ((*TRAIN, "--isnet.background-scale", "inf"), "background_scale is inf; expected"),
        ((*TRAIN, "--isnet.foreground-range", "1", "inf"), "both finite"),
        ((*TRAIN, "--processes.coordinator", "127.0.0.1:0"), "a port of 1 to 65,535"),
        ((*TRAIN, "--processes.coordinator", "here:99999"), "a port of 1 to 65,535"),
        ((*INSPECT, "--image-size", "0"), "--image-size is 0; expected 1 to 8,192"),
        ((*INSPECT, "--image-size", "-5"), "--image-size is -5; expected 1 to 8,192"),
        ((*INSPECT, "--image-size", "1"), "images are 1x1; expected at least"),
        ((*INSPECT, "--in-channels", "0"), "--in-channels is 0; expected 1 to 64"),
        ((*INSPECT, "--classes", "0"), "--classes is 0; expected 1 to 100,000"),
        ((*INSPECT, "--classes", "-1"), "--classes is -1; expected 1 to 100,000"),
        ((*INSPECT, "--classes", "1_0"), "1_0 is missing; expected a number for --classes"),
        ((*INSPECT, "--classes", "99999999999"), "expected 1 to 100,000"),
        (("explain",), "Missing from isnet-jax explain"),
        (("evaluate", "/absent"), "/absent holds no run"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_screen(capsys, arguments, message: str):
    assert message in failed(capsys, *arguments)


def test_an_error_names_what_looks_like_markup_and_keeps_long_paths_whole(capsys):
    path = "/absent/[bold]/" + "x" * 150
    assert path in failed(capsys, "evaluate", path)


def test_names_cannot_act_on_the_terminal_or_look_like_lines_of_ours(capsys):
    told = failed(capsys, "evaluate", "/absent/\x1b[31m\nerror: spoofed")
    assert "/absent/\\x1b[31m\\nerror: spoofed holds no run" in told


def test_data_named_beside_a_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (tmp_path / "part.yaml").write_text("epochs: 3")
    monkeypatch.setattr(custom, "run", digits.run)
    with pytest.raises(Started) as started:
        main([*OWN, "DATA", "--config", str(tmp_path / "part.yaml")])
    assert (started.value.job.data, started.value.job.epochs) == (Path("DATA"), 3)
    said = failed(capsys, *OWN, "--config", str(tmp_path / "part.yaml"))
    assert "Missing from isnet-jax train own-data: PATH" in said


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")]
)
def test_too_little_memory_is_said(error: Exception, capsys):
    with pytest.raises(SystemExit, match="2"), exit_codes():
        raise error
    assert "the memory does not suffice" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="other"), exit_codes():
        raise RuntimeError("other")


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "run", interrupt)
    with pytest.raises(SystemExit) as stopped:
        main(TRAIN)
    assert stopped.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_an_interrupt_in_a_callback_of_the_garbage_collector_counts(capsys):
    """Python prints what such callbacks raise, and goes on; JAX has one."""
    interrupts = iter([KeyboardInterrupt])

    def callback(phase: str, info: object) -> None:
        for interrupt in interrupts:
            raise interrupt

    def collect() -> None:
        with exit_codes():
            gc.collect()
            time.sleep(5)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.callbacks.append(callback)
    try:
        with pytest.raises(SystemExit, match="130"):
            collect()
    finally:
        gc.callbacks.remove(callback)
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.startswith("interrupted;")


def test_where_nothing_can_be_said_the_exit_code_counts(monkeypatch: pytest.MonkeyPatch):
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(SystemExit, match="2"), exit_codes():
            raise UserError("Mend it.")
        with contextlib.suppress(OSError):
            full.close()


def test_the_program_is_installed():
    program = Path(sys.executable).with_name("isnet-jax")
    done = subprocess.run([program, "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown command 'nonsense'" in done.stderr


def test_how_the_step_runs_over_devices(capsys):
    found = job("--parallel", "pmap", "--accumulate", "2", "--synchronise-batch-norm", "True")
    assert found.launch == MeshConfig("pmap", accumulate=2, synchronise_batch_norm=True)
    told = failed(capsys, *TRAIN, "--parallel", "mesch")
    assert "Expected one of ('auto', 'single', 'pmap', 'mesh')" in told
    told = failed(capsys, *TRAIN, "--processes.count", "2")
    assert "no coordinator; expected HOST:PORT" in told
