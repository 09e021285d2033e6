#!/bin/bash
# From text to a model that writes, with the smallest of everything; and what its files refuse.
. "$(dirname "$0")/tiny.sh"

fail() {
    echo "FAILED: $*"
    exit 1
}
make_corpus
make_tokens
make_recipe

# decode(encode(x)) = x
printf 'The  old fox\n\tsaw 3 caf\303\251s.\n' >text
"$mhmoe" tokenizer encode --tokenizer tokenizer.model <text >ids
"$mhmoe" tokenizer decode --tokenizer tokenizer.model <ids >back
cmp text back

"$mhmoe" train tiny.yaml
for file in recipe.yaml metrics.jsonl checkpoints; do
    [ -e run/$file ] || fail "the run has no $file"
done

# A trained model predicts the text better than one that was not trained.
bits() {
    "$mhmoe" eval "$1" --perplexity corpus.jsonl --json | sed -n 's/.*"bits_per_byte": *\([0-9.]*\).*/\1/p'
}
awk "BEGIN { exit !($(bits run) < 0.8 * $(bits run/checkpoints/step-000000)) }" || fail "training did not help"

# The same command gives the same text; the prompt may come from standard input.
"$mhmoe" generate run --prompt 'The old' --max-tokens 20 --seed 3 >one
printf 'The old' | "$mhmoe" generate run --prompt - --max-tokens 20 --seed 3 >two
[ -s one ] || fail "nothing was written"
cmp one two

"$mhmoe" info run >info
"$mhmoe" info tiny.yaml --set model.vocab=400 >info
"$mhmoe" info run --json >info

# Nothing is trained over a finished run, nor with another tokenizer, nor from a damaged checkpoint.
! "$mhmoe" train tiny.yaml 2>err || fail "a second training went over the first"
grep -q -- '--resume' err || fail "the refusal does not name --resume"
"$mhmoe" tokenizer train --input corpus.jsonl --vocab 350 --output other.model
"$mhmoe" data build --tokenizer other.model --input corpus.jsonl --output other
! "$mhmoe" train tiny.yaml --set data.train=other --set train.run=r2 --init-from run 2>err || fail "another tokenizer"
grep -qi tokenizer err || fail "the refusal does not name the tokenizer"
cp -r run/checkpoints/step-000030 damaged
size=$(stat -c %s damaged/model.safetensors)
printf 'x' | dd of=damaged/model.safetensors bs=1 seek=$((size - 100)) conv=notrunc status=none
! "$mhmoe" eval damaged --perplexity corpus.jsonl 2>err || fail "a damaged checkpoint was read"
grep -q checksum err || fail "the refusal does not name the checksum"
