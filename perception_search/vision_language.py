"""Any vision-language model that transformers can load, as judge and for questions.

For models with a processor and a chat template of their own; Perception LM has `plm`. Code that
comes with a model is never run.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_search.decode_single import MediaReader
from perception_search.encoder.device import choose_device, choose_dtype, float_of
from perception_search.errors import MediaError, MissingExtra, WeightsMismatch, WeightsNotFound
from perception_search.hits import Hit
from perception_search.yes_no import Answers, question

if TYPE_CHECKING:
    from PIL import Image

PREFIX = "hf:"
_MAX_SIDE = 1024
_NUM_FRAMES = 8
_MAX_NEW_TOKENS = 256


class VisionLanguageModel:
    """A vision-language model of the hub or of a folder; needs the extra `plm`.

    Args:
        model: a repository of the hub or a folder.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: `auto`, `float32` or `bfloat16`.

    Raises:
        MissingExtra: transformers is not installed.
        WeightsNotFound: it cannot be loaded; the message says why.
        WeightsMismatch: it cannot be asked about pictures.
    """

    first_weight = 1.0

    def __init__(self, model: str, *, device: str = "auto", dtype: str = "auto") -> None:
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise MissingExtra(
                "a vision-language model needs transformers: pip install 'perception-search[plm]'"
            ) from error
        self.name = self.model = model
        self.licence = f"as the model card of {model} says"
        self._device = choose_device(device)
        kind = float_of(choose_dtype(dtype, self._device))
        try:
            processors: Any = AutoProcessor
            self._processor = processors.from_pretrained(model, trust_remote_code=False)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                model, trust_remote_code=False, dtype=kind
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise WeightsNotFound(f"{model} cannot be loaded by transformers: {said[0]}") from error
        self._model = loaded.to(self._device).requires_grad_(False).eval()
        self._tokenizer: Any = getattr(self._processor, "tokenizer", None)
        if self._tokenizer is None or not getattr(self._processor, "chat_template", None):
            raise WeightsMismatch(f"{model} has no chat template; it cannot be asked questions")
        self._answers = Answers(self._tokenizer, model)
        self._reader = MediaReader()

    def caption(self, path: Path, prompt: str) -> str:
        """What the picture or video at `path` shows, in answer to `prompt`."""
        return self.ask(path, prompt)

    def ask(
        self,
        path: str | Path,
        question: str,
        *,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        max_new_tokens: int = _MAX_NEW_TOKENS,
    ) -> str:
        """The answer to a question about a picture, a video or a stretch of it; greedy.

        Raises:
            MediaError: the file cannot be used.
        """
        inputs = self._inputs(self._pictures(Path(path), start_seconds, end_seconds), question)
        written = self._model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        fresh = written[0][inputs["input_ids"].shape[1] :]
        answer: str = self._tokenizer.decode(fresh, skip_special_tokens=True)
        return answer.strip()

    def scores(self, query: str, hits: Sequence[Hit]) -> list[float | MediaError]:
        """For each hit log p(yes) - log p(no), whether it shows `query`; see `Reranker`."""
        import torch

        found: list[float | MediaError] = []
        for hit in hits:
            try:
                pictures = self._pictures(hit.path, hit.start_seconds, hit.end_seconds)
            except MediaError as error:
                found.append(error)
                continue
            with torch.inference_mode():
                inputs = self._inputs(pictures, question(query, hit.kind))
                found.append(float(self._answers.log_odds(self._model(**inputs).logits[:, -1])))
        return found

    def close(self) -> None:
        """End the process that decodes."""
        self._reader.close()

    def _inputs(self, pictures: "Sequence[Image.Image]", question: str) -> Any:
        content = [{"type": "image", "image": picture} for picture in pictures]
        message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
        return self._processor.apply_chat_template(
            [message],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._device, self._model.dtype)

    def _pictures(
        self, path: Path, start_seconds: float | None, end_seconds: float | None
    ) -> "list[Image.Image]":
        """The picture, or frames of a stretch of a video, evenly spread."""
        from PIL import Image

        times = [0.0]
        if end_seconds is not None:
            first = start_seconds or 0.0
            step = (end_seconds - first) / _NUM_FRAMES
            times = [first + (number + 0.5) * step for number in range(_NUM_FRAMES)]
        pictures = []
        for seconds in times:
            try:
                jpeg = self._reader.thumbnail(path, seconds, _MAX_SIDE)
            except OSError as error:
                raise MediaError("unreadable", error.strerror or str(error)) from error
            pictures.append(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        return pictures
