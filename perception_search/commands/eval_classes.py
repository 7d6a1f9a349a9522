"""Commands that measure zero-shot classification, a data set each, and one for shards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perception_search.commands.common import (
    AsJson,
    Device,
    Dtype,
    Folder,
    Weights,
    open_collection,
)
from perception_search.commands.evaluate import (
    AllowMissing,
    Explain,
    Model,
    Out,
    Root,
    evaluate,
)
from perception_search.show import print_json, print_line, progress, say, steps

if TYPE_CHECKING:
    from perception_search.collection import Collection
    from perception_search.encoder import Encoder
    from perception_search.encoder.protocol import Pooling
    from perception_search.evaluate.class_sets import ClassSet
    from perception_search.evaluate.classification import ClassificationReport

Work = Annotated[
    Path | None,
    typer.Option(
        help="Where the embeddings are kept, a collection: a stopped run goes on there. By default "
        "the data set's name with .ps, here."
    ),
]
Resize = Annotated[
    Literal["squash", "centre-crop"] | None,
    typer.Option(help="Instead of the model's own way; published are the better of both."),
]
Border = Annotated[
    int,
    typer.Option(min=0, help="Pixels to cut off each side first: 1 is ObjectNet's red frame."),
]
Labels = Annotated[
    Path | None,
    typer.Option(help="ImageNet's file of labels; else lines `folder,what prompts call it`."),
]
Split = Annotated[
    Path | None, typer.Option(help="A file that lists the videos that count, or HMDB51's lists.")
]
Prompt = Annotated[
    list[str], typer.Option("--prompt", help="Instead of the usual ones; {c} is the class name.")
]
_SPEC_RESIZE: Mapping[str, Literal["squash", "centre_crop"]] = {
    "squash": "squash",
    "centre-crop": "centre_crop",
}
_FRAMES_PER_SECOND = 0.1
"""Of a time grid that nobody asks for: the protocol looks at eight frames of all of a video."""


def run_classification(
    class_set: "ClassSet",
    work: Path,
    how: dict[str, Any],
    *,
    resize: Literal["squash", "centre-crop"] | None = None,
    border: int = 0,
    allow_missing: bool = False,
    explain: bool = False,
) -> "ClassificationReport":
    """Measure, with progress; what is left out is said.

    Args:
        class_set: the media and their classes.
        work: the collection; media made ready otherwise than the model does are kept in one beside
            it, `imagenet-centre-crop.ps`.
        how: model, weights, device and dtype.
        resize: instead of the model's own.
        border: to cut off.
        allow_missing: go on with what is there.
        explain: score in every way.
    """
    from perception_search.collection import Collection
    from perception_search.evaluate.classification import evaluate_classes, ready

    if not allow_missing:
        class_set.check()
    rate = 1.0 if explain else _FRAMES_PER_SECOND
    collection = open_or_create(
        named(work, resize, border), how, resize=resize, border=border, frames_per_second=rate
    )
    beside = {}
    for other in (None, "squash", "centre-crop"):
        for cut in sorted({0, border}):
            there = named(work, other, cut)
            if there.absolute() != collection.path and there.exists():
                said = ready(other or "the model's own", cut).replace("-", " ")
                beside[said] = Collection.open(there)
    with steps() as show:
        report = evaluate_classes(
            collection,
            class_set,
            beside=beside,
            allow_missing=allow_missing,
            explain=explain,
            on_progress=show,
        )
    for path, reason in report.unreadable.items():
        say(f"left out: {path}: {reason}")
    if report.num_missing:
        say(f"left out: {report.num_missing} files or folders that are not there")
    return report


def open_or_create(
    work: Path,
    how: dict[str, Any],
    *,
    resize: Literal["squash", "centre-crop"] | None = None,
    border: int = 0,
    frames_per_second: float = _FRAMES_PER_SECOND,
    pooling: "Pooling" = "raw-frames",
    num_frames: int = 8,
) -> "Collection":
    """The collection that a run keeps its embeddings in.

    Raises:
        QueryError: it is there and of another model.
    """
    from perception_search.collection import Collection
    from perception_search.encoder import load_encoder
    from perception_search.encoder.auto import STARTER, choose_model
    from perception_search.encoder.names import resolve_name
    from perception_search.encoder.reframed import Reframed
    from perception_search.errors import QueryError
    from perception_search.frames import Sampling

    loading = {name: how[name] for name in ("weights", "device", "dtype")}
    exists = work.exists() and (not work.is_dir() or any(work.iterdir()))
    model = how["model"]
    if exists:
        stored = Collection.open(work).identity.model
        asked = model if model in ("auto", STARTER) or ":" in model else resolve_name(model)
        if asked not in ("auto", stored):
            raise QueryError(
                f"{work} holds embeddings of {stored}, not of {asked}; name another with --work"
            )
        model = stored
    elif model == "auto":
        model = choose_model(how["device"], how["weights"])
    encoder: Encoder | None = None
    if resize or border or not exists:
        encoder = load_encoder(model, **loading, pooling=pooling)
        if resize or border:
            encoder = Reframed(encoder, _SPEC_RESIZE[resize] if resize else None, border)
    if exists:
        collection = Collection.open(work, encoder=encoder, **loading)
    else:
        collection = Collection.create(
            work,
            encoder=encoder,
            sampling=Sampling(frames_per_second, num_frames),
            pooling=pooling,
            **loading,
        )
    if collection.notice:
        say(collection.notice)
    return collection


def named(work: Path, resize: str | None, border: int = 0) -> Path:
    """Where pictures made ready so are kept."""
    stem = work.stem + f"-{resize}" * bool(resize) + f"-border-{border}" * bool(border)
    return work.with_name(stem + work.suffix)


def _print(
    report: "ClassificationReport", out: Path | None, *, as_json: bool, explain: bool
) -> None:
    if out is not None:
        out.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    if as_json:
        print_json(report.as_dict())
    else:
        for line in report.table(explain=explain).splitlines():
            print_line(line)


_HELP = {
    "imagenet": (
        "ImageNet's 50,000 validation pictures",
        "--root imagenet/val",
        "Class folders by WordNet id, position or name; or all pictures in one folder beside "
        "val.txt, LOC_val_solution.csv or a file of WordNet ids.",
    ),
    "imagenetv2": ("ImageNet-v2's 10,000 pictures", "--root imagenetv2", "Folders 0 to 999."),
    "imagenet-a": (
        "ImageNet-A's 7,500 pictures of 200 classes",
        "--root imagenet-a",
        "Class folders by WordNet id.",
    ),
    "imagenet-r": (
        "ImageNet-R's 30,000 pictures of 200 classes",
        "--root imagenet-r",
        "Class folders by WordNet id.",
    ),
    "imagenet-sketch": (
        "ImageNet-Sketch's 50,889 drawings",
        "--root sketch",
        "Class folders by WordNet id.",
    ),
    "objectnet": (
        "ObjectNet's 18,574 pictures of the 113 classes that ImageNet has",
        "--root objectnet-1.0 --border 1",
        "The folders images and mappings. The published figures are without the red frame, which "
        "--border 1 cuts off.",
    ),
    **{
        f"k{number}": (
            f"Kinetics-{number}'s validation videos, by eight frames each",
            f"--root kinetics{number}/val --allow-missing",
            "Class folders with spaces or underscores; or videos <id>_<start>_<end>.mp4 beside the "
            "CSV of a split.",
        )
        for number in (400, 600, 700)
    },
    "ucf101": (
        "UCF101's videos, by eight frames each",
        "--root UCF-101 --split ucfTrainTestlist/testlist01.txt",
        "Class folders; all videos count where no split is given. Which names of classes PE's "
        "authors used is not known; here they are CLIP's.",
    ),
    "hmdb51": (
        "HMDB51's videos, by eight frames each",
        "--root hmdb51_org --split testTrainMulti_7030_splits",
        "Class folders; all videos count where no folder of lists is given.",
    ),
    "folder": (
        "Pictures or videos of your own, in a folder for each class",
        "--root animals",
        "The folders' names are the classes, underscores read as spaces.",
    ),
}


def _add_command(dataset: str, what: str, example: str, layout: str) -> None:
    """A data set's command: they differ in name and help alone."""

    @evaluate.command(
        dataset,
        help=f"{what}: the share given the right class, zero-shot, by PE's protocol.\n\n\b\n"
        f"perception-search eval {dataset} {example}\n\n{layout}",
    )
    def command(
        root: Root,
        work: Work = None,
        model: Model = "auto",
        resize: Resize = None,
        border: Border = 0,
        labels: Labels = None,
        split: Split = None,
        prompt: Prompt = [],  # noqa: B006
        allow_missing: AllowMissing = False,
        explain_protocol: Explain = False,
        out: Out = None,
        weights: Weights = None,
        device: Device = "auto",
        dtype: Dtype = "auto",
        as_json: AsJson = False,
    ) -> None:
        from perception_search.errors import QueryError
        from perception_search.evaluate.class_sets import BENCHMARKS, load_class_set

        name = root.absolute().name if dataset == "folder" else dataset
        if dataset == "folder" and name in BENCHMARKS:
            raise QueryError(
                f"{name} is a public data set: perception-search eval {name}; for one of your own "
                "give the folder another name"
            )
        report = run_classification(
            load_class_set(name, root, labels=labels, split=split, prompts=prompt or None),
            work or Path(f"{name}.ps"),
            {"model": model, "weights": weights, "device": device, "dtype": dtype},
            resize=resize,
            border=border,
            allow_missing=allow_missing,
            explain=explain_protocol,
        )
        _print(report, out, as_json=as_json, explain=explain_protocol)


for _name, _said in _HELP.items():
    _add_command(_name, *_said)


@evaluate.command()
def wds(
    root: Root,
    dataset: Annotated[str, typer.Option(help="Its name; by default the folder's.")] = "",
    unpack_to: Annotated[
        Path | None,
        typer.Option(help="Where pictures are written; by default beside the collection."),
    ] = None,
    work: Work = None,
    model: Model = "auto",
    allow_missing: AllowMissing = False,
    explain_protocol: Explain = False,
    out: Out = None,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """A data set in clip-benchmark's webdataset layout: pictures with classes, or with captions.

    \b
    perception-search eval wds --root wds_imagenet1k --model PE-Core-L14-336

    test/nshards.txt, test/0.tar and so on, classnames.txt and
    zeroshot_classification_templates.txt, as in clip-benchmark/wds_* on the hub. Pictures are
    written out once.
    """
    from perception_search.evaluate.captions import Captions
    from perception_search.evaluate.class_sets import dataset_of
    from perception_search.evaluate.retrieval import evaluate_retrieval
    from perception_search.evaluate.shards import load_shards

    name = dataset or dataset_of(root.absolute().name)
    work = work or Path(f"{name}.ps")
    folder = unpack_to or work.with_name(f"{work.stem}-pictures")
    with progress("shards") as show:
        found = load_shards(root, folder, dataset=name, on_progress=show)
    how = {"model": model, "weights": weights, "device": device, "dtype": dtype}
    if isinstance(found, Captions):
        with progress() as show:
            ranked = evaluate_retrieval(
                open_or_create(work, how, pooling="unit-frames"),
                found,
                folder,
                dataset=name,
                on_progress=show,
            )
        if out is not None:
            out.write_text(json.dumps(ranked.as_dict(), indent=1) + "\n")
        if as_json:
            print_json(ranked.as_dict())
        else:
            for line in ranked.table(explain=explain_protocol).splitlines():
                print_line(line)
        return
    report = run_classification(
        found, work, how, allow_missing=allow_missing, explain=explain_protocol
    )
    _print(report, out, as_json=as_json, explain=explain_protocol)


@evaluate.command()
def knn(
    path: Folder,
    labels: Annotated[
        str,
        typer.Option(help="A column of the items, such as folder, or a CSV with path and label."),
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours that vote.")] = 10,
    as_json: AsJson = False,
) -> None:
    """How often an item's nearest neighbours have its label, exactly and as they are served.

    \b
    perception-search eval knn photos.ps --labels folder
    perception-search eval knn imagenet.ps --labels label -k 20

    Needs no weights: every item is asked for by its stored embedding.
    """
    from perception_search.evaluate.knn import evaluate_knn, labels_of

    collection = open_collection(path)
    label_of = labels_of(collection, labels)
    with progress("items") as show:
        votes = evaluate_knn(collection, label_of, k=k, on_progress=show)
    if as_json:
        print_json(votes.as_dict())
        return
    for line in votes.table().splitlines():
        print_line(line)
