"""Pictures of heatmaps: colours, mask outlines, panels, and tiles for TensorBoard.

Needs NumPy and Pillow, and Matplotlib for panels only, but not JAX. Figures are built with
Matplotlib's objects, never with pyplot, so nothing here touches global state or needs a display.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from isnet_jax.errors import UserError
from isnet_jax.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTILE = 0.995
"""The part of all pixels whose \\|relevance\\| lies within the default colour limit."""

_SOFTWARE = "Software", "isnet_jax"
_QUICK = 1  # of zlib's levels: a heatmap is 4 % larger than at the slowest, and twice as quick

# Evenly spaced from -limit to +limit; ColorBrewer's RdBu with a pure white centre.
_ANCHORS = np.array(
    [
        (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240),
        (255, 255, 255),
        (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
    ],
    np.float64,
)  # fmt: skip


def relevance_rgb(relevance: ArrayLike, limit: float | None = None) -> np.ndarray:
    """Colours of one heatmap: white at zero, red for positive, blue for negative relevance.

    Args:
        relevance: (H, W) or (H, W, C), any range; channels are summed.
        limit: the relevance drawn in the darkest red, and with a minus sign in the darkest blue;
            what lies beyond is clipped. Default: `relevance_limit(relevance)`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: for another shape, for NaN or infinite relevance, for a limit that is not
            positive and finite.
    """
    total = _summed(relevance)
    if limit is None:
        limit = relevance_limit(total)
    elif not (np.isfinite(limit) and limit > 0):
        raise UserError(f"limit must be positive and finite, found {limit}")
    position = np.clip(total / limit, -1, 1)
    grid = np.linspace(-1, 1, len(_ANCHORS))
    channels = [np.interp(position, grid, _ANCHORS[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def relevance_limit(relevance: ArrayLike, quantile: float = QUANTILE) -> float:
    """The colour limit of a heatmap that a few extreme pixels do not decide.

    Args:
        relevance: (H, W) or (H, W, C); channels are summed.
        quantile: in (0, 1]; 1 is the maximum.

    Returns:
        The quantile of \\|relevance\\| over the pixels; its maximum where the quantile is zero (a
        sparse heatmap); 1 where all relevance is zero.

    Raises:
        UserError: for another shape, for NaN or infinite relevance.
    """
    magnitude = np.abs(_summed(relevance))
    return float(np.quantile(magnitude, quantile) or magnitude.max() or 1.0)


def beside(image: ArrayLike, relevance: ArrayLike) -> np.ndarray:
    """An image and its heatmap side by side, of their own size: quick to draw and to write.

    Args:
        image: (H, W, 3) or (H, W, 1) in [0, 1].
        relevance: (H, W, C).

    Returns:
        (H, 2 * W, 3) uint8.

    Raises:
        UserError: for NaN or infinite relevance.
    """
    shown, colours = _to_uint8(np.asarray(image)), relevance_rgb(relevance)
    return np.concatenate([np.broadcast_to(shown, colours.shape), colours], axis=1)


def mask_outline(mask: ArrayLike) -> np.ndarray:
    """The border of a mask as line segments that run along the edges of pixels.

    Pixel (row, column) covers the square from (x, y) = (column, row) to (column + 1, row + 1), so
    the outline stays crisp however much the image is enlarged. The image's own border counts where
    the foreground touches it.

    Args:
        mask: (H, W) or (H, W, 1); the foreground is what exceeds 0.5.

    Returns:
        (segments, 2, 2) float: from (x, y) to (x, y). Edges in one straight line are one segment.
        An empty mask has no segments.
    """
    padded = np.pad(_binary(mask), 1)
    vertical = _runs(padded[1:-1, 1:] != padded[1:-1, :-1], axis=0)
    horizontal = _runs(padded[1:, 1:-1] != padded[:-1, 1:-1], axis=1)
    return np.concatenate([vertical, horizontal[:, :, ::-1]]).astype(np.float64)


def panel(
    images: ArrayLike,
    heatmaps: Mapping[str, ArrayLike],
    masks: ArrayLike | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
    wrong: Mapping[str, Sequence[bool]] | None = None,
) -> Figure:
    """A figure with one row for each sample: the image, then one heatmap for each network.

    Each heatmap has its own colour limit (`relevance_limit`), as networks differ in the scale of
    their relevance.

    Args:
        images: (N, H, W, 3) or (N, H, W, 1) in [0, 1].
        heatmaps: network name -> (N, H, W, C).
        masks: (N, H, W, 1), 1 on the foreground; drawn as an outline on the heatmaps.
        captions: network name (or "input") -> N texts, such as "plain: 3 (99 %)".
        wrong: network name -> N flags; a wrong prediction gets a cross and a red frame.

    Returns:
        A Matplotlib figure, ready for `save_png`.

    Raises:
        UserError: for shapes that do not fit together, for NaN or infinite relevance.
    """
    from matplotlib.collections import LineCollection

    pictures = _images(images)
    maps = {name: _heatmaps(name, value, pictures) for name, value in heatmaps.items()}
    outlines = None if masks is None else [mask_outline(mask) for mask in _masks(masks, pictures)]
    texts = _per_sample("captions", captions, len(pictures))
    flags = _per_sample("wrong", wrong, len(pictures))
    columns = {"input": pictures, **{name: _coloured(stack) for name, stack in maps.items()}}

    figure, axes = _figure(len(pictures), len(columns), pictures.shape[1] / pictures.shape[2])
    for column, (name, stack) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=9, fontweight="bold", pad=5, parse_math=False)
        for row, picture in enumerate(stack):
            axis = axes[row, column]
            text = texts[name][row] if name in texts else ""
            _draw_tile(axis, picture, text, wrong=bool(name in flags and flags[name][row]))
            if column > 0 and outlines is not None:
                lines = LineCollection(list(outlines[row]), colors="#111111", linewidths=0.9)
                lines.set_capstyle("round")
                axis.add_collection(lines)
    return figure


def heatmap_grid(
    images: ArrayLike, masks: ArrayLike, heatmaps: Mapping[str, ArrayLike], scale: int = 3
) -> np.ndarray:
    """One picture of many heatmaps, fast, for TensorBoard: rows are samples.

    The columns are the image, then the heatmaps in the order of the mapping. The mask is outlined
    on the heatmaps, one pixel wide after enlarging.

    Args:
        images: (N, H, W, 3) or (N, H, W, 1) in [0, 1].
        masks: (N, H, W, 1), 1 on the foreground.
        heatmaps: network name -> (N, H, W, C).
        scale: how many times to enlarge, 1 or more.

    Returns:
        (N * (scale * H + 2) + 2, columns * (scale * W + 2) + 2, 3) uint8.

    Raises:
        UserError: for shapes that do not fit together, for NaN or infinite relevance.
    """
    if scale < 1:
        raise UserError(f"scale must be 1 or more, found {scale}")
    pictures = _images(images)
    columns = [_to_uint8(pictures)]
    columns += [_coloured(_heatmaps(name, value, pictures)) for name, value in heatmaps.items()]
    tiles = np.stack(columns, axis=1).repeat(scale, axis=2).repeat(scale, axis=3)
    foreground = _masks(masks, pictures).repeat(scale, axis=1).repeat(scale, axis=2)
    tiles[:, 1:][np.broadcast_to(_rim(foreground)[:, None], tiles[:, 1:].shape[:-1])] = 17
    gap = 2
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=128)
    rows, across, height, width, _ = tiles.shape
    grid = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * height, across * width, 3)
    return np.pad(grid, ((gap, 0), (gap, 0), (0, 0)), constant_values=128)


def as_image(picture: ArrayLike) -> Image.Image:
    """An image (H, W), (H, W, 1) or (H, W, 3), uint8 or floats in [0, 1], as Pillow's.

    Raises:
        UserError: for an array of another shape or range.
    """
    array = np.asarray(picture)
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] != 3):
        raise UserError(f"an image is (H, W), (H, W, 1) or (H, W, 3), found {array.shape}")
    return Image.fromarray(array if array.dtype == np.uint8 else _to_uint8(_in_unit_range(array)))


def png_bytes(picture: Figure | ArrayLike) -> bytes:
    """A figure, or an array as `as_image` takes it, encoded as PNG, as small as it gets."""
    return _encoded(picture, optimize=True)


def save_png(picture: Figure | ArrayLike, path: str | os.PathLike[str]) -> None:
    """Writes a figure, or an array as `as_image` takes it, to a PNG file: all of it or nothing."""
    write_atomically(path, _encoded(picture, compress_level=_QUICK))


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether `save_png` has written a file."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(_SOFTWARE[0]) == _SOFTWARE[1]
    except Exception:  # Pillow has many kinds for what is no picture.
        return False


def _encoded(picture: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if hasattr(picture, "savefig"):  # Its class would bring Matplotlib along.
        picture.savefig(buffer, format="png", metadata=dict([_SOFTWARE]))
    else:
        written_by = PngInfo()
        written_by.add_text(*_SOFTWARE)
        as_image(picture).save(buffer, format="PNG", pnginfo=written_by, **options)
    return buffer.getvalue()


def _summed(relevance: ArrayLike) -> np.ndarray:
    array = np.asarray(relevance, np.float64)
    if array.ndim not in (2, 3) or array.size == 0:
        raise UserError(f"a heatmap is (H, W) or (H, W, C), found {array.shape}")
    broken = int(array.size - np.isfinite(array).sum())
    if broken:
        raise UserError(f"the heatmap has {broken} of {array.size} values that are NaN or infinite")
    return array if array.ndim == 2 else array.sum(axis=-1)


def _coloured(stack: np.ndarray) -> np.ndarray:
    return np.stack([relevance_rgb(heatmap) for heatmap in stack])


def _in_unit_range(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, np.float64)
    if not (array.size and array.min() >= -1e-6 and array.max() <= 1 + 1e-6):
        found = f"[{array.min():g}, {array.max():g}]" if array.size else "no pixels"
        raise UserError(f"images must be in [0, 1], found {found}")
    return array


def _to_uint8(array: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


def _images(images: ArrayLike) -> np.ndarray:
    array = np.asarray(images, np.float64)
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise UserError(f"images are (N, H, W, 3) or (N, H, W, 1), found {array.shape}")
    return np.broadcast_to(_in_unit_range(array), (*array.shape[:3], 3))


def _heatmaps(name: str, stack: ArrayLike, pictures: np.ndarray) -> np.ndarray:
    array = np.asarray(stack, np.float64)
    if array.ndim != 4 or array.shape[:3] != pictures.shape[:3]:
        expected = ", ".join(map(str, pictures.shape[:3]))
        raise UserError(f"heatmaps[{name!r}]: expected ({expected}, C), found {array.shape}")
    return array


def _masks(masks: ArrayLike, pictures: np.ndarray) -> np.ndarray:
    array = np.asarray(masks)
    if array.shape != (*pictures.shape[:3], 1):
        raise UserError(f"masks: expected {(*pictures.shape[:3], 1)}, found {array.shape}")
    return array[..., 0] > 0.5


def _binary(mask: ArrayLike) -> np.ndarray:
    array = np.asarray(mask)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 1):
        raise UserError(f"a mask is (H, W) or (H, W, 1), found {array.shape}")
    return array.reshape(array.shape[:2]) > 0.5


def _runs(edges: np.ndarray, axis: int) -> np.ndarray:
    """Straight runs of True along one axis, as (runs, 2, 2): (across, along) of start and end."""
    lines = np.pad(np.moveaxis(edges, axis, 1).astype(np.int8), ((0, 0), (1, 1)))
    change = np.diff(lines, axis=1)
    return np.stack([np.argwhere(change == 1), np.argwhere(change == -1)], axis=1)


def _rim(foreground: np.ndarray) -> np.ndarray:
    """The foreground pixels of (N, H, W) with a background pixel, or the image's end, beside."""
    padded = np.pad(foreground, ((0, 0), (1, 1), (1, 1)))
    inside = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return foreground & ~inside


def _per_sample(what: str, values: Mapping[str, Sequence] | None, count: int) -> dict:
    for name, value in (values or {}).items():
        if len(value) != count:
            raise UserError(f"{what}[{name!r}]: expected {count} entries, found {len(value)}")
    return dict(values or {})


def _figure(rows: int, columns: int, aspect: float) -> tuple[Figure, np.ndarray]:
    """An empty grid of axes with a colour key below; `aspect` is a tile's height by its width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tile, caption, top, bottom = 1.7, 0.28, 0.35, 0.75
    height = top + rows * (tile * aspect + caption) + bottom
    figure = Figure(figsize=(columns * tile * 1.1, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.03, right=0.97, wspace=0.06, hspace=caption / (tile * aspect),
        top=1 - top / height, bottom=bottom / height,
    )  # fmt: skip
    key = figure.add_axes((0.3, 0.32 / height, 0.4, 0.1 / height))
    key.imshow(relevance_rgb(np.linspace(-1, 1, 256)[None], limit=1.0), aspect="auto")
    key.set_xticks([0, 127.5, 255], ["against", "0", "for"], fontsize=7)
    key.set_yticks([])
    return figure, axes


def _draw_tile(axis: Axes, picture: np.ndarray, text: str, *, wrong: bool) -> None:
    height, width = picture.shape[:2]
    axis.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    colour = "#b3003c" if wrong else "black"
    axis.set_xlabel(
        f"✗ {text}" if wrong else text, fontsize=8, color=colour, labelpad=3,
        fontweight="bold" if wrong else "normal", parse_math=False,
    )  # fmt: skip
    for spine in axis.spines.values():
        spine.set(color=colour if wrong else "#999999", linewidth=1.8 if wrong else 0.6)
