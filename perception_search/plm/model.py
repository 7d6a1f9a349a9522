"""PerceptionLM: says what pictures and videos show, answers questions, judges what was found."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from perception_search import durable
from perception_search.decode_single import MediaReader
from perception_search.encoder.device import choose_device, choose_dtype, float_of
from perception_search.errors import MediaError, MissingExtra
from perception_search.hits import Hit
from perception_search.plm import checkpoint, licence, tiles
from perception_search.plm.prefixes import Prefixes, cache_of, layers_of
from perception_search.plm.prompt import NO, YES, Prompt, PromptWriter
from perception_search.rerank import file_key

if TYPE_CHECKING:
    from torch import Tensor

Detail = Literal["low", "high"]
DETAILS: tuple[Detail, ...] = ("low", "high")
MAX_NEW_TOKENS = 256
PREFIX_BYTES = 2 << 30

_MAX_TILES = {"low": 1, "high": tiles.MAX_TILES}
_MAX_FRAMES = {"low": 8, "high": tiles.MAX_FRAMES}
_DIGEST_BYTES = 32


def is_perception_lm(model: str) -> bool:
    """Whether a model goes by the name of a released Perception LM."""
    return model.removeprefix("facebook/") in checkpoint.MODELS


class PerceptionLM:
    """A Perception LM; needs the extra `plm`. Greedy: the same answer every time.

    What it computes of a picture does not depend on the question, so that it is computed once and
    kept for the next one, up to `prefix_bytes`.

    Args:
        model: a name as released, a folder, finetuned ones too, or a folder with a LoRA adapter.
        accept_license: see `licence.accept`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: `auto`, `float32` or `bfloat16`.
        detail: `low` looks at a picture as a whole and at 8 frames of a video, 256 tokens each;
            `high` at up to 36 tiles and at 32 frames.
        prefix_bytes: of what is kept in memory between questions.
        tokens_folder: keep what was seen of each file here too, 1 to 2 MB a tile or frame; None
            to keep nothing on disk.

    Raises:
        LicenceNotAccepted: before anything else.
        MissingExtra: transformers is not installed.
        WeightsNotFound: the model cannot be had; the message says why.
        WeightsMismatch: its files are not those of a Perception LM.
    """

    licence = licence.LICENCE
    first_weight = 1.0
    """How much a standard deviation of the first scores counts, in units of its own."""

    def __init__(
        self,
        model: str = "Perception-LM-1B",
        *,
        accept_license: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        detail: Detail = "low",
        prefix_bytes: int = PREFIX_BYTES,
        tokens_folder: str | Path | None = None,
    ) -> None:
        licence.accept(model, accepted=accept_license)
        if detail not in DETAILS:
            raise ValueError(f"detail={detail!r}; {' or '.join(DETAILS)}")
        tokenizer_class = _imported()
        files = checkpoint.find(model)
        from perception_search.plm import network

        on = choose_device(device)
        self.model = model.removeprefix("facebook/")
        self.detail: Detail = detail
        self._network = network.load(files, on, float_of(choose_dtype(dtype, on)))
        tokenizer = tokenizer_class.from_pretrained(files.folder)
        self._tokenizer: Any = tokenizer
        self._prompts = PromptWriter(tokenizer, self._network.image_token_id, self.model)
        self._ends = _ends(files.config, tokenizer)
        self._prefixes = Prefixes(prefix_bytes)
        self._reader = MediaReader()
        self._tokens_folder = Path(tokens_folder) if tokens_folder is not None else None

    @property
    def name(self) -> str:
        """As people call it."""
        return self.model

    def caption(self, path: Path, prompt: str) -> str:
        """What the picture or video at `path` shows, in answer to `prompt`.

        Raises:
            MediaError: the file cannot be used.
        """
        return self.ask(path, prompt)

    def ask(
        self,
        path: str | Path,
        question: str,
        *,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """The answer to a question about a picture, a video or a stretch of it.

        Args:
            path: of the file.
            question: any.
            start_seconds: of the stretch of a video.
            end_seconds: of the stretch.
            max_new_tokens: after which it is cut off.
            on_text: called with every further piece of the answer.

        Raises:
            MediaError: the file cannot be used.
        """
        prompt = self._prompts.write(question)
        prefix = self._prefix(Path(path), start_seconds, end_seconds, prompt)
        known = cache_of([prefix])
        logits, known = self._network.read(self._network.embed(prompt.behind), known)
        written: list[int] = []
        said = ""
        while len(written) < max_new_tokens:
            token = int(logits[0].argmax())
            if token in self._ends:
                break
            written.append(token)
            text: str = self._tokenizer.decode(written, skip_special_tokens=True)
            if on_text is not None and not text.endswith("\N{REPLACEMENT CHARACTER}"):
                on_text(text[len(said) :])
                said = text
            logits, known = self._network.read(self._network.embed([token]), known)
        answer: str = self._tokenizer.decode(written, skip_special_tokens=True)
        return answer.strip()

    def scores(self, query: str, hits: Sequence[Hit]) -> list[float | MediaError]:
        """For each hit log p(yes) - log p(no), whether it shows `query`; see `Reranker`.

        Hits whose files cannot be used have their errors instead.
        """
        found: list[float | MediaError] = [MediaError("unreadable", "")] * len(hits)
        groups: dict[tuple[str, int], list[tuple[int, Any]]] = {}
        prompts = {kind: self._prompts.write(question(query, kind)) for kind in ("image", "video")}
        for number, hit in enumerate(hits):
            kind = "video" if hit.kind == "video" else "image"
            try:
                prefix = self._prefix(hit.path, hit.start_seconds, hit.end_seconds, prompts[kind])
            except MediaError as error:
                found[number] = error
                continue
            # of equal length, so that no place in a batch has to be filled with nothing
            groups.setdefault((kind, prefix[0][0].shape[2]), []).append((number, prefix))
        yes, no = (self._prompts.first_tokens(words) for words in (YES, NO))
        for (kind, _), members in groups.items():
            behind = self._network.embed(prompts[kind].behind)
            logits, _ = self._network.read(
                behind.expand(len(members), -1, -1), cache_of([prefix for _, prefix in members])
            )
            logs = logits.log_softmax(dim=1)
            odds = logs[:, yes].logsumexp(dim=1) - logs[:, no].logsumexp(dim=1)
            for (number, _), value in zip(members, odds.tolist(), strict=True):
                found[number] = value
        return found

    def close(self) -> None:
        """End the process that decodes."""
        self._reader.close()

    def _prefix(
        self, path: Path, start_seconds: float | None, end_seconds: float | None, prompt: Prompt
    ) -> "tuple[tuple[Tensor, Tensor], ...]":
        """Keys and values of everything before the question."""
        import torch

        key = f"{self.detail} {file_key(path, start_seconds, end_seconds)}"

        def make() -> "tuple[tuple[Tensor, Tensor], ...]":
            seen = self._seen(key, path, start_seconds, end_seconds).flatten(0, 1)[None]
            before = self._network.embed(prompt.before)
            _, known = self._network.read(torch.cat([before, seen.to(before)], dim=1))
            return layers_of(known)

        return self._prefixes.get(key, make)

    def _seen(
        self, key: str, path: Path, start_seconds: float | None, end_seconds: float | None
    ) -> "Tensor":
        """What the vision tower and the projector make of a file: (chunks, tokens, width)."""
        import torch

        kept = None
        if self._tokens_folder is not None:
            name = hashlib.sha256(f"{self.model} {key}".encode("utf-8", "surrogateescape"))
            kept = self._tokens_folder / f"{name.hexdigest()}.tokens"
            if (tokens := _read_tokens(kept)) is not None:
                return tokens
        chunks = tiles.chunks_of(
            lambda spec, sampling: self._reader.decode(path, spec, sampling),
            max_tiles=_MAX_TILES[self.detail],
            max_frames=_MAX_FRAMES[self.detail],
            start_seconds=start_seconds,
            end_seconds=end_seconds,
        )
        tokens = self._network.look(torch.from_numpy(chunks))
        if kept is not None:
            _keep_tokens(kept, tokens)
        return tokens


def question(query: str, kind: str) -> str:
    """What is asked to judge a hit."""
    thing = "video" if kind == "video" else "image"
    return f'Does this {thing} show "{query}"? Answer with yes or no.'


def _read_tokens(path: Path) -> "Tensor | None":
    """What was kept; None where nothing is, or not what was written."""
    from safetensors.torch import load

    with suppress(OSError, ValueError, KeyError):
        content = path.read_bytes()
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() == digest:
            return load(payload)["tokens"]
    return None


def _keep_tokens(path: Path, tokens: "Tensor") -> None:
    from safetensors.torch import save

    payload = save({"tokens": tokens.cpu().contiguous()})
    with suppress(OSError):  # a cache that cannot be written is done without
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, hashlib.sha256(payload).digest() + payload)


def _imported() -> Any:
    try:
        from transformers import AutoTokenizer, PerceptionLMForConditionalGeneration  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "Perception LM needs transformers: pip install 'perception-search[plm]'"
        ) from error
    return AutoTokenizer


def _ends(config: dict[str, Any], tokenizer: Any) -> set[int]:
    """The tokens that end an answer."""
    said = config.get("eos_token_id") or (config.get("text_config") or {}).get("eos_token_id")
    ends = set(said if isinstance(said, list) else [said] if said is not None else [])
    known = (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eot_id|>"))
    return ends | {token for token in known if token is not None}
