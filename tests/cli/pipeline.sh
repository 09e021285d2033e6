#!/bin/bash
# From text to a model that writes, with the smallest of everything; and what its files refuse.
. "$(dirname "$0")/tiny.sh"

make_corpus
make_tokens
make_recipe

# decode(encode(x)) = x
printf 'The  old fox\n\tsaw 3 caf\303\251s.\n' >text
"$mhmoe" tokenizer encode --tokenizer tokenizer.model <text >ids
"$mhmoe" tokenizer decode --tokenizer tokenizer.model <ids >back
cmp text back

"$mhmoe" train tiny.yaml --set moe.z_weight=0.001 2>progress
for file in recipe.yaml metrics.jsonl checkpoints report.html; do
    [ -e run/$file ] || fail "the run has no $file"
done

grep -q '^After 30 updates over 7680 tokens, training loss [0-9.]* in the last of them, validation loss' \
    run/checkpoints/step-000030/README.md || fail "the model card does not say which loss it tells"

grep -q ' balance [0-9.]*  z-loss [0-9.]*  gradient ' progress && grep -q '"z_loss": *[0-9.]*' run/metrics.jsonl ||
    fail "the z-loss is not told: $(cat progress)"

# A trained model predicts the text better than one that was not trained.
bits() {
    "$mhmoe" eval "$1" --perplexity corpus.jsonl --json | sed -n 's/.*"bits_per_byte": *\([0-9.]*\).*/\1/p'
}
awk "BEGIN { exit !($(bits run) < 0.8 * $(bits run/checkpoints/step-000000)) }" || fail "training did not help"

# It knows its text from noise; a question that is none is told, counted and left out.
cat >own.jsonl <<END
{"query": "The old fox saw the", "choices": ["zqxzq jvzxq.", "quiet house."], "gold": 1}
{"query": "The old fox saw the"}
{"query": "The young king", "choices": ["heard the small lamp.", "zxqvj jzq xqzvj qxjz."], "gold": 0}
END
"$mhmoe" eval run --tasks own.jsonl --log-samples answers.jsonl --json >result 2>err
grep -q '"acc": 1.0' result && grep -q '"left_out": 1' result || fail "wrong answers: $(cat result)"
grep -q 'own.jsonl:2: it has no' err && grep -q 'left out 1 of 3 questions' err || fail "nothing told of a bad question"
[ "$(wc -l <answers.jsonl)" = 2 ] || fail "not a line for each question"
"$mhmoe" eval run --tasks own.jsonl,./own.jsonl --limit 1 >result
grep -Eq '^\./own.jsonl +1 +0 +acc +1.0000 +- ' result || fail "no row of the table: $(cat result)"

# More than is held in memory at once; a hole takes no room on disk.
truncate -s 1073741825 large
! "$mhmoe" tokenizer encode --tokenizer tokenizer.model --input large 2>err || fail "a text of any size was encoded"
grep -q 'large is larger than the 1073741824 bytes allowed' err || fail "the refusal does not name the limit"
! head -c 16777217 /dev/zero | "$mhmoe" generate run --prompt - 2>err || fail "a prompt of any size"
grep -q 'the prompt on standard input is over 16 MiB; shorten it' err || fail "the refusal does not name the limit"

# The same command gives the same text; the prompt may come from standard input.
"$mhmoe" generate run --prompt 'The old' --max-tokens 20 --seed 3 >one
printf 'The old' | "$mhmoe" generate run --prompt - --max-tokens 20 --seed 3 >two
[ -s one ] || fail "nothing was written"
cmp one two

"$mhmoe" info run >info
"$mhmoe" info tiny.yaml --set model.vocab=400 >info
"$mhmoe" info run --json >info

# A page about one run stands in it; about several it must be told where.
rm run/report.html
"$mhmoe" report run
[ -s run/report.html ] || fail "no report of one run"
! "$mhmoe" report run run 2>err || fail "a report of two runs without a place"
grep -q -- '--output FILE' err || fail "the refusal does not name --output"
"$mhmoe" report run run --output two.html --json | grep -q '"runs": 2' || fail "no report of two runs"
! "$mhmoe" report tokens --output none.html 2>err || fail "a report of what is no run"
grep -q 'name a run folder' err || fail "the refusal does not tell what to name"

cp tiny.yaml d=32.yaml # a name that looks like a setting
"$mhmoe" info d=32.yaml --set model.vocab=400 >info

# Of a recipe what training refuses is refused; without its data a vocabulary is enough.
"$mhmoe" info tiny.yaml --set data.train=nowhere --set model.vocab=100 >info
! "$mhmoe" info tiny.yaml --set model.vocab=100 2>err || fail "a vocabulary that is not the data's"
grep -q 'has 400 pieces' err || fail "the refusal does not name the data's vocabulary"
! "$mhmoe" info tiny.yaml --set data.train= 2>err || fail "neither data nor vocabulary"
grep -q 'data.train is not set.*will do here: --set model.vocab=N' err || fail "the refusal does not name data.train"
! "$mhmoe" info tiny.yaml --set data.train=nowhere 2>err || fail "neither data nor vocabulary"
grep -q 'no data folder nowhere, seen from the current folder;.*--set model.vocab=N' err || fail "no hint: $(cat err)"

if [ "$(id -u)" != 0 ]; then # who may read anything
    chmod 000 tokens
    ! "$mhmoe" train tiny.yaml --set train.run=r3 2>err || fail "closed data were read"
    chmod 755 tokens
    grep -q 'cannot open tokens/train.tokens: Permission denied' err || fail "no word of permissions: $(cat err)"
fi

# Measures that are rows of digits, or infinite, are short in text and null in JSON.
explode() {
    "$mhmoe" train dense.yaml --set train.run="rate$1" --set train.steps=6 --set train.warmup=0 \
        --set train.rate="$1" --set train.min_rate="$1" --set train.clip=0 --set train.decay=0 >out 2>&1
    "$mhmoe" eval "rate$1" --perplexity corpus.jsonl >>out
    ! grep -E '[0-9]{12}' out || fail "numbers of many digits"
}
explode 3
grep -q 'perplexity *[0-9.]*e+' out || fail "the perplexity is no large number"
! grep z_loss rate3/metrics.jsonl || fail "a z-loss is told of where it has no weight"
explode 10
grep -q 'perplexity *inf$' out || fail "the perplexity is finite"
"$mhmoe" eval rate10 --perplexity corpus.jsonl --json | grep -q '"perplexity": null' || fail "no null in JSON"

# Nothing is trained over a finished run, nor with another tokenizer, nor from a damaged checkpoint.
! "$mhmoe" train tiny.yaml 2>err || fail "a second training went over the first"
grep -q -- '--resume' err || fail "the refusal does not name --resume"
"$mhmoe" tokenizer train --input corpus.jsonl --vocab 350 --output other.model
"$mhmoe" data build --tokenizer other.model --input corpus.jsonl --output other
! "$mhmoe" train tiny.yaml --set data.train=other --set train.run=r2 --init-from run 2>err || fail "another tokenizer"
grep -qi tokenizer err || fail "the refusal does not name the tokenizer"
[ ! -e r2 ] || fail "a run that did not begin left a folder"

# Nor in the folder of data or of a checkpoint, nor over the recipe that it is made by; other files are none of its business.
for folder in tokens run/checkpoints/step-000030; do
    ! "$mhmoe" train tiny.yaml --set train.run=$folder 2>err || fail "a run in the folder of something else"
    grep -Eq 'is the folder of (data|a checkpoint), it holds' err && [ ! -e $folder/lock ] || fail "it is not refused, or left a lock: $(cat err)"
done
mkdir logged mine
cp tiny.yaml mine/recipe.yaml
! "$mhmoe" train mine/recipe.yaml --set train.run=mine 2>err || fail "a run over its own recipe"
grep -q 'mine/recipe.yaml stands where the run keeps a recipe' err && cmp -s tiny.yaml mine/recipe.yaml || fail "$(cat err)"
"$mhmoe" train tiny.yaml --set train.run=logged --set train.steps=1 --set train.warmup=0 2>logged/errors
cp -r run/checkpoints/step-000030 damaged
size=$(stat -c %s damaged/model.safetensors)
printf 'x' | dd of=damaged/model.safetensors bs=1 seek=$((size - 100)) conv=notrunc status=none
! "$mhmoe" eval damaged --perplexity corpus.jsonl 2>err || fail "a damaged checkpoint was read"
grep -q checksum err || fail "the refusal does not name the checksum"
