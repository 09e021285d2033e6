#!/bin/bash
# Installs the Debian package in a clean system of its own (debootstrap), and uses it there as people would. As root;
# package.sh PACKAGE.deb (make package-test)
set -euo pipefail
package=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
root=$(mktemp -d)
chmod 755 "$root" # mandb is a user of its own
trap 'rm -rf --one-file-system "$root"' EXIT

# Who packs for others sets DEBEMAIL. Program and library are one package. CPack calls ldconfig beside the trigger.
lintian --allow-root --fail-on error,warning --suppress-tags "bogus-mail-host,bogus-mail-host-in-debian-changelog,\
package-name-doesnt-match-sonames,link-to-shared-library-in-wrong-package,maintscript-calls-ldconfig" "$package"

# From where apt here gets bookworm.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Component: main' 'Created-By: Packages' | head -1)
debootstrap --variant=minbase bookworm "$root" "$mirror" >"$root.log" || { cat "$root.log"; exit 1; }
rm "$root.log"

# within COMMAND...: there, with its own processes and no others
within() {
    unshare --mount --pid --fork --mount-proc="$root/proc" chroot "$root" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}
add() {
    within apt-get install -y -qq --no-install-recommends "$@" >"$root/log" 2>&1 || { cat "$root/log"; exit 1; }
}
mkdir "$root/try"
cp "$package" "$root/try/mhmoe.deb"
add /try/mhmoe.deb

within mhmoe --version
within mhmoe doctor

# A tiny model, as the README has it.
cat "$here"/../docs/*.md >"$root/try/text.txt"
cat >"$root/try/use" <<'END'
set -eu
cd /try
mhmoe init mine && cd mine
mkdir texts && mv ../text.txt texts
mhmoe tokenizer train --input texts --vocab 400 --output tokenizer.model
mhmoe data build --tokenizer tokenizer.model --input texts --output data/tokens
mhmoe train recipe.yaml --set train.run=run --set train.steps=20 --set train.warmup=2 --set train.batch=4 \
    --set model.dim=32 --set model.layers=2 --set model.attention_heads=2
mhmoe generate run --prompt 'The' --max-tokens 20
END
within sh /try/use

# The manual, for people who have one.
add man-db
within man mhmoe-train | grep -q -- --resume

# A program on the library.
add gcc libc6-dev pkg-config
cp "$here/../examples/generate.c" "$root/try"
within sh -c 'cd /try && cc generate.c -o generate $(pkg-config --cflags --libs mhmoe) && ./generate mine/run The'

# Nothing is left behind.
within dpkg --purge mhmoe >"$root/log"
left=$(cd "$root" && find usr/bin usr/lib usr/include usr/share -iname '*mhmoe*')
[ -z "$left" ] || { echo "FAILED: left behind: $left"; exit 1; }
