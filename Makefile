# SPDX-License-Identifier: Apache-2.0
#
# The front door: every target calls CMake presets or a script that can be called alone.

PREFIX ?= /usr/local
MODEL  ?= smollm2
JOBS   ?= $(shell nproc)
STEPS  ?=
export JOBS

.DEFAULT_GOAL := build
.PHONY: build cuda help demo serve test fuzz asan tsan valgrind format check-format install bench clean

build: ## build the program and the library (build/release)
	@scripts/build release nibble libnibble libnibble_static

cuda: ## build both with CUDA, and libnibble_cuda.so (build/cuda); scripts/setup cuda finds or fetches nvcc
	@scripts/setup cuda
	@scripts/build cuda nibble libnibble nibble_cuda

help: ## say what make can do
	@printf 'nibble: run 4-bit floating-point language models\n\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@printf '\nOne step of the tests: make test STEPS="unit e2e"; scripts/test --help lists them.\n'

demo: ## set up, build, fetch a model, quantize it, answer a prompt [MODEL=smollm2|gemma3-270m]
	@scripts/demo $(MODEL)

serve: ## the same, but answering over HTTP at http://127.0.0.1:8000/v1 [MODEL=...] [FLAGS="--port 9000"]
	@scripts/demo $(MODEL) serve $(FLAGS)

test: ## everything that must hold [STEPS=...]
	@scripts/setup test
	@for model in smollm2 gemma3-270m; do scripts/fetch-model $$model >/dev/null || \
	    echo "$$model could not be fetched: its tests are skipped"; done
	@scripts/test $(STEPS)

fuzz: ## each fuzz target for 60 s under ASan and UBSan [SECONDS_EACH=60]
	@scripts/fuzz $(or $(SECONDS_EACH),60)

asan: ## the unit tests under ASan and UBSan
	@scripts/test --no-total asan

tsan: ## the threaded unit tests under TSan
	@scripts/test --no-total tsan

valgrind: ## nibble run on a tiny model under valgrind
	@scripts/test --no-total valgrind

format: ## format every C file (clang-format 14)
	@scripts/format

check-format: ## fail when a C file is not formatted
	@scripts/format --check

install: build ## install program, libraries, headers, man page, completion [PREFIX=/usr/local]
	@cmake --install build/release --prefix $(PREFIX)

bench: ## nibble against llama.cpp on this machine (bench/cpu_vs_llamacpp --help)
	@bench/cpu_vs_llamacpp

clean: ## remove what was built (keeps models/ and .venv/)
	@rm -rf build
