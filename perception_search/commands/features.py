"""The command that takes the features of a picture: as an array, as colours, as matches."""

import io
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_search.commands.common import AsJson, Device, Weights, app
from perception_search.errors import ExportError, MediaError
from perception_search.media import display
from perception_search.show import print_json, print_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from perception_search.decode import FrameSpec, MediaReader
    from perception_search.feature_matches import Match

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


@app.command()
def features(
    file: Annotated[Path, typer.Argument(help="A picture.")],
    model: Annotated[str, typer.Option(help="Any that `models` lists.")] = "PE-Spatial-B16-512",
    layer: Annotated[
        int, typer.Option(help="The block that is run last, from 0; negative from the end.")
    ] = -1,
    size: Annotated[
        str | None, typer.Option(help="Height x width to squash to, as 448x672; else the model's.")
    ] = None,
    as_map: Annotated[
        bool, typer.Option("--map", help="A map (1, width, rows, columns) instead of tokens.")
    ] = False,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="PE-Core's pooled vector (1, width) instead.")
    ] = False,
    norm: Annotated[
        bool | None,
        typer.Option("--norm/--no-norm", help="The last LayerNorm; a map is without, else with."),
    ] = None,
    class_token: Annotated[
        bool, typer.Option("--class-token/--no-class-token", help="Keep it, before the others.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="A .npy file for the features.")] = None,
    pca: Annotated[
        Path | None, typer.Option(help="A picture of the features: colours by PCA.")
    ] = None,
    match: Annotated[
        Path | None, typer.Option(help="Another picture: find the nearest token of it for each.")
    ] = None,
    match_picture: Annotated[
        Path | None, typer.Option(help="A picture of the matches that are printed.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many matches to print.")] = 20,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Take what a model sees in a picture: an array, colours, matches with another picture.

    The array goes to --out or, if nothing else is asked for, into the current folder under the
    name of the picture. A match is printed as its cosine, the pixel of the picture (x,y from the
    upper left corner), that of the other one, and `mutual` if the other's nearest is the first.
    With --match, --pca shows both pictures, and one colour means the same in both.

    \b
    perception-search features cat.jpg --model PE-Spatial-G14-448 --pca cat-pca.png
    perception-search features cat.jpg --match dog.jpg --match-picture matches.png
    """
    if pooled and (as_map or layer != -1 or norm is not None or not class_token):
        raise typer.BadParameter("--pooled is one vector, after all layers; it has no variants.")
    if pooled and (pca or match):
        raise typer.BadParameter("--pooled is one vector; --pca and --match are of tokens.")
    if match_picture and not match:
        raise typer.BadParameter("--match-picture draws matches; give --match PICTURE too.")
    squashed = None if size is None else _parsed(size)
    if out is None and (as_map or pooled or not (pca or match)):
        out = Path(f"{file.stem}.npy")
    paths = [file, match] if match else [file]
    _check_targets(out, [pca, match_picture], paths, overwrite=overwrite)

    from perception_search.decode import FrameSpec, MediaReader
    from perception_search.encoder.features import FeatureExtractor, map_of
    from perception_search.feature_matches import match_tokens
    from perception_search.feature_pictures import (
        draw_matches,
        enlarged,
        pca_colours,
        shown_size,
        side_by_side,
    )

    extractor = FeatureExtractor(model, weights=weights, device=device, dtype=dtype)
    spec = extractor.frame_spec(squashed)
    with MediaReader() as reader:
        images, sizes = zip(*(_read(reader, path, spec) for path in paths), strict=True)
        shown = []
        if match_picture:
            specs = [FrameSpec(*shown_size(each), fast_jpeg=False) for each in sizes]
            shown = [_read(reader, *each)[0] for each in zip(paths, specs, strict=True)]

    if pooled:
        array = extractor.encode_pooled(images, size=squashed)
    else:
        norm = not as_map if norm is None else norm
        array = extractor.encode_tokens(
            images, size=squashed, layer=layer, norm=norm, class_token=class_token
        )
        maps = map_of(array, extractor.grid(squashed))
        if as_map:
            array = maps
    if out:
        _save_array(out, array[:1], overwrite=overwrite, as_json=as_json)
    if pca:
        colours = pca_colours(maps)
        if match:
            picture = side_by_side(*map(enlarged, colours, map(shown_size, sizes)))
        else:
            picture = enlarged(colours[0], sizes[0])
        _save_picture(pca, picture, overwrite=overwrite, as_json=as_json)
    if match:
        matches = match_tokens(maps[0], maps[1], sizes[0], sizes[1])[:k]
        if match_picture:
            picture = draw_matches(shown[0], shown[1], matches, sizes[0], sizes[1])
            _save_picture(match_picture, picture, overwrite=overwrite, as_json=as_json)
        for each in matches:
            _print_match(each, as_json=as_json)


def _parsed(size: str) -> tuple[int, int]:
    parsed = _SIZE.fullmatch(size)
    if parsed is None:
        raise typer.BadParameter(f"--size {size}; height x width in pixels, as 448x672.")
    return int(parsed[1]), int(parsed[2])


def _check_targets(
    array: Path | None, pictures: list[Path | None], sources: list[Path], *, overwrite: bool
) -> None:
    """Raise before anything is computed where the result could not be written."""
    from perception_search.export.report import refuse_taken

    targets = [path for path in (array, *pictures) if path]
    if array and array.suffix.lower() != ".npy":
        raise ExportError(f"{display(array)} is to hold an array; name a file that ends in .npy")
    for path in pictures:
        if path and path.suffix.lower() not in _FORMATS:
            raise ExportError(
                f"{display(path)} is to be a picture; name a file that ends in "
                + ", ".join(_FORMATS)
            )
    for number, path in enumerate(targets):
        if path.resolve() in [other.resolve() for other in (*sources, *targets[:number])]:
            raise ExportError(f"{display(path)} is named twice; name another file for the result")
        if not path.parent.is_dir():
            raise ExportError(f"{display(path.parent)} is not a folder; make it first")
        if not os.access(path.parent, os.W_OK):
            raise ExportError(
                f"{display(path.parent)} may not be written to; choose another folder"
            )
        refuse_taken(path, overwrite=overwrite)


def _read(
    reader: "MediaReader", path: Path, spec: "FrameSpec"
) -> "tuple[Image.Image, tuple[int, int]]":
    """A picture file as the pixels of `spec`, and the height and width that it has itself."""
    import numpy as np
    from PIL import Image

    from perception_search.decode import Sampling

    if not path.exists():
        raise FileNotFoundError(f"{display(path)} does not exist; name a picture")
    try:
        # of a video no more than a frame is decoded before it is refused
        item, frames = reader.decode(path, spec, Sampling(num_uniform_frames=1, grid="none"))
    except MediaError as error:
        raise MediaError(error.outcome, f"{display(path)}: {error.reason}") from error
    if item.kind != "image":
        raise MediaError(
            "unsupported",
            f"{display(path)} is a video, and features are of pictures; save a frame of it as a "
            "picture first",
        )
    pixels = frames.pixels[0].transpose(1, 2, 0)  # (3, H, W) -> (H, W, 3)
    return Image.fromarray(np.ascontiguousarray(pixels)), (item.height, item.width)


def _save_array(
    path: Path, array: "NDArray[np.float32]", *, overwrite: bool, as_json: bool
) -> None:
    import numpy as np

    content = io.BytesIO()
    np.save(content, array)
    _write(path, content.getvalue(), overwrite=overwrite)
    if as_json:
        print_json({"path": path, "shape": array.shape, "dtype": str(array.dtype)})
    else:
        print_line(f"{display(path)}: {' x '.join(map(str, array.shape))} {array.dtype}")


def _save_picture(path: Path, picture: "Image.Image", *, overwrite: bool, as_json: bool) -> None:
    content = io.BytesIO()
    try:
        picture.save(content, _FORMATS[path.suffix.lower()])
    except (OSError, ValueError) as error:  # formats but PNG have a largest size
        raise ExportError(
            f"{display(path)} cannot hold {picture.height} x {picture.width} pixels; a .png can"
        ) from error
    _write(path, content.getvalue(), overwrite=overwrite)
    if as_json:
        print_json({"path": path, "height": picture.height, "width": picture.width})
    else:
        print_line(f"{display(path)}: {picture.height} x {picture.width} pixels")


def _write(path: Path, content: bytes, *, overwrite: bool) -> None:
    from perception_search.export.report import write_new

    try:
        write_new(path, content, overwrite=overwrite)
    except OSError as error:
        raise ExportError(f"{display(path)} cannot be written: {error.strerror}") from error


def _print_match(match: "Match", *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(match))
    else:
        points = f"{match.x:.0f},{match.y:.0f}  {match.other_x:.0f},{match.other_y:.0f}"
        print_line(f"{match.cosine:.3f}  {points}" + ("  mutual" if match.mutual else ""))
