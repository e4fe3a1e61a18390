#!/usr/bin/env bash
# A local three-node cluster for trying things out.
# usage: scripts/cluster.sh start | stop | kill N | status
#   start   start the nodes that do not run (KVD_CLUSTER_DIR, default ./kvd-data/cluster)
#   stop    stop all nodes gracefully
#   kill N  kill -9 node N (1, 2 or 3); 'start' brings it back
#   status  what runs, and what the cluster says
# KVD_CLUSTER_PORT (default 7400) is the first of nine ports.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
dir=${KVD_CLUSTER_DIR:-$root/kvd-data/cluster}
base=${KVD_CLUSTER_PORT:-7400}
kvd=$root/bin/kvd kvctl=$root/bin/kvctl

client_port() { echo $((base + ($1 - 1) * 10)); }
peer_port() { echo $((base + ($1 - 1) * 10 + 1)); }
http_port() { echo $((base + ($1 - 1) * 10 + 2)); }
endpoints=127.0.0.1:$(client_port 1),127.0.0.1:$(client_port 2),127.0.0.1:$(client_port 3)

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }

# pid_of prints the process id of node N if it runs and is a kvd.
pid_of() {
	local pid
	pid=$(cat "$dir/n$1.pid" 2>/dev/null) || return 1
	[ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || return 1
	grep -qa kvd "/proc/$pid/cmdline" 2>/dev/null || [ ! -d /proc/self ] || return 1
	echo "$pid"
}

start_node() {
	local n=$1
	if pid_of "$n" >/dev/null; then echo "n$n runs already"; return; fi
	mkdir -p "$dir"
	"$kvd" start --name "n$n" --data-dir "$dir/n$n" \
		--listen-client "127.0.0.1:$(client_port "$n")" \
		--listen-peer "127.0.0.1:$(peer_port "$n")" \
		--listen-http "127.0.0.1:$(http_port "$n")" \
		--initial-cluster "n1=127.0.0.1:$(peer_port 1),n2=127.0.0.1:$(peer_port 2),n3=127.0.0.1:$(peer_port 3)" \
		>>"$dir/n$n.log" 2>&1 </dev/null &
	echo $! >"$dir/n$n.pid"
	echo "n$n started: client 127.0.0.1:$(client_port "$n"), log $dir/n$n.log"
}

stop_node() {
	local n=$1 pid
	pid=$(pid_of "$n") || { rm -f "$dir/n$n.pid"; return 0; }
	kill -TERM "$pid"
	for _ in $(seq 400); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	if kill -0 "$pid" 2>/dev/null; then
		echo "n$n did not stop in 40 s: killing it" >&2
		kill -KILL "$pid"
	fi
	rm -f "$dir/n$n.pid"
	echo "n$n stopped"
}

case "${1:-}" in
start)
	[ -x "$kvd" ] || { echo "there is no $kvd: run 'make build' first" >&2; exit 1; }
	for n in 1 2 3; do start_node $n; done
	for _ in $(seq 100); do
		if "$kvctl" --endpoints "$endpoints" --timeout 2s check health >/dev/null 2>&1; then
			echo "the cluster is healthy; try:"
			echo "  export KVCTL_ENDPOINTS=$endpoints"
			echo "  $kvctl put hello world && $kvctl get hello"
			exit 0
		fi
		sleep 0.1
	done
	echo "the cluster did not become healthy in time; see $dir/n*.log" >&2
	exit 1
	;;
stop)
	# Together: each node waits for the hand-over of its shards.
	for n in 1 2 3; do stop_node $n & done
	wait
	;;
kill)
	case "${2:-}" in 1 | 2 | 3) ;; *) usage ;; esac
	pid=$(pid_of "$2") || { echo "n$2 does not run" >&2; exit 1; }
	kill -KILL "$pid"
	rm -f "$dir/n$2.pid"
	echo "n$2 killed; 'scripts/cluster.sh start' brings it back"
	;;
status)
	for n in 1 2 3; do
		if pid=$(pid_of $n); then echo "n$n runs (process $pid)"; else echo "n$n is stopped"; fi
	done
	"$kvctl" --endpoints "$endpoints" --timeout 5s status
	;;
*) usage ;;
esac
