"""Whether a weights file is a released model's, and computes what that model computes.

For whoever holds weights. Each check is one line of a table, and the cheap ones come first:

    check          a line: what should come, what came, and the verdict
    released       what is known of the released weights, as data
    subject        the files, and the networks made of them
    tensors        names, counts, types and values of what the files hold
    samples        pictures and texts to compute with
    outputs        shapes, and the same output for the same input
    probabilities  the reference's own examples, a cat and a dog
    precision      what is faster and less exact, beside float32
    peer           the same weights in open_clip or timm
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perception_search.encoder.auto import STARTER
from perception_search.encoder.config import MODELS, ModelConfig
from perception_search.encoder.device import check_device, choose_device
from perception_search.encoder.names import resolve_name
from perception_search.encoder.weights import find_weights
from perception_search.errors import ModelNotFound, WeightsMismatch
from perception_search.frames import FrameSpec
from perception_search.media import display
from perception_search.verify_model.check import Check, Verdict, skipped
from perception_search.verify_model.outputs import (
    OnProgress,
    Outputs,
    pictures_of,
    shape_checks,
    stability_checks,
    texts_of,
)
from perception_search.verify_model.peer import peer_checks
from perception_search.verify_model.precision import dtype_checks, fast_jpeg_check
from perception_search.verify_model.probabilities import Footage, example_check, read_footage
from perception_search.verify_model.released import CAT, DOG
from perception_search.verify_model.samples import Pictures, read_pictures
from perception_search.verify_model.subject import Network, Subject
from perception_search.verify_model.tensors import tensor_checks

__all__ = ["Check", "OnProgress", "Verdict", "verify_model"]


def verify_model(
    model: str,
    *,
    weights: str | Path | None = None,
    projection: str | Path | None = None,
    cat: Path | None = None,
    dog: Path | None = None,
    images: Path | None = None,
    device: str = "auto",
    quick: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Iterator[Check]:
    """The checks, each when it is made. After a failed one of the tensors nothing is computed.

    Args:
        model: a name that `FeatureExtractor` takes.
        weights: a file or a folder; see `PerceptionEncoder`.
        projection: a file that has what `weights` lacks; see `PerceptionEncoder`.
        cat: the reference's cat.png, or another picture of a cat.
        dog: the reference's dog.mp4, or another short video or picture of a dog.
        images: a folder of pictures to compute with; some are made up without it.
        device: that computes; other libraries and int8 compute on the CPU.
        quick: leave out what takes a network.
        on_progress: is told what is computed, how many are done, and of how many.

    Raises:
        ModelNotFound: for a name that is not known.
        WeightsNotFound: the weights are nowhere.
        FileNotFoundError: a picture, video or folder does not exist.
        MediaError: what was named for the networks to see cannot be read.
        ValueError: no such device.
    """
    check_device(device, "float32")
    choose_device(device)  # one that is missing is told before anything is read
    if model == STARTER:
        raise ModelNotFound(
            f"{STARTER} is no released model of Perception Encoder; `models` lists those"
        )
    config = MODELS[resolve_name(model)]
    for path in (cat, dog, images):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{display(path)} does not exist; check the spelling")
    file = find_weights(config.name, weights)
    other = None if projection is None else find_weights(config.name, projection)
    inputs = None if quick else _read(config, cat, dog, images)
    return _checks(config, file, other, device, inputs, on_progress)


@dataclass(frozen=True)
class _Inputs:
    """What the networks are shown."""

    pictures: Pictures
    cat: Footage | None
    dog: Footage | None


def _read(model: ModelConfig, cat: Path | None, dog: Path | None, images: Path | None) -> _Inputs:
    size = model.vision.image_size
    spec = FrameSpec(height=size, width=size, fast_jpeg=False)
    return _Inputs(
        read_pictures(images, spec),
        None if cat is None else read_footage(cat, spec),
        None if dog is None else read_footage(dog, spec),
    )


def _checks(
    model: ModelConfig,
    path: Path,
    projection: Path | None,
    device: str,
    inputs: _Inputs | None,
    on_progress: OnProgress,
) -> Iterator[Check]:
    try:
        subject = Subject.open(model, path, projection, device)
    except WeightsMismatch as error:
        yield Check("file", "weights of Perception Encoder", str(error), "fail")
        return
    sound = True
    for check in tensor_checks(subject):
        sound = sound and check.verdict != "fail"
        yield check
    if inputs is None:
        yield skipped("outputs", "left out by --quick")
    elif not sound:
        yield skipped("outputs", "nothing is computed with tensors that failed")
    else:
        yield from _output_checks(subject, inputs, on_progress)


def _output_checks(subject: Subject, inputs: _Inputs, on_progress: OnProgress) -> Iterator[Check]:
    pictures = inputs.pictures
    yield Check("pictures", "", f"{len(pictures.exact)} {pictures.origin}", "info")
    network = Network(subject, "float32")
    exact = Outputs(
        pictures_of(network.encode_pictures, pictures.exact, "float32 pictures", on_progress),
        texts_of(network),
    )
    yield from shape_checks(network, exact, pictures.exact[0])
    yield from stability_checks(network, exact, pictures.exact)
    for example, footage in ((CAT, inputs.cat), (DOG, inputs.dog)):
        if subject.model.text is not None or footage is not None:
            yield example_check(network, example, footage)
    if subject.embeds:
        yield fast_jpeg_check(network, exact, pictures, on_progress)
    del network  # the next needs its memory
    yield from dtype_checks(subject, exact, pictures, on_progress)
    yield from peer_checks(subject, exact, pictures.exact, on_progress)
