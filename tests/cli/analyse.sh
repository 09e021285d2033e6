#!/bin/bash
# mhmoe analyse from outside: its tables and its JSON, the same for any number of threads, and what it refuses.
. "$(dirname "$0")/tiny.sh"

make_corpus
make_tokens
make_recipe
"$mhmoe" train tiny.yaml --set train.keep=3
mkdir -p texts/hats texts/boats
printf 'The old captain saw the red boat. The young captain left the red river.\n' >texts/boats/one.txt
printf 'The king carried the small lamp. The captain forgot the old lamp.\n' >texts/hats/two.txt

analyse() {
    "$mhmoe" analyse "$@" --label-by folder --words captain
}
analyse run/checkpoints/step-* --input texts --json >one.json
OMP_NUM_THREADS=1 analyse run/checkpoints/step-* --input texts --output two.json >tables
cmp one.json two.json || fail "another number of threads gave another analysis"

holds() {
    grep -qE -- "$1" one.json || fail "no /$1/ in the JSON"
}
holds '"format": "mhmoe-analysis"'
holds '"checkpoint": "run/checkpoints/step-000030"'
holds '"label": "boats"'
holds '"before": "The old "'
[ "$(grep -c '"step"' one.json)" = 3 ] || fail "not three checkpoints"
grep -q '^layer  heads  experts' tables || fail "no table of layers"
grep -qF 'The old [captain] saw the red boat.' tables || fail "no word in its sentence"

# A run folder stands for its newest checkpoint.
"$mhmoe" analyse run --input texts | grep -q '^checkpoint *run/checkpoints/step-000030$' || fail "not the newest checkpoint"

refuses() {
    local code=$1 pattern=$2 got=0
    shift 2
    "$mhmoe" analyse "$@" >out 2>err || got=$?
    [ "$got" = "$code" ] && [ ! -s out ] && grep -q -- "$pattern" err || fail "$*: $got, $(cat err)"
}
"$mhmoe" train dense.yaml --set train.run=dense --set train.steps=1 --set train.warmup=0
refuses 1 'is a dense model: it has no experts' dense --input texts
"$mhmoe" train tiny.yaml --set train.run=other --set moe.experts=6 --set train.steps=1 --set train.warmup=0
refuses 1 'moe.experts differ; give checkpoints of one run' other run --input texts
refuses 1 'nowhere' run --input nowhere
refuses 1 'nowhere' nowhere run --input texts
refuses 2 '--label-by takes one of none|file|folder, not .name' run --input texts --label-by name
refuses 2 '--words takes up to 16 words' run --input texts --words ,
refuses 2 '--tokens takes a whole number' run --input texts --tokens 0
refuses 1 'cannot create folder tiny.yaml' run --input texts --output tiny.yaml/a.json
