"""PerceptionLM: says what pictures and videos show, answers questions, judges what was found."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from perception_search.decode_single import MediaReader
from perception_search.encoder.device import choose_device, choose_dtype, float_of
from perception_search.errors import MediaError, MissingExtra
from perception_search.hits import Hit
from perception_search.plm import checkpoint, licence, tiles
from perception_search.plm.prefixes import Prefix, Prefixes, cache_of, prefixes_in
from perception_search.plm.prompt import Prompt, PromptWriter
from perception_search.plm.tokens import TokenFiles
from perception_search.reranking import file_key
from perception_search.yes_no import question

if TYPE_CHECKING:
    from torch import Tensor

Detail = Literal["low", "high"]
DETAILS: tuple[Detail, ...] = ("low", "high")
MAX_NEW_TOKENS = 256
PREFIX_BYTES = 2 << 30

_MAX_TILES = {"low": 1, "high": tiles.MAX_TILES}
_MAX_FRAMES = {"low": 8, "high": tiles.MAX_FRAMES}
_MOST_CHUNKS_READ = 16  # at once, into keys and values


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
        self._tokens = TokenFiles(Path(tokens_folder), self.model) if tokens_folder else None

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
        [prefix] = self._prefixes_of([Stretch(Path(path), start_seconds, end_seconds)], prompt)
        if isinstance(prefix, MediaError):
            raise prefix
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
        found: list[float | MediaError] = [float("nan")] * len(hits)
        prompts = {kind: self._prompts.write(question(query, kind)) for kind in ("image", "video")}
        stretches = [Stretch(hit.path, hit.start_seconds, hit.end_seconds) for hit in hits]
        # what stands before the picture is the same for both kinds
        prefixes = self._prefixes_of(stretches, prompts["image"])
        groups: dict[tuple[str, int], list[tuple[int, Prefix]]] = {}
        for number, (hit, prefix) in enumerate(zip(hits, prefixes, strict=True)):
            if isinstance(prefix, MediaError):
                found[number] = prefix
                continue
            kind = "video" if hit.kind == "video" else "image"
            # of equal length, so that no place in a batch has to be filled with nothing
            groups.setdefault((kind, prefix[0][0].shape[2]), []).append((number, prefix))
        answers = self._prompts.answers()
        for (kind, _), members in groups.items():
            behind = self._network.embed(prompts[kind].behind)
            logits, _ = self._network.read(
                behind.expand(len(members), -1, -1), cache_of([prefix for _, prefix in members])
            )
            odds = answers.log_odds(logits).tolist()
            for (number, _), value in zip(members, odds, strict=True):
                found[number] = value
        return found

    def close(self) -> None:
        """End the process that decodes."""
        self._reader.close()

    def _prefixes_of(
        self, stretches: "Sequence[Stretch]", prompt: Prompt
    ) -> "list[Prefix | MediaError]":
        """Keys and values of everything before the question, or why a file cannot be used.

        Those that are not kept are computed together.
        """
        found: dict[Stretch, Prefix | MediaError] = {}
        keys: dict[Stretch, str] = {}
        chunks: dict[Stretch, Tensor] = {}
        for stretch in dict.fromkeys(stretches):
            try:
                keys[stretch] = f"{self.detail} {file_key(*stretch)}"
                kept = self._prefixes.get(keys[stretch])
                if kept is not None:
                    found[stretch] = kept
                elif (tokens := self._kept_tokens(keys[stretch])) is not None:
                    found |= self._read({stretch: tokens}, keys, prompt)
                else:
                    chunks[stretch] = self._chunks(stretch)
            except MediaError as error:
                found[stretch] = error
        if chunks:
            import torch

            seen = self._network.look(torch.cat(list(chunks.values())))
            parts = torch.split(seen, [len(some) for some in chunks.values()])
            tokens_of = dict(zip(chunks, parts, strict=True))
            for stretch, tokens in tokens_of.items():
                self._keep_tokens(keys[stretch], tokens)
            found |= self._read(tokens_of, keys, prompt)
        return [found[stretch] for stretch in stretches]

    def _read(
        self, tokens_of: "dict[Stretch, Tensor]", keys: "dict[Stretch, str]", prompt: Prompt
    ) -> "dict[Stretch, Prefix]":
        """The prefixes of what was seen (chunks, tokens, width), which are kept from now on."""
        import torch

        before = self._network.embed(prompt.before)
        by_length: dict[int, list[Stretch]] = {}
        for stretch, tokens in tokens_of.items():
            by_length.setdefault(len(tokens), []).append(stretch)
        made: dict[Stretch, Prefix] = {}
        for length, members in by_length.items():
            at_once = max(1, _MOST_CHUNKS_READ // length)
            for first in range(0, len(members), at_once):
                some = members[first : first + at_once]
                seen = torch.stack([tokens_of[stretch].flatten(0, 1) for stretch in some])
                start = before.expand(len(some), -1, -1)
                _, known = self._network.read(torch.cat([start, seen.to(before)], dim=1))
                for stretch, prefix in zip(some, prefixes_in(known), strict=True):
                    self._prefixes.keep(keys[stretch], prefix)
                    made[stretch] = prefix
        return made

    def _chunks(self, stretch: "Stretch") -> "Tensor":
        """What the model is shown of a file: (chunks, 3, 448, 448) uint8."""
        import torch

        return torch.from_numpy(
            tiles.chunks_of(
                lambda spec, sampling: self._reader.decode(stretch.path, spec, sampling),
                max_tiles=_MAX_TILES[self.detail],
                max_frames=_MAX_FRAMES[self.detail],
                start_seconds=stretch.start_seconds,
                end_seconds=stretch.end_seconds,
            )
        )

    def _kept_tokens(self, key: str) -> "Tensor | None":
        return None if self._tokens is None else self._tokens.get(key)

    def _keep_tokens(self, key: str, tokens: "Tensor") -> None:
        if self._tokens is not None:
            self._tokens.keep(key, tokens)


class Stretch(NamedTuple):
    """A picture, a video, or from when to when of a video, in seconds."""

    path: Path
    start_seconds: float | None = None
    end_seconds: float | None = None


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
