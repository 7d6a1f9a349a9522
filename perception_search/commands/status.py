"""Commands that say how a collection is."""

from typing import Annotated

import typer

from perception_search.commands.common import (
    AsJson,
    Folder,
    app,
)
from perception_search.media import display
from perception_search.show import (
    print_json,
    print_line,
    readable_bytes,
    say,
    shares,
)


@app.command()
def info(path: Folder, as_json: AsJson = False) -> None:
    """Say what is in a collection and where it came from.

    \b
    perception-search info photos.ps
    """
    from perception_search.collection import Collection
    from perception_search.segments import Segmentation

    described = Collection.open(path).info()
    if as_json:
        print_json(described)
        return
    if described["notice"]:
        print_line(described["notice"])
    print_line(f"model       {described['model']}, dim {described['dim']}")
    minutes = described["video_seconds"] / 60
    print_line(
        f"holds       {described['images']} images, {described['videos']} videos "
        f"({minutes:.1f} minutes), {described['rows']} rows"
    )
    sampling = described["sampling"]
    print_line(
        f"videos      {sampling['frames_per_second']:g} frames a second {sampling['grid']}, "
        f"{'stills skipped, ' if sampling['skip_stills'] else ''}whole ones by "
        f"{sampling['num_uniform_frames']} frames as in pe-eval, found by "
        f"{Segmentation.of(described['segmentation'])}"
    )
    num_items = described["images"] + described["videos"]
    for group in described["captions"]:
        asked = f", asked {display(group['prompt'])!r}" if group["prompt"] else ""
        print_line(
            f"captions    {group['captions']}, of {group['items']} of {num_items} items, by "
            f"{display(group['model'])}{asked}; licence: {display(group['licence'])}"
        )
    print_line(f"failures    {described['failures']}")
    print_line(
        f"on disk     {readable_bytes(described['size_bytes'])} in {described['files']} files"
    )
    print_line(f"version     {described['version']}, created {described['created_at']}")
    found = described["index"]
    if found is None:
        print_line("index       none: every search is exact")
    else:
        print_line(
            f"index       {found['recipe']} ({found['factory']}), {found['rows']} rows, "
            f"{readable_bytes(found['size_bytes'])}"
            + (f", finds {shares(found['recall'])}" if found["recall"] else "")
        )
    coming = described["moving_to"]
    if coming is not None:
        print_line(
            f"moving to   {coming['model']}: {coming['items']} of {num_items} items are embedded; "
            "`perception-search reembed` goes on"
        )
    for root in described["roots"]:
        print_line(f"folder      {display(root)}")
    for origin in described["provenance"]:
        made = ", ".join(f"{name} {value}" for name, value in sorted(origin.items()))
        print_line(f"made with   {made}")


@app.command()
def failures(path: Folder, as_json: AsJson = False) -> None:
    """List the files that could not be taken in, and why.

    \b
    perception-search failures photos.ps
    """
    from perception_search.collection import Collection

    found = Collection.open(path).failures()
    for failure in found:
        if as_json:
            print_json(
                {"path": str(failure.path), "outcome": failure.outcome, "reason": failure.reason}
            )
        else:
            print_line(f"{failure.outcome}  {display(failure.path)}  {failure.reason}")
    if not found and not as_json:
        say("None.")


@app.command()
def verify(
    path: Folder,
    quick: Annotated[bool, typer.Option("--quick", help="Read no whole file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check every byte of a collection; exit 1 when anything is damaged.

    \b
    perception-search verify photos.ps
    """
    from perception_search.verify import verify as check

    damaged = check(path.expanduser(), quick=quick)
    for damage in damaged:
        if as_json:
            print_json(
                {"path": str(damage.path), "problem": damage.problem, "remedy": damage.remedy}
            )
        else:
            print_line(f"{display(damage.path)}: {damage.problem} ({damage.remedy})")
    if damaged:
        say(f"{len(damaged)} damaged.")
        raise typer.Exit(1)
    say("Sizes agree." if quick else "Every byte is as it was written.")
