#!/bin/bash
# What a newcomer meets before the first training: the dry run.
. "$(dirname "$0")/tiny.sh"

fail() {
    echo "FAILED: $*"
    exit 1
}
make_corpus
make_tokens
make_recipe

# A dry run tells and writes nothing.
before=$(find .)
told=$("$mhmoe" train tiny.yaml --dry-run)
[ "$(find .)" = "$before" ] || fail "a dry run wrote files"
for line in 'parameters ' 'FLOPs ' 'data ' 'updates  *30 of 256 tokens' 'memory .* available$' 'speed .* tokens/s' \
    'disk  *3 checkpoints of .* kept' 'time .* of which 3 evaluations'; do
    grep -q "^$line" <<<"$told" || fail "a dry run says nothing of '$line': $told"
done

# The checkpoints come out as large as it says.
number() {
    sed -n "s/.*\"$1\": \([0-9.]*\),*/\1/p" json
}
"$mhmoe" train tiny.yaml --dry-run --json >json
"$mhmoe" train tiny.yaml 2>/dev/null >out
bytes=$(du -bs run/checkpoints/step-000030 | cut -f1)
said=$(number checkpoint_bytes)
[ "$said" -le "$bytes" ] && [ $((bytes - said)) -lt 40000 ] || fail "checkpoints of $bytes bytes, and $said were told"
[ "$(find run/checkpoints -mindepth 1 -maxdepth 1 | wc -l)" = "$(number checkpoints)" ] || fail "not as many checkpoints as told"
[ "$(grep -c valid_loss run/metrics.jsonl)" = "$(number evaluations)" ] || fail "not as many evaluations as told"

# What would hinder the run hinders its rehearsal.
refused() {
    local pattern=$1
    shift
    ! "$mhmoe" train tiny.yaml --dry-run "$@" >out 2>err || fail "not refused: $*"
    grep -q "$pattern" err || fail "not refused for '$pattern': $(cat err)"
}
refused 'a run is in this folder already'
grep -q '^parameters' out || fail "a refused dry run does not tell what is known"
refused 'lower train.micro_batch' --set model.ffn_dim=1048576 --set model.layers=200
refused 'leave --resume out' --resume
refused 'warmup' --set train.warmup=30
! "$mhmoe" train tiny.yaml --json 2>err || fail "--json without --dry-run"
"$mhmoe" train tiny.yaml --dry-run --set train.run=other --init-from run >out || fail "--init-from"

echo "all good"
