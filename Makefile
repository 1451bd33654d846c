STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 30s
BENCHTIME   ?= 1s
MODULES     := $(patsubst %/go.mod,%,$(shell find . -name go.mod -not -path '*/node_modules/*' | sort))

.PHONY: help run test race lint fuzz bench bench-full generate

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## serve the chat on http://localhost:8080
	go run ./examples/chat

test: ## test the root module
	go test ./...

race: ## test with the race detector, in random order
	go test -race -shuffle=on ./...

lint: ## gofmt, go vet and staticcheck over all modules
	@unformatted=$$(find . -name '*.go' -not -path '*/node_modules/*' -exec gofmt -l {} +); \
	test -z "$$unformatted" || { echo "not formatted:"; echo "$$unformatted"; exit 1; }
	@set -e; for dir in $(MODULES); do echo "lint $$dir"; (cd $$dir && go vet ./... && go run $(STATICCHECK) ./...); done

# Before Go 1.27 a run may end with "context deadline exceeded" and no failing
# input, which means nothing (golang/go#75804).
fuzz: ## run every fuzz target for FUZZTIME (30s) each
	@set -e; log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	for dir in $(MODULES); do cd $(CURDIR)/$$dir; go vet ./...; for pkg in $$(go list ./...); do for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	echo "fuzz $$pkg $$target"; \
	go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg >$$log 2>&1 || { cat $$log; \
	grep -q '^ *context deadline exceeded$$' $$log || exit 1; ! grep -q 'Failing input' $$log || exit 1; }; \
	tail -n 1 $$log; done; done; done

bench: ## micro benchmarks
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

bench-full: ## compare with other libraries, in processes of their own
	cd benchmarks && go run ./cmd/bench -quick

generate: ## write proto/*.pb.go and proto/fbs anew (needs protoc and flatc)
	sh proto/generate.sh
