#!/bin/bash
# Installs a build aside, and builds and runs the examples against it: by pkg-config with the shared and the static
# library, by CMake, and as C++. usage: run.sh BUILD_DIR
set -euo pipefail
build=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
examples=$(realpath "$here/../../examples")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A staged installation: pkg-config puts the stage before the paths it tells.
DESTDIR=$work/stage cmake --install "$build" >/dev/null
PKG_CONFIG_PATH=$(dirname "$(find "$work/stage" -name mhmoe.pc)")
for file in man1/mhmoe.1 man1/mhmoe-train.1 completions/mhmoe site-functions/_mhmoe; do
    [ -n "$(find "$work/stage" -path "*/$file")" ] || { echo "$file is not installed" >&2; exit 1; }
done
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR=$work/stage
library=$(find "$work/stage" -name libmhmoe.so.0)
mhmoe=$(find "$work/stage" -path "*/bin/mhmoe")
LD_LIBRARY_PATH=$(dirname "$library")
export LD_LIBRARY_PATH

# The library shows the header's functions and no others.
header=$(find "$work/stage" -name mhmoe.h)
cc -E -P "$header" | tr '\n;' ' \n' | grep -v '\<typedef\>' | grep -o '\<mh_[a-z0-9_]*(' | tr -d '(' | sort >"$work/declared"
nm -D --defined-only --format=posix "$library" | grep -v ' A ' | sed 's/[@ ].*//' | sort >"$work/exported"
diff "$work/declared" "$work/exported" || { echo "header (<) and shared library (>) differ" >&2; exit 1; }
readelf -d "$library" | grep -q 'SONAME.*\[libmhmoe.so.0\]'
readelf -d "$library" | grep -q NODELETE # a thread that ends after a dlclose calls into it

# The build's own compilers: each brings its OpenMP and its sanitizers, which every program that links them needs, too.
cached() {
    sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"
}
cc=$(cached CMAKE_C_COMPILER) cxx=$(cached CMAKE_CXX_COMPILER)
read -ra sanitizers <<<"$(cached CMAKE_C_FLAGS | grep -o -- '-fsanitize=[a-z,]*' || true)"
read -ra cflags <<<"$(pkg-config --cflags mhmoe)"
read -ra shared <<<"$(pkg-config --libs mhmoe)"
read -ra static <<<"$(pkg-config --static --libs mhmoe | sed 's/-lmhmoe/-l:libmhmoe.a/')"
warnings=(-Wall -Wextra -Wpedantic -Werror)
for example in generate train layer; do
    "$cc" -std=c17 -Wstrict-prototypes "${warnings[@]}" "${sanitizers[@]}" "${cflags[@]}" "$examples/$example.c" \
        -o "$work/$example" "${shared[@]}"
done
"$cc" -std=c17 "${sanitizers[@]}" "${cflags[@]}" "$examples/generate.c" -o "$work/generate_static" "${static[@]}"
readelf -d "$work/generate_static" | grep -q libmhmoe && { echo "the static library was not used" >&2; exit 1; }
# The header is C++, too.
"$cxx" -std=c++17 "${warnings[@]}" "${sanitizers[@]}" "${cflags[@]}" -x c++ "$examples/generate.c" -x none \
    -o "$work/generate_cpp" "${shared[@]}"
cmake -S "$here" -B "$work/cmake" -DEXAMPLES="$examples" -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="${sanitizers[*]}" \
    -DCMAKE_PREFIX_PATH="$(dirname "$(dirname "$mhmoe")")" >/dev/null
cmake --build "$work/cmake" >/dev/null

# ---- generate ----
if [ -n "${MHMOE_DATA:-}" ]; then
    stories=$MHMOE_DATA/checkpoints/stories260K
    "$mhmoe" import llama2c "$stories/stories260K.bin" --tokenizer "$stories/tok512.model" --output "$work/model"
    expected="Once upon a time, there was a little girl named Lily."
    prompt=""
else
    # A model of zeros, whose likeliest token is always the first, <unk>: it still goes all the way.
    echo "MHMOE_DATA is not set: a model of zeros writes instead of stories260K"
    "$mhmoe" tokenizer train --input "$examples/generate.c" --vocab 340 --output "$work/tiny.model"
    { # dim 8, hidden 16, layers 1, heads 2, kv heads 2, vocabulary 340, context 64; then the weights
        printf '\x08\0\0\0\x10\0\0\0\x01\0\0\0\x02\0\0\0\x02\0\0\0\x54\x01\0\0\x40\0\0\0'
        head -c $((4 * (340 * 8 + 4 * 8 * 8 + 3 * 16 * 8 + 3 * 8 + 64 * 4))) /dev/zero
    } >"$work/zeros.bin"
    "$mhmoe" import llama2c "$work/zeros.bin" --tokenizer "$work/tiny.model" --output "$work/model"
    expected="⁇"
    prompt="Once"
fi
text=$("$work/generate" "$work/model" "$prompt")
echo "$text"
[[ $text == *"$expected"* ]] || { echo "expected: $expected" >&2; exit 1; }
by_hand=$("$work/generate" "$work/model" "$prompt" 2>&1 >/dev/null)
by_hand=${by_hand#*by hand: }
[[ ${by_hand# } == "${text# }" ]] || { echo "by hand: $by_hand" >&2; exit 1; } # without a prompt the first space is left out
# The program and the other builds say the same.
[[ $("$mhmoe" generate "$work/model" --prompt "$prompt" --temperature 0 --max-tokens 40) == "$text" ]]
for other in generate_static generate_cpp cmake/generate; do
    [[ $("$work/$other" "$work/model" "$prompt" 2>/dev/null) == "$text" ]]
done

# ---- train, layer ----
falls() { # the last loss printed is below the first by this factor
    awk -v factor="$1" '/^step/ { last = $4; if (!first) first = $4 } END { exit !(last > 0 && last < factor * first) }'
}
cat "$examples"/*.c >"$work/text"
"$mhmoe" tokenizer train --input "$work/text" --vocab 400 --output "$work/text.model"
"$work/train" "$work/text.model" "$work/text" "$work/trained" | tee "$work/train.log"
falls 0.8 <"$work/train.log"
[ -n "$("$mhmoe" generate "$work/trained" --prompt mh_ --max-tokens 20)" ]
"$work/train" "$work/text.model" "$work/text" "$work/trained" >"$work/message" 2>&1 && exit 1
grep -q 'trained exists already; choose another folder' "$work/message"
"$work/layer" | tee "$work/layer.log"
falls 0.8 <"$work/layer.log"
diff <("$work/cmake/layer") "$work/layer.log"
