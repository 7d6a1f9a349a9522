"""The command that says what an ingest would take before it is begun."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_search.commands.common import AsJson, Device, Dtype, app
from perception_search.decode_limits import num_cores
from perception_search.media import display
from perception_search.show import print_json, print_line, progress, readable_bytes

if TYPE_CHECKING:
    from perception_search.plan import Plan

_SHOWN = ("IN-1k", "COCO T2I", "VTT T2V")
_BUSY_SHARE = 0.25
_INDEX_ROWS = 100_000


@app.command()
def plan(
    path: Annotated[Path, typer.Argument(help="A folder of pictures and videos, or a file.")],
    model: Annotated[
        list[str], typer.Option(help="Only this model; may be repeated. See `models`.")
    ] = [],  # noqa: B006
    frames_per_second: Annotated[
        float, typer.Option(help="How many frames a second of a video are looked at.")
    ] = 1.0,
    keyframes: Annotated[
        bool, typer.Option("--keyframes", help="Look at key frames only, as `create` has it.")
    ] = False,
    skip_stills: Annotated[
        bool, typer.Option("--skip-stills", help="Embed a picture that hardly moves only once.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure this machine, and say what an ingest would take with each model; needs no weights.

    \b
    perception-search plan ~/Pictures
    perception-search plan ~/Videos --model PE-Core-B16-224 --keyframes

    Beside time, disk and the time of a query stand the models' published scores, in percent.
    """
    from perception_search.frames import Sampling
    from perception_search.plan import plan as make

    sampling = Sampling(
        frames_per_second, grid="keyframes" if keyframes else "by-time", skip_stills=skip_stills
    )
    with progress("steps") as show:
        made = make(
            path, models=model, device=device, dtype=dtype, sampling=sampling, on_progress=show
        )
    if as_json:
        for each in made.models:
            print_json(each.as_dict())
        print_json(made.as_dict())
        return
    for line in _table(made):
        print_line(line)
    for line in _basis(made):
        print_line(line)


def _table(plan: "Plan") -> list[str]:
    rows = [["model", "ingest", "disk", "query", *_SHOWN]]
    for each in plan.models:
        scores = [f"{each.scores[name]:.1f}" for name in _SHOWN]
        time, disk = _readable_seconds(each.ingest_seconds), readable_bytes(each.disk_bytes)
        rows.append([each.model, time, disk, f"{each.query_ms:.0f} ms", *scores])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _basis(plan: "Plan") -> list[str]:
    """What the table rests on, and what to make of it, in sentences."""
    holds, library = plan.contents, plan.library
    kinds = [f"{holds.num_images:,} pictures"] * (holds.num_images > 0)
    looked_at = [f"{library.num_identified:,} of {library.num_files:,} files were looked at"]
    if holds.num_videos:
        length = _readable_seconds(holds.video_seconds)
        kinds.append(f"{holds.num_videos:,} videos of {length} in all")
        looked_at.append(f"{len(library.durations):,} videos asked for their length")
    decoded = f"{plan.num_decoded + plan.num_unreadable:,} files decoded"
    if plan.num_unreadable:
        decoded += f", of which {plan.num_unreadable:,} cannot be read"
    about = "about " * library.is_sampled
    lines = [
        f"{display(plan.path)} holds {about}{' and '.join(kinds)}: "
        f"{', '.join([*looked_at, decoded])}.",
        f"Measured on {plan.device} in {plan.dtype}, with random weights.",
    ]
    if plan.load_average is not None and plan.load_average > _BUSY_SHARE * num_cores():
        lines.append(
            f"Other programs were running (a load of {plan.load_average:.1f} on {num_cores()} "
            "cores): on an idle machine it takes less."
        )
    if holds.num_rows > _INDEX_ROWS:
        lines.append(
            f"Queries are exact, over {holds.num_rows:,} rows; `perception-search index` makes "
            "them faster."
        )
    if plan.overnight is None:
        return [*lines, "None of these ends overnight, in 8 hours."]
    return [*lines, f"The largest that ends overnight, in 8 hours: {plan.overnight}."]


def _readable_seconds(seconds: float) -> str:
    """`7200` as `2.0 h`."""
    for unit, size, most in (("s", 1, 99.5), ("min", 60, 5970), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"
