#!/usr/bin/env bash
# The disk that the virtual machine boots: `image.sh [SUITE]` prints the directory that holds disk.ext4, vmlinuz
# and initrd, building it first if its inputs changed. It needs neither loop mounts nor KVM.
#
# The packages come from the Debian archive that this machine's own apt uses, with its proxy and certificates;
# where apt knows no Debian archive (on Ubuntu, say), VM_MIRROR names one.
set -euo pipefail

suite=${1:-bookworm}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/vm/common.sh
. "$here/common.sh"

packages=(
  systemd systemd-sysv dbus udev libpam-systemd linux-image-cloud-amd64 initramfs-tools kmod
  apt debian-archive-keyring ca-certificates login passwd util-linux procps iproute2 e2fsprogs
  bubblewrap python3 python3-venv perl curl make logrotate
  nginx caddy openssl nftables openssh-server # what stands around Nox on a server; the proxies are started by their test
  libatomic1 # Node's own build links against it, and Debian installs it with a compiler only
)

[ "$(uname -m)" = x86_64 ] || die 'the virtual machine is built for x86_64 only'
need_tools

local_certificates=$(find /usr/local/share/ca-certificates -name '*.crt' 2>/dev/null | sort || true)
key=$({
  echo "$suite ${packages[*]} ${VM_MIRROR:-}"
  # shellcheck disable=SC2086
  cat "${BASH_SOURCE[0]}" "$here/common.sh" "$here"/guest/* $local_certificates
} | sha256sum | cut -c1-16)
image=$cache/$suite-$key

# Test files boot at the same time; one of them builds, the others wait for it.
exec 9>"$cache/$suite.lock"
flock 9
if [ -d "$image" ]; then
  touch "$image"
  echo "$image"
  exit
fi
find "$cache" -maxdepth 1 -name "$suite-*" -mtime +14 -exec rm -rf {} +
say "building the Debian $suite image in $image"

sources() {
  local codename keyring
  keyring=$(find /usr/share/keyrings -name 'debian-archive-keyring.[gp]*' | sort | head -n1)
  [ -n "$keyring" ] || die 'no keyring of the Debian archive: apt-get install debian-archive-keyring'
  if [ -n "${VM_MIRROR:-}" ]; then
    echo "deb [signed-by=$keyring] $VM_MIRROR $suite main"
    return
  fi
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    while read -r origin component name uri; do
      case "$origin $component $name" in
        "Debian main $codename" | "Debian main $codename-updates" | "Debian main $codename-security")
          echo "deb [signed-by=$keyring] $uri ${name/#$codename/$suite} main"
          ;;
      esac
    done | sort -u
}

debian=$(sources)
[ -n "$debian" ] ||
  die 'apt here knows no Debian archive (or was never updated: apt-get update); name one in VM_MIRROR'

work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/root" "$work/out"

# An initrd with the three drivers that the disk needs instead of all of them: half of the time to boot under
# emulation is unpacking and probing.
cat >"$work/initramfs" <<'END'
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
printf 'MODULES=list\nBUSYBOX=n\nCOMPRESS=gzip\nRESUME=none\n' >"$1/etc/initramfs-tools/conf.d/nox-vm"
printf 'virtio_pci\nvirtio_blk\next4\n' >"$1/usr/share/initramfs-tools/modules.d/nox-vm"
END

cat >"$work/customize" <<END
set -eu
root=\$1
guest='$here/guest'
END
cat >>"$work/customize" <<'END'
install -D -m 755 "$guest/agent.py" "$root/usr/local/lib/nox-vm/agent.py"
install -m 644 "$guest/nox-vm-agent.service" "$root/etc/systemd/system/"
install -m 644 "$guest/nox-vm.network" "$root/etc/systemd/network/"
install -m 644 "$guest/fstab" "$root/etc/fstab"
mkdir -p "$root/opt/nox-src"
echo nox-vm >"$root/etc/hostname"
echo '127.0.0.1 localhost nox-vm' >"$root/etc/hosts"
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
# Empty, not "uninitialized": every boot gets an id, and none is taken for a first boot.
: >"$root/etc/machine-id"
if [ -d /usr/local/share/ca-certificates ]; then
  cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
  chroot "$root" update-ca-certificates >/dev/null 2>&1
fi
chroot "$root" systemctl --quiet enable nox-vm-agent.service systemd-networkd.service
chroot "$root" systemctl --quiet disable nginx.service caddy.service
chroot "$root" systemctl --quiet mask serial-getty@ttyS0.service getty@tty1.service \
  systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer dpkg-db-backup.timer man-db.timer \
  systemd-binfmt.service proc-sys-fs-binfmt_misc.automount
END

aptopts=()
while IFS= read -r line; do aptopts+=(--aptopt="$line"); done \
  < <(apt-config dump | grep -E '^Acquire::(https?|ftp|Retries|ForceIP|Check-)[^ ]* "[^"]+"' || true)

mmdebstrap --quiet --variant=minbase --architectures=amd64 --format=tar \
  --include="$(IFS=,; echo "${packages[*]}")" "${aptopts[@]}" \
  --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --essential-hook="sh $work/initramfs \"\$1\"" --customize-hook="sh $work/customize \"\$1\"" \
  "$suite" "$work/root.tar" - <<<"$debian" >&2

unpack_and_format() {
  tar -xf "$work/root.tar" -C "$work/root" --numeric-owner --exclude='./dev/*'
  mv "$work/root/boot"/vmlinuz-* "$work/out/vmlinuz"
  mv "$work/root/boot"/initrd.img-* "$work/out/initrd"
  truncate -s 6G "$work/out/disk.ext4"
  mkfs.ext4 -q -F -L nox-root -d "$work/root" "$work/out/disk.ext4" >/dev/null
}
as_root unpack_and_format
mv "$work/out" "$image"
say "built in $SECONDS s"
echo "$image"
