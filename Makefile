# pgqrs.h is used by copying a header: nothing here has to be built to use it. These targets try and test it.

CC ?= cc
SANITIZE_CC ?= clang
STRICT := -std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
OPTIMIZE ?= -O1 -g
# Database headers are system headers to us: their warnings are not ours to fix.
PG_INCLUDE := $(shell pg_config --includedir 2>/dev/null)
INCLUDES := -I. $(if $(PG_INCLUDE),-isystem $(PG_INCLUDE))
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

HEADERS := $(wildcard pgqrs*.h) $(wildcard tests/*.h)
name_of = $(patsubst tests/%.c,%,$(1))
UNIT := $(call name_of,$(wildcard tests/unit_*.c))
CONFORMANCE := $(call name_of,$(wildcard tests/conformance.c tests/fault_*.c))
PROGRAMS := $(call name_of,$(wildcard tests/test_*.c))
ALL_TESTS := $(UNIT) $(PROGRAMS) $(CONFORMANCE)
test_binaries = $(addprefix build/test/,$(1))
sanitized_binaries = $(addprefix build/sanitize/,$(1))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-unit test-conformance test-matrix test-examples test-manual test-sanitize check bench \
        install-deps clean build-tests build-sanitized

help: ## show this list
	@echo "pgqrs.h: a durable queue and workflow engine you copy into a C program. Try it: make quickstart"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

quickstart: ## build and run the first example on a new SQLite database (needs no server)
	@tests/install-deps.sh quickstart
	@$(MAKE) --no-print-directory build/quickstart
	@rm -rf build/quickstart-run && mkdir -p build/quickstart-run && program=$$PWD/build/quickstart && \
	  echo "--- examples/quickstart.c:" && cd build/quickstart-run && env -u PGQRS_DSN "$$program"

test: ## run every test; installs what is missing, starts private servers (a few minutes)
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 build-tests build-sanitized
	@tests/run.sh $(call test_binaries,$(ALL_TESTS)) $(call sanitized_binaries,$(UNIT) $(CONFORMANCE)) \
	  tests/matrix.sh tests/examples.sh tests/manual.sh

test-unit: ## run the unit tests, and the other programs that need no particular backend
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 build-tests
	@tests/run.sh $(call test_binaries,$(UNIT) $(PROGRAMS))

test-conformance: ## run the conformance suite and the fault tests on every backend (PGQRS_TEST_TARGETS=... picks)
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 build-tests
	@tests/run.sh $(call test_binaries,$(CONFORMANCE))

test-matrix: ## compile with gcc and clang in every C and C++ version, every include order
	@tests/install-deps.sh test
	@tests/run.sh -v tests/matrix.sh

test-examples: ## compile and run every program in examples/
	@tests/install-deps.sh test
	@tests/run.sh -v tests/examples.sh

test-manual: ## compile and run every example in the manual and the README
	@tests/install-deps.sh test
	@tests/run.sh -v tests/manual.sh

test-sanitize: ## run the unit and conformance suites with address and undefined-behaviour sanitizers
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 build-sanitized
	@tests/run.sh $(call sanitized_binaries,$(UNIT) $(CONFORMANCE))

check: ## static checks: analyzer, exported symbols, what must not be in the repository
	@tests/install-deps.sh test
	@tests/run.sh -v tests/check.sh

bench: ## measure against the floor on real servers (some minutes); prints a table, JSON lines in build/bench
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory build/bench/workflow
	@bench/run.sh build/bench

install-deps: ## install everything the tests need (Debian, Ubuntu; elsewhere it names the packages)
	@tests/install-deps.sh test

clean: ## remove build/
	rm -rf build

build-tests: $(call test_binaries,$(ALL_TESTS))

build-sanitized: $(call sanitized_binaries,$(UNIT) $(CONFORMANCE))

build/quickstart: examples/quickstart.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(STRICT) -O1 -g -I. $< -o $@ -lsqlite3 -pthread

build/bench/%: bench/%.c bench/bench.h $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(CC) $(STRICT) -O2 -g $(CPPFLAGS) $(INCLUDES) $< -o $@ $(LDFLAGS) $$(CC="$(CC)" tests/libs.sh $<)

# Every test program contains the whole library, so it depends on every header; Make has no way to see it otherwise.
build/test/%: tests/%.c $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(CC) $(STRICT) $(OPTIMIZE) $(CPPFLAGS) $(INCLUDES) $< -o $@ $(LDFLAGS) $$(CC="$(CC)" tests/libs.sh $<)

build/sanitize/%: tests/%.c $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(SANITIZE_CC) $(STRICT) -O1 -g $(SANITIZE) $(CPPFLAGS) $(INCLUDES) $< -o $@ $(LDFLAGS) $$(tests/libs.sh $<)
