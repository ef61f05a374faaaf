"""Options in YAML: out and in, and what is refused with the nearest known name."""

import dataclasses
import re
import time
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import ISNET, PLAIN

from isnet_jax import ISNetConfig, UserError, lrp
from isnet_jax.commands import hard
from isnet_jax.commands.config_file import from_yaml, to_yaml, values_of
from isnet_jax.commands.custom import OwnDataJob
from isnet_jax.commands.digits import CONFIGS, BiasedDigitsJob
from isnet_jax.training import TrainConfig
from isnet_jax.training.serial import from_dict, to_dict

ODD = ISNetConfig(
    foreground_range=((1.0, 25.0), (0.5, 3.0)),
    box_rule=lrp.ZBox(0.0, 2.0),
    deep_supervision=("stage1", "stage2"),
    heatmap_schedule=((0, 0.0), (100, 0.7)),
    heatmap_fraction=1e-5,
)


@pytest.mark.parametrize(
    "options",
    [
        *CONFIGS.values(),
        OwnDataJob(Path("a b/é"), profile_steps=(1, 3)),
        *(OwnDataJob(Path(name)) for name in ("1.5e3", "010", "1:30", ".5", "yes", "2020-01-01")),
        ISNET,
        PLAIN,
        dataclasses.replace(ISNET, objective=ODD),
        dataclasses.replace(ISNET, objective=ISNetConfig(box_rule=False, deep_supervision=True)),
    ],
)
def test_what_is_written_is_read(options, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(to_yaml(options), encoding="utf-8")
    assert from_yaml(type(options), tmp_path / "config.yaml") == options


@pytest.mark.parametrize("learning_rate", ["1e-3", "0.001", "1.0e-3"])
def test_numbers_as_people_write_them(tmp_path: Path, learning_rate: str):
    """YAML 1.1 takes 1e-3 for a text."""
    (tmp_path / "x.yaml").write_text(f"optimiser: {{learning_rate: {learning_rate}}}\nepochs: 3")
    job = from_yaml(BiasedDigitsJob, tmp_path / "x.yaml")
    assert job == BiasedDigitsJob(
        optimiser=dataclasses.replace(BiasedDigitsJob().optimiser, learning_rate=1e-3), epochs=3
    )


def test_what_a_file_leaves_out_is_the_default(tmp_path: Path):
    (tmp_path / "x.yaml").write_text("isnet: {heatmap_weight: 0.5}")
    default = CONFIGS["full"]
    job = from_yaml(BiasedDigitsJob, tmp_path / "x.yaml", default=default)
    assert job == dataclasses.replace(
        default, isnet=dataclasses.replace(default.isnet, heatmap_weight=0.5)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown option 'epoch'; did you mean 'epochs'?"),
        ("isnet: {varient: dual}", "unknown option in isnet 'varient'; did you mean 'variant'?"),
        ("3: 4", "unknown option '3'"),
        ("seed: 1\nepochs: 2\nseed: 2", "seed is there twice"),
        ("epochs: 010", "epochs is '010'; expected a whole number"),
        ("epochs: 1:30", "epochs is '1:30'; expected a whole number"),
        ("epochs: many", "epochs is 'many'; expected a whole number"),
        ("epochs: 3.5", "epochs is 3.5; expected a whole number"),
        ("epochs: true", "epochs is True; expected a whole number"),
        ("epochs: null", "epochs is None; expected a whole number"),
        ("model: [small]", "model is ['small']; expected a text"),
        ("model: smal", "unknown model 'smal'; did you mean 'small'?"),
        ("epochs: 0", "epochs is 0; expected at least 1"),
        ("isnet: 3", "isnet is 3; expected options by name"),
        ("isnet: {variant: duel}", "isnet.variant is 'duel'; expected 'selective' or"),
        ("isnet: {lrp_epsilon: x}", "isnet.lrp_epsilon is 'x'; expected a number"),
        ("isnet: {heatmap_weight: 0_1}", "heatmap_weight is '0_1'; expected a number"),
        ("isnet: {heatmap_weight: 01}", "heatmap_weight is '01'; expected a number"),
        ("isnet: {heatmap_weight: '\u0661'}", "heatmap_weight is '\u0661'; expected a number"),
        ("isnet: {foreground_range: [1]}", "isnet.foreground_range is [1]; expected a list"),
        ("isnet: {foreground_range: [3, 1]}", "expected 0 < C1 < C2"),
        ("isnet: {box_rule: {rule: ZBux}}", "unknown rule 'ZBux'; did you mean 'ZBox'?"),
        ("profile_steps: [1]", "profile_steps is [1]; expected"),
        ("- 1", "the file is [1]; expected options by name"),
        ("just words", "the file is 'just words'; expected options by name"),
        ("a: [", "is no YAML"),
        ("a: !!python/object:os.system {}", "is no YAML"),
        ("a: !!timestamp x", "is no YAML"),
        ("a: !!bool 5", "is no YAML"),
        ("a: !!int ''", "is no YAML"),
        ("a: " + "[1], " * 60_000, "characters; expected options, at most 262,144"),
        ("\x00", "is no YAML"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        from_yaml(BiasedDigitsJob, tmp_path / "x.yaml")
    assert str(raised.value).startswith(str(tmp_path / "x.yaml"))


def test_what_has_no_default_is_missed(tmp_path: Path):
    (tmp_path / "x.yaml").write_text("epochs: 3")
    with pytest.raises(UserError, match=r"x\.yaml: the file lacks data"):
        from_yaml(OwnDataJob, tmp_path / "x.yaml")


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match=r"absent\.yaml cannot be read"):
        from_yaml(OwnDataJob, tmp_path / "absent.yaml")


def numbers(kind: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a dataclass of options takes a number."""
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from numbers(hint, (*path, name))
        elif hint is float:
            yield (*path, name)


JOBS = (BiasedDigitsJob, *hard.JOBS.values())


def test_a_file_without_end():
    with pytest.raises(UserError, match=r"/dev/zero cannot be read .*not a regular file"):
        from_yaml(BiasedDigitsJob, Path("/dev/zero"))


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("kind", JOBS)
def test_no_number_is_infinite(kind: type, value: str, tmp_path: Path):
    paths = [*numbers(kind)]
    assert ("optimiser", "learning_rate") in paths
    assert ("isnet", "exchange", "consistency") in paths
    for path in paths:
        text = "".join(f"{{{name}: " for name in path) + value + "}" * len(path)
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(UserError, match=rf"{path[-1]}.*(inf|nan)"):
            from_yaml(kind, tmp_path / "x.yaml")


def test_an_infinite_range_is_refused():
    for high in (float("inf"), float("nan")):
        with pytest.raises(UserError, match="expected 0 < C1 < C2, both finite"):
            ISNetConfig(foreground_range=(1.0, high))


def test_aliases_that_are_as_large_as_memory(tmp_path: Path):
    """Each holds the one before ten times."""
    deep = "x"
    for number in range(30):
        deep = f"&a{number} [{deep}{f', *a{number - 1}' * 9 if number else ''}]"
    (tmp_path / "x.yaml").write_text(f"model: {deep}")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"model is .* expected a text") as raised:
        from_yaml(BiasedDigitsJob, tmp_path / "x.yaml")
    assert len(str(raised.value)) < 3000
    assert time.monotonic() - started < 5


def test_merges_of_merges(tmp_path: Path):
    """Each holds the one before ten times; the last word counts."""
    lines = ["&a0 {epochs: 7, seed: 3}"]
    lines += [f"&a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], seed: {n}}}" for n in range(1, 30)]
    (tmp_path / "x.yaml").write_text("".join(f"- {line}\n" for line in lines))
    started = time.monotonic()
    assert values_of(tmp_path / "x.yaml")[-1] == {"epochs": 7, "seed": 29}
    assert time.monotonic() - started < 2


NAMES = [field.name for field in dataclasses.fields(TrainConfig)]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "rule", "variant", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(NAMES), VALUES)
@settings(max_examples=200, deadline=None)
def test_any_value_is_taken_or_refused(name: str, value: object):
    values = yaml.safe_load(yaml.safe_dump(to_dict(ISNET) | {name: value}))
    try:
        made = from_dict(TrainConfig, values, "here")
    except UserError:
        return
    assert from_dict(TrainConfig, to_dict(made), "here") == made or value != value
