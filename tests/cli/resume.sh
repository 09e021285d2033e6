# A run that is killed (kill -9) and resumed ends in the same bytes as one that was left alone. Of every two kills one
# comes at a random moment, and one inside a call that changes something on disk (tests/faults/files.c), chosen among
# those of a first checkpoint and the ones after it. Usage: resume.sh BUILD_DIR [KILLS [SEED]]
files=$(cd "$1" && pwd)/tests/libfaults_files.so wanted=${2:-10} seed=${3:-$RANDOM}
. "$(dirname "$0")/tiny.sh"
echo "seed $seed"
RANDOM=$seed
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive # more threads would only wait for each other on so small a model
export ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0 # what is preloaded here replaces no allocator

make_corpus
make_tokens >/dev/null 2>&1
cat >recipe.yaml <<'YAML'
model: {dim: 64, layers: 2, attention_heads: 2, context: 64, dropout: 0.1}
moe: {heads: 2, experts: 4, top_k: 2, ffn_dim: 64, score: sigmoid, balance: bias, second_expert: random, jitter: 0.1}
data: {train: tokens}
train: {precision: bf16, steps: 200, batch: 16, micro_batch: 8, warmup: 10, eval_every: 50, eval_sequences: 8,
  checkpoint_every: 10, log_every: 5, keep: 2}
YAML

# The number of the newest checkpoint, which a kill must not make smaller; -1 where there is none.
newest() {
    local names=(parts/checkpoints/step-*[0-9])
    local name=${names[-1]##*step-}
    [ -d "${names[-1]}" ] && echo $((10#$name)) || echo -1
}

# Every line of the log once, from step 0 to the last; times differ.
lines() { sed -n 's/^{"step":\([0-9]*\),.*}$/\1/p' "$1/metrics.jsonl"; }

# What is half written in the folder of checkpoints. It stays until the next one is written, and counts once.
halves() { find parts/checkpoints -path '*.mhmoe-tmp*' -printf '%i %s %T@ %p\n' 2>/dev/null || true; }

compare() {
    diff -r whole/checkpoints/step-000200 parts/checkpoints/step-000200
    diff <(lines whole) <(lines parts)
}

start=$(date +%s%N)
"$mhmoe" train recipe.yaml --set train.run=whole >whole.out 2>whole.err
span=$((($(date +%s%N) - start) / 1000000)) # milliseconds of the whole run

kills=0 inside=0 ended=0 step=-1
while ((kills < wanted)); do
    command=("$mhmoe" train recipe.yaml --set train.run=parts)
    ((step >= 0)) && command+=(--resume)
    code=0 left=$(halves)
    if ((kills % 2)); then
        FAULTS_KILL=$((1 + RANDOM % 250)) LD_PRELOAD=$files "${command[@]}" >>parts.out 2>>parts.err || code=$?
    else
        "${command[@]}" >>parts.out 2>>parts.err &
        pid=$!
        # Up to a fifth of the whole, so that twenty of them do not end it much too early.
        wait_ms=$((RANDOM % (span / 5 + 1)))
        sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
        kill -9 $pid 2>/dev/null || true
        wait $pid || code=$?
    fi 2>/dev/null # what bash says of a killed process
    before=$step
    step=$(newest)
    if ((code == 137)); then
        kills=$((kills + 1))
        half=$(halves)
        [ -z "$half" ] || [ "$half" = "$left" ] || inside=$((inside + 1))
        ((step >= before)) || fail "kill $kills: of step $before only step $step was left"
    elif ((code == 0)); then # it was through: once more from the beginning
        compare
        rm -rf parts
        ended=$((ended + 1)) step=-1
    else
        cat parts.err
        exit 1
    fi
done
((step < 0)) || resume=--resume
"$mhmoe" train recipe.yaml --set train.run=parts ${resume-} >>parts.out 2>>parts.err || { cat parts.err; exit 1; }
compare
if grep 'passed over' parts.err; then exit 1; fi
grep -q 'resumed after step' parts.err
echo "the same bytes $((ended + 1)) times after $kills kills, $inside of them inside a checkpoint"
((inside * 5 >= kills || kills < 200)) || fail "that is less than a fifth"
