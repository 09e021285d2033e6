#!/bin/bash
# A tiny training and what it writes, under valgrind: valgrind.sh BUILD_DIR (make valgrind). It knows no AVX-512, so
# that the program takes its AVX2 kernels, as on a lesser processor.
. "$(dirname "$0")/tiny.sh"
make_corpus
make_tokens >log
make_recipe
export OMP_NUM_THREADS=2
watched() {
    valgrind --quiet --trace-children=yes --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite "$mhmoe" "$@"
}
watched train tiny.yaml --set train.steps=4 --set train.warmup=1 --set train.batch=2 --set train.checkpoint_every=2
watched train tiny.yaml --set train.steps=4 --set train.warmup=1 --set train.batch=2 --set train.run=bf16 \
    --set train.precision=bf16
watched generate run --prompt 'The old' --max-tokens 4
