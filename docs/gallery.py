"""Draw docs/images/gallery.png: one photograph, one network, every composite.

    pip install -e . && python docs/gallery.py

No pretrained weights: in a few minutes on two cores a small network learns to tell apart crops of
scikit-image's photographs, which the package brings along. See docs/gallery.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from skimage.transform import rescale

from isnet_jax import lrp, models
from isnet_jax.report.heatmaps import as_image, relevance_rgb

# Where the classes are in the photograph at half its size: top, bottom, left, right.
OBJECTS = {
    "head": (8, 94, 80, 142),
    "flag": (0, 125, 0, 55),
    "suit": (115, 256, 50, 155),
    "shuttle": (0, 140, 168, 226),
    "helmet": (160, 245, 150, 225),
}
CLASSES = (*OBJECTS, "other")
OTHERS = (
    *("chelsea", "coffee", "rocket", "brick", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "colorwheel"),
)
CROP = 64
TOP, BOTTOM, LEFT, RIGHT = (0, 112, 48, 176)  # what is explained, at half its size

BOX = lrp.ZBox(0.0, 1.0)
COMPOSITES = {
    "Gradient * input": lrp.Gradient(),
    "Epsilon(0.01), LRP-Flex": lrp.Epsilon(1e-2),
    "ISNetFlex(first=ZBox)": lrp.ISNetFlex(first=BOX),
    "ISNetBlock(first=ZBox)": lrp.ISNetBlock(first=BOX),
    "AttnLRP": lrp.AttnLRP(),
    "Gamma(0.25)": lrp.Gamma(),
    "EpsilonGammaBox": lrp.EpsilonGammaBox(0.0, 1.0),
    "EpsilonPlus": lrp.EpsilonPlus(),
    "EpsilonPlusFlat": lrp.EpsilonPlusFlat(),
    "EpsilonAlpha2Beta1": lrp.EpsilonAlpha2Beta1(),
    "EpsilonAlpha2Beta1Flat": lrp.EpsilonAlpha2Beta1Flat(),
    "ExcitationBackprop": lrp.ExcitationBackprop(),
    "GuidedBackprop": lrp.GuidedBackprop(),
    "Deconvnet": lrp.Deconvnet(),
}


def photograph(name: str, scale: float) -> np.ndarray:
    image = getattr(data, name)() / 255.0
    image = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    return rescale(image, scale, anti_aliasing=True, channel_axis=2).clip(0, 1).astype(np.float32)


class Crops:
    """Random crops with their classes; shifted, scaled, mirrored, in another light."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.scales = (0.4, 0.5, 0.6)
        self.subject = {scale: photograph("astronaut", scale) for scale in self.scales}
        self.others = [photograph(name, scale) for name in OTHERS for scale in (0.3, 0.5)]

    def batch(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = self.rng.integers(0, len(CLASSES), size)
        return np.stack([self._crop(CLASSES[label]) for label in labels]), labels

    def _crop(self, name: str) -> np.ndarray:
        if name == "other":
            image = self.others[self.rng.integers(len(self.others))]
            centre = self.rng.uniform((0, 0), image.shape[:2])
        else:
            scale = self.rng.choice(self.scales)
            image = self.subject[scale]
            top, bottom, left, right = np.array(OBJECTS[name]) * scale / 0.5
            middle = np.array([top + bottom, left + right]) / 2
            reach = np.array([bottom - top, right - left]) / 4
            centre = self.rng.uniform(middle - reach, middle + reach)
        corner = np.clip(centre - CROP // 2, 0, np.subtract(image.shape[:2], CROP)).astype(int)
        crop = image[corner[0] : corner[0] + CROP, corner[1] : corner[1] + CROP]
        crop = crop[:, ::-1] if self.rng.random() < 0.5 else crop
        light = self.rng.uniform(0.7, 1.3) * self.rng.uniform(0.85, 1.15, 3)
        noise = self.rng.normal(0, 0.02, crop.shape)
        return np.clip(crop * light + noise, 0, 1).astype(np.float32)


def train(steps: int) -> nnx.Module:
    model = models.create(
        "compact", num_classes=len(CLASSES), widths=(16, 32, 64, 64), rngs=nnx.Rngs(0)
    )
    model.train()
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps)
    optimizer = nnx.Optimizer(model, optax.adamw(schedule, weight_decay=1e-2), wrt=nnx.Param)

    def step(model, optimizer, images, labels):
        def loss(model):
            logits = model(images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses), jnp.mean(jnp.argmax(logits, 1) == labels)

        (value, accuracy), gradient = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, gradient)
        return value, accuracy

    compiled = nnx.jit(step)
    crops = Crops(seed=0)
    for number in range(steps):
        value, accuracy = compiled(model, optimizer, *crops.batch(32))
        if number % 100 == 0 or number == steps - 1:
            print(f"step {number}: loss {value:.3f}, accuracy {accuracy:.2f}", flush=True)
    model.eval()
    images, labels = Crops(seed=1).batch(256)
    accuracy = np.mean(np.argmax(jax.jit(model)(images), 1) == labels)
    print(f"accuracy on new crops of the same photographs: {accuracy:.3f}")
    return model


def draw(picture: np.ndarray, heatmaps: dict[str, np.ndarray], columns: int = 5) -> Image.Image:
    """A grid of tiles with names above; each heatmap has its own colour limit."""
    size, gap, caption = (2 * picture.shape[1], 2 * picture.shape[0]), 10, 22
    tiles = {"the photograph": as_image(picture).resize(size, Image.Resampling.BICUBIC)}
    for name, heatmap in heatmaps.items():
        tiles[name] = as_image(relevance_rgb(heatmap)).resize(size, Image.Resampling.NEAREST)
    rows = -(-len(tiles) // columns)
    across, down = size[0] + gap, size[1] + gap + caption
    grid = Image.new("RGB", (gap + columns * across, gap + rows * down), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(size=15)
    for number, (name, tile) in enumerate(tiles.items()):
        x, y = gap + number % columns * across, gap + number // columns * down
        pen.text((x + size[0] / 2, y), name, fill="black", font=font, anchor="ma")
        grid.paste(tile, (x, y + caption))
        frame = (x - 1, y + caption - 1, x + size[0], y + caption + size[1])
        pen.rectangle(frame, outline="#aaaaaa")
    return grid


def main():
    parser = argparse.ArgumentParser(description="One photograph, one network, every composite.")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images/gallery.png")
    arguments = parser.parse_args()

    model = train(arguments.steps)
    picture = photograph("astronaut", 0.5)[TOP:BOTTOM, LEFT:RIGHT]
    top, bottom, left, right = np.subtract(OBJECTS["head"], (TOP, TOP, LEFT, LEFT))
    heatmaps = {}
    for name, rules in COMPOSITES.items():
        explain = nnx.jit(
            lambda model, x, rules=rules: lrp.relevance(
                model, x, target=CLASSES.index("head"), rules=rules
            )
        )
        logits, relevance = explain(model, picture[None])
        heatmaps[name] = np.asarray(relevance[0])
        positive = np.maximum(heatmaps[name].sum(-1), 0)
        share = positive[top:bottom, left:right].sum() / positive.sum()
        print(f"{name}: {share:.0%} of the positive relevance is in the head's box", flush=True)
    print("logits:", {name: round(float(z), 2) for name, z in zip(CLASSES, logits[0], strict=True)})
    arguments.out.parent.mkdir(exist_ok=True)
    draw(picture, heatmaps).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
