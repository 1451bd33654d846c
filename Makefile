GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.13.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.7.0
ACTIONLINT  := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
# The version of the next release, which js/package.json and the go.mod files state.
VERSION     ?= v$(shell sed -n 's/^ *"version": "\(.*\)".*/\1/p' js/package.json)
FUZZTIME    ?= 30s
BENCHTIME   ?= 1s
MODULES     := $(patsubst %/go.mod,%,$(shell find . -name go.mod -not -path '*/node_modules/*' | sort))

.PHONY: help run test test-js test-browser test-deploy test-foreign race lint lint-actions vuln api fuzz bench bench-full bench-micro soak soak-ci soak-churn generate release-check release-set

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## serve the chat on http://localhost:8080
	go run ./examples/chat

test: ## test the root module
	go test ./...

test-js: ## test the JavaScript client: its source, then its package in every runtime that npm has (Node 20)
	cd js && npm ci && npm run size && npm test
	cd test/js && npm ci && npm test

test-browser: ## test the chat and the page for operators in a browser (CHROMIUM=/usr/bin/chromium, Node 20)
	cd test/browser && npm ci && npm test

test-deploy: ## run the files of docs/deploy.md (nginx, haproxy and caddy must be installed; Linux)
	cd test/deploy && go vet ./... && go test -count=1 ./...

race: ## test with the race detector, in random order, with connections that hibernate whenever they can
	HIBERNATE_AFTER=1ms go test -race -shuffle=on ./...

lint: ## gofmt, go vet and golangci-lint over all modules (.golangci.yml)
	@unformatted=$$(find . -name '*.go' -not -path '*/node_modules/*' -exec gofmt -l {} +); \
	test -z "$$unformatted" || { echo "not formatted:"; echo "$$unformatted"; exit 1; }
	@failed=; for dir in $(MODULES); do echo "lint $$dir"; \
	(cd $$dir && go vet ./... && go run $(GOLANGCI) run ./...) || failed="$$failed $$dir"; done; \
	test -z "$$failed" || { echo "findings in:$$failed"; exit 1; }

lint-actions: ## check the workflows of GitHub Actions
	go run $(ACTIONLINT)

vuln: ## look for known vulnerabilities in code that is called, in all modules
	@failed=; for dir in $(MODULES); do echo "vuln $$dir"; \
	(cd $$dir && go run $(GOVULNCHECK) ./...) || failed="$$failed $$dir"; done; \
	test -z "$$failed" || { echo "vulnerabilities in:$$failed"; exit 1; }

api: ## write testdata/api.txt, the exported API, anew
	go test -count=1 -run 'TestAPI$$' . -update

release-check: ## build programs that use the published modules at VERSION (that of js/package.json)
	go -C test/release run . -root ../.. -version $(VERSION)

release-set: ## write VERSION into the go.mod files and the package of js
	go -C test/release run . -root ../.. -version $(VERSION) -set

# Before Go 1.27 a run may end with "context deadline exceeded" and no failing
# input, which means nothing (golang/go#75804).
fuzz: ## run every fuzz target for FUZZTIME (30s) each
	@set -e; log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	for dir in $(MODULES); do cd $(CURDIR)/$$dir; go vet ./...; for pkg in $$(go list ./...); do for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	echo "fuzz $$pkg $$target"; \
	go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg >$$log 2>&1 || { cat $$log; \
	grep -q '^ *context deadline exceeded$$' $$log || exit 1; ! grep -q 'Failing input' $$log || exit 1; }; \
	tail -n 1 $$log; done; done; done

bench: ## compare with floors, centrifuge and gws on the five main rows (about 10 minutes)
	go -C benchmarks run ./cmd/bench -systems ours,bare,joined,centrifuge,centrifuge-tuned,gws -rows burst1000,rate,paced50,rooms,echo -out bench

bench-full: ## compare with all others on every row (more than an hour)
	go -C benchmarks run ./cmd/bench -rounds 5 -out bench-full

bench-micro: ## benchmarks beside the code that they measure
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

test-foreign: ## test the hub with other people's WebSocket and codec libraries, and the quick starts (needs node)
	cd test/foreign && npm ci && npm test
	go test -count=1 -v ./docs

soak: ## 2,000 clients for 10 minutes with everything that can go wrong
	go run -race ./internal/soak -duration 10m -clients 2000

soak-ci: ## the same for a minute with 300 clients, with and without the race detector, which takes other system calls
	go run -race ./internal/soak -duration 1m -clients 300
	go run ./internal/soak -duration 1m -clients 300

soak-churn: ## 100,000 connections that come and go
	go run -race ./internal/soak -churn 100000

generate: ## write proto/*.pb.go and proto/fbs anew (needs protoc and flatc)
	sh proto/generate.sh
