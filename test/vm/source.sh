#!/usr/bin/env bash
# The disks that carry the program into the machine: `source.sh DISK` writes the tree (what git knows or would
# add, and what was built) to DISK and prints the path of the disk with node_modules.
#
# There are two because only the tree changes from run to run, and node_modules is a hundred times its size.
set -euo pipefail

disk=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/vm/common.sh
. "$here/common.sh"
need_tools
cd "$here/../.."
# A machine whose test was killed leaves its disks.
find "$cache" -maxdepth 1 '(' -name 'machine.*' -o -name 'source.*' -o -name 'build.*' ')' -mmin +1440 -exec rm -rf {} +
find "$cache" -path '*/console/*' -mtime +14 -delete
work=$(mktemp -d "$cache/source.XXXXXX")
trap 'rm -rf "$work"' EXIT

[ -f node_modules/.package-lock.json ] || die 'node_modules is missing: run npm ci'
key=$({ stat -c '%s %Y' node_modules/.package-lock.json node_modules/node/bin/node && cat node_modules/.package-lock.json; } |
  sha256sum | cut -c1-16)
modules=$cache/modules-$key.ext4

# No journal: a read-only mount could not replay it, and there is nothing to lose.
make_disk() {
  [ "$(id -u)" != 0 ] || chown -Rh 0:0 "$stage"
  mkfs.ext4 -q -F -O ^has_journal -m 0 -L "$label" -d "$stage" "$out" "$(($(du -sm --apparent-size "$stage" | cut -f1) * 5 / 4 + 64))M" >/dev/null
}

exec 9>"$cache/modules.lock"
flock 9
if [ -f "$modules" ]; then
  touch "$modules"
else
  find "$cache" -maxdepth 1 -name 'modules-*' -mtime +14 -delete
  mkdir "$work/modules"
  cp -a node_modules/. "$work/modules/"
  export label=nox-modules stage=$work/modules out=$work/modules.ext4
  as_root make_disk
  mv "$work/modules.ext4" "$modules"
fi
flock -u 9

mkdir -p "$work/tree/node_modules"
{
  git ls-files -co --exclude-standard -z
  for built in dist dist-deb; do [ ! -d "$built" ] || printf '%s\0' "$built"; done
} | while IFS= read -r -d '' path; do
  # What was deleted and not yet committed is still listed.
  if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\0' "$path"; fi
done | tar -c --null -T - | tar -x -C "$work/tree"
export label=nox-src stage=$work/tree out=$disk
as_root make_disk
echo "$modules"
