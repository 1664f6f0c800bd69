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
# Started by tests/proof.sh, not by themselves.
CHAOS := proof_chaos proof_fulldisk
PROOFS := $(filter-out $(CHAOS),$(call name_of,$(wildcard tests/proof_*.c)))
ALL_TESTS := $(UNIT) $(PROGRAMS) $(PROOFS) $(CONFORMANCE)
CLI_TESTS := $(wildcard tests/cli_*.sh)
CLI_PROGRAMS := build/pgqrs build/test/cli_flow build/test/s3_server build/test/s3_request
BENCHMARKS := $(patsubst bench/%.c,build/bench/%,$(wildcard bench/*.c))
test_binaries = $(addprefix build/test/,$(1))
sanitized_binaries = $(addprefix build/sanitize/,$(1))
coverage_binaries = $(addprefix build/coverage/bin/,$(1))
FUZZ := $(call name_of,$(wildcard tests/fuzz_*.c))
valgrind_binaries = $(call test_binaries,$(UNIT) conformance test_s3_store) $(addprefix build/fuzz/replay/,$(FUZZ))
tsan_binaries = $(addprefix build/tsan/,$(1))
# Whoever uses a part of the library leaves out the rest, which halves the time to compile it. The suite uses all of it.
PARTIAL = $(if $(filter unit_% fuzz_%,$*),-DPGQRS_STATIC)
fuzz_binaries = $(addprefix build/fuzz/replay/,$(1)) $(addprefix build/fuzz/run/,$(1))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-unit test-conformance test-matrix test-examples test-manual test-sanitize \
        check bench bench-peers proof install-deps clean build-tests build-sanitized build-bench fuzz coverage build-fuzz \
        build-coverage test-valgrind test-tsan cli install test-cli

help: ## show this list
	@echo "pgqrs.h: a durable queue and workflow engine you copy into a C program. Try it: make quickstart"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

quickstart: ## build and run the first example on a new SQLite database (needs no server)
	@tests/install-deps.sh quickstart
	@$(MAKE) --no-print-directory build/quickstart
	@rm -rf build/quickstart-run && mkdir -p build/quickstart-run && program=$$PWD/build/quickstart && \
	  echo "--- examples/quickstart.c:" && cd build/quickstart-run && env -u PGQRS_DSN "$$program"

test: ## run every test; installs what is missing, starts private servers (a quarter of an hour)
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 build-tests build-sanitized build-fuzz $(CLI_PROGRAMS)
	@PGQRS_TEST_RADOSGW_SHARE=$${PGQRS_TEST_RADOSGW_SHARE:-4} PGQRS_TEST_PGBOUNCER_SHARE=$${PGQRS_TEST_PGBOUNCER_SHARE:-3} \
	  PGQRS_TEST_SANITIZED_SHARE=$${PGQRS_TEST_SANITIZED_SHARE:-2} \
	  tests/run.sh $(call test_binaries,$(ALL_TESTS)) $(call sanitized_binaries,$(UNIT) $(CONFORMANCE)) \
	  $(CLI_TESTS) tests/fault_list.sh tests/matrix.sh tests/adapters.sh tests/examples.sh tests/manual.sh tests/peers.sh tests/fuzz.sh tests/valgrind.sh tests/proof.sh

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
	@tests/run.sh -v tests/matrix.sh tests/adapters.sh

test-examples: ## compile and run every program in examples/
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory build/test/s3_server
	@tests/run.sh -v tests/examples.sh

test-manual: ## compile and run every example in the manual and the README
	@tests/install-deps.sh test
	@tests/run.sh -v tests/manual.sh

test-sanitize: ## run the unit and conformance suites with address and undefined-behaviour sanitizers
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 build-sanitized
	@tests/run.sh $(call sanitized_binaries,$(UNIT) $(CONFORMANCE))

proof: ## kill, stop and cut off processes for 50 minutes, a checker decides (PGQRS_PROOF_SECONDS, _SEED: tests/proof.sh)
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory build/test/proof_chaos build/test/proof_forged build/test/proof_power \
	  build/test/proof_s3_hosts build/test/proof_s3_cache build/test/proof_s3_local \
	  build/test/s3_server
	@build/test/proof_forged >/dev/null 2>&1 || { echo "the checker is broken: build/test/proof_forged" >&2; exit 1; }
	@PGQRS_PROOF_SECONDS=$${PGQRS_PROOF_SECONDS:-600} tests/proof.sh
	@build/test/proof_power $${PGQRS_PROOF_SECONDS:-600}
	@PGQRS_TEST_TARGET=s3-local build/test/proof_s3_local $${PGQRS_PROOF_SECONDS:-120}
	@for target in s3 s3-local; do PGQRS_PROOF_TRIALS=$${PGQRS_PROOF_TRIALS:-1000} PGQRS_TEST_TARGET=$$target build/test/proof_s3_cache || exit 1; done
	@PGQRS_PROOF_OPERATIONS=$${PGQRS_PROOF_OPERATIONS:-10000} build/test/proof_s3_hosts

fuzz: ## fuzz every parser for a minute each (PGQRS_FUZZ_SECONDS); the corpus is in tests/corpus
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 build-fuzz
	@PGQRS_FUZZ_SECONDS=$${PGQRS_FUZZ_SECONDS:-60} PGQRS_FUZZ_SEED=$${PGQRS_FUZZ_SEED:-0} PGQRS_TEST_TIMEOUT=36000 tests/run.sh -v tests/fuzz.sh

coverage: ## branch coverage of the tests, per section; what is not covered goes to build/coverage (some minutes)
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 build-coverage
	@tests/coverage.sh $(call coverage_binaries,$(UNIT) $(PROGRAMS) $(CONFORMANCE))

# Words in the names of the cases that use threads.
THREADED := thread pool producer stop handler handed handing flush disturb lost_lease lease_of writes_during conflicts_are
test-tsan: ## run what uses threads under the thread sanitizer (PGQRS_TEST_ONLY= for all cases)
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 $(call tsan_binaries,conformance test_s3_store) build/test/s3_server
	@PGQRS_TEST_ONLY="$${PGQRS_TEST_ONLY-$(THREADED)}" TSAN_OPTIONS="die_after_fork=0 exitcode=66" \
	  tests/run.sh $(call tsan_binaries,conformance test_s3_store)

test-valgrind: ## run the unit tests, the corpora and a part of the conformance suite under valgrind
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory -j2 $(valgrind_binaries) build/test/s3_server
	@tests/valgrind.sh $(valgrind_binaries)

check: ## static checks: analyzers, exported symbols, what must not be in the repository
	@tests/install-deps.sh test
	@tests/run.sh -v tests/check.sh

bench: ## measure against the floor on real servers (35 minutes; PGQRS_BENCH_QUICK=1: 5); tables, plots in build/bench
	@tests/install-deps.sh bench
	@$(MAKE) --no-print-directory -j2 build-bench
	@bench/run.sh build/bench

bench-peers: ## measure beside other queues, installed below build/peers (85 minutes; QUICK=1: 10; RESUME=1 goes on); report in bench/results
	@tests/install-deps.sh bench
	@$(MAKE) --no-print-directory build/bench/peers/pgqrs
	@QUICK='$(QUICK)' PEERS='$(PEERS)' SCENARIOS='$(SCENARIOS)' CELLS='$(CELLS)' BACKENDS='$(BACKENDS)' \
	  ROUNDS='$(ROUNDS)' RESUME='$(RESUME)' bench/peers/run.sh

cli: ## build the command-line tool, build/pgqrs (see: build/pgqrs --help)
	@tests/install-deps.sh cli
	@$(MAKE) --no-print-directory build/pgqrs

install: cli ## install the command-line tool, its manual and the headers below PREFIX (/usr/local)
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin include share/man/man1 $(dir $(BASH_COMPLETION) $(ZSH_COMPLETION)))
	install -m 755 build/pgqrs $(DESTDIR)$(PREFIX)/bin/pgqrs
	install -m 644 $(wildcard pgqrs*.h) $(DESTDIR)$(PREFIX)/include
	build/pgqrs manual --out $(DESTDIR)$(PREFIX)/share/man/man1/pgqrs.1
	build/pgqrs completion bash --out $(DESTDIR)$(PREFIX)/$(BASH_COMPLETION)
	build/pgqrs completion zsh --out $(DESTDIR)$(PREFIX)/$(ZSH_COMPLETION)

test-cli: ## run the tests of the command-line tool
	@tests/install-deps.sh test
	@$(MAKE) --no-print-directory $(CLI_PROGRAMS)
	@tests/run.sh $(CLI_TESTS)

install-deps: ## install everything the tests need (Debian, Ubuntu; elsewhere it names the packages)
	@tests/install-deps.sh test

clean: ## remove build/
	rm -rf build

build-tests: $(call test_binaries,$(ALL_TESTS) proof_chaos s3_server s3_request)

build-fuzz: $(call fuzz_binaries,$(FUZZ))

build-coverage: $(call coverage_binaries,$(UNIT) $(PROGRAMS) $(CONFORMANCE)) build/test/s3_server

build-sanitized: $(call sanitized_binaries,$(UNIT) $(CONFORMANCE)) build/test/s3_server

build-bench: $(BENCHMARKS) build/test/s3_server

build/quickstart: examples/quickstart.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(STRICT) -O1 -g -I. $< -o $@ -lsqlite3 -pthread

# Counters for clang's source-based coverage; the relocation lets them live in a mapped file, which a killed test leaves.
build/coverage/bin/%: tests/%.c $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(SANITIZE_CC) $(STRICT) -O0 -g -fprofile-instr-generate -fcoverage-mapping -mllvm -runtime-counter-relocation \
	  $(CPPFLAGS) $(INCLUDES) $< -o $@ $(LDFLAGS) $$(tests/libs.sh $<)

build/tsan/%: tests/%.c $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(SANITIZE_CC) $(STRICT) -O1 -g -fsanitize=thread -fno-omit-frame-pointer $(CPPFLAGS) $(INCLUDES) $< -o $@ \
	  $(LDFLAGS) $$(tests/libs.sh $<)

build/fuzz/replay/%: tests/%.c tests/fuzz_config.c $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(CC) $(STRICT) $(OPTIMIZE) $(PARTIAL) -DPGQRS_FUZZ_REPLAY $(CPPFLAGS) $(INCLUDES) $< -o $@ $(LDFLAGS) $$(CC="$(CC)" tests/libs.sh $<)

build/fuzz/run/%: tests/%.c tests/fuzz_config.c $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(SANITIZE_CC) $(STRICT) -O1 -g $(PARTIAL) -fsanitize=fuzzer $(SANITIZE) $(CPPFLAGS) $(INCLUDES) $< -o $@ $(LDFLAGS) $$(tests/libs.sh $<)

# The command-line tool: the library is one object, its commands are the others.
CLI_SOURCES := $(wildcard examples/cli/*.c)
CLI_OBJECTS := $(CLI_SOURCES:examples/cli/%.c=build/cli/%.o)
CLI_LIBS = $(if $(PG_INCLUDE),-L$(shell pg_config --libdir)) -lpq -lsqlite3 -lyaml -lcurl $(shell pkg-config --libs ncursesw 2>/dev/null || echo -lncursesw) -pthread
PREFIX ?= /usr/local
BASH_COMPLETION := share/bash-completion/completions/pgqrs
ZSH_COMPLETION := share/zsh/site-functions/_pgqrs

build/cli/%.o: examples/cli/%.c examples/cli/cli.h examples/http_curl.h $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(STRICT) -O2 -g $(CPPFLAGS) $(INCLUDES) -DPGQRS_YAML -DPGQRS_THREADS -pthread -c $< -o $@

build/pgqrs: $(CLI_OBJECTS)
	$(CC) $(CLI_OBJECTS) -o $@ $(LDFLAGS) $(CLI_LIBS)

build/bench/%: bench/%.c $(wildcard bench/*.h) $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(CC) $(STRICT) -O2 -g $(CPPFLAGS) $(INCLUDES) $< -o $@ $(LDFLAGS) $$(CC="$(CC)" tests/libs.sh $<)

# Every test program contains the whole library, so it depends on every header; Make has no way to see it otherwise.
build/test/%: tests/%.c $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(CC) $(STRICT) $(OPTIMIZE) $(PARTIAL) $(CPPFLAGS) $(INCLUDES) $< -o $@ $(LDFLAGS) $$(CC="$(CC)" tests/libs.sh $<)

build/sanitize/%: tests/%.c $(HEADERS) tests/libs.sh
	@mkdir -p $(@D)
	$(SANITIZE_CC) $(STRICT) -O1 -g $(PARTIAL) $(SANITIZE) $(CPPFLAGS) $(INCLUDES) $< -o $@ $(LDFLAGS) $$(tests/libs.sh $<)
