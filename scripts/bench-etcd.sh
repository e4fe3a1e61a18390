#!/usr/bin/env bash
# Compares kvd with a real etcd on this machine, and measures kvd further.
# usage: scripts/bench-etcd.sh [COMMAND] [--quick] [--json] [--only ROW,...] [--check] ...
#   compare   the table of ratios, kvd over etcd (the default; about 20 minutes, --quick 7)
#   load      load 5 million keys: rate over time, memory, disk, write amplification
#   restart   time to serve again at 0.1, 1 and 5 million keys
#   shards    1, 4, 16 and 64 shards under the same load, and idle
#   watch     what 100 watches cost those who write, beside etcd (about 3 minutes, --quick 2)
#   delay     how much later events come to a watch of all shards than to one of theirs
#             alone, with clocks that agree and with one that is off (about 2 minutes)
#   txn       interactive transactions, on one hot key and on several, beside etcd's
#             (about 6 minutes, --quick with --rounds 1: 3)
#   compact   how long puts wait while the history of a million keys is dropped, and what
#             that gives back, beside etcd (about 10 minutes)
#   failover  time without writes after kill -9, SIGSTOP, a graceful stop and a one-way
#             partition of the node that leads most, beside etcd (about 15 minutes)
# The first run builds etcd from its Go module (a minute or two). All flags: --help.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
mkdir -p bin

# Each in its own module: kvd depends neither on etcd nor on its client.
build() { (cd "$1" && go build -trimpath -o "$root/bin/$2" "${@:3}") >&2; }
build . kvd ./cmd/kvd
build . kvd-faults -tags faults ./cmd/kvd
build test/bench kvd-bench .
build test/bench/etcdserver etcd go.etcd.io/etcd/server/v3

exec bin/kvd-bench "$@"
