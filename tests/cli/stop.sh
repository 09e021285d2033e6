#!/bin/bash
# Ctrl-C in the middle of f32 products, where oneDNN lets the stack pointer point to the heap: the handler's frame must
# not overwrite what stands there. Of old it did, four times in ten. Usage: stop.sh BUILD_DIR
. "$(dirname "$0")/tiny.sh"
export OMP_NUM_THREADS=1 # so that the signal always comes to a thread that multiplies
make_corpus
make_tokens >/dev/null 2>&1
cat >recipe.yaml <<'END'
model: {dim: 128, layers: 2, attention_heads: 4, context: 64}
data: {train: tokens}
train: {steps: 100000, batch: 16, checkpoint_every: 0, eval_every: 0}
END
for stops in 1 2 3 4 5 6 7 8 9 10; do
    "$mhmoe" train recipe.yaml --set train.run=run$stops >out 2>err &
    pid=$!
    until [ -e run$stops/metrics.jsonl ]; do sleep 0.01; done
    sleep 0.0$((RANDOM % 10))
    kill -INT $pid
    code=0
    wait $pid || code=$?
    [ $code = 1 ] && grep -q 'stopped after step' err || { echo "stop $stops: $code"; cat err; exit 1; }
done
echo ok
