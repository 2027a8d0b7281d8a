#!/usr/bin/env bash
# Runs every check and every test of the project:
#
#   ./test.sh           all of it, as CI does
#   ./test.sh core      the core module alone
#   ./test.sh MODULE    one nested module, such as lab or libp2ptcp
#
# It needs Go, git and, for the race detector, a C compiler. On Debian and as root
# it installs what is missing; elsewhere it names it and stops.
set -euo pipefail
cd "$(dirname "$0")"

# A count and no duration: before Go 1.27 the end of a duration may itself be reported
# as a failure (go.dev/issue/75804).
fuzz_time=${FUZZ_TIME:-50000x}
modules=(. lab libp2ptcp libp2ptcp/labtest bench)
platforms=(linux/amd64 linux/386 linux/arm64 linux/s390x darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
  freebsd/amd64 openbsd/amd64 netbsd/amd64 plan9/amd64 js/wasm android/arm64 solaris/amd64)

say() { printf '\n== %s (%ds)\n' "$*" "$SECONDS"; }

# need COMMAND PACKAGE: the command is there, or gets installed.
need() {
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "test.sh: $1 is missing; install it (Debian: apt-get install $2)" >&2
    exit 1
  fi
  say "install $2"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
}

staticcheck_path() {
  mkdir -p bin
  (cd tools && go build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck)
  printf '%s/bin/staticcheck' "$PWD"
}

check_module() { # DIR
  say "check $1"
  (cd "$1" && go build ./... && go vet ./... && "$staticcheck" ./...)
}

test_module() { # DIR
  say "test $1"
  (cd "$1" && go test -race -shuffle=on -timeout 15m ./...)
}

fuzz_core() {
  local pkg target
  for pkg in $(go list ./...); do
    for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
      say "fuzz $target"
      go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzz_time" "$pkg"
    done
  done
}

cross_vet() {
  local p
  for p in "${platforms[@]}"; do
    say "build and vet for $p"
    CGO_ENABLED=0 GOOS=${p%/*} GOARCH=${p#*/} go build ./...
    CGO_ENABLED=0 GOOS=${p%/*} GOARCH=${p#*/} go vet ./...
  done
}

formatted() {
  say gofmt
  local bad
  bad=$(gofmt -l $(git ls-files '*.go'))
  [ -z "$bad" ] || { echo "not gofmt-ed: $bad" >&2; exit 1; }
}

need go golang-go
need gcc gcc
need strace strace
staticcheck=$(staticcheck_path)
formatted
case "${1:-all}" in
all)
  for m in "${modules[@]}"; do check_module "$m"; done
  cross_vet
  for m in "${modules[@]}"; do test_module "$m"; done
  fuzz_core
  ;;
core)
  check_module .
  cross_vet
  test_module .
  fuzz_core
  ;;
*)
  check_module "$1"
  test_module "$1"
  ;;
esac
say "all passed"
