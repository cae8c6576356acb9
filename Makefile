# Targets are described in CONTRIBUTING.md.
SHELL := /bin/bash
GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
BENCHSTAT := go run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
BIN := bin
PLUGINS := symmetric asymmetric hmac
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Of a release nothing but its source counts: no path and no time.
GOBUILD := go build -trimpath -buildvcs=false -ldflags "$(LDFLAGS) -X cmkd/version.linked=$(VERSION)"

.PHONY: all deps build man install deb deb-again image demo test check bench bench-save fuzz generate clean long races soak scale fair faults unit-price crash cluster bench-cluster ship envelopes bench-envelope bench-audit tokens deps-tokens

all: build

deps:
	./testenv/deps.sh
	./testenv/monitoring/deps.sh
	./testenv/envelopes/deps.sh

build:
	CGO_ENABLED=0 $(GOBUILD) -o $(BIN)/cmkd ./daemon/cmd/cmkd
	CGO_ENABLED=0 $(GOBUILD) -o $(BIN)/cmkctl ./socket/cmd/cmkctl
	$(foreach p,$(PLUGINS),$(GOBUILD) -o $(BIN)/cmkd-$(p) ./plugins/$(p) &&) true

# Manual pages: of cmkctl's commands, of cmkd and of the configuration.
man: MAN := $(BIN)/man
man:
	umask 022 && $(BIN)/cmkctl man $(MAN)/man1
	install -D -m 0644 -t $(MAN)/man8 packaging/man/cmkd.8
	install -d $(MAN)/man5
	packaging/man/config.sh <config.example.toml | install -m 0644 /dev/stdin $(MAN)/man5/cmkd-config.5

# What `make build` made, where packaging/systemd expects it. It builds nothing
# itself: root often has no Go. DESTDIR is for packagers.
install:
	install -D -t $(DESTDIR)/usr/libexec/cmkd $(BIN)/cmkd $(BIN)/cmkctl $(PLUGINS:%=$(BIN)/cmkd-%)
	install -d $(DESTDIR)/usr/bin
	ln -sf ../libexec/cmkd/cmkctl $(DESTDIR)/usr/bin/cmkctl
	$(MAKE) -s man MAN=$(DESTDIR)/usr/share/man
	$(BIN)/cmkctl completion bash | install -D -m 0644 /dev/stdin $(DESTDIR)/usr/share/bash-completion/completions/cmkctl
	$(BIN)/cmkctl completion zsh | install -D -m 0644 /dev/stdin $(DESTDIR)/usr/share/zsh/vendor-completions/_cmkctl
	$(BIN)/cmkctl completion fish | install -D -m 0644 /dev/stdin $(DESTDIR)/usr/share/fish/vendor_completions.d/cmkctl.fish
	install -D -m 0644 -t $(DESTDIR)/usr/lib/systemd/system packaging/systemd/cmkd.service packaging/systemd/cmkd.socket packaging/systemd/cmkd-bridge@.service packaging/systemd/cmkd-backup.service packaging/systemd/cmkd-backup.timer
	install -D -m 0644 packaging/systemd/cmkd.sysusers $(DESTDIR)/usr/lib/sysusers.d/cmkd.conf
	install -D -m 0644 packaging/systemd/cmkd.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/cmkd.conf
	install -D -m 0644 -t $(DESTDIR)/usr/share/doc/cmkd packaging/systemd/softhsm.conf packaging/systemd/network.conf packaging/systemd/device.conf packaging/systemd/ship.conf packaging/systemd/etcd.conf packaging/prometheus/cmkd.rules.yml packaging/grafana/cmkd.json
	install -D -m 0644 -t $(DESTDIR)/usr/share/doc/cmkd README.md SECURITY.md LICENSE config.example.toml docs/*.md
	install -D -m 0644 -t $(DESTDIR)/usr/share/doc/cmkd/decisions docs/decisions/*.md

# Debian packages, in .cache/deb; packaging/deb/build.sh says what counts for them.
deb:
	$(MAKE) build BIN=.cache/deb/bin LDFLAGS='-s -w'
	VERSION=$(VERSION) packaging/deb/build.sh .cache/deb/bin .cache/deb

# The packages of the last commit, made twice in different folders: the same bytes.
deb-again:
	packaging/deb/again.sh

# A container image in .cache/cmkd-image.tar; packaging/image/build.sh says what is in it.
image: deps
	$(MAKE) build BIN=.cache/image LDFLAGS='-s -w'
	VERSION=$(VERSION) packaging/image/build.sh .cache/image .cache/cmkd-image.tar

# A tour on a throwaway token, with the AWS CLI where there is one.
demo:
	./testenv/deps.sh demo
	$(MAKE) build
	./testenv/demo.sh

test: deps
	go test -run TestAllocations ./testenv/bench
	go test -race -timeout 25m ./...

check: deps
	./testenv/generated.sh
	$(GOLANGCI_LINT) run ./...
	CGO_ENABLED=0 go build -o /dev/null ./daemon/cmd/cmkd

generate:
	go generate ./...

clean:
	rm -rf $(BIN) .cache

bench: deps build
	go build -trimpath -o .cache/bench/rawtoken ./backends/pkcs11/cmd/rawtoken
	go run ./testenv/bench -save .cache/bench/last.txt -doc docs/performance.md $(BENCHFLAGS)
	go test -run '^$$' -bench '^BenchmarkAuthorise$$' ./daemon/access
	if [ -e .cache/bench/saved.txt ]; then $(BENCHSTAT) .cache/bench/saved.txt .cache/bench/last.txt; fi

# Keeps the last run of make bench, for later ones to be compared with.
bench-save:
	cp .cache/bench/last.txt .cache/bench/saved.txt

# What takes too long for every run: 100 kills of each kind (of plugins in the middle
# of calls, of the daemon in the middle of its epochs), 10,000 random and hostile requests, each held
# against its record, 10,000 random sequences of operations against the model, and
# what one caller leaves to the others, measured alone.
long: deps
	CMKD_KILLS=100 go test -count=1 -timeout 2h -run 'Killed' ./testenv/trust ./testenv/backups
	CMKD_REQUESTS=10000 go test -count=1 -timeout 90m -run ChangedMeansRecorded ./daemon/kms/
	CMKD_SEQUENCES=10000 go test -count=1 -timeout 90m -run 'Model' ./daemon/kms/
	CMKD_LONG=1 go test -count=1 -v -timeout 30m -run '^TestDearBesideCheap$$' ./plugins/
	CMKD_LONG=1 go test -count=1 -v -timeout 30m -run '^TestPoisonDataKey$$' ./testenv/scale
	CMKD_LONG=1 go test -count=1 -timeout 30m ./testenv/memscan

# Every fuzz target of the tree: FUZZTIME each, 1m by default, policies 10m.
fuzz: deps
	./testenv/fuzz.sh

# 1,000 kills of the daemon and of plugins at random moments of all that changes
# something, and 100 power cuts on a disk that loses what was not flushed (as root),
# each checked against database, token and audit trail. CMKD_CRASH_SEED repeats a run.
crash: deps
	CMKD_CRASH_KILLS=1000 CMKD_CRASH_CUTS=100 go test -count=1 -v -parallel 3 -timeout 2h -run '^(TestKills|TestPowerCuts)$$' ./testenv/crash

# The API on a database in etcd, an etcd that stops, is killed or was changed, and three daemons on
# three servers under 300 kills and stops, and with 10,000 calls across stops of up to a minute and cut
# connections. CMKD_CLUSTER_SEED repeats a run.
cluster: deps
	CMKD_TEST_STORE=etcd go test -count=1 -timeout 30m ./testenv/api ./testenv/keys ./testenv/policy
	CMKD_CLUSTER_KILLS=300 CMKD_CLUSTER_CALLS=10000 go test -count=1 -v -timeout 60m ./daemon/store/etcd ./testenv/cluster

# What etcd costs beside SQLite, a database of 100,000 keys in it, and what two members of a token
# answer beside one.
bench-cluster: deps
	go test -run '^$$' -bench '^BenchmarkCluster$$' -benchtime 1x -timeout 30m ./testenv/cluster
	go test -run '^$$' -bench '^BenchmarkKeys$$' -benchtime 1x -timeout 30m ./daemon/store/etcd
	go test -run '^$$' -bench '^BenchmarkMembers$$' -benchtime 1x ./testenv/members

# 100 kills of a daemon that ships its audit trail, and of the receiver.
ship: deps
	CMKD_SHIP_KILLS=100 go test -count=1 -v -timeout 1h -run '^TestKills$$' ./testenv/shipping

# seal and open of 4 GiB from and to a RAM disk, beside openssl speed, age and cp, as root: the
# machine should have nothing else to do, and 9 GiB of memory.
bench-envelope: deps build
	go build -trimpath -o .cache/bench/envelopes ./testenv/envelopes/bench
	unshare --mount --propagation private .cache/bench/envelopes -bin $(BIN) $(BENCHFLAGS)

# Searches in an audit trail of a million records, and its verification: in seconds, and in
# seconds of processor time. The trail, 1.3 GB, stays in .cache/bench.
bench-audit:
	mkdir -p .cache/bench/trail
	CMKD_TRAIL=$(CURDIR)/.cache/bench/trail/audit CMKD_TRAIL_RECORDS=1000000 go test -run '^$$' -bench '^BenchmarkMillion$$' -benchtime 3x ./daemon/audit/trail
	CMKD_TRAIL=$(CURDIR)/.cache/bench/trail/audit go test -run '^$$' -bench '^BenchmarkVerifyMillion$$' -benchtime 3x ./daemon/audit

# Sealed files: 5 GiB sealed by the AWS Encryption SDK and opened here, and the other way
# round, seal, open and rewrap killed, interrupted and out of disk at 100 random moments each,
# and every byte of a file altered. It needs 16 GiB of disk.
envelopes: deps
	CMKD_INTEROP_MIB=5120 CMKD_ENDS=100 CMKD_EVERY_BYTE=1 go test -count=1 -v -timeout 2h ./testenv/envelopes

# Each operation is stopped at each of its steps, and every other one is run there,
# or the daemon killed: what that leads to is what one after the other leads to.
# The tests try each pair at one of the steps.
races: deps
	CMKD_RACES=1 go test -count=1 -v -timeout 2h ./testenv/races

# Ten minutes of mixed calls: memory, descriptors and sessions must not grow.
soak: deps
	CMKD_SOAK=10m go test -count=1 -v -timeout 30m -run '^TestSoak$$' ./testenv/scale

# Floods of 500 connections, of each kind: what they leave to another user, and
# how long root waits for the status. The machine should have nothing else to do.
fair: deps
	CMKD_FAIR=1 go test -count=1 -v -timeout 30m -run '^TestFair$$' ./testenv/fair

# What the walls of the unit cost a call, in a booted systemd.
unit-price: deps
	CMKD_LONG=1 go test -count=1 -v -timeout 30m -run '^TestUnits$$' ./testenv/units

# 10,000 keys in the token: the start, and Encrypt beside a token of 10 keys.
scale: deps
	CMKD_SCALE=10000 go test -count=1 -v -timeout 30m -run '^TestScale$$' ./testenv/scale

# Every fault of the table in testenv/faults, under load in whole daemons: what
# callers, status and metrics say, and how long until all is well again. It needs
# root, and takes about fifteen minutes; the machine should have nothing else to do.
faults: deps
	CMKD_FAULTS=1 go test -count=1 -v -timeout 45m -run '^Test(Faults|Latency)$$' ./testenv/faults/

# What further tokens need beside `make deps`: Debian packages, and opencryptoki of
# Debian sid, which is unpacked into .cache and not installed.
deps-tokens: deps
	./testenv/tokens/deps.sh

# A whole daemon, the suite of the backends and the tests of the API on every token of
# testenv/tokens, as root. It prints what works, is refused or is wrong, and writes
# docs/tokens.md. RIG=luna is for one of them alone, with what .cache/tokens has of the
# others. The tests run two of them, and enter.sh NAME COMMAND runs any test on one.
tokens: deps-tokens
	CMKD_TOKENS=1 CMKD_TOKENS_PAGE=$(CURDIR)/docs/tokens.md CMKD_TOKENS_REPORTS=$(CURDIR)/.cache/tokens go test -count=1 -v -timeout 2h -run '^TestMatrix$$/^$(or $(RIG),.*)$$' ./testenv/tokens
