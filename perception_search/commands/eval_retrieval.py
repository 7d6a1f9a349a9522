"""Commands that measure retrieval by captions: one for each data set, and one for your own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perception_search.commands.common import AsJson, Device, Dtype, Weights
from perception_search.commands.eval_classes import Resize, named, open_or_create
from perception_search.commands.evaluate import (
    AllowMissing,
    Explain,
    Model,
    Out,
    Root,
    evaluate,
)
from perception_search.evaluate.caption_sets import CAPTION_SETS, CaptionSet
from perception_search.show import print_json, print_line, progress, say

if TYPE_CHECKING:
    from perception_search.collection import Collection

CaptionFile = Annotated[Path, typer.Option(help="The captions, as the data set publishes them.")]
Split = Annotated[
    str,
    typer.Option(help="The part that counts, or a file with the names of the media that count."),
]
NumFrames = Annotated[
    int | None, typer.Option("--frames", min=1, help="Of a video, instead of the protocol's.")
]
Work = Annotated[
    Path | None,
    typer.Option(
        help="Where the embeddings are kept, a collection: a stopped run goes on there. By default "
        "the data set's name with .ps, here."
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option("--index", help="Build this index first; the same is asked by it, too."),
]

_HELP = {
    "coco": (
        "--root val2014 --annotations dataset_coco.json --model PE-Core-L14-336",
        "Karpathy's file, COCO's own layout, and lists of files with captions are read.",
    ),
    "coco-val2017": (
        "--root val2017 --annotations captions_val2017.json",
        "No published figure of PE is of this set.",
    ),
    "flickr30k": (
        "--root flickr30k-images --annotations dataset_flickr30k.json",
        "Karpathy's file; or Flickr30k's lines, results.csv or a CSV of pictures and captions, "
        "with --split and a file of the 1,000 names where they hold all pictures.",
    ),
    "msrvtt": (
        "--root videos --annotations MSRVTT_JSFUSION_test.csv",
        "A CSV, by comma or semicolon, with the columns video_id and sentence; or MSRVTT_data.json "
        "with --split and a file of the 1,000 names.",
    ),
    "msvd": (
        "--root YouTubeClips --annotations AllVideoDescriptions.txt --split test_list.txt",
        "Lines of a video and a description; or a CSV with video_id and sentence, the sentences of "
        "a video joined by @.",
    ),
    "didemo": (
        "--root videos --annotations test_data.json",
        "DiDeMo's JSON, or a CSV with video_id and sentence. A model that reads few words sees the "
        "beginning of a paragraph.",
    ),
    "activitynet": (
        "--root videos --annotations val_1.json",
        "ActivityNet Captions' val_1.json or val_2.json, or a CSV with video_id and sentence. A "
        "model that reads few words sees the beginning of a paragraph.",
    ),
}


def _add_command(dataset: str, known: CaptionSet, example: str, layout: str) -> None:
    """A data set's command: they differ in name and help alone."""

    @evaluate.command(
        dataset,
        help=f"{known.what}: recall both ways, by PE's protocol.\n\n\b\n"
        f"perception-search eval {dataset} \\\n    {example}\n\n{layout}",
    )
    def command(
        root: Root,
        annotations: CaptionFile,
        split: Split = "test",
        work: Work = None,
        model: Model = "auto",
        resize: Resize = None,
        num_frames: NumFrames = None,
        index: Recipe = None,
        allow_missing: AllowMissing = False,
        explain_protocol: Explain = False,
        out: Out = None,
        weights: Weights = None,
        device: Device = "auto",
        dtype: Dtype = "auto",
        as_json: AsJson = False,
    ) -> None:
        _measure(dataset, locals(), joined_by=known.joined_by, usual_frames=known.num_frames)


for _name, _said in _HELP.items():
    _add_command(_name, CAPTION_SETS[_name], *_said)


@evaluate.command()
def captions(
    root: Root,
    annotations: CaptionFile,
    dataset: Annotated[str, typer.Option(help="Its name; by default the folder's.")] = "",
    split: Split = "test",
    work: Work = None,
    model: Model = "auto",
    resize: Resize = None,
    num_frames: NumFrames = None,
    index: Recipe = None,
    allow_missing: AllowMissing = False,
    explain_protocol: Explain = False,
    out: Out = None,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Pictures or videos of your own with captions: recall both ways, by PE's protocol.

    \b
    perception-search eval captions --root pictures --annotations captions.json

    captions.json: [{"file": "dog.jpg", "captions": ["a dog runs", ...]}, ...], or any layout that
    the data sets have.
    """
    _measure(dataset or root.absolute().name, locals())


def _measure(
    dataset: str,
    options: Mapping[str, Any],
    *,
    joined_by: str | None = None,
    usual_frames: int = 8,
) -> None:
    from perception_search.evaluate.captions import load_captions
    from perception_search.evaluate.retrieval import evaluate_retrieval, find_all

    root, explain = options["root"], options["explain_protocol"]
    found = load_captions(options["annotations"], options["split"], joined_by=joined_by)
    find_all(found, root, allow_missing=options["allow_missing"])  # before a model is loaded
    work = options["work"] or Path(f"{dataset}.ps")
    collection = _collection(work, options, options["num_frames"] or usual_frames)
    with progress() as show:
        report = evaluate_retrieval(
            collection,
            found,
            root,
            dataset=dataset,
            recipe=options["index"],
            beside=_beside(work, collection) if explain else None,
            allow_missing=options["allow_missing"],
            explain=explain,
            on_progress=show,
        )
    for path, reason in report.unreadable.items():
        say(f"left out: {path}: {reason}")
    if report.num_missing:
        say(f"left out: {report.num_missing} files that are not there")
    if options["out"] is not None:
        options["out"].write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    if options["as_json"]:
        print_json(report.as_dict())
    else:
        for line in report.table(explain=explain).splitlines():
            print_line(line)


def _collection(work: Path, options: Mapping[str, Any], num_frames: int) -> "Collection":
    from perception_search.errors import QueryError

    collection = open_or_create(
        named(work, options["resize"]),
        {name: options[name] for name in ("model", "weights", "device", "dtype")},
        resize=options["resize"],
        frames_per_second=1.0,  # what a search finds of a video is found on the time grid
        pooling="unit-frames",
        num_frames=num_frames,
    )
    has = collection.sampling.num_uniform_frames
    if has != num_frames:
        raise QueryError(
            f"{collection.path} has {has} frames of each video, not {num_frames}; name another "
            "with --work"
        )
    return collection


def _beside(work: Path, collection: "Collection") -> dict[str, "Collection"]:
    """Collections of the same media made ready otherwise, as far as they are there."""
    from perception_search.collection import Collection

    ways: tuple[Literal["squash", "centre-crop"] | None, ...] = (None, "squash", "centre-crop")
    return {
        (way or "the model's own").replace("-", " "): Collection.open(named(work, way))
        for way in ways
        if named(work, way).absolute() != collection.path and named(work, way).exists()
    }
