"""The command line: parse, call one public method, print. Results on stdout, the rest on stderr."""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_search.errors import CollectionNotFound, PerceptionSearchError
from perception_search.media import DEFAULT_EXCLUDE, display
from perception_search.show import (
    print_hits,
    print_json,
    print_line,
    print_survey,
    progress,
    readable_bytes,
    say,
    show_warning,
    write_page,
)

if TYPE_CHECKING:
    from perception_search.collection import Collection
    from perception_search.survey import FileReport

app = typer.Typer(
    name="perception-search",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Search your pictures and videos in words.

\b
  perception-search ingest photos.ps ~/Pictures
  perception-search search photos.ps "a dog catching a frisbee"
""",
)

Folder = Annotated[Path, typer.Argument(metavar="COLLECTION", help="The collection's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or int8.")]
Weights = Annotated[
    Path | None, typer.Option(help="A file or folder with the model's weights, not the hub.")
]
Where = Annotated[
    str | None,
    typer.Option(help="A filter over the item columns, in SQL: \"kind = 'video'\"."),
]
NumHits = Annotated[int, typer.Option("-k", min=1, help="How many items to find.")]
MinScore = Annotated[float | None, typer.Option(help="Leave out items that score below this.")]
FilesOnly = Annotated[bool, typer.Option("--files-only", help="Print paths only, for pipes.")]

_WEIGHT = re.compile(r"(\d+(?:\.\d*)?|\.\d+):(.*)", re.DOTALL)


def main() -> None:
    """Run the command line; exit 0 when done, 1 with one sentence on our errors, 2 on misuse."""
    warnings.showwarning = show_warning
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        say("Stopped.")
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush
        sys.exit(0)
    except (PerceptionSearchError, ValueError, OSError) as error:
        say(_sentence(error))
        sys.exit(1)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, FileNotFoundError):
        where = f" ({display(str(error.filename))})" if error.filename else ""
        return f"{error.strerror}{where}. What was reported before is safe; run it again to go on."
    text = str(error) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _open(path: Path, **how: Any) -> "Collection":
    from perception_search.collection import Collection

    if path.is_dir() and any(path.iterdir()) and not (path / "manifests").exists():
        raise CollectionNotFound(
            f"{display(path)} is a folder, but no collection. The collection comes first: "
            f"perception-search ingest photos.ps {display(path)}"
        )
    collection = Collection.open(path, **how)
    if collection.notice:
        say(collection.notice)
    return collection


def _weighted(text: str) -> str | tuple[float, str]:
    """`2:at night` as (2.0, "at night"); words without a weight as they are."""
    match = _WEIGHT.fullmatch(text)
    return (float(match[1]), match[2]) if match else text


@app.command()
def create(
    path: Folder,
    model: Annotated[
        str, typer.Option(help="auto, starter, or a PE-Core model; see `models`.")
    ] = "auto",
    weights: Weights = None,
    frames_per_second: Annotated[
        float, typer.Option(help="How many frames a second of a video are looked at.")
    ] = 1.0,
    segment_seconds: Annotated[
        float, typer.Option(help="Length of the stretches that videos are found by.")
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    r"""Make an empty collection; its model and sampling are fixed now.

    \b
    perception-search create photos.ps --model PE-Core-B16-224
    """
    from perception_search.collection import Collection

    collection = Collection.create(
        path,
        model=model,
        weights=weights,
        frames_per_second=frames_per_second,
        segment_seconds=segment_seconds,
    )
    _created(collection)
    if as_json:
        print_json(collection.info())


def _created(collection: "Collection") -> None:
    identity = collection.identity
    say(f"Created {display(collection.path)} with {identity.model} (dim {identity.dim}).")
    if collection.notice:
        say(collection.notice)


@app.command()
def ingest(
    path: Folder,
    sources: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    exclude: Annotated[
        list[str],
        typer.Option(help="A pattern of names or relative paths to leave out; may be repeated."),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Read every file, even where it looks unchanged.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try files again that failed before.")
    ] = False,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Hide vanished files, however many.")
    ] = False,
    metadata: Annotated[
        Path | None, typer.Option(help="A CSV or Parquet file with your columns, keyed by `path`.")
    ] = None,
    fast_jpeg: Annotated[
        bool, typer.Option("--fast-jpeg/--no-fast-jpeg", help="Decode large JPEGs at reduced size.")
    ] = True,
    video_backend: Annotated[str, typer.Option(help="pyav or torchcodec.")] = "pyav",
    num_workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes; one a core by default.")
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option(min=0.1, help="Larger pictures are refused from their header.")
    ] = 50.0,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds without news after which a file is given up.")
    ] = 60.0,
    memory_limit: Annotated[
        int | None, typer.Option(min=128, help="MiB that one decoding process may take.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    r"""Bring a collection up to date with files and folders; run it again whenever you like.

    \b
    perception-search ingest photos.ps ~/Pictures ~/Videos

    What is new is embedded, what was renamed is followed, what is gone is hidden. Ctrl-C stops
    cleanly, and the next run goes on. A missing collection is made as `create` makes it.
    """
    from perception_search.collection import Collection

    excluded = (*DEFAULT_EXCLUDE, *exclude)
    own = _read_metadata(metadata)
    missing = [source for source in sources if not source.expanduser().exists()]
    if missing:
        raise FileNotFoundError(f"{display(missing[0])} does not exist; nothing was changed.")
    absent = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if absent and dry_run:
        raise CollectionNotFound(f"{display(path)} does not exist yet: everything would be new.")
    if absent:
        collection = Collection.create(path, weights=weights, device=device, dtype=dtype)
        _created(collection)
    else:
        collection = _open(path, weights=weights, device=device, dtype=dtype)

    if dry_run:
        plan = collection.survey(
            list(sources),
            exclude=excluded,
            checksum=checksum,
            retry_failed=retry_failed,
            allow_removals=allow_removals,
        )
        print_survey(plan, as_json=as_json)
        return

    def committed(files: "Sequence[FileReport]") -> None:
        for file in files:
            print_json(
                {"path": str(file.path), "outcome": file.outcome, "reason": file.reason or None}
            )
        sys.stdout.flush()

    with progress() as show:
        try:
            report = collection.ingest(
                list(sources),
                metadata=own,
                on_commit=committed if as_json else None,
                on_progress=show,
                exclude=excluded,
                checksum=checksum,
                retry_failed=retry_failed,
                allow_removals=allow_removals,
                num_workers=num_workers,
                time_limit_seconds=time_limit,
                memory_limit_bytes=memory_limit and memory_limit << 20,
                max_pixels=int(max_megapixels * 1e6),
                fast_jpeg=fast_jpeg,
                video_backend=video_backend,
            )
        except KeyboardInterrupt:
            say("Stopped. What was finished is stored; run the same command to go on.")
            raise typer.Exit(130) from None
    for failure in report.failed:
        say(f"{failure.outcome}: {display(failure.path)}: {failure.reason}")
    if report.kept:
        say(
            f"{report.kept} files are gone from these folders, more than half: nothing was hidden, "
            f"in case a disk is not mounted. Hide them with --allow-removals."
        )
    counts = report.counts()
    if as_json:
        print_json(counts)
    else:
        print_line(
            ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no files"
        )


def _read_metadata(path: Path | None) -> Any:
    if path is None:
        return None
    import pandas as pd

    if path.suffix.lower() in (".parquet", ".pq"):
        return pd.read_parquet(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    raise ValueError(f"{display(path)} is no metadata file; give a .csv, .tsv or .parquet")


@app.command()
def search(
    path: Folder,
    query: Annotated[
        str | None, typer.Argument(help="Words; - reads one query a line from standard input.")
    ] = None,
    text: Annotated[
        list[str], typer.Option(help="More words, with a weight if you like: 2:at night.")
    ] = [],  # noqa: B006
    image: Annotated[
        list[str], typer.Option(help="A picture that the result should look like; 2:FILE.")
    ] = [],  # noqa: B006
    video: Annotated[
        list[str], typer.Option(help="A video that the result should look like; 2:FILE.")
    ] = [],  # noqa: B006
    minus: Annotated[
        list[str], typer.Option(help="Words whose depiction lowers an item's score.")
    ] = [],  # noqa: B006
    k: NumHits = 10,
    where: Where = None,
    min_score: MinScore = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Rank videos as wholes, not by their best segment.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Also write the hits with pictures to this HTML file.")
    ] = None,
    files_only: FilesOnly = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    r"""Find pictures and moments of videos by words, by pictures, or by both.

    \b
    perception-search search photos.ps "a dog catching a frisbee" -k 10 --where "kind = 'video'"
    perception-search search photos.ps --text "at night" --image ./beach.jpg --minus "people"
    perception-search search photos.ps - < queries.txt
    """
    if query is None and not (text or image or video):
        raise typer.BadParameter("there is nothing to look for; give words, --image or --video.")
    collection = _open(path, weights=weights, device=device, dtype=dtype)
    how: dict[str, Any] = {
        "texts": [_weighted(part) for part in text],
        "images": [_weighted(part) for part in image],
        "videos": [_weighted(part) for part in video],
        "minus": [_weighted(part) for part in minus],
        "k": k,
        "where": where,
        "min_score": min_score,
        "whole": whole,
    }
    results = []
    if query == "-":
        for line in sys.stdin:
            if line.strip():
                hits = collection.search(line.strip(), **how)
                print_hits(hits, as_json=as_json, files_only=files_only, query=line.strip())
                results.append((line.strip(), hits))
    else:
        hits = collection.search(query, **how)
        print_hits(hits, as_json=as_json, files_only=files_only)
        shown = [*([query] if query else []), *text, *image, *video]
        shown += [f"minus {part}" for part in minus]
        results.append((" + ".join(shown), hits))
    if page is not None:
        write_page(page, collection, results)


@app.command()
def similar(
    path: Folder,
    item: Annotated[Path, typer.Argument(help="A file that is in the collection.")],
    k: NumHits = 10,
    where: Where = None,
    min_score: MinScore = None,
    files_only: FilesOnly = False,
    as_json: AsJson = False,
) -> None:
    r"""Find what looks like an item of the collection.

    \b
    perception-search similar photos.ps ~/Pictures/beach.jpg -k 5
    """
    hits = _open(path).similar(item, k=k, where=where, min_score=min_score)
    print_hits(hits, as_json=as_json, files_only=files_only)


@app.command()
def classify(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    labels: Annotated[list[str], typer.Argument(help="What it may show, two or more.")],
    model: Annotated[str, typer.Option(help="As for `create`.")] = "auto",
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    r"""Say how probable each label is for a picture; needs no collection.

    \b
    perception-search classify cat.png "a diagram" "a dog" "a cat"
    """
    from perception_search.encoder import load_encoder
    from perception_search.encoder.auto import choose_model, notice_for

    name = choose_model(device, weights) if model == "auto" else model
    encoder: Any = load_encoder(name, weights=weights, device=device, dtype=dtype)
    notice = notice_for(encoder.identity.model)
    if notice:
        say(notice)
    probabilities = encoder.classify(image, labels)
    if as_json:
        print_json(probabilities)
    else:
        for label, probability in sorted(probabilities.items(), key=lambda pair: -pair[1]):
            print_line(f"{probability:.3f}  {display(label)}")


@app.command()
def index(
    path: Folder,
    recipe: Annotated[
        str, typer.Option(help="A recipe's name, or a string for faiss.index_factory.")
    ] = "hnsw",
    as_json: AsJson = False,
) -> None:
    r"""Build an index, for collections of more than about 100,000 rows.

    \b
    perception-search index photos.ps --recipe hnsw
    """
    record = _open(path).index(recipe)
    if as_json:
        print_json(
            {
                "recipe": record.recipe.name,
                "factory": record.recipe.factory,
                "rows": record.num_rows,
                "size_bytes": record.size_bytes,
            }
        )
    else:
        size = readable_bytes(record.size_bytes)
        print_line(
            f"{record.recipe.name} ({record.recipe.factory}): {record.num_rows} rows, {size}"
        )


@app.command()
def info(path: Folder, as_json: AsJson = False) -> None:
    r"""Say what is in a collection and where it came from.

    \b
    perception-search info photos.ps
    """
    from perception_search.collection import Collection

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
        f"videos      {sampling['frames_per_second']:g} frames a second, "
        f"segments of {sampling['segment_seconds']:g} s"
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
        )
    for root in described["roots"]:
        print_line(f"folder      {display(root)}")
    for origin in described["provenance"]:
        made = ", ".join(f"{name} {value}" for name, value in sorted(origin.items()))
        print_line(f"made with   {made}")


@app.command()
def failures(path: Folder, as_json: AsJson = False) -> None:
    r"""List the files that could not be taken in, and why.

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
def remove(
    path: Folder,
    paths: Annotated[list[Path] | None, typer.Argument(help="Files or folders.")] = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    r"""Hide files from every search at once; the files themselves stay.

    \b
    perception-search remove photos.ps ~/Pictures/receipts
    """
    if not paths and where is None:
        raise typer.BadParameter("there is nothing to remove; give files, folders or --where.")
    hidden = _open(path).remove(paths or (), where=where)
    if as_json:
        for file in hidden:
            print_json({"path": str(file), "outcome": "removed"})
    else:
        print_line(f"{len(hidden)} removed")


@app.command()
def verify(
    path: Folder,
    quick: Annotated[bool, typer.Option("--quick", help="Read no whole file.")] = False,
    as_json: AsJson = False,
) -> None:
    r"""Check every byte of a collection; exit 1 when anything is damaged.

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


@app.command()
def models(as_json: AsJson = False) -> None:
    r"""List the models that a collection can be made with.

    \b
    perception-search models
    """
    from perception_search.encoder import PerceptionEncoder

    for model in PerceptionEncoder.available():
        if as_json:
            print_json(model.as_dict())
        else:
            print_line(str(model))


@app.command()
def demo(
    media: Annotated[
        Path | None, typer.Option(help="Your own pictures, instead of the sample media.")
    ] = None,
    model: Annotated[str, typer.Option(help="As for `create`.")] = "starter",
    out: Annotated[Path, typer.Option(help="Where to put it.")] = Path("demo"),
) -> None:
    r"""Index sample media, ask ten queries, and leave a page of pictures to look at.

    \b
    perception-search demo
    """
    from perception_search.demo import run

    run(media, model, out, say=say)
