# Every target does all of its own set-up in .venv; nothing outside this folder is changed but the
# user's cache (model files, ~/.cache/humebatch).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

test: .venv/ready
	$(BIN)/python -m pytest

# Exit 1: not every model finds something to measure in every file, and the summary says which.
demo: .venv/ready
	@$(BIN)/humebatch weights --fetch || echo "Going on without what is missing."
	@$(BIN)/python -m examples.demo_media build/demo-media
	@cd build && ../$(BIN)/humebatch run demo-media --out $(CURDIR)/build/demo-out \
	    --models '{"face": {"facs": {}, "identify_faces": true}, "burst": {}, "ner": {}, "prosody": {"identify_speakers": true}, "language": {"granularity": "sentence", "sentiment": {}, "toxicity": {}, "identify_speakers": true}}' \
	    || test $$? -eq 1
	@$(BIN)/humebatch report build/demo-out --out build/demo-report.html --open

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[bundle,cli,local,report,tables]' --group dev
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
