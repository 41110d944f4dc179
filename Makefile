# make demo, make test, make tiny, make study: each sets up what it needs in .venv first; the second time it starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# glibc gives large tensors back at every step unless told otherwise: twice the time in training on a CPU
export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
export MALLOC_TRIM_THRESHOLD_ ?= 4294967296
export TOKENIZERS_PARALLELISM ?= false
unexport PYTHONDONTWRITEBYTECODE # the tests start many processes

.PHONY: demo test tiny study lint clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py --out outputs/demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy jog3r models pipelines geometry data training evaluation export sfm space & types=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$types && exit $$tests

tiny: $(STAMP)
	$(BIN)/python training/tiny_model/train_tiny.py

study: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/study.py

lint: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# On Linux PyPI's torch brings gigabytes of CUDA; without a GPU: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make ...
$(STAMP): setup.py constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("jog3r needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make $(MAKECMDGOALS) PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache outputs
