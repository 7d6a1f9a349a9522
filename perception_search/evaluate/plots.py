"""Results as drawings, each as PNG and as SVG; measures nothing.

Needs matplotlib (`pip install 'perception-search[plots]'`).
"""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_search.errors import MediaError, MissingExtra
from perception_search.evaluate.mine import FAILINGS, Failure
from perception_search.media import display
from perception_search.page import Thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
MOST_QUERIES = 6
MOST_HITS = 5
_SIDE = 240
_RIGHT, _WRONG = "#2da44e", "#cf222e"
_MOST_LETTERS = 60


def check_plots() -> None:
    """Raise MissingExtra where nothing can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "drawing needs matplotlib: pip install 'perception-search[plots]'"
        ) from error


def draw_curves(curves: Mapping[str, Sequence[float]], folder: Path) -> list[Path]:
    """`recall.png` and `.svg`: the share of queries answered among the first k, by way.

    Args:
        curves: of each way the recall at 1, 2, ...
        folder: where the files go.
    """
    figure = _figure(7.0, 4.5)
    axes = figure.add_subplot()
    for (way, shares), dashes in zip(
        curves.items(), itertools.cycle(("-", "--", ":")), strict=False
    ):
        places = range(1, len(shares) + 1)
        axes.plot(places, [100 * share for share in shares], dashes, label=way, linewidth=1.8)
    axes.set(xscale="log", xlim=(1, None), ylim=(0, 100), xlabel="k", ylabel="recall@k, %")
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return _save(figure, folder, "recall")


def draw_failures(failures: Sequence[Failure], folder: Path, thumbnail: Thumbnail) -> list[Path]:
    """A drawing of each way to fail that there is, `nearly.png` and so on.

    A line a query, the worst first: what is right, framed in green, and what came instead.

    Args:
        failures: as `MineReport` has them.
        folder: where the files go.
        thumbnail: as for `page.render`.
    """
    written = []
    for failing, said in FAILINGS.items():
        some = [one for one in failures if one.failing == failing][:MOST_QUERIES]
        if not some:
            continue
        columns = 1 + max(1, min(MOST_HITS, max(len(one.hits) for one in some)))
        figure = _figure(1.9 * columns, 0.5 + 2.0 * len(some))
        figure.suptitle(f"{failing}: {said}", fontsize=10)
        grid = figure.subplots(len(some), columns, squeeze=False)
        for line, one in zip(grid, some, strict=True):
            _draw_failure(line, one, thumbnail)
        written += _save(figure, folder, failing.replace(" ", "-"))
    return written


def _draw_failure(line: "Sequence[Axes]", one: Failure, thumbnail: Thumbnail) -> None:
    for axes in line:
        axes.set_axis_off()
    query = display(one.query)
    shown = query if len(query) <= _MOST_LETTERS else query[: _MOST_LETTERS - 3] + "..."
    place = f"right, place {one.rank}" if one.rank else "right, beyond place 100"
    line[0].set_title(f"{shown}\n{place}", fontsize=8, loc="left", parse_math=False)
    _draw_picture(line[0], one.right[0], 0.0, _RIGHT, thumbnail)
    for axes, hit in zip(line[1:], one.hits, strict=False):
        frame = _RIGHT if hit.path in one.right else _WRONG
        _draw_picture(axes, hit.path, hit.best_seconds or 0.0, frame, thumbnail)
        axes.text(0, -0.02, f"{hit.score:.3f}", fontsize=7, va="top", transform=axes.transAxes)


def _draw_picture(
    axes: "Axes", path: Path, at_seconds: float, colour: str, thumbnail: Thumbnail
) -> None:
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(thumbnail(path, at_seconds, _SIDE)))
    except (MediaError, OSError):
        said = f"{display(path.name)}\ncannot be read"
        axes.text(0.5, 0.5, said, fontsize=7, ha="center", parse_math=False)
        return
    axes.imshow(picture)
    axes.set_anchor("N")  # tops in one line, the words above them
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(color=colour, linewidth=2.5)


def _figure(width: float, height: float) -> "Figure":
    """In inches; drawn without a window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    how: dict[str, Any] = {"dpi": 130}
    written = []
    for kind in FORMATS:
        written.append(folder / f"{name}.{kind}")
        figure.savefig(written[-1], **how)
    return written
