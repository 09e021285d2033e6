#!/bin/bash
# A build without SentencePiece and Chart.js trains on another's token files to the very same bytes, and says what it
# lacks: bare.sh BUILD_DIR BARE_BUILD_DIR (make bare)
bare=$(realpath "$2")/mhmoe
. "$(dirname "$0")/tiny.sh"

make_corpus
make_tokens >log
make_recipe

! "$bare" --version | grep -q SentencePiece || fail "this build is not bare"
"$bare" doctor
"$mhmoe" train tiny.yaml --set train.run=full >log
"$bare" train tiny.yaml --dry-run >log
"$bare" train tiny.yaml
rm -r run/checkpoints/step-000030
"$bare" train tiny.yaml --resume
diff -r full/checkpoints/step-000030 run/checkpoints/step-000030

# What needs text is refused in a sentence.
refused() {
    ! "$bare" "$@" >out 2>err || fail "not refused: $*"
    grep -q 'built without; use one built with it (cmake -DMHMOE_SENTENCEPIECE=ON)' err || fail "$*: $(cat err)"
}
refused tokenizer train --input corpus.jsonl --vocab 400 --output other.model
refused data build --tokenizer tokenizer.model --input corpus.jsonl --output other
refused generate run --prompt 'The old'
refused eval run --perplexity corpus.jsonl
refused analyse run --input corpus.jsonl --output analysis.json
[ ! -e other.model ] && [ ! -e other ] && [ ! -e analysis.json ] || fail "something was written"
printf 'no model' >run/checkpoints/step-000030/tokenizer.model
! "$bare" train tiny.yaml --resume --set train.steps=31 2>err || fail "a damaged tokenizer was taken"

# The report is whole, with words for charts (drawn by its scripts: only a browser can tell more).
! grep -q 'Chart.js Contributors' run/report.html || fail "the report has Chart.js"
if browser=$(command -v chromium-headless-shell || command -v chromium); then
    "$browser" --no-sandbox --disable-gpu --user-data-dir="$work/profile" --host-resolver-rules='MAP * ~NOTFOUND' \
        --dump-dom "file://$work/run/report.html" >dom 2>/dev/null
    grep -q '<p>Validation loss, nats a token against updates: run from [0-9.]* to [0-9.]*\.</p>' dom ||
        fail "the report has neither charts nor words"
fi
