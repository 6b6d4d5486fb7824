# Synod: build, check, test, show.
#
#   make demo       three servers, pgbench on all of them, one killed: see for yourself   (KEEP=1: leave them running)
#   make test       every test
#   make verify     every check that changes nothing;  make fix  repairs what can be repaired
#   make install    into the PostgreSQL of PG_CONFIG
#   make bench      numbers into docs/benchmarks.md and docs/benchmarks-stream.md;   make soak  the long failure tests
#   make fuzz       every decoder, for FUZZ_S seconds each; FUZZ='paxos_node ...': only these
#
# PG=18 as an argument builds and tests against PostgreSQL 18 instead of 15. ASSERT=1 tests in a PostgreSQL 15 that is built
# from source with its own assertions (once; about ten minutes).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

PG ?= 15

# Copies of PostgreSQL to test in, outside the checkout: the servers run as an ordinary user, who may not be able to
# read it.
export SYNOD_SCRATCH ?= /var/tmp/synod-$(shell printf '%s' '$(CURDIR)' | cksum | cut -d' ' -f1)

# The PostgreSQL to build for, and to install into. Building always names the same one, so that cargo does not
# generate the bindings anew.
ifeq ($(PG),15)
  PG_CONFIG ?= $(or $(wildcard /usr/lib/postgresql/15/bin/pg_config),$(shell command -v pg_config))
  TREE = $(if $(ASSERT),$(shell scripts/fetch-postgres.sh 15-assert '$(SYNOD_SCRATCH)/postgres-15-assert'),$(shell scripts/postgres-tree.sh '$(PG_CONFIG)' '$(SYNOD_SCRATCH)/postgres-15'))
else
  FETCHED := $(SYNOD_SCRATCH)/postgres-$(PG)
  PG_CONFIG ?= $(shell scripts/fetch-postgres.sh $(PG) '$(FETCHED)')
  # One fetched by the line above is ours to install into; another is copied like the distribution's.
  TREE = $(if $(findstring $(FETCHED),$(PG_CONFIG)),$(PG_CONFIG),$(shell scripts/postgres-tree.sh '$(PG_CONFIG)' '$(FETCHED)-copy'))
  export CARGO_TARGET_DIR ?= $(CURDIR)/target/pg$(PG)
endif

TARGET   = $(or $(CARGO_TARGET_DIR),target)
CARGO    = PGRX_PG_CONFIG_PATH='$(PG_CONFIG)' cargo
FEATURES = --no-default-features --features pg$(PG)
SQL      = crates/extension/sql/synod--0.1.0.sql
PURE     = --workspace --exclude synod
# Which servers the test kit starts. Tests run unoptimised code, with overflow checks and debug assertions.
KIT      = SYNOD_PG_CONFIG='$(TREE)'

.PHONY: deps build install test test-pure test-servers verify fix demo bench bench-stream soak fuzz sql-reference
.PHONY: check-format check-lints check-docs check-licences check-source check-sql check-compiles check-16 check-17

deps:
	@scripts/install-deps.sh

## Building

build: deps
	$(CARGO) build --locked --release -p synod $(FEATURES)
	cargo build --locked --release -p synod-cli

install: build
	scripts/install-extension.sh '$(PG_CONFIG)' '$(TARGET)/release/libsynod.so' '$(TARGET)/release/synod'

## Testing

test: test-pure test-servers
	@echo 'all tests passed (PostgreSQL $(PG)$(if $(ASSERT), with assertions))'

test-pure: deps
	cargo test --quiet --locked --no-fail-fast $(PURE) --exclude synod-testkit

test-servers: deps
	$(CARGO) build --locked -p synod $(FEATURES)
	scripts/install-extension.sh '$(TREE)' '$(TARGET)/debug/libsynod.so'
	cargo build --quiet --locked -p synod-cli
	$(KIT) cargo test --quiet --locked --no-fail-fast -p synod-testkit $(TEST)

# The long form, runs of the consensus simulator; rounds of histories under random faults, two
# minutes each; crashes of random nodes; megabytes of the one large transaction; seconds of each fuzzer; seconds of
# everything at once. SYNOD_TEST_SEED in the environment repeats a run's choices.
SEEDS ?= 2000
ROUNDS ?= 5
CRASHES ?= 60
LARGE_MB ?= 200
SOAK_FUZZ_S ?= 600
DAY_S ?= 150

soak: build
	$(MAKE) fuzz FUZZ_S=$(SOAK_FUZZ_S)
	SYNOD_SEEDS=$(SEEDS) cargo test --locked --release -p synod-paxos --test sim
	scripts/install-extension.sh '$(TREE)' '$(TARGET)/release/libsynod.so'
	$(KIT) SYNOD_TEST_WATCHDOG_S=14400 SYNOD_SOAK_ROUNDS=$(ROUNDS) SYNOD_SOAK_CRASHES=$(CRASHES) SYNOD_LARGE_MB=$(LARGE_MB) \
	    SYNOD_SOAK_DAY_S=$(DAY_S) \
	    cargo test --locked --release -p synod-testkit --no-fail-fast -- --ignored --nocapture --test-threads=1

FUZZ_S ?= 60

fuzz: deps
	@scripts/fuzz.py $(FUZZ_S) $(FUZZ)

## Showing: the extension as users get it; what drives it need not be fast

demo: build
	@scripts/install-extension.sh '$(TREE)' '$(TARGET)/release/libsynod.so'
	@cargo build --quiet --locked -p synod-cli
	@cargo build --quiet --locked -p synod-testkit --bin demo
	@$(KIT) KEEP='$(KEEP)' '$(TARGET)/debug/demo'

bench: build
	@scripts/install-extension.sh '$(TREE)' '$(TARGET)/release/libsynod.so'
	@cargo build --quiet --locked -p synod-testkit --bin bench
	@$(KIT) SYNOD_TEST_WATCHDOG_S=14400 '$(TARGET)/debug/bench' $(BENCH)
	@$(MAKE) --no-print-directory bench-stream

# The change stream beside the output plugins that there are.
bench-stream: build
	@scripts/install-extension.sh '$(TREE)' '$(TARGET)/release/libsynod.so'
	@scripts/fetch-wal2json.sh '$(TREE)'
	@cargo build --quiet --locked -p synod-testkit --bin stream_bench
	@$(KIT) SYNOD_TEST_WATCHDOG_S=14400 '$(TARGET)/debug/stream_bench' $(STREAM)

## Checking: changes nothing

verify: deps check-format check-source check-sql check-licences check-lints check-docs
	@echo 'verify: all checks passed'

check-format:
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check

check-lints:
	cargo clippy --quiet --locked $(PURE) --all-targets -- -D warnings
	cargo clippy --quiet --locked $(PURE) --exclude synod-testkit --lib -- -D warnings \
	    -D clippy::unwrap_used -D clippy::expect_used -D clippy::todo -D clippy::dbg_macro
	$(CARGO) clippy --quiet --locked -p synod $(FEATURES) -- -D warnings \
	    -D clippy::unwrap_used -D clippy::expect_used -D clippy::todo -D clippy::dbg_macro
	CARGO_TARGET_DIR='$(TARGET)/fuzz' cargo clippy --quiet --locked --manifest-path fuzz/Cargo.toml -- -D warnings

check-docs:
	$(CARGO) doc --quiet --locked --no-deps --document-private-items --workspace --exclude synod
	$(CARGO) doc --quiet --locked --no-deps --document-private-items -p synod $(FEATURES)

check-docs: export RUSTDOCFLAGS = -D warnings

check-licences:
	@scripts/check-licences.py

check-source:
	@scripts/check-source.py
	@scripts/fuzz.py --check

check-sql:
	@scripts/check-sql.py crates/extension/sql/*.sql
	@scripts/check-pgspot.sh '$(SYNOD_SCRATCH)/pgspot' crates/extension/sql/*.sql
	@scripts/sql-reference.py --check $(SQL) docs/src/sql-reference.md

# Majors that must compile; their servers are not tested.
check-16 check-17:
	$(MAKE) PG=$(@:check-%=%) check-compiles

check-compiles: deps
	$(CARGO) check --quiet --locked -p synod $(FEATURES)

fix:
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	cargo clippy --quiet --fix --allow-dirty --allow-staged $(PURE) --all-targets
	$(CARGO) clippy --quiet --fix --allow-dirty --allow-staged -p synod $(FEATURES)
	$(MAKE) sql-reference
	cargo build --quiet --locked -p synod-cli
	scripts/cli-reference.sh '$(TARGET)/debug/synod' > docs/src/cli.md

sql-reference:
	scripts/sql-reference.py $(SQL) > docs/src/sql-reference.md
