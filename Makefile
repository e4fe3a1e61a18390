# kvd: bare `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X github.com/kvd-io/kvd/server.Version=$(VERSION) -X main.version=$(VERSION)
TOOLS   := $(CURDIR)/.tools
# Time limits of the test run: a hang is a failure with a stack dump.
TEST_TIMEOUT ?= 15m

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/kvd and bin/kvctl
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/kvd ./cmd/kvctl

.PHONY: run
run: build ## build and start a one-node cluster in ./kvd-data (Ctrl-C stops it)
	./bin/kvd dev

.PHONY: test
test: ## run all tests
	go test -timeout $(TEST_TIMEOUT) ./...

# In virtual time on one processor: all goroutines of a bubble share one context
# of the race detector for their timers (runtime.timer.unlockAndRun, Go 1.26), and
# two that ran timers at the same moment have crashed it.
.PHONY: race
race: ## run all tests under the race detector (installs a C compiler if there is none)
	@scripts/tools.sh cc
	@virtual=$$(go list -f '{{.ImportPath}} {{.TestImports}} {{.XTestImports}}' ./... | awk '/testing\/synctest/{print $$1}'); \
	others=$$(go list ./... | grep -vxF "$$virtual"); export CGO_ENABLED=1; set -x; \
	go test -race -timeout $(TEST_TIMEOUT) $$others; \
	go test -race -cpu 1 -timeout $(TEST_TIMEOUT) $$virtual

# How long soak runs, and the seed of its first round; a new one if it is empty.
DURATION ?= 2m
SEED ?=

soak = sum=$$(mktemp); trap 'rm -f "$$sum"' EXIT; status=0; \
	SUMMARY=$$sum DURATION=$(DURATION) SEED=$(SEED) \
		go test -count=1 -timeout 0 -v -run '^TestFaults$$' $(1) || status=$$?; \
	cat "$$sum"; exit $$status

.PHONY: soak
soak: ## run clusters under faults for DURATION=2m (SEED= repeats); the last line is the sum
	@$(call soak,./test/faults)

.PHONY: soak-virtual
soak-virtual: ## the same in virtual time, 20 to 100 times as fast
	@$(call soak,./test/sim)

.PHONY: planted-bugs
planted-bugs: ## plant known bugs, one at a time, and see that the tests find each
	@go run ./test/plantedbugs $(BUGS)

.PHONY: demo
demo: build ## half a minute: three nodes, put, kill -9 of a leader, get
	@scripts/demo.sh

.PHONY: cluster
cluster: build ## start three local nodes in the background (scripts/cluster.sh stop ends them)
	@scripts/cluster.sh start

.PHONY: bench
bench: build ## compare with etcd on this machine (scripts/bench-etcd.sh --help)
	@scripts/bench-etcd.sh

.PHONY: proto
proto: ## generate the protobuf code
	@scripts/tools.sh proto
	cd proto && PATH="$(TOOLS):$$PATH" buf generate

.PHONY: proto-check
proto-check: proto ## fail if the generated code is not current
	@git diff --exit-code --stat -- proto || { echo "generated code is stale: run 'make proto' and commit" >&2; exit 1; }

.PHONY: fmt
fmt: ## format the Go code
	gofmt -w $$(git ls-files '*.go')

.PHONY: lint
lint: ## check formatting, vet and the linters
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted (run 'make fmt'):" >&2; echo "$$unformatted" >&2; exit 1; fi
	go vet ./...
	go vet -tags faults,planted ./...
	@scripts/tools.sh lint
	$(TOOLS)/golangci-lint run ./...
	$(TOOLS)/golangci-lint run --build-tags faults ./cmd/kvd

.PHONY: clean
clean: ## remove what was built (data stays)
	rm -rf bin .tools
