# Shared by the scripts that build disks; sourced, with `here` set.

say() { echo "test/vm: $*" >&2; }
die() {
  say "$*"
  exit 1
}

cache=${XDG_CACHE_HOME:+$XDG_CACHE_HOME/nox-vm}
cache=${cache:-$(cd "$here/../.." && pwd)/.cache/vm}
mkdir -p "$cache"

need_tools() {
  local tool missing=()
  for tool in mmdebstrap:mmdebstrap qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils mkfs.ext4:e2fsprogs \
    fakeroot:fakeroot; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local install="apt-get install -y --no-install-recommends ${missing[*]}"
  [ "$(id -u)" = 0 ] || die "these tests need more programs; install them with: sudo $install"
  say "$install"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive $install; } >&2
}

# Runs a function with files' owners kept: as root it is, else under fakeroot.
as_root() {
  export PATH=$PATH:/usr/sbin:/sbin
  if [ "$(id -u)" = 0 ]; then
    "$1"
  else
    work=$work here=$here fakeroot bash -euc "$(declare -f "$1"); $1"
  fi
}
