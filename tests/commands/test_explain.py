"""`isnet-jax explain` and `inspect` for any network: files in, pictures and arrays out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from dicom_film import film
from flax import nnx
from PIL import Image

from isnet_jax import models
from isnet_jax.commands.main import main
from isnet_jax.commands.network import COMPOSITES, NetworkChoice, chosen_network
from isnet_jax.data import load_split, open_prepared
from isnet_jax.data.custom.picture import read_image

NAMES = ("cat", "dog", "cow")
MODEL = ("--model", "small", "--image-size", "16")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    models.save_weights(models.create("small", num_classes=3, rngs=nnx.Rngs(0)), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, and a file that is none."""
    draw = np.random.default_rng(0)
    made = tmp_path / "images"
    made.mkdir()
    for name in ("a.png", "b.jpg", "c.png"):
        Image.fromarray(draw.integers(0, 255, (16, 16, 3), np.uint8)).save(made / name)
    (made / "notes.txt").write_text("no image")
    return made


def run(capsys, *arguments: object) -> str:
    main([*map(str, arguments)])
    return capsys.readouterr().out


def failed(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit, match="2"):
        main([*map(str, arguments)])
    return capsys.readouterr().err


def test_a_folder_becomes_pictures_and_arrays(capsys, folder, weights, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(NAMES))
    out, arrays = tmp_path / "heatmaps", tmp_path / "arrays.npz"
    shown = run(
        capsys, "explain", folder, *MODEL, "--weights", weights, "--classes", classes,
        "--target", "dog", "--out", out, "--arrays", arrays,
    )  # fmt: skip
    assert len(re.findall("predicted (cat|dog|cow).*heatmap for dog", shown)) == 3
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "c.png"]
    with Image.open(out / "c.png") as picture, Image.open(folder / "c.png") as image:
        np.testing.assert_array_equal(np.asarray(picture)[:, :16], np.asarray(image))
    with np.load(arrays) as file:
        assert file["relevance"].shape == (3, 16, 16, 3)
        assert file["logits"].shape == (3, 3)
        assert list(file["targets"]) == [1, 1, 1]
        assert [Path(name).name for name in file["files"]] == ["a.png", "b.jpg", "c.png"]
        assert tuple(file["classes"]) == NAMES
        assert np.abs(file["relevance"]).max() > 0


def test_one_picture_with_a_row_for_each_image_and_relevance_alone(
    capsys, folder, weights, tmp_path
):
    out, arrays = tmp_path / "all.png", tmp_path / "r.npy"
    run(
        capsys, "explain", folder / "a.png", folder / "c.png", *MODEL, "--weights", weights,
        "--out", out, "--arrays", arrays, "--normalisation", "none",
    )  # fmt: skip
    with Image.open(out) as picture:
        assert picture.height > picture.width * 0.8
    assert np.load(arrays).shape == (2, 16, 16, 3)


def test_images_of_another_size(capsys, weights, tmp_path):
    Image.new("L", (40, 20), 90).save(tmp_path / "wide.png")
    arguments = ("explain", tmp_path / "wide.png", *MODEL, "--weights", weights)
    shown = failed(capsys, *arguments)
    assert "40 x 20 pixels; the network expects 16 x 16" in shown
    assert "--resize crop" in shown
    for resize in ("crop", "stretch"):
        run(capsys, *arguments, "--resize", resize, "--out", tmp_path / f"{resize}.png")
        assert (tmp_path / f"{resize}.png").exists()


def test_every_unusable_file_is_named_before_any_compute(capsys, folder, weights, monkeypatch):
    monkeypatch.setattr("isnet_jax.commands.explain.explain_classes", None)
    Image.new("L", (40, 20)).save(folder / "wide.png")
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    shown = failed(capsys, "explain", folder, folder / "notes.txt", *MODEL, "--weights", weights)
    assert "3 of 6 images cannot be used" in shown
    for name in (
        "wide.png has 40 x 20",
        "broken.png cannot be decoded",
        "notes.txt cannot be decoded",
    ):
        assert name in shown


def saved(path: Path, picture: Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def drawn(number: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (16, 16, *channels), np.uint8)


def turned_jpeg(path: Path, number: int) -> None:
    """Saved upside down, with the EXIF tag that turns it upright."""
    exif = Image.Exif()
    exif[0x112] = 3
    pixels = np.ascontiguousarray(drawn(number, 3)[::-1, ::-1])
    saved(path, Image.fromarray(pixels), quality=95, exif=exif)


def grey_film(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = drawn(number).astype(np.uint16) * 16
    path.write_bytes(film(stored, PhotometricInterpretation="MONOCHROME1"))


GREY = {
    "wide.png": lambda p, n: saved(p, Image.fromarray(drawn(n).astype(np.uint16) * 200)),
    "grey.png": lambda p, n: saved(p, Image.fromarray(drawn(n))),
    "film.dcm": grey_film,
}
COLOUR = {
    "colour.bmp": lambda p, n: saved(p, Image.fromarray(drawn(n, 3))),
    "palette.png": lambda p, n: saved(p, Image.fromarray(drawn(n, 3)).quantize(16)),
    "opaque.png": lambda p, n: saved(p, Image.fromarray(drawn(n, 3)).convert("RGBA")),
    "turned.jpg": turned_jpeg,
    "grey.png": GREY["grey.png"],
}


@pytest.mark.parametrize("kinds", [GREY, COLOUR], ids=["grey", "colour"])
def test_explain_reads_what_prepare_reads(kinds, tmp_path):
    """The pixels that a network is trained on are those that `explain` gives it."""
    files = {}
    for number in range(6):
        for kind, make in kinds.items():
            name = f"{('cat', 'dog')[number % 2]}/{number}-{kind}"
            file = tmp_path / "images" / name
            make(file, number + 10 * list(kinds).index(kind))
            files[f"images/{name}"] = file
            mask = (tmp_path / "masks" / name).with_suffix(".png")
            saved(mask, Image.fromarray(np.full((16, 16), 255, np.uint8)))
    main(["prepare", "folder", str(tmp_path), "--out", str(tmp_path / "prepared")])
    for name in ("train", "validation", "test"):
        split = load_split(open_prepared(tmp_path / "prepared"), name)
        for sample, image in zip(split.ids, split.batch(slice(None))["image"], strict=True):
            shown = read_image(files.pop(sample), (16, 16), 3, None)
            np.testing.assert_array_equal(shown, image)
    assert not files


def test_transparent_parts_are_refused_by_both(capsys, folder, weights, tmp_path):
    file = tmp_path / "d" / "images" / "cat" / "a.png"
    saved(file, Image.fromarray(drawn(0, 4)))
    saved(tmp_path / "d" / "masks" / "cat" / "a.png", Image.fromarray(drawn(0) * 0 + 255))
    prepare = ("prepare", "folder", tmp_path / "d", "--out", tmp_path / "o")
    explain = ("explain", file, *MODEL, "--weights", weights)
    for arguments in (prepare, explain):
        assert "has transparent parts" in failed(capsys, *arguments).replace("\n", " ")


@pytest.mark.parametrize("rules", sorted(set(COMPOSITES) - {"isnet"}))
def test_composites_by_name(capsys, rules):
    shown = run(capsys, "inspect", *MODEL, "--rules", rules)
    assert len(re.findall(r"^ +layer +(conv[123]|fc) ", shown, re.MULTILINE)) == 4
    assert "unsupported" not in shown


def test_inspect_needs_no_weights(capsys):
    shown = run(capsys, "inspect", *MODEL, "--classes", "5")
    assert "ZBox" in shown
    assert "1x5" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "smal"), "did you mean 'small'"),
        (("--model", "small"), "needs its --weights"),
        (("--weights", "w.safetensors"), "belong to a --model"),
        ((*MODEL, "--weights", "absent.safetensors"), "absent.safetensors cannot be read"),
        ((*MODEL, "--checkpoint", "runs"), "name two networks"),
        ((*MODEL, "--weights", "WEIGHTS", "--classes", "9"), "does not fit the model"),
        ((*MODEL, "--weights", "WEIGHTS", "--classes", "absent"), "a name on each line"),
        ((*MODEL, "--weights", "WEIGHTS", "--target", "9"), "unknown class '9'"),
        (("--model", "resnet18", "--weights", "WEIGHTS"), "does not fit the model"),
        ((*MODEL, "--rules", "epsilon-pluss"), "did you mean 'epsilon-plus'"),
        (
            (*MODEL, "--weights", "WEIGHTS", "--transition-relu", "True"),
            "small has no option 'transition_relu'",
        ),
        ((*MODEL, "--arrays", "r.csv"), r"\.npz or \.npy"),
        ((*MODEL, "--out", "heatmap.jpg"), r"ends in \.png"),
    ],
)
def test_what_is_refused(capsys, folder, weights, options, message):
    options = [str(weights) if word == "WEIGHTS" else word for word in options]
    assert re.search(message, failed(capsys, "explain", folder, *options).replace("\n", " "))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n\ndog\nbird\nfish\n", "line 2 is blank"),
        ("# mine\ncat\ndog\n", "line 1 is a comment"),
        ("1 cat\n0 dog\n2 cow\n", "line 1 is '1 cat', of another number"),
        ("cat\ndog\0\n", "holds a NUL byte in line 2"),
        ("cat\ndog\u200b\ncow\n", "line 2 has invisible characters"),
        ('["cat", "dog", "cow"]', "of a list or dictionary of a program"),
        ("cat\ncow\ncow\n", "--target cow is the name of the classes 1, 2. Give the number"),
    ],
)
def test_class_names_that_would_be_others(capsys, folder, weights, tmp_path, text, message):
    (tmp_path / "names.txt").write_text(text)
    options = (*MODEL, "--weights", weights, "--classes", tmp_path / "names.txt")
    said = failed(capsys, "explain", folder, *options, "--target", "cow")
    assert message in said.replace("\n", " ")


def test_class_names_are_read_as_elsewhere(tmp_path: Path):
    (tmp_path / "names.txt").write_text("\ufeff0 background\r1 cafe\u0301\r\n", newline="")
    choice = NetworkChoice(model="small", classes=str(tmp_path / "names.txt"))
    names = chosen_network(choice, random_weights=True).class_names
    assert names == ("0 background", "1 caf\u00e9")


def test_weights_that_overflow_are_named_before_any_compute(capsys, folder, tmp_path, weights):
    wide = {name: a.astype(np.float64) * 1e200 for name, a in models.read_weights(weights).items()}
    path = tmp_path / "wide.safetensors"
    safetensors.numpy.save_file(wide, path)
    shown = failed(capsys, "explain", folder, *MODEL, "--weights", path)
    assert re.search(r"wide\.safetensors: .*beyond float32 .*bn1\.running_var", shown, re.DOTALL)
    assert "use an earlier checkpoint" in shown


def test_a_folder_without_images(capsys, tmp_path, weights):
    shown = failed(capsys, "explain", tmp_path, *MODEL, "--weights", weights)
    assert "holds no image files" in shown
