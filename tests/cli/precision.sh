# The demo's model learns in bf16 as it does in f32: over 300 updates on the same batches, the means of 20 losses
# stay within 1 % of each other. Usage: precision.sh BUILD_DIR
. "$(dirname "${BASH_SOURCE[0]}")/tiny.sh" "$1"

make_corpus
"$mhmoe" tokenizer train --input corpus.jsonl "$source"/docs "$source"/*.md --vocab 1024 --output tokenizer.model
"$mhmoe" data build --tokenizer tokenizer.model --input corpus.jsonl "$source"/docs "$source"/*.md --output tokens \
    --valid-fraction 0.05
for precision in f32 bf16; do
    "$mhmoe" train "$source/recipes/demo.yaml" --set train.run=$precision --set train.precision=$precision \
        --set data.train=tokens --set train.steps=300 --set train.batch=4 --set train.log_every=20 \
        --set train.eval_every=0 --set train.checkpoint_every=0
done

# log_every 20: each line holds the mean of 20 updates.
losses() { sed -n 's/.*"step": *\([0-9]*\),.*"loss": *\([0-9.e+-]*\),.*/\1 \2/p' "$1/metrics.jsonl"; }
paste <(losses f32) <(losses bf16) | awk '
    { share = ($4 - $2) / $2; worst = share^2 > worst^2 ? share : worst; lines++
      printf "step %3d  f32 %.4f  bf16 %.4f  %+.3f %%\n", $1, $2, $4, 100 * share }
    END { if (lines != 15 || worst^2 > 0.01^2) { print "bf16 leaves f32 by more than 1 %, or lines are missing"; exit 1 } }'
