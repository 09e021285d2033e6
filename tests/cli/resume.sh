# A run that is killed twenty times (kill -9, at random moments) and resumed ends in the same bytes as one that
# was left alone. Usage: resume.sh BUILD_DIR [SEED]
set -eu
mhmoe=$1/mhmoe
seed=${2:-$RANDOM}
echo "seed $seed"
RANDOM=$seed
export OMP_NUM_THREADS=1 # more would only wait for each other on so small a model

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

words=(the sea ship night sang people wind sail stone river bird over under and a of to home light dark)
for ((line = 0; line < 400; line++)); do
    for ((i = 0; i < 12; i++)); do printf '%s ' "${words[RANDOM % ${#words[@]}]}"; done
    echo
done >text.txt
"$mhmoe" tokenizer train --input text.txt --vocab 300 --output words.model >/dev/null 2>&1
"$mhmoe" data build --tokenizer words.model --input text.txt --output data --valid-fraction 0.2 >/dev/null 2>&1

cat >recipe.yaml <<'YAML'
model: {dim: 64, layers: 2, attention_heads: 2, context: 64, dropout: 0.1}
moe: {heads: 2, experts: 4, top_k: 2, ffn_dim: 64, score: sigmoid, balance: bias, second_expert: random, jitter: 0.1}
data: {train: data}
train: {precision: bf16, steps: 200, batch: 16, micro_batch: 8, warmup: 10, eval_every: 50, eval_sequences: 8,
  checkpoint_every: 10, log_every: 5, keep: 2}
YAML

start=$(date +%s%N)
"$mhmoe" train recipe.yaml --set train.run=whole >whole.out 2>whole.err
span=$((($(date +%s%N) - start) / 1000000)) # milliseconds of the whole run

kills=0
while ((kills < 20)); do
    resume=
    ls parts/checkpoints/step-*[0-9] >/dev/null 2>&1 && resume=--resume
    "$mhmoe" train recipe.yaml --set train.run=parts $resume >>parts.out 2>>parts.err &
    pid=$!
    # Up to a fifth of the whole, so that twenty of them do not end it much too early.
    wait_ms=$((RANDOM % (span / 5 + 1)))
    sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
    if kill -9 $pid 2>/dev/null; then
        wait $pid 2>/dev/null || true
        kills=$((kills + 1))
        echo "kill $kills after $wait_ms ms"
    elif wait $pid; then
        # It was through: once more from the beginning.
        cmp whole/checkpoints/step-000200/model.safetensors parts/checkpoints/step-000200/model.safetensors
        rm -rf parts
    else
        cat parts.err
        exit 1
    fi
done
"$mhmoe" train recipe.yaml --set train.run=parts --resume >>parts.out 2>>parts.err || { cat parts.err; exit 1; }

diff -r whole/checkpoints/step-000200 parts/checkpoints/step-000200
# Every line of the log once, up to the last; times differ. That of step 0 is written after its checkpoint, so that
# a kill between the two loses it.
lines() { sed -n 's/^{"step":\([1-9][0-9]*\),.*}$/\1/p' "$1/metrics.jsonl"; }
diff <(lines whole) <(lines parts)
grep -c 'resumed after step' parts.err
echo "the same bytes after 20 kills"
