"""The report of a run, and pictures of heatmaps."""

from typing import TYPE_CHECKING

from isnet_jax._lazy import exports

if TYPE_CHECKING:
    from isnet_jax.report.heatmaps import as_image as as_image
    from isnet_jax.report.heatmaps import heatmap_grid as heatmap_grid
    from isnet_jax.report.heatmaps import panel as panel
    from isnet_jax.report.heatmaps import relevance_rgb as relevance_rgb
    from isnet_jax.report.heatmaps import save_png as save_png
    from isnet_jax.report.page import write_report as write_report
    from isnet_jax.report.samples import Samples as Samples

__getattr__, __dir__ = exports(
    __name__,
    {
        "heatmaps": ("as_image", "heatmap_grid", "panel", "relevance_rgb", "save_png"),
        "page": ("write_report",),
        "samples": ("Samples",),
    },
)
