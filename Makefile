# `make help` lists what there is. Every target does the set-up it needs; a second run finds it done.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint unit bench long suite fleets fuzz install guests wasm-target servers python clean

export CARGO_TARGET_DIR ?= $(CURDIR)/target
CELERYBOX := $(CARGO_TARGET_DIR)/debug/celerybox

# Always these two together: cargo settles the features of shared dependencies over what one command builds, and with
# another selection it would build wasmtime and the rest once more. So demo, test and bench share one build, and the
# guests' own crates, which need none of it, are tested by a command of their own.
WORKER := -p celerybox -p celerybox-tests

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: guests celerybox ## A worker in a folder runs tasks in sandboxes; one loops for ever and is stopped
	@tests/setup/demo.sh $(CELERYBOX)

test: wasm-target servers python lint guests celerybox unit ## Everything: format, lints, unit tests, real Redis, RabbitMQ and Celery

lint: ## cargo fmt and clippy; a warning is an error
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

unit: guests celerybox servers python
	cargo test $(WORKER)
	cargo test --workspace $(subst -p,--exclude,$(WORKER))

bench: export CARGO_PROFILE_DEV_OPT_LEVEL := 2
bench: guests celerybox servers python ## This worker and Celery's, side by side on Redis and RabbitMQ; nothing else should run
	$(if $(CELERYBOX_BENCH),,cargo bench $(WORKER) --bench sandbox --profile dev)
	cargo bench $(WORKER) --bench compare --profile dev -- $(CELERYBOX_BENCH)

long: export CELERYBOX_LONG ?= 100000
long: guests celerybox servers python ## The long test by hand: a mixed fleet under kills and restarts (tests/README.md)
	cargo test $(WORKER) --test it -- --ignored --nocapture --test-threads 1 long::

suite: guests celerybox python servers ## Celery's own integration tests against this worker (tests/README.md)
	cargo test $(WORKER) --test it -- --include-ignored --nocapture --test-threads 1 celery_suite::

fleets: export CELERYBOX_LINES ?= 5.3 5.4 5.5 5.6
fleets: guests celerybox python servers ## Workflows between this worker and clients and workers of Celery 5.2 to 5.7
	@tests/setup/python.sh $(CELERYBOX_LINES)
	cargo test $(WORKER) --test it -- --include-ignored --nocapture --test-threads 1 canvas::fleet::

fuzz: ## Ten minutes for each decoder, by hand (tests/README.md)
	tests/fuzz/run.sh

guests: wasm-target ## Builds the tasks and the test guests into .build/tasks and .build/guests
	@tests/setup/guests.sh

.PHONY: celerybox
celerybox:
	cargo build $(WORKER)

wasm-target: ## Makes the wasm32-wasip2 target available
	@tests/setup/wasm-target.sh

servers: ## redis-server, rabbitmq-server and chromium (apt-get as root, otherwise it says what to install)
	@tests/setup/servers.sh

python: ## .build/venv with real Celery
	@tests/setup/python.sh

install: ## Builds celerybox for release and puts it into cargo's bin folder
	cargo install --path host --locked

clean: ## Removes what was built: the target folder and .build
	cargo clean
	rm -rf .build
