# Every target installs what it needs, says what it does, and is quick when it is there already.
# `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

SETUP := hack/setup.sh
# The machine's own Node may be too old: the one from the npm package comes first.
export PATH := $(CURDIR)/node_modules/.bin:$(PATH):/usr/local/go/bin

.PHONY: help setup demo demo-lab test test-lab test-e2e test-ship bench microbench check format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: ## install everything that demo and test need
	@$(SETUP) node lab control-plane

DEMO_OPTIONS = $(if $(GUEST),--guest $(GUEST)) $(if $(LINK),--link $(LINK)) $(if $(NAS),--nas $(NAS)) \
	$(if $(CHANNELS),--channels $(CHANNELS)) $(if $(QEMU),--qemu $(QEMU))

demo: ## live-migrate a real VM plainly and by kubectl apply, and compare (GUEST=warm LINK=200 NAS=2000 CHANNELS=8 QEMU=trixie)
	@$(SETUP) node lab control-plane
	@node test/cluster/demo.ts $(DEMO_OPTIONS)

demo-lab: ## the same between two QEMUs alone, without Kubernetes and libvirt; same options, and INDEX=full
	@$(SETUP) node lab
	@node test/lab/demo.ts $(DEMO_OPTIONS) $(if $(INDEX),--index $(INDEX))

test: ## everything CI checks: check, property tests, smoke subsets of the lab and of end-to-end
	@$(SETUP) node lab control-plane
	@node hack/run-tests.ts types lint unit property lab-smoke e2e-smoke

test-e2e: ## custom resources and operator on a real kube-apiserver and etcd
	@$(SETUP) node lab control-plane
	@node hack/run-tests.ts e2e

test-lab: ## the whole lab: network, NAS, recorders, libvirt in launcher-shaped pods (half an hour)
	@$(SETUP) node lab
	@node hack/run-tests.ts lab

test-ship: ## chart with real helm, image with a real OCI runtime, the commands of the documents
	@$(SETUP) node control-plane ship
	@node hack/run-tests.ts ship

bench: ## plain, multifd zstd and NAS-aware side by side (GROUPS="warm-200 ..." RUNS=3); writes build/bench.json and docs/benchmarks.md
	@$(SETUP) node lab
	@node bench/migrations.ts $(if $(RUNS),--runs $(RUNS)) $(GROUPS)

microbench: ## page finder, index and link codec in GB/s
	@$(SETUP) node
	@for program in page-finder block-index link-codec; do echo "== $$program"; node bench/$$program.ts; done

check: ## types, lint, unit tests (under 2 minutes)
	@$(SETUP) node
	@node hack/run-tests.ts types lint unit

format: ## format and fix what the linter can
	@$(SETUP) node
	@biome check --write .

clean: ## remove what was built (not the caches)
	rm -rf build
