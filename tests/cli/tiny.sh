# Sourced by the scripts beside it: sets $mhmoe and $source, goes to a new folder that is removed at the end, and
# has functions that make a tiny run there, or end the test. $1 is the build folder.
set -eu
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mhmoe=$(cd "$1" && pwd)/mhmoe
work=$(mktemp -d)
cd "$work"

fail() {
    echo "FAILED: $*"
    exit 1
}

# What a sanitizer reports fails the test, also of a command that shall fail or is killed.
export ASAN_OPTIONS=${ASAN_OPTIONS-}:log_path=$work.report TSAN_OPTIONS=${TSAN_OPTIONS-}:log_path=$work.report
finish() {
    local code=$?
    if compgen -G "$work.report.*" >/dev/null; then
        cat "$work".report.*
        code=1
    fi
    rm -rf "$work" "$work".report.*
    exit $code
}
trap finish EXIT

# 200 documents of sentences that a small model can learn, always the same.
make_corpus() {
    awk 'function pick(list, n) { state = (state * 1103515245 + 12345) % 2147483648; return list[int(state / 65536) % n + 1] }
         BEGIN {
             a = split("the old red small quick quiet tall young", adjective, " ")
             n = split("fox river house captain letter garden horse lamp window king", noun, " ")
             v = split("saw found left carried followed forgot painted heard", verb, " ")
             state = 1
             for (document = 0; document < 200; document++) {
                 printf "{\"text\": \""
                 for (sentence = 0; sentence < 12; sentence++)
                     printf "The %s %s %s the %s %s.\\n", pick(adjective, a), pick(noun, n), pick(verb, v),
                            pick(adjective, a), pick(noun, n)
                 print "\"}"
             }
         }' >corpus.jsonl
}

make_tokens() {
    "$mhmoe" tokenizer train --input corpus.jsonl --vocab 400 --output tokenizer.model
    "$mhmoe" data build --tokenizer tokenizer.model --input corpus.jsonl --output tokens --valid-fraction 0.1
}

make_recipe() {
    cat >tiny.yaml <<END
model:
  dim: 32
  layers: 2
  attention_heads: 2
  context: 32
moe:
  heads: 2
  experts: 4
  top_k: 2
  ffn_dim: 32
data:
  train: tokens
train:
  run: run
  steps: 30
  batch: 8
  warmup: 5
  log_every: 5
  eval_every: 15
  checkpoint_every: 15
END
    sed '/^moe:/,/^data:/{/^data:/!d}' tiny.yaml >dense.yaml # the same without experts
}
