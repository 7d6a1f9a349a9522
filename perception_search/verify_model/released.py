"""What is known of the released weights without having them, as data; counts nothing.

Typed from the model cards, the reference's README and its notebook `pe_demo.ipynb`, so that what
the package counts and computes is held against something that it did not make itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Released:
    """What one model's weights are.

    Attributes:
        vision: tensors and parameters of the vision tower.
        both: tensors and parameters of both towers; None where there is no text tower.
        tokens: tokens of one picture without the class token, and their length. PE-Lang-L14-448's
            (1024, 1024) stands in the README, the others follow from size, patch and width.
        dim: length of an embedding; None where there is none.
    """

    vision: tuple[int, int]
    both: tuple[int, int] | None
    tokens: tuple[int, int]
    dim: int | None

    @property
    def text(self) -> tuple[int, int] | None:
        """Tensors and parameters of the text tower, the scale of the logits included."""
        if self.both is None:
            return None
        return self.both[0] - self.vision[0], self.both[1] - self.vision[1]


_LANG_L = Released((327, 291_415_040), None, (1024, 1024), None)
_LANG_G = Released((662, 1_740_922_624), None, (1024, 1536), None)
RELEASED: Mapping[str, Released] = MappingProxyType(
    {
        "PE-Core-T16-384": Released((163, 6_140_544), (313, 69_545_601), (576, 192), 512),
        "PE-Core-S16-384": Released((163, 23_782_656), (313, 87_187_713), (576, 384), 512),
        "PE-Core-B16-224": Released((163, 93_672_960), (457, 447_659_521), (196, 768), 1024),
        "PE-Core-L14-336": Released((307, 317_151_232), (601, 671_137_793), (576, 1024), 1024),
        "PE-Core-G14-448": Released((618, 1_882_032_640), (912, 2_419_266_561), (1024, 1536), 1280),
        "PE-Lang-L14-448": _LANG_L,
        "PE-Lang-L14-448-Tiling": _LANG_L,
        "PE-Lang-G14-448": _LANG_G,
        "PE-Lang-G14-448-Tiling": _LANG_G,
        "PE-Spatial-T16-512": Released((149, 5_683_200), None, (1024, 192), None),
        "PE-Spatial-S16-512": Released((149, 21_983_232), None, (1024, 384), None),
        "PE-Spatial-B16-512": Released((149, 86_433_792), None, (1024, 768), None),
        "PE-Spatial-L14-448": Released((293, 303_964_160), None, (1024, 1024), None),
        "PE-Spatial-G14-448": Released((704, 1_851_887_104), None, (1024, 1536), None),
    }
)


@dataclass(frozen=True)
class Example:
    """A picture or video of the reference's, and what its notebook or README shows for it.

    Attributes:
        animal: that is to be seen.
        file_name: in apps/pe/docs/assets of facebookresearch/perception_models.
        sha256_start: how the SHA-256 of the file begins, hexadecimal.
        probabilities: of `TEXTS`, rounded to two decimals.
        models: for which they are published.
    """

    animal: str
    file_name: str
    sha256_start: str
    probabilities: tuple[float, float, float]
    models: tuple[str, ...]


TEXTS = ("a diagram", "a dog", "a cat")
CAT = Example(
    "cat", "cat.png", "8e9e179a2c56cd42", (0.0, 0.0, 1.0), ("PE-Core-G14-448", "PE-Core-L14-336")
)
DOG = Example("dog", "dog.mp4", "fbe6a3d5d0f718ce", (0.0, 1.0, 0.0), ("PE-Core-G14-448",))
NUM_FRAMES = 8
"""Frames of a video in the notebook: number int(i * (N / 8)) of N, for i from 0 to 7."""
