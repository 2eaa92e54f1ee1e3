#!/usr/bin/env bash
# Installs what the named parts of the project need on a Debian machine, as root, and is quick when it is there.
#   node   Node and the npm packages
#   lab    Debian packages, roots, guest image and Go programs of the lab
#   ship   helm, kind, kubeconform, krew, actionlint, shellcheck, tmux, an OCI runtime, and Debian's Prometheus (unpacked, not installed: no service is started)
#   control-plane  kube-apiserver, etcd, kube-controller-manager and kubectl, built once from their Go modules
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .cache
# The project's own Node first, the machine's may be too old; Go where its own installer puts it, after everything else.
export PATH="$PWD/node_modules/.bin:$PATH:/usr/local/go/bin"

say() { printf 'setup: %s\n' "$*"; }

# Installs Debian packages whose command is missing: pairs "command package".
debian() {
  local missing=()
  while [ $# -gt 0 ]; do
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
    shift 2
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing Debian packages: ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    echo "setup: installing packages needs root; run as root or install: ${missing[*]}" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >.cache/apt.log 2>&1 ||
    { tail -20 .cache/apt.log >&2; exit 1; }
}

# A Go that builds Kubernetes of this year: at least 1.26, or one that can fetch it from the module proxy, which 1.21 began with.
go_compiler() {
  command -v go >/dev/null 2>&1 || debian go golang-go
  local version minor
  version=$(go env GOVERSION)
  minor=$(sed -E 's/^go1\.([0-9]+).*/\1/' <<<"$version")
  [ "$minor" -lt 26 ] || return 0
  if [ "$minor" -lt 21 ]; then
    echo "setup: $(command -v go) is $version; Go 1.26 or later is needed (or 1.21 with a module proxy): see https://go.dev/dl" >&2
    exit 1
  fi
  export GOTOOLCHAIN=auto
}

part_node() {
  debian npm npm git git
  local stamp=node_modules/.nasmig-lock
  if ! cmp -s package-lock.json "$stamp" || [ ! -x node_modules/.bin/node ]; then
    say "installing npm packages and Node $(sed -n 's/.*"node": "\([0-9.]*\)".*/\1/p' package.json)"
    # `npm install`, not `npm ci`: npm refuses lock files that list another platform's optional binaries without a version.
    npm install --no-audit --no-fund --loglevel=error >.cache/npm.log 2>&1 || { tail -20 .cache/npm.log >&2; exit 1; }
    cp package-lock.json "$stamp"
  fi
}

part_lab() {
  debian mmdebstrap mmdebstrap ip iproute2 nsenter util-linux mke2fs e2fsprogs cpio cpio ethtool ethtool zstd zstd xz xz-utils
  command -v go >/dev/null 2>&1 || debian go golang-go
  part_node
  node test/lab/prepare.ts
}

part_control_plane() {
  go_compiler
  part_node
  node hack/control-plane/build.ts
}

# Debian's package as files below .cache: installing it would start a server.
prometheus() {
  local root=.cache/prometheus
  [ ! -x "$root/usr/bin/promtool" ] || return 0
  say "unpacking Debian's prometheus into $root"
  local fetched
  fetched=$(mktemp -d .cache/prometheus-XXXXXX)
  { [ "$(id -u)" != 0 ] || apt-get update -qq; (cd "$fetched" && apt-get download -qq prometheus) &&
    dpkg-deb -x "$fetched"/prometheus_*.deb "$fetched/root" && mv "$fetched/root" "$root"; } >.cache/prometheus.log 2>&1 ||
    { rm -rf "$fetched"; tail -20 .cache/prometheus.log >&2; exit 1; }
  rm -rf "$fetched"
}

part_ship() {
  debian crun crun dpkg-deb dpkg shellcheck shellcheck tmux tmux
  prometheus
  go_compiler
  part_node
  node hack/ship/tools.ts
}

for part in "$@"; do
  case "$part" in
    node) part_node ;;
    lab) part_lab ;;
    control-plane) part_control_plane ;;
    ship) part_ship ;;
    *) echo "setup: unknown part '$part' (node, lab, control-plane, ship)" >&2; exit 2 ;;
  esac
done
