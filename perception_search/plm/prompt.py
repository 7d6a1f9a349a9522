"""A question becomes tokens around those of what is looked at; by the model's own chat template."""

from dataclasses import dataclass
from typing import Any

from perception_search.errors import WeightsMismatch
from perception_search.yes_no import Answers

_PLACE = "image"  # frames of a video stand in the places of pictures, as in the reference


@dataclass(frozen=True)
class Prompt:
    """The tokens before what is looked at, which no question changes, and those behind it."""

    before: tuple[int, ...]
    behind: tuple[int, ...]


class PromptWriter:
    """Writes prompts with a tokenizer of transformers that has a chat template.

    Raises:
        WeightsMismatch: it has none, or no token for pictures.
    """

    def __init__(self, tokenizer: Any, image_token_id: int, name: str) -> None:
        self._tokenizer = tokenizer
        self._name = name
        if not getattr(tokenizer, "chat_template", None):
            raise WeightsMismatch(
                f"{name} has no chat template; give the whole folder as it is on the hub, with "
                "chat_template.jinja or tokenizer_config.json"
            )
        self._image_token: str = tokenizer.convert_ids_to_tokens(image_token_id)
        if not self._image_token:
            raise WeightsMismatch(f"{name}: its tokenizer has no token {image_token_id}")

    def write(self, question: str) -> Prompt:
        """The prompt for one picture or video and a question about it."""
        content = [{"type": _PLACE}, {"type": "text", "text": self._without_tokens(question)}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        before, place, behind = text.partition(self._image_token)
        if not place:
            raise WeightsMismatch(
                f"the chat template of {self._name} leaves no place for a picture"
            )
        return Prompt(self._ids(before), self._ids(behind))

    def answers(self) -> Answers:
        """What a yes and a no look like; raises `WeightsMismatch` where they are not one token."""
        return Answers(self._tokenizer, self._name)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _without_tokens(self, question: str) -> str:
        """What a user writes is text: no control token can be typed."""
        for token in self._tokenizer.all_special_tokens:
            question = question.replace(token, " ")
        return question.strip()
