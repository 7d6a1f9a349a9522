"""The reading order is the data order: a module imports only what stands above it."""

import ast
import subprocess
import sys
from pathlib import Path

import perception_search

PACKAGE = Path(perception_search.__file__).parent

ORDER = [
    "errors",
    "durable",
    "assets",
    "media",
    "frames",
    "media_facts",
    "call_filter",
    "confinement",
    "decode_limits",
    "video_sampling",
    "cuts",
    "shots",
    "signatures",
    "child_process",
    "decode_messages",
    "decode_image",
    "video_reader",
    "decode_video",
    "decode_torchcodec",
    "decode_worker",
    "decode_process",
    "decode_events",
    "decode_pool",
    "decode_single",
    "decode",
    "encoder.protocol",
    "encoder.config",
    "encoder.names",
    "encoder.device",
    "encoder.layers",
    "encoder.cpu_linear",
    "encoder.towers",
    "encoder.tokenizer",
    "encoder.layouts",
    "encoder.checkpoint",
    "encoder.weights",
    "encoder.onnx_export",
    "encoder.streams",
    "encoder.base",
    "encoder.overlap",
    "encoder.compiled",
    "encoder.packing",
    "encoder.device_process",
    "encoder.perception",
    "encoder.device_worker",
    "encoder.features",
    "encoder.starter",
    "encoder.reframed",
    "encoder.peer_library",
    "encoder.open_clip",
    "encoder",
    "encoder.auto",
    "manifest",
    "tables",
    "where",
    "segments",
    "half",
    "rows",
    "snapshot",
    "writer",
    "resegment",
    "shortlist",
    "recipe",
    "index",
    "tuning",
    "text_cache",
    "current_index",
    "hits",
    "survey",
    "embed",
    "ingest",
    "caption_bank",
    "relevance",
    "spans",
    "scoring",
    "query",
    "reranking",
    "rerank_encoder",
    "yes_no",
    "vision_language",
    "plm.licence",
    "plm.tiles",
    "plm.prompt",
    "plm.checkpoint",
    "plm.network",
    "plm.prefixes",
    "plm.tokens",
    "plm.model",
    "plm",
    "moments",
    "search",
    "caption_words",
    "caption_search",
    "searcher",
    "removal",
    "named_items",
    "captioning",
    "caption_files",
    "embedding_files",
    "adopt",
    "overview",
    "verify",
    "salvage",
    "repair_plan",
    "repair",
    "purge",
    "reembed",
    "duplicates",
    "export.report",
    "export.copying",
    "export.encoding",
    "export.stretch",
    "export.worker",
    "export.cutting",
    "export.timelines",
    "export.text",
    "export",
    "metrics",
    "caption_metrics",
    "zero_shot",
    "own_encoder",
    "collection",
    "published",
    "evaluate.annotations",
    "evaluate.moments",
    "evaluate.films",
    "evaluate.captions",
    "evaluate.caption_sets",
    "evaluate.ways",
    "evaluate.mine",
    "evaluate.class_names",
    "evaluate.class_lists",
    "evaluate.class_sets",
    "evaluate.shards",
    "evaluate.embeddings",
    "evaluate.retrieval",
    "evaluate.classification",
    "evaluate.knn",
    "evaluate.model_card",
    "evaluate.measured_elsewhere",
    "evaluate.stored_captions",
    "evaluate.plm_videobench",
    "evaluate",
    "counting",
    "machine",
    "plan",
    "feature_matches",
    "feature_pictures",
    "verify_model.check",
    "verify_model.released",
    "verify_model.samples",
    "verify_model.subject",
    "verify_model.outputs",
    "verify_model.probabilities",
    "verify_model.precision",
    "verify_model.tensors",
    "verify_model.peer",
    "verify_model",
    "page",
    "evaluate.plots",
    "demo",
    "doctor",
    "show",
    "commands",
    "commands.common",
    "commands.language",
    "commands.captions",
    "commands.reranking",
    "commands.library",
    "commands.indexing",
    "commands.ask",
    "commands.export",
    "commands.embeddings",
    "commands.evaluate",
    "commands.eval_classes",
    "commands.eval_retrieval",
    "commands.eval_report",
    "commands.eval_captions",
    "commands.status",
    "commands.upkeep",
    "commands.models",
    "commands.features",
    "commands.export_onnx",
    "commands.plan",
    "commands.verify_model",
    "commands.app",
    "commands.demo",
    "commands.doctor",
    "cli",
    "__main__",
]


def modules():
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def imported(path):
    """Names of our modules that `path` imports anywhere, but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if node in skipped or not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if module == "perception_search":
            yield from (alias.name for alias in node.names if alias.name in ORDER)
        elif module.startswith("perception_search."):
            name = module.removeprefix("perception_search.")
            inner = [f"{name}.{alias.name}" for alias in node.names]
            yield from ([n for n in inner if n in ORDER] or [name])


def test_every_module_has_its_place():
    names = {name for name, _ in modules()} - {"__init__"}
    assert names == set(ORDER)


def test_a_module_imports_only_what_stands_above_it():
    wrong = [
        f"{name} imports {other}"
        for name, path in modules()
        if name in ORDER
        for other in imported(path)
        if name != "encoder" and ORDER.index(other) >= ORDER.index(name)
    ]
    assert wrong == []


def test_no_file_is_longer_than_six_hundred_lines():
    long = {name: len(path.read_text().splitlines()) for name, path in modules()}
    assert {name: lines for name, lines in long.items() if lines > 600} == {}


def run(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_pulls_in_nothing_heavy():
    heavy = "torch faiss transformers gradio duckdb pandas pyarrow numpy PIL av"
    code = (
        f"import sys, perception_search; print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_ingest_store_and_search_need_no_torch():
    code = (
        "import sys, perception_search.ingest, perception_search.writer, perception_search.search, "
        "perception_search.collection; print('torch' in sys.modules)"
    )
    assert run(code).strip() == "False"


def test_all_is_sorted_and_true():
    assert perception_search.__all__ == sorted(perception_search.__all__)
    for name in perception_search.__all__:
        assert getattr(perception_search, name) is not None
