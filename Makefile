# The one entry to everything. `make demo` and `make test` set up what they need.

PYTHON ?= python3
# With more threads pocl 3.1 waits for ever now and then, in a condition variable of glibc 2.36 (probably its bug 25847).
export POCL_MAX_PTHREAD_COUNT ?= 1
VENV ?= .venv
BIN := $(VENV)/bin
# A process for each core; a file's tests stay together, since they share compiled models.
PYTEST := python -m pytest --numprocesses=logical --dist=loadfile
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("constraints%s.txt" % ("-py313" if sys.version_info > (3, 12) else ""))')
RUST := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock

.PHONY: demo docs test test-gpu wheel test-pymc6 test-statistical mutants lint format bench bench-peers bench-posteriordb clean

# Everything of the main job: install, compile a model, sample, print a summary, save figures.
demo: $(VENV)/.installed
	$(BIN)/python examples/rats.py --output demo-output

test: $(VENV)/.installed
	cargo test --package nutpie-core
	$(BIN)/$(PYTEST)

# The GPU devices without a GPU: all kernels run by OpenCL on the processor, in both precisions, against a plain reference and
# the CPU device, and compiled for NVIDIA's sm_90 with a list of what each needs.
test-gpu: $(VENV)/.installed
	NUTPIE_TEST_DEVICES=opencl scripts/opencl cargo test --package nutpie-core --test conformance --test gpu
	NUTPIE_TEST_DEVICES=opencl scripts/opencl $(BIN)/python -m pytest --quiet tests/devices/test_source.py \
		tests/devices/test_dlpack.py::test_chains_elsewhere_bring_their_points
	$(BIN)/python -m pip install --quiet --no-deps --target build/nvrtc --upgrade nvidia-cuda-nvrtc==13.0.88
	$(BIN)/python scripts/nvrtc.py build/nvrtc

# One wheel for Python 3.11 and newer, in build/wheel/; tried out on the Python of the virtual environment.
wheel: $(VENV)/.installed
	rm -rf build/wheel build/site
	$(BIN)/maturin build --release --interpreter $(BIN)/python --out build/wheel
	$(BIN)/python -m pip install --quiet --no-deps --target build/site build/wheel/nutpie-*-cp311-abi3-*.whl
	PYTHONPATH=build/site $(BIN)/python -m pytest --quiet tests/test_abi.py tests/test_sample.py

# The tests and the examples of the documentation with PyMC 6 and ArviZ 1, which need Python >= 3.12: of the wheel, in a
# copy of this folder without the package's sources. scripts/python313 finds that Python, or makes one.
test-pymc6: wheel
	rm -rf build/pymc6 && mkdir build/pymc6
	tar -c --exclude=./python --exclude=./target --exclude=./build/* --exclude=./.git --exclude=./.venv --exclude=.envs . \
		| tar -x -C build/pymc6
	cp build/wheel/*.whl build/pymc6/
	scripts/python313 build/pymc6 bash -ec '\
		pip install --quiet --constraint constraints-py313.txt "$$(ls ./nutpie-*.whl)[test]"; \
		pip install --quiet --no-deps --force-reinstall ./nutpie-*.whl; \
		$(PYTEST); \
		cd examples && ls ../docs/*.md | xargs -P 2 -I{} python ../scripts/docs/execute.py {} "$$(mktemp -d)"'

# The documentation in site/. All its examples are run; one that fails, and a link that leads nowhere, are errors.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Long: kernels against exact answers with millions of gradients, and PyMC and Stan models against the references of
# posteriordb (from ../shared, or NUTPIE_SHARED), several minutes.
test-statistical: $(VENV)/.installed
	cargo test --release --package nutpie-core --test mams --test kernels --test ghmc --test conformance --test gpu -- --ignored
	$(BIN)/python -m pytest tests/statistical tests/devices -m statistical

# Breaks the sampler in many ways and shows that the tests notice each of them.
mutants:
	$(PYTHON) tests/mutants.py

lint: $(VENV)/.installed
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	cargo fmt
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Nanoseconds per leapfrog beside a copy of the same bytes.
bench:
	cargo bench --package nutpie-core --bench leapfrog --bench kernels --bench device

# This package beside its peers, each in an environment of its own.
bench-peers: $(VENV)/.installed
	$(BIN)/python benches/peers/setup_envs.py
	$(BIN)/python benches/peers/run.py

# All posteriors of a checkout of posteriordb, or one made of our own programs: compiled, sampled, compared.
bench-posteriordb: $(VENV)/.installed
	@test -n "$(POSTERIORDB)" || { echo "say where it is: make bench-posteriordb POSTERIORDB=folder"; exit 1; }
	$(BIN)/python benches/posteriordb/run.py $(POSTERIORDB)

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) $(RUST)
	@command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs, or your system's package rustc >= 1.89"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build site target demo-output python/nutpie/*.so
