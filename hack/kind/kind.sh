#!/usr/bin/env bash
# A KubeVirt cluster in containers, for the end-to-end suites and for looking around: three nodes, an NFS server with its CSI driver,
# KubeVirt, the chart of this tree, and a VM on an NFS volume.
#   hack/kind/kind.sh [--dry-run] up      makes all of it; what is there already stays
#   hack/kind/kind.sh [--dry-run] test    runs the end-to-end files of the lab on it
#   hack/kind/kind.sh [--dry-run] logs    gathers logs and objects into .cache/kind/logs
#   hack/kind/kind.sh [--dry-run] down    removes it
#   hack/kind/kind.sh check               says what is missing on this machine, and what to do
# --dry-run prints the commands and runs none of them; --no-check goes on although something seems to be missing.
# Everything is kept in .cache/kind; your own kubeconfig is not touched.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=versions.env
. hack/kind/versions.env

NAME=nasmig
STATE=.cache/kind
export KUBECONFIG="$PWD/$STATE/kubeconfig"
export PATH="$PWD/node_modules/.bin:$PATH:/usr/local/go/bin"
KUBEVIRT_OPERATOR=https://github.com/kubevirt/kubevirt/releases/download/$KUBEVIRT_VERSION/kubevirt-operator.yaml
CSI_CHARTS=https://raw.githubusercontent.com/kubernetes-csi/csi-driver-nfs/master/charts
# Images that are built here and loaded into the nodes; none of them is pulled from anywhere.
IMAGES=(nas-aware-migration:kind nasmig-nas:kind nasmig-guest-boot:kind)
# A guest of 1 GiB on each worker, its target, KubeVirt and the control plane.
NEEDED_MEMORY_MIB=8192

DRY_RUN=false
CHECK=true

say() { printf 'kind: %s\n' "$*"; }

# Prints a command as the shell would read it, and runs it unless nothing is to be run.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  "$DRY_RUN" || "$@"
}

# The same for what only a shell can say, such as a pipe.
run_line() {
  printf '+ %s\n' "$1"
  "$DRY_RUN" || bash -euo pipefail -c "$1"
}

# True when the first version is the second, or a later one. Versions like v1.2.3.
at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# What is missing, one line each with what to do; the number of lines is the exit code.
check() {
  local missing=0 found memory
  lacks() {
    missing=$((missing + 1))
    printf 'kind: missing: %s\n' "$*" >&2
  }
  # Podman would name the images otherwise, and kind would not find them.
  if ! command -v docker >/dev/null 2>&1; then
    lacks "Docker Engine 24 or later. See https://docs.docker.com/engine/install/"
  elif ! timeout 20 docker info >/dev/null 2>&1; then
    lacks "a running Docker Engine that you may use. Start its daemon, and join its group or be root: docker info says why"
  elif [ "$(docker info --format '{{.SecurityOptions}}' 2>/dev/null | grep -c rootless)" != 0 ]; then
    lacks "a Docker Engine that runs as root. The NAS opens files by handle, which no rootless container may"
  fi
  if ! command -v kind >/dev/null 2>&1; then
    lacks "kind. Run: go install sigs.k8s.io/kind@$KIND_VERSION"
  else
    found=$(kind version -q 2>/dev/null || true)
    [ "v${found#v}" = "$KIND_VERSION" ] ||
      lacks "kind $KIND_VERSION, this one is ${found:-unknown}; its node images are made for it. Run: go install sigs.k8s.io/kind@$KIND_VERSION"
  fi
  if ! command -v kubectl >/dev/null 2>&1; then
    lacks "kubectl $KUBECTL_MINIMUM or later. See https://kubernetes.io/docs/tasks/tools/"
  else
    found=$(kubectl version --client 2>/dev/null | sed -n 's/^Client Version: \(v[0-9.]*\).*/\1/p')
    at_least "${found:-v0}" "$KUBECTL_MINIMUM" || lacks "kubectl $KUBECTL_MINIMUM or later, this one is ${found:-unknown}. See https://kubernetes.io/docs/tasks/tools/"
  fi
  if ! command -v helm >/dev/null 2>&1; then
    lacks "helm $HELM_MINIMUM or later. See https://helm.sh/docs/intro/install/"
  else
    found=$(helm version --template '{{.Version}}' 2>/dev/null)
    at_least "${found:-v0}" "$HELM_MINIMUM" || lacks "helm $HELM_MINIMUM or later, this one is ${found:-unknown}. See https://helm.sh/docs/intro/install/"
  fi
  command -v go >/dev/null 2>&1 || lacks "Go 1.19 or later, for the guest's init. Debian: apt-get install golang-go"
  command -v mmdebstrap >/dev/null 2>&1 || lacks "mmdebstrap, for the guest's disk. Debian: apt-get install mmdebstrap"
  [ -x node_modules/.bin/node ] || lacks "Node and the npm packages. Run: hack/setup.sh node"
  # Mounts of the NFS volumes are made by the kernel that all nodes share.
  if ! grep -qw nfs4 /proc/filesystems && ! { command -v modprobe >/dev/null 2>&1 && modprobe -nq nfsv4; }; then
    lacks "the kernel's NFS client. Run: modprobe nfsv4 (Debian cloud kernels have none: install linux-image-amd64)"
  fi
  memory=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
  [ "$memory" -ge "$NEEDED_MEMORY_MIB" ] || lacks "memory: $memory MiB are free, $NEEDED_MEMORY_MIB are needed. End other programs"
  [ "$(cat /proc/sys/fs/inotify/max_user_instances)" -ge 512 ] ||
    lacks "inotify instances for three kubelets. Run: sysctl fs.inotify.max_user_instances=512"
  [ -e /dev/kvm ] || say "no /dev/kvm: guests run under software emulation, and are slow"
  [ "$missing" = 0 ] || say "$missing missing, see above"
  return "$missing"
}

# True when the cluster exists. A dry run shows what is done from the beginning.
exists() {
  "$DRY_RUN" && return 1
  kind get clusters 2>/dev/null | grep -qx "$NAME"
}

up() {
  if "$CHECK"; then check; fi
  run mkdir -p "$STATE"
  if exists; then
    say "cluster $NAME is there"
  else
    run kind create cluster --name "$NAME" --image "$KIND_NODE_IMAGE" --config hack/kind/cluster.yaml --kubeconfig "$KUBECONFIG" --wait 180s
  fi

  # Kernel, initramfs and disk of the guest, as the lab has them; and the program that carries its frames out of a pod.
  run node test/kind/prepare.ts "$STATE"
  run docker build --tag nas-aware-migration:built .
  run docker build --tag nas-aware-migration:kind hack/kind/eager
  run docker build --tag nasmig-nas:kind hack/kind/nas
  run docker build --tag nasmig-guest-boot:kind "$STATE/guest-boot"
  run kind load docker-image --name "$NAME" "${IMAGES[@]}"

  run kubectl apply --server-side -f hack/kind/nas.yaml
  run kubectl --namespace nas rollout status deployment/nas --timeout=180s
  run helm upgrade --install csi-driver-nfs csi-driver-nfs --repo "$CSI_CHARTS" --version "$CSI_DRIVER_NFS_VERSION" \
    --namespace kube-system --wait --timeout 300s

  run kubectl apply --server-side -f "$KUBEVIRT_OPERATOR"
  run kubectl wait --for condition=established --timeout=120s crd/kubevirts.kubevirt.io
  run kubectl apply --server-side -f hack/kind/kubevirt.yaml
  run kubectl --namespace kubevirt wait kubevirt/kubevirt --for condition=Available --timeout=900s

  run helm upgrade --install nas-aware-migration charts/nas-aware-migration --namespace nas-aware-migration --create-namespace \
    --values hack/kind/values.yaml --wait --timeout 300s
  run kubectl apply --server-side -f examples/nas-migration-policy.yaml

  make_vm
  say "ready. Use it with: export KUBECONFIG=$KUBECONFIG"
}

# The claim, its disk, then the VM: KubeVirt would make an empty disk.
make_vm() {
  run_line "kubectl create namespace shop --dry-run=client --output yaml | kubectl apply --server-side -f -"
  run kubectl apply --server-side --selector '!nasmigration.io/accelerate' -f hack/kind/vm.yaml
  run kubectl --namespace shop wait persistentvolumeclaim/db-rootdisk --for jsonpath='{.status.phase}'=Bound --timeout=120s
  # Beside its place first, so that a disk is whole or absent.
  run_line "kubectl --namespace nas exec deployment/nas -- test -e /export/shop/db-rootdisk/disk.img ||
  gzip -1 -c $STATE/disk.img | kubectl --namespace nas exec -i deployment/nas -- bash -euc '
    cd /export/shop/db-rootdisk
    gunzip | dd of=new.img bs=1M iflag=fullblock conv=sparse status=none
    chown 107:107 . new.img; mv new.img disk.img'"
  run kubectl apply --server-side --selector nasmigration.io/accelerate -f hack/kind/vm.yaml
  run kubectl --namespace shop wait virtualmachineinstance/db --for condition=Ready --timeout=300s
}

end_to_end() {
  # The suites make the VM shop/db themselves, several times.
  run kubectl delete namespace shop --ignore-not-found --timeout=300s
  run env "KUBECONFIG=$KUBECONFIG" NASMIG_E2E_CLUSTER=kind "NASMIG_KIND_STATE=$STATE" vitest run --config test/kind/vitest.config.ts
}

# For a run that failed: what the nodes, the pods and the objects say.
logs() {
  run kind export logs --name "$NAME" "$STATE/logs"
  run_line "kubectl get nasawaremigrations,nasmigrationpolicies,virtualmachineinstances,virtualmachineinstancemigrations --all-namespaces --output yaml > $STATE/logs/objects.yaml"
  run_line "kubectl get events --all-namespaces --sort-by .metadata.creationTimestamp > $STATE/logs/events.txt"
}

down() {
  run kind delete cluster --name "$NAME" --kubeconfig "$KUBECONFIG"
  run rm -rf "$STATE"
}

usage() {
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

while [ $# -gt 1 ]; do
  case "$1" in
    --dry-run) DRY_RUN=true CHECK=false ;;
    --no-check) CHECK=false ;;
    *) usage ;;
  esac
  shift
done
[ $# = 1 ] || usage
case "$1" in
  up) up ;;
  test) end_to_end ;;
  logs) logs ;;
  down) down ;;
  check) check ;;
  *) usage ;;
esac
