#!/bin/bash
# A comparison that is killed (kill -9, at random moments) and resumed ends with the figures of one that was left
# alone; so does one that is stopped by a signal, or by a disk that is full. Usage: compare.sh BUILD_DIR [SEED]
seed=${2:-$RANDOM}
. "$(dirname "$0")/tiny.sh"
echo "seed $seed"
RANDOM=$seed
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # more would only wait for each other on so small a model
make_corpus
make_tokens >/dev/null 2>&1
cat >tiny.yaml <<'END'
model: {dim: 32, layers: 2, attention_heads: 2, context: 32, dropout: 0.1}
data: {train: tokens}
train: {steps: 30, batch: 8, warmup: 5, log_every: 5, eval_every: 10, eval_sequences: 8, checkpoint_every: 5, keep: 1}
compare:
  models:
    - dense
    - smoe-top1
    - head-only=mhmoe-h2 moe.merge=off
  seeds: 2
  valid: corpus=corpus.jsonl
END

# The figures that do not depend on time.
figures() {
    sed -n '/"seconds"\|"tokens_per_second"\|"folder": "[^/]*",$/d; /"table"/q; p' "$1/compare.json"
}

compare() {
    "$mhmoe" compare tiny.yaml --output "$@"
}

start=$(date +%s%N)
compare whole >whole.out 2>whole.err
span=$((($(date +%s%N) - start) / 1000000)) # milliseconds
grep -q '"finished": 6' whole/compare.json
grep -q '^| head-only |' whole/compare.md
grep -q '^head-only: ' whole.out

for ((kills = 0; kills < 8; kills++)); do
    resume=
    [ -e parts/recipe.yaml ] && resume=--resume
    "$mhmoe" compare tiny.yaml --output parts $resume >>parts.out 2>>parts.err &
    pid=$!
    wait_ms=$((RANDOM % (span / 4 + 1)))
    sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
    kill -9 $pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
done
compare parts --resume >parts.out 2>>parts.err || { cat parts.err; exit 1; }
diff <(figures whole) <(figures parts)
for model in dense smoe-top1 head-only; do
    for n in 1 2; do
        cmp {whole,parts}/$model/seed-$n/checkpoints/step-000030/model.safetensors
        cmp {whole,parts}/$model/seed-$n/result.json
    done
done
echo "the same figures after 8 kills"

# It is no model, but knows where there are some.
if "$mhmoe" generate parts --prompt The 2>no.err; then exit 1; fi
grep -q 'name one of its runs, parts/MODEL/seed-N' no.err

# Of a finished one nothing is made again.
compare parts --resume --json >again.json 2>again.err
if grep -q ' step ' again.err; then exit 1; fi
diff parts/compare.json again.json

# Ctrl-C: saved, said, resumed; a seed and a model more.
"$mhmoe" compare tiny.yaml --output stopped --seeds 1 >stopped.out 2>stopped.err &
pid=$!
until [ -e stopped/smoe-top1/seed-1/checkpoints ]; do sleep 0.02; done
kill -INT $pid
code=0
wait $pid || code=$?
[ $code = 1 ]
grep -q '^mhmoe: smoe-top1, seed 1: stopped after step .*--resume goes on' stopped.err
grep -q '1 of 3 runs are finished' stopped/compare.md
compare stopped --resume --models 'dense,smoe-top1,head-only=mhmoe-h2 moe.merge=off' >stopped.out 2>stopped.err
diff <(figures whole) <(figures stopped)

# A disk that is full ends it with one sentence, and --resume finds what was done.
code=0
(
    ulimit -f 200
    TMPDIR=/nowhere compare full >full.out 2>full.err # ThreadSanitizer bears no limit on the file it makes there
) || code=$?
[ $code = 1 ]
grep -q '^mhmoe: dense, seed 1: cannot write' full.err
compare full --resume >full.out 2>full.err
diff <(figures whole) <(figures full)

# A loss on other validation sequences is not compared; a text that has changed is measured again.
if compare whole --resume --set train.eval_sequences=2 >other.out 2>other.err; then exit 1; fi
grep -q 'train.eval_sequences may not change when a comparison is resumed: it was 8 (whole/recipe.yaml) and is now 2' other.err
results() { cat whole/*/seed-*/result.json; }
results >results.before
head -c $(($(stat -c %s corpus.jsonl) / 2)) corpus.jsonl | sed '$d' >half.jsonl
mv corpus.jsonl all.jsonl
mv half.jsonl corpus.jsonl
compare whole --resume >other.out 2>other.err
if results | cmp -s results.before; then exit 1; fi
mv all.jsonl corpus.jsonl
compare whole --resume >other.out 2>other.err
results | cmp results.before

"$mhmoe" data build --tokenizer tokenizer.model --input corpus.jsonl --output held --valid-fraction 0.1 >/dev/null 2>&1
held() { compare held-out --models dense --seeds 1 --set data.valid=held "$@" >other.out 2>other.err; }
held
rm -r held
"$mhmoe" data build --tokenizer tokenizer.model --input corpus.jsonl --output held --valid-fraction 0.4 >/dev/null 2>&1
if held --resume; then exit 1; fi
grep -q 'held-out/dense/seed-1: this run was made with other data' other.err
mv held-out/dense/seed-1/result.json stale.json
held --resume
losses_of() { grep -o '"loss": *[0-9.]*' "$1" | sort; }
if losses_of held-out/dense/seed-1/result.json | cmp -s <(losses_of stale.json); then exit 1; fi

# A file of measures that is damaged may go.
printf x | dd of=whole/speed.json conv=notrunc 2>/dev/null
if compare whole --resume >other.out 2>other.err; then exit 1; fi
grep -q 'the speed is measured again without this file: whole/speed.json' other.err
rm whole/speed.json
compare whole --resume >other.out 2>other.err

# Data that is rebuilt otherwise is other data.
mv tokens once
"$mhmoe" data build --tokenizer tokenizer.model --input corpus.jsonl --output tokens --valid-fraction 0.2 >/dev/null 2>&1
if compare whole --resume >other.out 2>other.err; then exit 1; fi
grep -q 'whole/dense/seed-1: this run was made with other data' other.err
echo ok
