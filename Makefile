# Everything that is done to this project is a target here: `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Tools run at these versions, from the module cache.
CONTROLLER_GEN := sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0
STATICCHECK    := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOTESTSUM      := gotest.tools/gotestsum@v1.13.0

VERSION ?=
LDFLAGS := -s -w $(if $(VERSION),-X main.version=$(VERSION))

# Packages whose tests are run with the race detector: all but those that compile the official SDKs, which take
# minutes to build a second time. The end-to-end tests run a weir that is built with it instead. The slowest come first: what is
# started last runs alone, on one processor.
SLOW_PACKAGES := ./xds/compile ./extproc/limit/shared ./cmd/weir ./xds/load/weigh ./extproc/pick ./usage/ledger
RACE_PACKAGES = $$({ go list $(SLOW_PACKAGES); go list ./... | grep -vE '/(test|sdktest)(/|$$)'; } | awk '!seen[$$0]++' | grep -vxF "$$($(LIST_KUBE))")
SDK_PACKAGES  = $$(go list ./adapters/anthropic/sdktest/... ./test/... | grep -vxF "$$($(LIST_KUBE))")

# Packages whose tests ask a Kubernetes API server. They come last: on a fresh machine it is built meanwhile.
LIST_KUBE = go list -test -f '{{.ImportPath}} {{join .Deps " "}} ' ./... | sed -nE 's,^([^ ]*)\.test .*/test/kubetest .*,\1,p'

# Tests wait for processes, sockets and windows of limits more than they compute, so more of them run at once than there are
# processors. Those of test/e2e that measure time are not among them.
AT_ONCE := $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((2 * n)))

# With RERUN set, as .ci/run does, up to three tests that failed run once more, alone, and the report names those that passed
# then. A data race is never forgiven.
RERUN_FLAGS := $(if $(RERUN),--rerun-fails=1 --rerun-fails-max-failures=3 --rerun-fails-run-root-test --rerun-fails-abort-on-data-race)

.PHONY: help run build test test-unit test-e2e lint fmt gen check-gen bench bench-micro bench-load bench-streams bench-scale bench-cache bench-check bench-check-micro bench-baseline image simulate steer fuzz soak clean need-go need-redis need-prometheus need-chromium need-kube

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

need-go:
	@command -v go >/dev/null || { echo "make: Go is not installed; install Go 1.26 or later and put it on PATH"; exit 1; }

build: need-go ## build bin/weir
	@mkdir -p bin
	@[ -x bin/weir ] || echo "building weir; the first time takes a few minutes, and the packages are named as they are done" >&2
	@go build -v -trimpath -ldflags '$(LDFLAGS)' -o bin/weir ./cmd/weir

run: build ## run the gateway with deploy/local: no keys needed
	@exec bin/weir run $(ARGS)

# Tests use a real Redis. As root it is installed where it is missing; its service is not started.
need-redis:
	@command -v redis-server >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing redis-server for the tests" >&2; \
	    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	    { apt-get install -y -q --no-install-recommends redis-server || { apt-get update -q && apt-get install -y -q --no-install-recommends redis-server; }; } >&2; \
	  else \
	    echo "make: redis-server is not installed; install it (Debian: apt install redis-server) and put it on PATH"; exit 1; \
	  fi; }

# The end-to-end tests use a real Prometheus, and its promtool.
need-prometheus:
	@command -v prometheus >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing prometheus for the tests" >&2; \
	    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	    { apt-get install -y -q --no-install-recommends prometheus || { apt-get update -q && apt-get install -y -q --no-install-recommends prometheus; }; } >&2; \
	  else \
	    echo "make: prometheus is not installed; install it (Debian: apt install prometheus) and put it on PATH"; exit 1; \
	  fi; }

# The tests of the console use a real Chromium, and npm fetches axe-core for them: once, into ~/.cache/weir.
need-chromium:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null && command -v npm >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium and npm for the tests" >&2; \
	    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	    missing="$$(command -v npm >/dev/null || echo npm) $$({ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || echo chromium)"; \
	    { apt-get install -y -q --no-install-recommends $$missing || { apt-get update -q && apt-get install -y -q --no-install-recommends $$missing; }; } >&2; \
	  else \
	    echo "make: chromium or npm is not installed; install both (Debian: apt install chromium npm) and put them on PATH"; exit 1; \
	  fi; }

# The tests of Kubernetes use a real kube-apiserver and etcd: downloaded, or else built, once, into ~/.cache/weir.
need-kube: need-go
	@go run ./test/kubetest/need >/dev/null

test: test-unit test-e2e test-kube ## run every test

test-unit: need-go need-redis
	@echo "unit tests, with the race detector; the first build takes some minutes" >&2
	@go run $(GOTESTSUM) --format pkgname $(RERUN_FLAGS) --packages="$(RACE_PACKAGES)" -- -race -p $(AT_ONCE) -timeout 15m

test-e2e: need-go need-redis need-prometheus need-chromium
	@echo "end-to-end tests on a real Envoy; the first build of the official SDKs takes some minutes" >&2
	@go run ./cmd/weir envoy fetch >/dev/null
	@WEIR_E2E_RACE=1 go run $(GOTESTSUM) --format pkgname $(RERUN_FLAGS) --packages="$(SDK_PACKAGES)" -- -count=1 -parallel $(AT_ONCE) -timeout 25m

test-kube: need-go need-redis need-kube
	@echo "tests on a real Kubernetes API server" >&2
	@go run ./cmd/weir envoy fetch >/dev/null
	@WEIR_E2E_RACE=1 go run $(GOTESTSUM) --format pkgname $(RERUN_FLAGS) --packages="$$($(LIST_KUBE))" -- -race -count=1 -parallel $(AT_ONCE) -timeout 15m

lint: need-go check-gen ## vet, staticcheck, formatting, generated files
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; }
	@go vet ./...
	@go vet -C test/otlp ./...
	@go vet -C test/deploy/render ./...
	@go run $(STATICCHECK) ./...

fmt: need-go ## format the code
	@gofmt -w $$(git ls-files '*.go')

gen: need-go ## make the generated files again
	@go run $(CONTROLLER_GEN) object paths=./api/...
	@go run $(CONTROLLER_GEN) crd paths=./api/... output:crd:dir=deploy/crds
	@go run ./api/docgen > docs/reference.md
	@go run ./deploy/gen deploy

GENERATED = api/v1alpha1/zz_generated.deepcopy.go deploy/crds/*.yaml docs/reference.md deploy/helm/weir/files/*/* deploy/kyverno/*.yaml \
  deploy/argocd/argocd-cm.yaml deploy/kustomize/overlays/production/additions/prometheusrule.yaml
check-gen: need-go
	@before=$$(cat $(GENERATED) | sha256sum); $(MAKE) --no-print-directory gen; \
	  [ "$$before" = "$$(cat $(GENERATED) | sha256sum)" ] || { echo "generated files were not current; make gen has made them so: commit them"; exit 1; }

bench: bench-micro bench-load ## every benchmark: docs/performance.md

bench-micro: need-go ## micro-benchmarks with allocations
	@go test -run '^$$' -bench . -benchmem -benchtime 100ms ./adapters/... ./extproc/... ./usage/... ./xds/... ./internal/...

BENCHFLAGS ?=
bench-load: need-go need-redis ## what gateways add to requests, side by side; about six minutes
	@mkdir -p bin
	@go run ./test/bench -o bin/bench.json $(BENCHFLAGS)

bench-streams: need-go need-redis ## 512 streams at once, for ten minutes
	@mkdir -p bin
	@go run ./test/bench -streams 512 -for 10m -o bin/streams.json $(BENCHFLAGS)

bench-scale: need-go need-kube ## what one change costs a fleet of 100, 1,000 and 10,000 routes; about twenty minutes
	@mkdir -p bin
	@go run ./test/bench/scale -o bin/scale.json $(BENCHFLAGS)

bench-cache: need-go need-redis ## what the response cache saves, and what a hit costs; about eight minutes
	@mkdir -p bin
	@go run ./test/bench/remember -o bin/cache.json $(BENCHFLAGS)

bench-check-micro: need-go ## what micro-benchmarks allocate, against the committed baseline
	@go run ./test/benchcheck

bench-check: bench-check-micro need-redis ## and the ratios of CPU time, against theirs
	@mkdir -p bin
	@go run ./test/bench -o bin/bench.json -check test/bench/baseline.json $(BENCHFLAGS)

bench-baseline: need-go need-redis ## write both baselines anew
	@go run ./test/benchcheck -update
	@mkdir -p bin
	@go run ./test/bench -o bin/bench.json -baseline test/bench/baseline.json $(BENCHFLAGS)

IMAGEFLAGS ?=
image: need-go ## the OCI image for linux/amd64 and linux/arm64 in dist/weir-image, without a container daemon; IMAGEFLAGS='-push REF' pushes it
	@mkdir -p dist
	@go run ./deploy/image -version "$(VERSION)" $(IMAGEFLAGS)

simulate: need-go ## play the scenarios of deploy/examples/simulate against their bars; two minutes
	@go run ./cmd/weir simulate --check $(foreach f,$(wildcard deploy/examples/simulate/*.yaml),-f $(f))

steer: need-go need-redis ## tables of a pool whose servers fail, beside plain Envoy, and the delay of 1,000 endpoints
	@go run ./cmd/weir envoy fetch >/dev/null
	@WEIR_E2E_CHATS=800 go test ./test/e2e -run 'TestSteeredPool$$|TestSteerScale$$|TestFailOpen$$' -count=1 -timeout 30m -v

FUZZTIME ?= 30s
fuzz: need-go ## run every fuzz target for FUZZTIME each
	@set -e; for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; done; done

soak: need-go need-redis ## the ledger against what the simulators served, with 200,000 requests
	@go run ./cmd/weir envoy fetch >/dev/null
	@WEIR_E2E_RACE=1 WEIR_E2E_REQUESTS=200000 go test ./test/e2e -run 'TestLedger$$' -count=1 -timeout 60m -v

clean: ## remove what was built
	@rm -rf bin dist
