# `make demo` and `make test` do all set-up on a fresh machine; `make install` does nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-examples test-extras test-portable lower-bounds release-check lint proofs trust docs site gallery mutants work growth

EXTRAS = tests/test_export_lora.py tests/test_folder.py tests/test_hf.py tests/test_image_channels.py tests/test_launch.py tests/test_lora.py \
  tests/test_site.py tests/test_trackers.py tests/test_your_own_data.py

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'mtlkit needs Python 3.11 or newer; set PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@

# A new folder each time: a run is never overwritten.
demo: $(STAMP)
	@run=runs/demo-$$(date +%Y%m%d-%H%M%S); $(BIN)/mtlkit train demo output_dir=$$run && printf '%s\n' "" \
	  "Look at it: open $$run/report.html in a browser" \
	  "Ask why:    $(BIN)/mtlkit explain $$run" \
	  "Compare:    $(BIN)/mtlkit train demo balancer=uniform output_dir=runs/plain  (the same, by plain summing)"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The examples of docs/how_to/own_loop.md with the frameworks that they are about, which `make install` leaves out. Without them,
# `make test` runs the others and says which ones it skipped.
test-examples: $(STAMP)
	$(BIN)/python -m pip install -e ".[examples]"
	$(BIN)/mypy docs/examples
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/test_examples.py

# What needs optional packages, and is skipped without them: trackers, tables and data sets of others, adapters, jobs.
test-extras: $(STAMP)
	$(BIN)/python -m pip install -e ".[docs,hf,lora,parquet,submitit,tensorboard,tiff,wandb]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(EXTRAS)

# The suite as processors with SSE4, AVX2 and AVX-512 compute, as far as this one has them: part of the release check.
# TESTS="tests/test_space.py" runs these only.
test-portable: $(STAMP)
	$(BIN)/python tools/portable.py $(TESTS)

# The suite with the lowest releases that pyproject.toml admits, in an environment of its own. Old releases warn that they
# use what newer ones replace, and torch 2.10 of how its own profiler works ("Warning: Profiler clears events ..."); those
# warnings are not ours, so they are no errors here. TESTS="tests/test_cli.py" runs these only.
lower-bounds:
	$(PYTHON) -m venv .venv-lower
	.venv-lower/bin/python tools/lower_bounds.py > .venv-lower/lowest.txt
	.venv-lower/bin/python -m pip install -c .venv-lower/lowest.txt -e ".[test]"
	OMP_NUM_THREADS=1 .venv-lower/bin/python -m pytest -n 2 --dist worksteal -W ignore::DeprecationWarning -W "ignore:Warning:UserWarning" $(TESTS)

# Before a release: builds wheel and sdist of the last commit into dist/, installs the wheel outside of this folder, and
# uses it there. `make test-portable` is the other half of the check (CONTRIBUTING.md, "A release").
release-check: $(STAMP)
	$(BIN)/python tools/release_check.py

# Do the tests notice faults? Hours; it goes on where it stopped. docs/results/mutants.md has the score.
# MUTANTS="balancers/nash.py" or "--sample 400 --seed 1" for a part.
mutants: $(STAMP)
	nice $(BIN)/python tools/mutants.py $(MUTANTS)

# What is generated from the code; tests compare it.
docs: $(STAMP)
	$(BIN)/mtlkit list balancers --markdown > docs/reference/balancers.md.new
	mv docs/reference/balancers.md.new docs/reference/balancers.md
	$(BIN)/mtlkit list presets --markdown > docs/reference/presets.md.new
	mv docs/reference/presets.md.new docs/reference/presets.md

# The documentation as a site, which needs no network: neither to be read, nor to be built once the packages are there.
site: .venv/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open file://$(CURDIR)/site/index.html"

.venv/.docs-installed: $(STAMP)
	$(BIN)/python -m pip install -e ".[docs]"
	touch $@

# The pages of docs/gallery.md and the pictures of README: trains small runs, about half an hour on two cores, and needs
# Chromium and MNIST's files. GALLERY="rooms pictures" makes these parts only; GALLERY="digits --mnist FOLDER".
gallery: $(STAMP)
	PYTHONPATH=tools $(BIN)/python -m gallery $(GALLERY)

# Longer proofs; docs/results/proofs.md has their results.
proofs: $(STAMP)
	$(BIN)/python -m pytest -m long --log-cli-level=WARNING

# Kills, damage and nonsense; docs/results/trust.md has the results. TRUST="files kills" runs these parts only.
trust: $(STAMP)
	OMP_NUM_THREADS=1 PYTHONPATH=tools:tests $(BIN)/python -m trust $(TRUST)

# Reads, operations, memory and bytes sent of a step, for every balancer: counts, which are the same on every machine.
# WORK="--balancers rotograd" or WORK="--where rotograd --tasks 10" prints a part and writes no page.
work: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tools/count_work.py $(or $(WORK),--markdown docs/results/work.md)

# How costs grow with tasks, features, images and encoder, and on paper with the number of GPUs. On a quiet machine.
# GROWTH="--quick" shows that it works.
growth: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_growth.py $(or $(GROWTH),--markdown docs/results/growth.md --plots docs/results)
