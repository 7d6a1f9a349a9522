"""Perception LM: captions, answers and judgements about pictures and videos; always asked for.

Its weights and its outputs are for noncommercial research, so nothing here is loaded without
being asked for and without the licence having been accepted. The parts, in reading order:

    licence       whether the licence was accepted
    tiles         a picture becomes tiles, a video frames
    prompt        a question becomes tokens, around the picture's
    checkpoint    config and tensors from a folder or the hub; adapters merged in
    network       transformers' model with our vision tower in the vision tower's place
    prefixes      what was computed of an item, kept for the next question
    tokens        what was seen of a file, kept on disk by choice
    model         PerceptionLM: caption, ask, judge

Source: arXiv 2504.13180 and transformers' `PerceptionLMForConditionalGeneration`.
"""

from perception_search.plm.licence import LICENCE, accept
from perception_search.plm.model import PerceptionLM

__all__ = ["LICENCE", "PerceptionLM", "accept"]
