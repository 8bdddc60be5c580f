# Thin on purpose: what a target needs is installed by scripts/ensure, what it does is a program of its own.
.DEFAULT_GOAL := help
SHELL := /bin/sh
NODE := node_modules/.bin/node
# A small young generation: a buffer is freed with the object that owns it, and of these there are few (docs/decisions/0007).
NODE_FLAGS := --max-semi-space-size=2 --heap-growing-percent=100
export PATH := $(CURDIR)/node_modules/.bin:$(PATH)

# Debian packages: what runs need; what the tests use on top (the real clients, compilers and libraries).
# libatomic1 is what the Node of npm is linked to; a minimal Debian lacks it.
RUN_PACKAGES := bubblewrap python3 libatomic1
TEST_PACKAGES := $(RUN_PACKAGES) bash binutils-aarch64-linux-gnu binutils-x86-64-linux-gnu curl g++ gcc git iproute2 libc6-dev lua5.4 nftables openssl php-cli python3-numpy python3-pandas ruby sqlite3
# Unpacked, not installed: Debian starts what it installs.
TEST_TOOLS := caddy libpopt0 logrotate nginx

.PHONY: help run test check install harden rollback repair repair-v2 status uninstall validate bench fuzz test-vm test-vm-quick deb build format clean packages test-packages

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

run: packages build ## start Nox in the foreground, with all of the isolation and no installation
	@exec $(NODE) $(NODE_FLAGS) dist/dev.js

test: test-packages build ## all tests but those in virtual machines
	@exec $(NODE) --test --test-reporter=spec --test-concurrency=2 'test/{unit,contract,sandbox,e2e,differential}/*.test.ts'

check: packages node_modules/.package-lock.json ## format, lint, types, unused code, import graph
	@$(NODE) node_modules/prettier/bin/prettier.cjs --check --log-level warn .
	@$(NODE) node_modules/typescript/bin/tsc -p tsconfig.json
	@$(NODE) node_modules/eslint/bin/eslint.js --max-warnings 0 .
	@$(NODE) node_modules/knip/bin/knip.js
	@$(NODE) node_modules/dependency-cruiser/bin/dependency-cruise.mjs --output-type err src
	@echo 'check: all passed'

# The administrator's commands; src/cli/noxctl.ts. ARGS passes options on: make install ARGS=--dry-run
NOXCTL := exec $(NODE) dist/cli/noxctl.js
install: packages build ## as root: install, upgrade, or leave alone what is as it should be; ends with a self-test
	@$(NOXCTL) install $(ARGS)
harden: packages build ## as root: bring an older installation to the hardened state, or leave everything as it was
	@$(NOXCTL) harden $(ARGS)
rollback: packages build ## as root: back to the state before the last harden
	@$(NOXCTL) rollback $(ARGS)
repair: packages build ## as root: find what is broken, mend only that, write logs/last_repair_report.md
	@$(NOXCTL) repair $(ARGS)
repair-v2: packages build ## as root: the same, and build anew what is broken
	@$(NOXCTL) repair-v2 $(ARGS)
status: packages build ## services, API and settings, as they are; non-zero when down
	@$(NOXCTL) status $(ARGS)
uninstall: packages build ## as root: take away what install made; ARGS=--purge: workspaces, settings and users too
	@$(NOXCTL) uninstall $(ARGS)
validate: packages build ## examine this machine and try to escape from a real run: PASS or FAIL, value, remedy
	@$(NOXCTL) validate $(ARGS)

bench: test-packages build ## measure side by side, print ratios
	@exec $(NODE) bench/main.ts

fuzz: test-packages build ## 50,000 requests, right and wrong, held against the OpenAPI document; NOX_FUZZ_REQUESTS, NOX_FUZZ_SEED
	@exec $(NODE) test/fuzz/main.ts

test-vm: packages build deb ## the tests that need systemd and cgroup v2, in virtual machines; hours. VM_SUITES=trixie: Debian 13
	@scripts/ensure lintian
	@exec $(NODE) --test --test-reporter=spec --test-concurrency=1 'test/vm/*.test.ts'

test-vm-quick: packages build ## a quick part of them
	@exec $(NODE) --test --test-reporter=spec test/vm/quick.test.ts

deb: packages build ## the Debian package, in dist-deb/: apt-get install ./dist-deb/nox_*.deb
	@rm -rf dist-deb
	@$(NODE) scripts/make-deb.ts

format: packages node_modules/.package-lock.json ## format all files
	@$(NODE) node_modules/prettier/bin/prettier.cjs --write --log-level warn .

build: dist/.built

dist/.built: node_modules/.package-lock.json package.json tsconfig.json tsconfig.build.json $(shell find src -type f)
	@npm run --silent build
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json | packages
	@npm ci --no-audit --no-fund --loglevel=error
	@touch $@

packages:
	@scripts/ensure $(RUN_PACKAGES)

test-packages:
	@scripts/ensure $(TEST_PACKAGES)
	@scripts/fetch-test-tools $(TEST_TOOLS)

clean: ## take away what was built and installed here
	rm -rf dist dist-deb node_modules .cache
