"""Commands that ask a language model about pictures and videos."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_search.commands.common import AsJson, Device, Dtype, app
from perception_search.media import display
from perception_search.show import print_json, print_line, say

if TYPE_CHECKING:
    from perception_search.plm import PerceptionLM
    from perception_search.vision_language import VisionLanguageModel

PLM = "Perception-LM-1B"

AcceptLicense = Annotated[
    bool,
    typer.Option(
        "--accept-license",
        help="Accept the FAIR Noncommercial Research License of Perception LM; remembered.",
    ),
]
LanguageModel = Annotated[
    str,
    typer.Option(help="Perception-LM-1B, -3B or -8B, a folder of one, or hf:NAME for others."),
]


def language_model(
    name: str, *, accept_license: bool, device: str, dtype: str, detail: str = "low"
) -> "PerceptionLM | VisionLanguageModel":
    """The model by its name; loaded, with its licence said."""
    from perception_search.vision_language import PREFIX

    if name.startswith(PREFIX):
        from perception_search.vision_language import VisionLanguageModel

        return VisionLanguageModel(name.removeprefix(PREFIX), device=device, dtype=dtype)
    from perception_search.plm import LICENCE, PerceptionLM, accept

    accept(name, accepted=accept_license)
    say(f"{name}: its answers are under the {LICENCE}, for noncommercial research.")
    return PerceptionLM(name, device=device, dtype=dtype, detail=detail)  # type: ignore[arg-type]


@app.command()
def ask(
    file: Annotated[Path, typer.Argument(help="A picture or a video.")],
    question: Annotated[str, typer.Argument(help="What you want to know of it.")],
    model: LanguageModel = PLM,
    start: Annotated[float | None, typer.Option(help="Seconds; look from here on.")] = None,
    end: Annotated[float | None, typer.Option(help="Seconds; look up to here.")] = None,
    detail: Annotated[
        str, typer.Option(help="low, or high: 36 tiles of a picture, 32 frames of a video.")
    ] = "high",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of the answer, at most.")] = 256,
    accept_license: AcceptLicense = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Ask a question about a picture or a video; needs no collection.

    \b
    perception-search ask photo.jpg "what does the sign say?"
    perception-search ask film.mp4 "what is happening?" --start 60 --end 90

    Perception LM and what it writes are for noncommercial research.
    """
    asked = language_model(
        model, accept_license=accept_license, device=device, dtype=dtype, detail=detail
    )
    if not file.exists():
        raise FileNotFoundError(f"{display(str(file))} does not exist; name a picture or a video")
    answer = asked.ask(
        file, question, start_seconds=start, end_seconds=end, max_new_tokens=max_tokens
    )
    asked.close()
    if as_json:
        print_json(
            {
                "path": str(file),
                "question": question,
                "answer": answer,
                "model": asked.model,
                "licence": asked.licence,
            }
        )
    else:
        print_line(display(answer))
    sys.stdout.flush()
