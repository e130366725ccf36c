# The commands of this repository. `make run` is all that is needed on a fresh clone; it installs first.
# ARGS are handed on: make run ARGS="--set alignment.beta=0.2" · make test ARGS="tests/cli -x"

.DEFAULT_GOAL := run
BIN := .venv/bin
ARGS ?=

.PHONY: run install test test-all mutate fuzz lint lines format lock bench gpu gpu-wheels

run: install
	@$(BIN)/mmalign run $(ARGS)

# Skipped in a moment where requirements.txt, pyproject.toml and the interpreter are as they were when it last ended well.
install:
	@sh infra/install.sh

# Two workers: the suite waits for processes more than it computes. A file's tests stay together, since they share what is dear to make.
test: install
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-all: install
	@$(BIN)/python -m pytest $(ARGS)

# Do the fast tests notice small changes of the method's code? make mutate ARGS="--package reward --seed 7"
mutate: install
	@$(BIN)/python -m tests.mutation $(ARGS)

# Do the parsers of strangers' input raise only what they document? make fuzz ARGS="--seconds 600" is all its power.
fuzz: install
	@$(BIN)/python -m tests.fuzz $(ARGS)

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m infra.house.modules
	@$(BIN)/python -m infra.house.glossary
	@! git grep -nE '^(<<<<<<<|>>>>>>>) '  # marks of a merge

# Lines of code and of tests by room.
lines: install
	@$(BIN)/python -m infra.house.lines

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Newest versions that fit pyproject.toml, for every Python and platform that it allows. No index is named, so that everybody's own is used.
# No hashes either: pip and uv would then refuse every file but those of the index that made the list, and the same version of torch is another
# file on an index with wheels for processors, for another CUDA, or of one's own. infra/gpu_wheels.sh reads the lines as name==version.
lock:
	@command -v uv >/dev/null || { echo "make lock needs uv, which resolves for all platforms at once: install it with 'pip install uv'" >&2; exit 2; }
	@uv pip compile --quiet --universal --upgrade --python-version 3.11 pyproject.toml --extra demo --extra dev \
		--no-header --no-annotate --output-file requirements.txt
	@git diff --stat -- requirements.txt

bench: install
	@for name in trees critique logprobs features scale gpu; do $(BIN)/python -m benchmarks.$$name $(ARGS) || exit 1; done

# All tests and figures that need a GPU, in under 9 minutes. Installs nothing: it runs on a bare machine with torch and transformers too.
gpu:
	@sh infra/gpu.sh

# What a bare machine lacks for that, as wheels that travel with the checkout.
gpu-wheels: install
	@sh infra/gpu_wheels.sh
