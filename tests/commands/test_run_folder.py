"""The output folder of a run: claimed whole, whatever killed an earlier claim."""

import json
import os
import subprocess
import sys
from pathlib import Path

import junk
import pytest
from rich.console import Console

from isnet_jax.commands import evaluate, run_folder
from isnet_jax.commands.evaluate import Evaluate
from isnet_jax.data import BiasedDigitsConfig
from isnet_jax.data.hard import Decoy
from isnet_jax.errors import UserError
from isnet_jax.training.serial import to_dict

SETTINGS = {"seed": 1}


def test_a_claim_killed_at_any_operation_is_made_again(tmp_path: Path):
    """In a process of its own, since it forks: the threads of this one would not survive."""
    script = Path(__file__).parents[1] / "killed_claims.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [str(operation) for operation in range(12)]


def test_foreign_files_are_not_taken_for_ours(tmp_path: Path):
    for name in (".run.json.short", ".notes.txt.abcdefgh", ".lock.abcdefgh"):
        (tmp_path / name).write_text("")
        with pytest.raises(UserError, match=r"is not empty and holds no run\.json"):
            run_folder.check(tmp_path, SETTINGS)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("file", ["metrics.json", "isnet/model.json"])
def test_a_folder_where_a_record_belongs(tmp_path: Path, file: str):
    run_folder.claim(tmp_path, SETTINGS, SETTINGS)
    (tmp_path / file).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{file} is a folder; expected a file"):
        run_folder.check(tmp_path, SETTINGS)


def test_temporaries_are_removed_when_the_run_starts(tmp_path: Path):
    run_folder.claim(tmp_path, SETTINGS, SETTINGS)
    (tmp_path / "isnet").mkdir()
    left = [tmp_path / ".report.html.abc_1234", tmp_path / "isnet" / ".metrics.jsonl.abcdefgh"]
    kept = [tmp_path / ".notes.html.abc_1234", tmp_path / "isnet" / "metrics.jsonl"]
    for path in left + kept:
        path.write_text("")
    with run_folder.lock(tmp_path):
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in kept)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("{}", "the file lacks settings"),
        ("[]", r"the file is \[\]; expected"),
        ("null", "the file is None; expected"),
        ('"settings"', "the file is 'settings'; expected"),
        ('{"settings": []}', r"settings is \[\]; expected values by name"),
    ],
)
def test_an_incomplete_record_of_the_run(tmp_path: Path, content: str, message: str):
    with pytest.raises(UserError, match=r"holds no run: run\.json is missing"):
        run_folder.read(tmp_path)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=rf"run\.json.*{message}.*train again, into another"):
        run_folder.read(tmp_path)


OWN = {"data": "absent", "content": "abc", "plain_epochs": 1}
HARD = {"kind": "decoy", "plain_epochs": 1, "data": to_dict(Decoy(limit=100))}
DIGITS = {"data": to_dict(BiasedDigitsConfig(limit=100))}


@pytest.mark.parametrize("settings", [OWN, HARD, DIGITS], ids=["own", "hard", "digits"])
def test_every_wrong_setting_is_an_error_of_the_user(tmp_path: Path, settings: dict):
    """The networks are not there: whole settings are refused for that."""
    options = Evaluate(tmp_path, tmp_path / "absent")
    for words, record in [
        ("whole", {"settings": settings}),
        *junk.variants({"settings": settings}),
    ]:
        (tmp_path / "run.json").write_text(json.dumps(record))
        told = junk.refusal(lambda: evaluate.run(options, Console(quiet=True)))
        assert told is not None, words
        assert words != "whole" or "holds no " in told


def test_a_lock_that_cannot_be_written(tmp_path: Path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(UserError, match=r"cannot write to .*Choose another --out"),
        run_folder.lock(tmp_path),
    ):
        pass


def test_settings_are_compared(tmp_path: Path):
    run_folder.claim(tmp_path, SETTINGS, SETTINGS)
    assert json.loads((tmp_path / "run.json").read_text())["settings"] == SETTINGS
    with pytest.raises(UserError, match="seed: 1 there, 2 now"):
        run_folder.check(tmp_path, {"seed": 2})


def test_a_lock_is_no_link_and_no_pipe(tmp_path: Path):
    """What a link points to would be emptied, and a pipe waited for."""
    (tmp_path / "mine").write_text("precious")
    for make in (lambda lock: lock.symlink_to(tmp_path / "mine"), os.mkfifo):
        make(tmp_path / ".lock")
        run_folder.check_unlocked(tmp_path)
        with pytest.raises(UserError, match="cannot write to"), run_folder.lock(tmp_path):
            pass
        (tmp_path / ".lock").unlink()
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_lock_of_any_bytes(tmp_path: Path):
    with run_folder.lock(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\xff\x1b[31m")
        with pytest.raises(UserError, match="is in use by another run"):
            run_folder.check_unlocked(tmp_path)
