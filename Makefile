# Two commands are enough on a fresh machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?=
PART ?=
# Threads that wait do not spin: on a shared machine spinning costs several times the work itself (docs/speed.md).
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test slow nightly check format lint types docs clean

demo: .venv/ready
	@$(BIN)/python -m benchmarks.demo $(DEMO)

test: .venv/ready
	$(BIN)/python -m pytest -q -n 2

slow: .venv/ready
	$(BIN)/python -m pytest -q -m 'slow and not nightly and not gpu' -n 2 \
		--jaxtyping-packages=ssvid,objectives,benchmarks,beartype.beartype

# Hours. PART=NAME runs one part; a part that passed at this commit is not run again.
nightly: .venv/ready
	$(BIN)/python -m tests.nightly $(PART)

check: format lint types test

format: .venv/ready
	$(BIN)/ruff format .

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/ready
	$(BIN)/mypy

# The site of docs/ -> build/site. A link that leads nowhere is an error.
docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch .venv/docs-ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.11 ..." >&2; exit 2; }
	@echo "Setting up .venv: about 5.6 GB, one to four minutes, most of it torch." >&2
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,text]'
	@touch .venv/ready

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache
