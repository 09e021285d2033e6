#!/bin/bash
# Installs a build aside, compiles write.c against it through pkg-config, as C and as C++, and lets it write text.
# usage: run.sh BUILD_DIR
set -euo pipefail
build=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A staged installation: pkg-config puts the stage before the paths it tells.
DESTDIR=$work/stage cmake --install "$build" >/dev/null
PKG_CONFIG_PATH=$(dirname "$(find "$work/stage" -name mhmoe.pc)")
for file in man1/mhmoe.1 man1/mhmoe-train.1 completions/mhmoe site-functions/_mhmoe; do
    [ -n "$(find "$work/stage" -path "*/$file")" ] || { echo "$file is not installed" >&2; exit 1; }
done
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR=$work/stage
read -ra cflags <<<"$(pkg-config --cflags mhmoe)"
read -ra libs <<<"$(pkg-config --libs mhmoe)"
# A build with sanitizers needs them in every program that links it.
read -ra sanitizers <<<"$(sed -n 's/^CMAKE_C_FLAGS:STRING=//p' "$build/CMakeCache.txt" | grep -o -- '-fsanitize=[a-z,]*' || true)"
warnings=(-Wall -Wextra -Wstrict-prototypes -Wpedantic -Werror)
cc -std=c17 "${warnings[@]}" "${sanitizers[@]}" "${cflags[@]}" "$here/write.c" -o "$work/write" "${libs[@]}"
c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror "${cflags[@]}" -x c++ -fsyntax-only "$here/write.c"

mhmoe=$(find "$work/stage" -path "*/bin/mhmoe")
if [ -n "${MHMOE_DATA:-}" ]; then
    stories=$MHMOE_DATA/checkpoints/stories260K
    "$mhmoe" import llama2c "$stories/stories260K.bin" --tokenizer "$stories/tok512.model" --output "$work/model"
    expected="Once upon a time, there was a little girl named Lily."
    prompt=""
else
    # A model of zeros, whose likeliest token is always the first, <unk>: it still goes all the way.
    echo "MHMOE_DATA is not set: a model of zeros writes instead of stories260K"
    "$mhmoe" tokenizer train --input "$here/write.c" --vocab 340 --output "$work/tiny.model"
    { # dim 8, hidden 16, layers 1, heads 2, kv heads 2, vocabulary 340, context 64; then the weights
        printf '\x08\0\0\0\x10\0\0\0\x01\0\0\0\x02\0\0\0\x02\0\0\0\x54\x01\0\0\x40\0\0\0'
        head -c $((4 * (340 * 8 + 4 * 8 * 8 + 3 * 16 * 8 + 3 * 8 + 64 * 4))) /dev/zero
    } >"$work/zeros.bin"
    "$mhmoe" import llama2c "$work/zeros.bin" --tokenizer "$work/tiny.model" --output "$work/model"
    expected="⁇"
    prompt="Once"
fi
text=$("$work/write" "$work/model" "$prompt")
echo "$text"
[[ $text == *"$expected"* ]] || { echo "expected: $expected" >&2; exit 1; }
# The program says the same as the library.
[[ $("$mhmoe" generate "$work/model" --prompt "$prompt" --temperature 0 --max-tokens 40) == "$text" ]]
