# Two commands are enough: make demo, make test. Both install what they need (as root
# on a Debian-like Linux) and explain what they could not.
SHELL := /bin/bash
GO ?= go
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
BENCHTIME ?= 1s
ROOT := $(shell [ "$$(id -u)" = 0 ] && [ "$$(uname -s)" = Linux ] && echo yes)

.PHONY: demo test deps lint bench

# As root: two hosts in namespaces, on real Open vSwitch. Otherwise: in one process.
ifeq ($(ROOT),yes)
demo: deps
	$(GO) run ./examples/lab
else
demo:
	$(GO) run ./examples/quickstart
endif

# As root every test must run; otherwise the integration tests say why they do not.
ifeq ($(ROOT),yes)
test: export VIAS_MUST_RUN := 1
test: TESTSUM_FLAGS := -noskip
test: deps
endif
test:
	@set -euo pipefail; sum=$$(mktemp); trap 'rm -f "$$sum"' EXIT; \
	race=; if command -v gcc >/dev/null; then race=-race; else echo "no gcc: without the race detector"; fi; \
	$(GO) build -o "$$sum" ./internal/cmd/testsum; \
	$(GO) test -json $$race -shuffle=on -count=1 ./... | "$$sum" $(TESTSUM_FLAGS)

deps:
	@sh scripts/deps.sh

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet ./...
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

bench:
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...
