# Every target installs what it needs, says what it does, and is quick when it is there already.
# `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

SETUP := hack/setup.sh
COMMA := ,
# The machine's own Node may be too old: the one from the npm package comes first.
export PATH := $(CURDIR)/node_modules/.bin:$(PATH):/usr/local/go/bin

.PHONY: help setup demo demo-lab test test-lab soak test-switch-over test-e2e scale test-ship bench microbench fuzz kubectl-nasmig check format clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

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

test: ## check, property tests, bounded fuzzing, smoke subsets of the lab and of end-to-end
	@$(SETUP) node lab control-plane
	@node hack/run-tests.ts types lint unit property fuzz-smoke lab-smoke e2e-smoke

test-e2e: ## custom resources, operator and moving VMs on a real kube-apiserver and etcd; writes build/e2e.json
	@$(SETUP) node lab control-plane
	@node hack/run-tests.ts e2e

test-lab: ## the whole lab: QEMU versions, libvirt in launcher-shaped pods, sixty faults (an hour); writes build/lab.json
	@$(SETUP) node lab
	@node test/report/write-lab-report.ts --clear
	@# The report tells of fuzzing, too: what `make fuzz` found here, and of every parser that it left out a short round.
	@status=0; node hack/run-tests.ts lab || status=$$?; node test/fuzz/fuzz.ts --missing --minutes 0.2 || status=1; \
		node test/report/write-lab-report.ts || status=1; exit $$status

soak: ## repeats seeded faults (MINUTES=60 SEED=1 FROM=0); writes build/soak.json
	@$(SETUP) node lab
	@node test/faults/soak.ts $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(if $(FROM),--from $(FROM))

test-switch-over: ## 20 runs of each switch-over, with the pace and without (RUNS=20); writes build/switch-over.json
	@$(SETUP) node lab
	@NASMIG_SWITCH_OVER_RUNS=$(or $(RUNS),20) vitest run --config test/lab/vitest.config.ts test/lab/switch-over.lab.test.ts

scale: ## a thousand VMs and 300 migrations at once on a real API server; writes build/scale.json
	@$(SETUP) node control-plane
	@node hack/run-tests.ts scale

test-ship: ## chart, image, alerts and dashboards, plugin, commands of the documents, with the real tools; writes build/ship.json
	@$(SETUP) node lab control-plane ship
	@node hack/run-tests.ts ship

bench: ## plain, multifd zstd and NAS-aware side by side (CASES=warm-200,full-200/nas RUNS=3 MINUTES=75 RESUME=1 WRITE=1); writes build/bench.json
	@$(SETUP) node lab
	@node bench/migrations.ts $(if $(RUNS),--runs $(RUNS)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(RESUME),--resume) $(if $(WRITE),--write) $(subst $(COMMA), ,$(CASES))

microbench: ## page finder, index, link codec and pipelines in GB/s on recorded streams, the pipelines beside a plain relay; writes build/pipelines.json
	@$(SETUP) node lab
	@for program in page-finder block-index link-codec pipelines; do echo "== $$program"; node bench/$$program.ts || exit 1; done

fuzz: ## every parser for 10 minutes or a million inputs, with coverage (PARSER=qemu-main MINUTES=10 INPUTS=1000000 SEED=1); writes build/fuzz.json
	@$(SETUP) node
	@node test/fuzz/fuzz.ts $(if $(PARSER),--parser $(PARSER)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(INPUTS),--inputs $(INPUTS)) $(if $(SEED),--seed $(SEED))

kubectl-nasmig: ## the kubectl plugin as one executable, build/kubectl-nasmig
	@$(SETUP) node
	@node plugin/build.ts build

check: ## types, lint, unit tests (under 2 minutes)
	@$(SETUP) node
	@node hack/run-tests.ts types lint unit

format: ## format and fix what the linter can
	@$(SETUP) node
	@biome check --write .

clean: ## remove what was built (not the caches)
	rm -rf build
