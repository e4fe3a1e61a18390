#!/usr/bin/env bash
# Installs the tools that a check needs: into .tools, or, for a C compiler, from
# the system's packages.
# usage: scripts/tools.sh proto|lint|cc
set -euo pipefail
cd "$(dirname "$0")/.."

install_go() { # NAME MODULE@VERSION: once per version
	local name=$1 module=$2
	local stamp=.tools/.$name-${module##*@}
	[ -e "$stamp" ] && [ -x ".tools/$name" ] && return 0
	echo "installing $module" >&2
	mkdir -p .tools
	GOBIN="$PWD/.tools" GOFLAGS=-mod=mod go install "$module"
	rm -f ".tools/.$name-"*
	: >"$stamp"
}

case "${1:-}" in
proto)
	# The plugins have the versions of the run-time libraries in go.mod.
	install_go buf github.com/bufbuild/buf/cmd/buf@v1.75.0
	install_go protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	install_go protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
	install_go protoc-gen-go-vtproto github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto@v0.6.1-0.20240319094008-0393e58bdf10
	;;
lint)
	install_go golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	;;
cc)
	command -v "${CC:-gcc}" >/dev/null && exit 0
	echo "the race detector needs a C compiler: installing gcc" >&2
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		apt-get update -qq && apt-get install -y -qq gcc libc6-dev >/dev/null
	else
		echo "install gcc (or set CC), then run this again" >&2
		exit 1
	fi
	;;
*)
	echo "usage: scripts/tools.sh proto|lint|cc" >&2
	exit 2
	;;
esac
