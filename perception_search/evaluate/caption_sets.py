"""The data sets of retrieval: how many media and captions, frames, and columns published of them.

Captions are read by `captions`, which knows their layouts. All captions are queries and no prompt
is added to any (fact of `apps/pe/clip_benchmark` of perception_models).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class CaptionSet:
    """One data set.

    Attributes:
        what: it is, for people.
        kind: `image` or `video`.
        num_media: of the whole set; what was published stands beside only then.
        num_captions: the same; None where files of captions differ.
        of_texts: the column of `published` for texts that look for media; empty where there is
            none.
        of_media: for media that look for texts.
        num_frames: of a video, spread from the first to the last.
        joined_by: see `captions.load_captions`.
        remark: what a reader of a published figure should know.
    """

    what: str
    kind: Literal["image", "video"]
    num_media: int
    num_captions: int | None
    of_texts: str = ""
    of_media: str = ""
    num_frames: int = 8
    joined_by: str | None = None
    remark: str = ""


CAPTION_SETS: Mapping[str, CaptionSet] = MappingProxyType(
    {
        "coco": CaptionSet(
            "COCO's 5,000 pictures of Karpathy's test split, out of val2014, with 25,010 captions",
            "image",
            5000,
            25_010,
            "COCO T2I",
            "COCO I2T",
        ),
        "coco-val2017": CaptionSet(
            "COCO's 5,000 pictures of val2017 with 25,014 captions: another set than the published",
            "image",
            5000,
            25_014,
        ),
        "flickr30k": CaptionSet(
            "Flickr30k's 1,000 test pictures with five captions each",
            "image",
            1000,
            5000,
            "Flickr T2I",
            "Flickr I2T",
        ),
        "msrvtt": CaptionSet(
            "MSR-VTT's 1,000 videos of the 1k-A test list with a caption each",
            "video",
            1000,
            1000,
            "VTT T2V",
            "VTT V2T",
        ),
        "msvd": CaptionSet(
            "MSVD's 670 test videos with all their captions",
            "video",
            670,
            None,
            "MSVD T2V",
            "MSVD V2T",
            joined_by="@",
        ),
        "didemo": CaptionSet(
            "DiDeMo's test videos with a paragraph each: their descriptions joined",
            "video",
            1004,
            1004,
        ),
        "activitynet": CaptionSet(
            "ActivityNet Captions' validation videos with a paragraph each, their sentences joined",
            "video",
            4917,
            4917,
            "ActivityNet T2V",
            "ActivityNet V2T",
            num_frames=32,
            remark="PE's evaluator takes 32 frames of ActivityNet's videos; its paper says 8.",
        ),
    }
)
