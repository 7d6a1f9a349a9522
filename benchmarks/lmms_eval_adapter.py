"""Perception LM as this library runs it, inside lmms-eval: its tasks, its prompts, its measures.

    pip install lmms-eval
    python benchmarks/lmms_eval_adapter.py --model perception_search --tasks fgqa_test,rtloc_test \\
        --model_args model=Perception-LM-1B,device=cuda,accept_license=True --batch_size 1

lmms-eval hands over a video's path, a picture, or the frames of a video. Pictures become PNG files,
frames a lossless film of one a second, of which Perception LM looks at each of up to 32.
"""

import tempfile
from pathlib import Path

import av
from lmms_eval.api.model import lmms
from PIL import Image

NAME = "perception_search"


class PerceptionSearch(lmms):
    """Answers lmms-eval's questions one by one, greedily."""

    def __init__(self, model="Perception-LM-1B", device="auto", dtype="auto", detail="high",
                 accept_license=False, batch_size=1, **_):  # fmt: skip
        super().__init__()
        from perception_search.plm import PerceptionLM

        self._model = PerceptionLM(
            model, accept_license=bool(accept_license), device=device, dtype=dtype, detail=detail
        )

    def generate_until(self, requests):
        return [self._answer(*request.args) for request in requests]

    def _answer(self, question, how, doc_to_visual, doc_id, task, split):
        seen = doc_to_visual(self.task_dict[task][split][doc_id])
        if len(seen) != 1:
            raise ValueError(f"{task} shows {len(seen)} things at once; this adapter takes one")
        with tempfile.TemporaryDirectory() as folder:
            path = as_file(seen[0], Path(folder))
            tokens = int(how.get("max_new_tokens", 256))
            return self._model.ask(path, question, max_new_tokens=tokens).removesuffix(".")

    def loglikelihood(self, requests):
        raise NotImplementedError("answers are generated here, not scored")

    def generate_until_multi_round(self, requests):
        raise NotImplementedError("one question, one answer")


def as_file(seen, folder):
    """What lmms-eval shows, as a file with exactly its pixels."""
    if isinstance(seen, str | Path):
        return Path(seen)
    if isinstance(seen, Image.Image):
        path = folder / "picture.png"
        seen.convert("RGB").save(path)
        return path
    path = folder / "frames.mkv"
    with av.open(path, "w") as film:
        stream = film.add_stream("ffv1", rate=1)
        stream.width, stream.height = seen[0].size
        stream.pix_fmt = "bgr0"
        for picture in seen:
            film.mux(stream.encode(av.VideoFrame.from_image(picture.convert("RGB"))))
        film.mux(stream.encode())
    return path


if __name__ == "__main__":
    from lmms_eval.__main__ import cli_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.models.registry_v2 import ModelManifest

    MODEL_REGISTRY_V2.register_manifest(
        ModelManifest(NAME, simple_class_path="lmms_eval_adapter.PerceptionSearch")
    )
    cli_evaluate()
