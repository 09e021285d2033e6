#!/bin/bash
# What README.md and the chapters of docs/ give a reader to type: each ```sh block, in order, in a copy of the clone,
# each chapter where the one before stopped. ```console is for show. With BOOK_IN_HASTE set, as under a sanitizer,
# models learn for a tenth of the updates.
. "$(dirname "$0")/tiny.sh"

# What is linked is there.
for page in "$source"/{,docs/,bench/}*.md; do
    for target in $(grep -o '](\([^)#]*\)' "$page" | sed 's/^](//; /^https*:/d'); do
        [ -e "$(dirname "$page")/$target" ] || fail "$page links $target, which is not there"
    done
done

# Commands of a file, and before each block where it stands.
blocks() {
    awk -v file="$1" '/^```$/ { on = 0 } on { print }
        /^```sh$/ { on = 1; printf ": \"%s, line %d\"\n", file, NR }' "$source/$1"
}

# A shell reads them from a file: what a command reads is not the rest of the book.
read_through() {
    local name=$1
    mkdir -p "$name/build"
    cp -r "$source"/{docs,recipes,src,*.md} "$name/"
    ln -s "$mhmoe" "$name/build/mhmoe"
    (cd "$name" && bash -euo pipefail -v ../"$name.sh") >"$name.log" 2>&1 </dev/null && return
    echo "FAILED: the last command here"
    tail -n 25 "$name.log"
    exit 1
}

blocks README.md >readme.sh
for chapter in first-run own-data recipes comparing report evaluating; do
    blocks "docs/$chapter.md"
done >book.sh
[ -z "${BOOK_IN_HASTE-}" ] ||
    sed -Ei 's/((steps|warmup): [0-9]+)0$/\1/; s/(train\.steps=[0-9]+)0\>/\1 --set train.warmup=1/' readme.sh book.sh
for name in readme book; do
    [ "$(grep -c '^mhmoe ' $name.sh)" -gt 3 ] || fail "$name has no commands"
    read_through $name
done
echo "all good"
