# What one needs while one works on it. `make ci` is what has to pass.
.DEFAULT_GOAL := help
.PHONY: help build test lint suite-sqlite suite-postgres fuzz load bench ci

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

build: ## build ./caddy: stock Caddy with this module and both engines of the queue
	go build -o caddy ./cmd/caddy

test: ## all tests that need only Go
	go test ./...

lint: ## gofmt, go vet and golangci-lint
	test -z "$$(gofmt -l .)"
	go vet ./...
	go tool -modfile=tools/go.mod golangci-lint run ./...

suite-sqlite: ## the suite of an engine, with SQLite
	go test ./queue/internal/db/... ./queue/sqlite/...

suite-postgres: ## the suite of an engine, with PostgreSQL at 127.0.0.1:5432
	bash .ci/postgres
	go test -tags postgres ./queue/internal/db/... ./queue/postgres/...

TARGET ?= FuzzParseEnvelope
PACKAGE ?= .
fuzz: ## a minute of one fuzz target: make fuzz TARGET=FuzzName PACKAGE=./folder
	go test -run '^$$' -fuzz '^$(TARGET)$$' -fuzztime 1m $(PACKAGE)

load: ## the tests under load, with time limits: on a quiet machine, with PostgreSQL at 127.0.0.1:5432
	go test -count=1 -timeout 40m -tags load,postgres -run "^($$(grep -ho '^func Test[A-Za-z]*' integration/*_load_test.go | cut -c6- | paste -sd '|'))$$" ./integration

bench: ## measure the queue with SQLite beside a bare reverse_proxy, for some minutes
	cd bench && go run ./endtoend

ci: ## everything that CI runs, on Debian as root
	bash .ci/run
