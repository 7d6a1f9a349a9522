# Wraps what a person could type; everything lives in .venv. Instant the second time.
#
#   make demo                  index sample media, ask ten queries, leave demo/index.html
#   make demo MODEL=PE-Core-B16-224 MEDIA=~/Pictures
#   make app                   the search page over the demo's media
#   make test                  every test
#   make check                 style and types
#   make scale                 50,000 small files and 500 small videos
#   make faults                the long forms of docs/reliability.md, with their figures: hours
#   make bench                 the benchmarks
#   make parity                the encoder equals open_clip's, timm's, birder's, transformers'
#   make parity MODELS="T S"   the small ones alone
#   make parity-env            .venv-parity: what other people would run instead
#   make bench-video           videos, ours and theirs
#   make bench-encode          pictures and words, ours and theirs
#   make bench-gpu             the same on a GPU, where there is one
#   make bench-index           indexes, ours and theirs, at 100,000 rows
#   make bench-index-1m        the same at a million: an hour
#
# TORCH_INDEX= names a package index for torch alone, where pip would take a CUDA build unasked.

PYTHON ?= python3
VENV := .venv
PARITY := .venv-parity
BIN := $(VENV)/bin
MODEL ?= starter
MEDIA ?=
FAISS := $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
# what is never imported need not be compiled
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
PIP := $(BIN)/python $(PIP_INSTALL)
PARITY_PIP := $(PARITY)/bin/python $(PIP_INSTALL)

FAULTS := faults power_loss beside_each_other mutated_media changing_files where mutants full_disk \
	golden_collections file_names metadata assets salvage repair reembed purge

.DEFAULT_GOAL := demo
.PHONY: demo app test check bench parity parity-env bench-video bench-encode bench-gpu bench-index bench-index-1m bench-index-small scale faults clean

$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --requirement constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	touch $@

$(VENV)/demo: $(VENV)/torch pyproject.toml
	$(PIP) --constraint constraints.txt --editable '.[$(FAISS),starter]'
	touch $@

$(VENV)/test: $(VENV)/demo
	$(PIP) --constraint constraints.txt --editable '.[$(FAISS),starter,video,heif,export,plots,onnx,plm,app,dev]'
	touch $@

$(VENV)/app: $(VENV)/demo
	$(PIP) --constraint constraints.txt --editable '.[$(FAISS),starter,app]'
	touch $@

demo: $(VENV)/demo
	$(BIN)/perception-search demo --model $(MODEL) $(if $(MEDIA),--media $(MEDIA))

app: demo $(VENV)/app
	$(BIN)/perception-search app demo/demo.ps --open

test: $(VENV)/test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest \
		--numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/test
	$(BIN)/python benchmarks/bench_import.py
	$(BIN)/python benchmarks/bench_ingest.py

$(PARITY)/torch: constraints.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY_PIP) --requirement constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	touch $@

$(PARITY)/peers: $(PARITY)/torch constraints-parity.txt pyproject.toml
	$(PARITY_PIP) --requirement constraints-parity.txt --editable '.[cpu,starter]'
	touch $@

parity-env: $(PARITY)/peers

parity: parity-env
	$(PARITY)/bin/python benchmarks/parity.py $(if $(MODELS),--models $(MODELS))

bench-video: parity-env
	$(PARITY)/bin/python benchmarks/bench_video.py

bench-encode: parity-env
	$(PARITY)/bin/python benchmarks/bench_encode.py

bench-gpu: parity-env
	$(PARITY)/bin/python benchmarks/bench_gpu.py

bench-index: parity-env
	OMP_WAIT_POLICY=PASSIVE $(PARITY)/bin/python benchmarks/bench_index.py $(INDEX_ARGS)

bench-index-1m: INDEX_ARGS = --rows 1000000 --only "ours ivf-pq" "ours rabitq" "ours hnsw" "FAISS HNSW16" "FAISS HNSW32" "autofaiss IVF-PQ"
bench-index-1m: bench-index

bench-index-small: INDEX_ARGS = --rows 20000 --dim 256 --rounds 1 --only "ours ivf-pq" "FAISS HNSW16" "usearch f16"
bench-index-small: bench-index

scale: $(VENV)/test
	PERCEPTION_SEARCH_SCALE=full $(BIN)/python -m pytest tests/test_scale.py -s

faults: $(VENV)/test
	seed=$${PERCEPTION_SEARCH_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
	echo "PERCEPTION_SEARCH_SEED=$$seed make faults replays this run"; \
	PERCEPTION_SEARCH_FAULTS=long PERCEPTION_SEARCH_SEED=$$seed OMP_WAIT_POLICY=PASSIVE \
		$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(FAULTS:%=tests/test_%.py)

clean:
	rm -rf $(VENV) $(PARITY) demo build dist
