"""Yes or no as a number: what a judge is asked about a hit, and how its answer is read."""

from typing import TYPE_CHECKING, Any

from perception_search.errors import WeightsMismatch

if TYPE_CHECKING:
    from torch import Tensor

_YES = ("Yes", "yes", "YES")
_NO = ("No", "no", "NO")


def question(query: str, kind: str) -> str:
    """What is asked to judge a hit of this kind."""
    thing = "video" if kind == "video" else "image"
    return f'Does this {thing} show "{query}"? Answer with yes or no.'


class Answers:
    """The tokens with which a model says yes or no.

    Args:
        tokenizer: of transformers.
        name: the model's, for messages.

    Raises:
        WeightsMismatch: it has no single token for yes or for no.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.yes, self.no = (_first_tokens(tokenizer, words, name) for words in (_YES, _NO))

    def log_odds(self, logits: "Tensor") -> "Tensor":
        """Log p(yes) - log p(no), (N,) for the last logits (N, tokens) of N questions."""
        logs = logits.float().log_softmax(dim=1)
        return logs[:, self.yes].logsumexp(dim=1) - logs[:, self.no].logsumexp(dim=1)


def _first_tokens(tokenizer: Any, words: tuple[str, ...], name: str) -> list[int]:
    """The tokens of those words that are one token, as an answer begins: without a space."""
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    found = {each[0] for each in ids if len(each) == 1}
    if not found:
        raise WeightsMismatch(f"{name}: none of {', '.join(words)} is one token")
    return sorted(found)
