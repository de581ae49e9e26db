"""Pictures: colour maps, scales, overlays, figures and tables. Pillow and NumPy only."""

from squeezecam.render.chart import bar_chart
from squeezecam.render.colormap import colour_table, colourise, lightness
from squeezecam.render.compare import comparison_grid
from squeezecam.render.figure import contact_sheet, panel, tile
from squeezecam.render.overlay import overlay
from squeezecam.render.scale import Scale, find_scale, scale_maps
from squeezecam.render.table import csv_table, markdown_table, text_table

__all__ = [
    "Scale",
    "bar_chart",
    "colour_table",
    "colourise",
    "comparison_grid",
    "contact_sheet",
    "csv_table",
    "find_scale",
    "lightness",
    "markdown_table",
    "overlay",
    "panel",
    "scale_maps",
    "text_table",
    "tile",
]
