# Two commands are enough: make demo, make test. Both install what they need (as root
# on a Debian-like Linux) and explain what they could not.
SHELL := /bin/bash
GO ?= go
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
GREMLINS ?= github.com/go-gremlins/gremlins/cmd/gremlins@v0.6.0
BENCHTIME ?= 1s
# Schedules of the bypass's model: one takes about 20 ms of a processor.
SCHEDULES ?= 10000
SOAK ?= 60000
ROOT := $(shell [ "$$(id -u)" = 0 ] && [ "$$(uname -s)" = Linux ] && echo yes)

.PHONY: demo demo-clouds demo-nested chaos test test-kernel soak deps lint bench evaluate microbench mutate

# As root: two hosts in namespaces, on real Open vSwitch. Otherwise: in one process.
ifeq ($(ROOT),yes)
demo: deps
	$(GO) run ./examples/lab
else
demo:
	$(GO) run ./examples/quickstart
endif

# As root: two clouds with one private range and a home, in one network. CLOUDS_FLAGS has -keep and -settle.
demo-clouds: deps
	$(GO) run ./examples/clouds $(CLOUDS_FLAGS)

# As root: containers in virtual machines on physical ones, and system containers by LXC.
demo-nested: deps
	$(GO) run ./examples/nested

# As root: five minutes in which everything breaks at random under transfers; CHAOS_FLAGS
# has -seed and -duration.
chaos: deps
	$(GO) run ./internal/cmd/chaos $(CHAOS_FLAGS)

# As root every test must run; otherwise the integration tests say why they do not.
ifeq ($(ROOT),yes)
test: export VIAS_MUST_RUN := 1
test: TESTSUM_FLAGS := -noskip
test: deps
endif
# Many flows, many schedules, much memory: measured, so without the race detector, whose sight they
# add nothing to. The other tests of the package do the same with few.
MANY := ^(TestModel|TestMemory|TestFloods|TestPairs|TestHealthyFlowsStay|TestLagGivesNoFalseAlarm|TestOffersDoNotQueue|TestScan)
# Four runs side by side: the lab, other tests that wait for namespaces, switches and clocks, the rest, and, when
# these leave a processor, what computes. A test on the kernel's clocks and other programs' that fails beside all
# these is run alone when they have ended; if it passes twice then, the summary calls it unsteady: look into it.
LAB := ./internal/lab ./internal/lab/nat ./internal/lab/chaos
WAITS := ./bypass/ofpath ./bypass/underlay ./overlay/xmppsignal ./discover ./examples/cni ./examples/node ./examples/clouds ./bench/internal/measure
test:
	@set -euo pipefail; sum=$$(mktemp); trap 'rm -f "$$sum"' EXIT; \
	race=; if command -v gcc >/dev/null; then race=-race; else echo "no gcc: without the race detector"; fi; \
	$(GO) build -o "$$sum" ./internal/cmd/testsum; \
	rest=$$($(GO) list ./... | grep -vxFf <($(GO) list $(LAB) $(WAITS) ./bypass)); \
	run() { "$$@" || echo '{"Action":"run-failed"}'; }; \
	run_all() { run $(GO) test -json $$race -p 1 -shuffle=on -count=1 -timeout 20m "$$@"; }; \
	"$$sum" $(TESTSUM_FLAGS) -again '^TestIntegration' -test "$(GO) test $$race -timeout 20m" \
	  <(run_all $(LAB)) \
	  <(run_all $(WAITS); run $(GO) test -json -count=1 -run '^TestIntegrationScale' ./bypass/ofpath) \
	  <(run_all $$rest; run_all -skip '$(MANY)' ./bypass) \
	  <(run nice -n 19 $(GO) test -json -count=1 -timeout 20m -run '$(MANY)' ./bypass -schedules $(SCHEDULES); \
	    run nice -n 19 $(GO) test -json -count=1 -run '^TestScale' .)

# The integration tests on Open vSwitch's kernel datapath, in a kernel that runs as a
# process: nothing is loaded into this one. scripts/kernel/run.sh says what it takes.
test-kernel: deps
	@GO="$(GO)" scripts/kernel/run.sh

# Minutes of the model's schedules, other ones each time.
soak:
	$(GO) test -count=1 -timeout 60m -v -run '^TestModel$$' ./bypass -schedules $(SOAK) -seed $${SEED:-$$(date +%s)000000}

deps:
	@sh scripts/deps.sh

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet ./...
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# As root: what each stage of a packet costs, then the overlay beside others, by turns, for some
# 20 to 25 minutes, into docs/evaluation; then whether the targets are met. Some of it is built
# from other modules, into .cache.
bench: deps
	@sh scripts/deps.sh bench
	$(GO) run ./bench/budget -out docs/evaluation/packet-budget.md
	$(GO) run ./bench/run -out docs/evaluation $(BENCH_FLAGS)
	$(GO) run ./bench/check

# As root: the evaluation of the paper on VIAS, repeated, for some ten minutes, into docs/evaluation.
evaluate: deps
	$(GO) run ./bench/evaluate -out docs/evaluation $(EVALUATE_FLAGS)

# Every benchmark of the code, once or for as long as BENCHTIME says.
microbench:
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

# Mutants of the transaction, the ports, the proof and the gates: docs/mutation.md, which
# also says why these tests stay out. .gremlins.yaml says which files are mutated.
MUTATE_SKIP := TestScan|TestModelFindsBugs|TestMemory|TestFloods|TestPairs|TestOffersDoNotQueue|TestHealthyFlowsStay|TestLagGivesNoFalseAlarm|TestListingsTakeLittle|TestOneOfManyIsBroken|TestLateCounters|TestBreakIsFound|TestReasonsOfFlows|TestRequestFlood|TestIntegration
mutate: export GOFLAGS := $(GOFLAGS) -short -vet=off '-ldflags=-s -w' '-skip=^($(MUTATE_SKIP))'
mutate:
	$(GO) run $(GREMLINS) unleash $(MUTATE_FLAGS) ./bypass
