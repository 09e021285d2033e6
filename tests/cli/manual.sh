#!/bin/bash
# The manual and the completions say what --help says, and the tools that read them have nothing to complain of.
. "$(dirname "$0")/tiny.sh"

"$source/tools/man" "$mhmoe" pages

# Every command has a page, and every option of its help stands in it.
pages=0
for page in pages/*.1; do
    read -ra command <<<"$(basename "$page" .1 | sed 's/^mhmoe-*//; s/^\(data\|tokenizer\)-/\1 /')"
    "$mhmoe" "${command[@]}" --help >help
    for option in $(sed -n 's/^ *\(--[a-z-]*\).*/\1/p' help); do
        grep -qF "\fB${option//-/\\-}\fR" "$page" || fail "$page has no $option"
    done
    if [ -x "$(command -v groff)" ]; then
        groff -man -ww -z -Tutf8 "$page" 2>&1 | tee complaints
        [ ! -s complaints ] || fail "groff complains of $page"
    fi
    pages=$((pages + 1))
done
[ $pages = $((1 + $("$mhmoe" --complete '' | wc -l) + 4)) ] || fail "$pages pages"
if [ -x "$(command -v man)" ]; then
    man -l pages/mhmoe-train.1 >page
    grep -q -- '--set=KEY=VALUE' page || fail "man shows: $(cat page)"
fi

# What bash makes of "mhmoe WORD...".
bash -n "$source/tools/mhmoe.bash"
. "$source/tools/mhmoe.bash"
compopt() { :; } # works only while a key is being pressed
completes() {
    local expected=$1
    shift
    COMP_WORDS=("$mhmoe" "$@") COMP_CWORD=$#
    _mhmoe "$mhmoe"
    [ "${COMPREPLY[*]-}" = "$expected" ] || fail "'$*' becomes '${COMPREPLY[*]-}', not '$expected'"
}
completes 'train' tra
completes 'train encode decode' tokenizer ''
completes '--seed' generate run --se
completes '--resume' train tiny.yaml --set train.steps=3 --re
completes 'train.steps=' train tiny.yaml --set train.st
completes 'f32 bf16' eval --precision ''
completes 'gelu' presets --activation ge
completes '' train ''                    # a file
completes '' tokenizer encode --input '' # a file, or "-"
completes '' nonsense ''
[ "$(find . -name run -o -name runs)" = "" ] || fail "completing ran something"

if [ -x "$(command -v zsh)" ]; then
    zsh -n "$source/tools/_mhmoe"
    cat >complete.zsh <<'END'
compadd() { print -l -- ${@[4,-1]} } # -S '' -- KEY=...
_describe() { print -l -- ${(P)2} }
_files() { print FILES }
words=("${@[2,-1]}") CURRENT=$(($# - 1))
. $1
END
    zsh_completes() {
        local expected=$1
        shift
        result=$(zsh -f complete.zsh "$source/tools/_mhmoe" "$mhmoe" "$@")
        [ "$result" = "$expected" ] || fail "in zsh '$*' becomes '$result', not '$expected'"
    }
    zsh_completes 'train:train a model as a recipe says, or resume' tra
    zsh_completes 'train.steps=' train tiny.yaml --set train.st
    zsh_completes FILES train ''
else
    echo "no zsh here: its completion is not tried"
fi

echo "all good"
