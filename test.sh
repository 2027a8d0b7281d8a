#!/usr/bin/env bash
# Runs the checks and tests of the project, one part after the other:
#
#   ./test.sh           format, vet and test all modules; -short leaves out long tests
#   ./test.sh core      the same for the core alone
#   ./test.sh MODULE    the same for one nested module, such as lab or libp2ptcp
#   ./test.sh ci        all tests of all modules with the race detector, and all checks
#
# It needs Go, and ci needs what the list of programs below names. On two cores the first takes under
# 10 minutes and the last under an hour. A part that fails does not stop the others;
# the end lists what failed.
set -uo pipefail
cd "$(dirname "$0")"

modules=(lab promstats examples/fit examples/guide libp2ptcp libp2ptcp/labtest bench)

# The systems that the core is vetted for, beside the one that runs this.
systems=(linux/386 linux/arm64 linux/s390x android/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
  freebsd/amd64 openbsd/amd64 netbsd/amd64 dragonfly/amd64 solaris/amd64 illumos/amd64 aix/ppc64 plan9/amd64
  js/wasm wasip1/wasm)

# A count and no duration: before Go 1.27 the end of a duration may itself be reported
# as a failure (go.dev/issue/75804).
fuzz_time=${FUZZ_TIME:-50000x}

parts=()                                # what will run, each the name of a part and its argument
flags=(-short -shuffle=on -timeout 20m) # of go test

plan_module() { # MODULE
  parts+=("vet $1" "test $1")
}

plan_all() {
  local m
  parts+=("format")
  for m in core "${modules[@]}"; do plan_module "$m"; done
}

plan_ci() {
  need_programs
  flags=(-race -shuffle=on -timeout 20m)
  plan_all
  local m
  for m in core "${modules[@]}" tools; do parts+=("staticcheck $m" "tidy $m"); done
  parts+=("vulnerabilities" "systems" "fuzz")
}

# What ci needs beside Go, each a command and its package in Debian. All but the first two
# are the foreign programs of lab/foreign.
programs=(gcc:gcc strace:strace nc:netcat-openbsd stunnel4:stunnel4 ab:apache2-utils curl:curl wrk:wrk
  h2load:nghttp2-client haproxy:haproxy nginx:nginx-light openssl:openssl socat:socat php:php-cli python3:python3)

# need_programs sees that the programs are there; root on Debian gets those that are not.
need_programs() {
  local p missing=()
  for p in "${programs[@]}"; do
    PATH=$PATH:/usr/sbin command -v "${p%:*}" >/dev/null || missing+=("${p#*:}")
  done
  [ ${#missing[@]} != 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "test.sh: ci needs ${missing[*]}; install them (Debian: apt-get install ${missing[*]})" >&2
    exit 1
  fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

in_module() { # MODULE COMMAND...
  local dir=$1
  shift
  [ "$dir" != core ] || dir=.
  (cd "$dir" && "$@")
}

# tool PACKAGE: builds a command with the versions of tools/go.mod.
tool() {
  go build -C tools -o "$PWD/bin/" "$1"
}

part_format() {
  local bad
  bad=$(gofmt -l .) || return
  [ -z "$bad" ] || { printf 'not as gofmt has it:\n%s\n' "$bad" && return 1; }
}

part_vet() { # MODULE
  in_module "$1" go vet ./...
}

part_test() { # MODULE
  in_module "$1" go test "${flags[@]}" ./...
}

part_staticcheck() { # MODULE
  tool honnef.co/go/tools/cmd/staticcheck && in_module "$1" "$PWD/bin/staticcheck" ./...
}

part_tidy() { # MODULE
  in_module "$1" go mod tidy -diff
}

# Without the database on the network nothing can be said, which is no failure.
part_vulnerabilities() {
  local m said bad=0
  tool golang.org/x/vuln/cmd/govulncheck || return
  for m in core "${modules[@]}"; do
    said=$(in_module "$m" "$PWD/bin/govulncheck" ./... 2>&1) && continue
    [[ $said != 'govulncheck: fetching vulnerabilities:'* ]] || { echo 'not run: no database' && return; }
    printf '%s: %s\n' "$m" "$said" && bad=1
  done
  return $bad
}

part_systems() {
  local s bad=0
  tool ./crossvet || return
  for s in "${systems[@]}"; do
    vet_system "$s" || { echo "^ on $s" && bad=1; }
  done
  return $bad
}

# vet_system SYSTEM: vets the core. What crossvet says of each analysis that could not
# run after a compile error is left out.
vet_system() {
  CGO_ENABLED=0 GOOS=${1%/*} GOARCH=${1#*/} bin/crossvet ./... 2>&1 |
    { grep -vE ': (analysis skipped due to errors|failed prerequisites)' || true; }
}

part_fuzz() {
  local pkg targets target bad=0
  for pkg in $(go list ./...); do
    targets=$(go test -list '^Fuzz' "$pkg") || bad=1
    for target in $(grep '^Fuzz' <<<"$targets"); do
      echo "$target"
      go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzz_time" "$pkg" || bad=1
    done
  done
  return $bad
}

# run_parts runs what is planned and reports whether all of it passed. The list of
# failures names the tests that failed too.
run_parts() {
  local log part n=0 failed=()
  log=$(mktemp) || return
  for part in "${parts[@]}"; do
    n=$((n + 1))
    printf '\n== %d of %d: %s (%d s)\n' $n ${#parts[@]} "$part" $SECONDS
    # The words of a part are the name of its function and an argument.
    # shellcheck disable=SC2086
    part_$part 2>&1 | tee "$log" || failed+=("$part" "$(grep -E '^ *--- FAIL|^panic: ' "$log")")
  done
  rm -f "$log"
  if [ ${#failed[@]} = 0 ]; then
    printf '\n== passed: all %d parts (%d s)\n' $n $SECONDS
    return
  fi
  printf '\n== failed: %d of %d parts (%d s)\n' $((${#failed[@]} / 2)) $n $SECONDS
  printf '%s\n' "${failed[@]}" | grep .
  return 1
}

command -v go >/dev/null || { echo "test.sh: Go is missing, see go.dev/dl" >&2 && exit 1; }
trap 'exit 130' INT # go test ends by itself then, and the next part would start
case "${1:-all}" in
all) plan_all ;;
ci) plan_ci ;;
core) parts+=("format") && plan_module core ;;
*)
  [ -f "$1/go.mod" ] || { echo "test.sh: no module $1" >&2 && exit 2; }
  parts+=("format") && plan_module "${1%/}"
  ;;
esac
run_parts
