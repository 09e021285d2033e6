#!/bin/bash
# The program as its users meet it: help, exit codes, streams, and a sentence for every wrong input.
. "$(dirname "$0")/tiny.sh"

cases=0 wrong=0

# expect CODE PATTERN COMMAND...: after success the pattern stands on stdout and nothing on stderr; after failure
# the other way round.
expect() {
    local code=$1 pattern=$2 got=0 told=out silent=err
    shift 2
    cases=$((cases + 1))
    "$@" >out 2>err </dev/null || got=$?
    [ "$code" = 0 ] || { told=err silent=out; }
    if [ "$got" != "$code" ] || [ -s "$silent" ] || ! grep -qE -- "$pattern" "$told"; then
        wrong=$((wrong + 1))
        echo "FAILED: $* -- exit code $got; expected $code and /$pattern/ on std$told alone; stdout, stderr:"
        cat out err
    fi
}

# ---- help and usage

expect 0 '^mhmoe [0-9.]+ \(commit [0-9a-z+]+\)$' "$mhmoe" --version
expect 0 '^compiler +[A-Z]' "$mhmoe" --version
expect 0 '^libarchive +[0-9.]+' "$mhmoe" --version
expect 0 '^Commands:' "$mhmoe" --help
expect 0 '^Commands:' "$mhmoe" help
expect 0 '^Commands:' "$mhmoe" -h
expect 0 '^Commands:' "$mhmoe" data -h
expect 0 '^Examples:' "$mhmoe" train -h
expect 0 '^mhmoe [0-9.]+ \(commit' "$mhmoe" -v
expect 2 '^Commands:' "$mhmoe"
expect 2 "no command 'mhmoe trian', the nearest is 'train'" "$mhmoe" trian

for command in "tokenizer train" "tokenizer encode" "tokenizer decode" "data build" init train compare eval analyse generate info plan presets \
    verify import doctor config bench; do
    expect 0 '^Examples:' "$mhmoe" $command --help
    expect 2 "no option '--nonsense'.*try 'mhmoe $command --help'" "$mhmoe" $command --nonsense
done
expect 0 '^Examples:' "$mhmoe" help train
for group in tokenizer data; do
    expect 0 '^Commands:' "$mhmoe" $group --help
    expect 2 "no command 'mhmoe $group nonsense'" "$mhmoe" $group nonsense
done
for command in "tokenizer train" "data build" init train compare eval analyse generate info verify import; do
    expect 2 "is missing; try 'mhmoe $command --help'" "$mhmoe" $command
done
expect 2 "'b.yaml' is one word too many; try" "$mhmoe" train a.yaml b.yaml
for command in train info compare; do
    expect 2 "'b.c=2' is one word too many; write --set before each KEY=VALUE;" "$mhmoe" $command a --set a.b=1 b.c=2
    expect 2 "'b.c=2' is one word too many; write --set before each KEY=VALUE;" "$mhmoe" $command --set a.b=1 b.c=2 a
done
expect 2 "'b.c=2' is one word too many; write --set before each KEY=VALUE;" "$mhmoe" info --set a.b=1 b.c=2
expect 2 "'piqa' is one word too many; --tasks takes one, NAME,... without blanks;" "$mhmoe" eval a --tasks rte piqa
expect 2 "CHECKPOINT is missing: --perplexity takes all words behind it; put CHECKPOINT before it" \
    "$mhmoe" eval --perplexity a.txt run
expect 1 'run' "$mhmoe" eval --perplexity a.txt -- run
expect 0 '^Examples:' "$mhmoe" train a.yaml b.yaml --help
expect 2 "'1025' is one word too many; give at most 1024;" "$mhmoe" report $(seq 1025)
expect 1 '^mhmoe: ' "$mhmoe" report $(seq 1024) --output page.html
expect 2 "input PATH... is missing" "$mhmoe" tokenizer train --vocab 1048576
expect 2 "vocab takes a whole number from 260 to 1048576, not '1048577'" "$mhmoe" tokenizer train --vocab 1048577
expect 2 "nearest is --temperature" "$mhmoe" generate x --prompt y --temprature 1
expect 2 "--temperature takes a number from 0 to .* not '-1'" "$mhmoe" generate x --prompt y --temperature -1
expect 2 "--seed takes a whole number" "$mhmoe" generate x --prompt y --seed 1.5
expect 2 '--json takes no value' "$mhmoe" doctor --json=yes
expect 2 "no benchmark 'gem': choose" "$mhmoe" bench gem
expect 2 "--shapes takes a few shapes such as 256x1365x512" "$mhmoe" bench gemm --shapes 16x16
expect 2 '--save goes with the benchmark step' "$mhmoe" bench gemm layer --save models
expect 2 '--precision goes with the benchmark step' "$mhmoe" bench gemm --precision f32
expect 2 '--stop is empty' "$mhmoe" generate x --prompt y --stop ''
expect 2 "--shapes goes with one of" "$mhmoe" bench step --shapes 16x16x16
expect 2 'MHMOE_ISA is "abacus"' env MHMOE_ISA=abacus "$mhmoe" doctor

# ---- output that cannot be written

expect 1 'is the disk full' bash -c '"$0" config >/dev/full' "$mhmoe"
code=0
"$mhmoe" config --markdown | true || code=${PIPESTATUS[0]}
cases=$((cases + 1))
[ "$code" -lt 128 ] || {
    echo "FAILED: a broken pipe ended mhmoe config by a signal"
    wrong=$((wrong + 1))
}

# ---- documents that the program writes

expect 0 'train.steps' "$mhmoe" config
"$mhmoe" config --markdown >config.md
expect 0 '^same$' bash -c 'diff "$0" config.md && echo same' "$source/docs/config.md" # else: make docs

# ---- the machine

expect 0 '^mhmoe-h3 .* 93 ' "$mhmoe" presets
expect 0 '"suffix": "[+]shared"' "$mhmoe" presets --dim 96 --activation gelu --json
expect 0 '^mhmoe-h3 *not at these sizes: .* a multiple, for example 258' "$mhmoe" presets --dim 256
expect 2 "--activation takes one of swiglu[|]gelu, not 'relu'" "$mhmoe" presets --activation relu
expect 2 "--precision takes one of f32[|]bf16, not 'bf'" "$mhmoe" verify --precision bf x

expect 0 '^ok ' "$mhmoe" doctor
expect 0 '"ok": true' "$mhmoe" doctor --json
expect 0 '^ok ' env MHMOE_ISA=portable "$mhmoe" doctor
expect 0 "^threads  *$(env -u OMP_NUM_THREADS nproc) of" env -u OMP_NUM_THREADS -u OMP_WAIT_POLICY OMP_PROC_BIND=true "$mhmoe" doctor

mkdir results
expect 0 '"who": "mhmoe"' "$mhmoe" bench gemm --shapes 16x16x16 --seconds 0.01 --json --csv results
expect 0 '^isa,threads,benchmark' cat results/*.csv
expect 1 'cannot write nowhere/' "$mhmoe" bench gemm --shapes 16x16x16 --seconds 0.01 --csv nowhere # and no figure yet

# ---- input files

make_corpus
make_recipe
expect 1 'nowhere' "$mhmoe" tokenizer train --input nowhere --vocab 400 --output t.model
cp corpus.jsonl text.jsonl
expect 1 'text.jsonl exists already; choose another output' "$mhmoe" tokenizer train --input text.jsonl --vocab 400 --output text.jsonl
expect 0 '^same$' bash -c 'cmp corpus.jsonl text.jsonl && echo same'
printf '\377\376T\0h\0e\0 \0o\0l\0d\0' >wide.txt
expect 1 'wide.txt is UTF-16, not UTF-8; convert it with' "$mhmoe" tokenizer train --input wide.txt --vocab 400 --output t.model
printf '\211PNG\r\n\032\n\0\0\0\rIHDR\0\0' >picture.txt
expect 1 'in picture.txt: with its NUL bytes it is no text; leave it out' "$mhmoe" tokenizer train --input picture.txt --vocab 400 --output t.model
printf 'caf\351 ol\351' >french.txt
expect 1 'in french.txt: convert it .for example with .iconv -f latin1' "$mhmoe" tokenizer train --input french.txt --vocab 400 --output t.model
: >empty.txt
expect 1 'empty' "$mhmoe" tokenizer train --input empty.txt --vocab 400 --output t.model
expect 1 'nowhere' "$mhmoe" data build --tokenizer nowhere.model --input corpus.jsonl --output d
head -c 1000 /dev/urandom >noise.model
expect 1 'noise.model' "$mhmoe" data build --tokenizer noise.model --input corpus.jsonl --output d
expect 1 'nowhere' "$mhmoe" train nowhere.yaml
expect 1 'nowhere' "$mhmoe" eval nowhere --perplexity corpus.jsonl
expect 2 'either texts with --perplexity, or --tasks' "$mhmoe" eval nowhere
expect 2 'either texts with --perplexity, or --tasks' "$mhmoe" eval nowhere --tasks rte --perplexity corpus.jsonl
expect 2 '--stride goes with --perplexity' "$mhmoe" eval nowhere --tasks rte --data . --stride 4
for option in '--data .' '--limit 5' '--shots 2' '--shots-file x' '--log-samples x'; do
    expect 2 "${option% *} goes with --tasks" "$mhmoe" eval nowhere --perplexity corpus.jsonl $option
done
expect 2 "no task 'arc_eazy', the nearest is arc_easy" "$mhmoe" eval nowhere --tasks arc_eazy --data .
expect 2 'add --data DIR' "$mhmoe" eval nowhere --tasks rte
expect 2 'single commas' "$mhmoe" eval nowhere --tasks rte,,piqa --data .
expect 2 'go together' "$mhmoe" eval nowhere --tasks rte --data . --shots 2
expect 1 'has no rte_dev.tsv' "$mhmoe" eval nowhere --tasks rte --data .
expect 1 'corpus.jsonl:1: it has no string "query"' "$mhmoe" eval nowhere --tasks corpus.jsonl
echo '{"query": "Q", "choices": ["a", "b"], "gold": 0}' >own.jsonl
expect 1 'nowhere' "$mhmoe" eval nowhere --tasks own.jsonl
expect 2 'log-samples own.jsonl is what is read; choose another file' "$mhmoe" eval nowhere --tasks own.jsonl --log-samples own.jsonl
expect 1 'cannot create folder corpus.jsonl' "$mhmoe" eval nowhere --tasks own.jsonl --log-samples corpus.jsonl/log.jsonl
expect 1 'nowhere' "$mhmoe" generate nowhere --prompt x
expect 1 'nowhere' "$mhmoe" info nowhere
expect 2 '--set changes a recipe, and . is a checkpoint' "$mhmoe" info . --set model.dim=8
expect 2 "output takes a file whose name ends in .html, not 'tiny.yaml'" "$mhmoe" report nowhere --output tiny.yaml
expect 2 "output takes a file whose name ends in .json, not 'tiny.yaml'" "$mhmoe" analyse nowhere --input own.jsonl --output tiny.yaml
expect 1 'nowhere' "$mhmoe" verify nowhere.safetensors
head -c 4000 "$source/tests/golden/layer_smoe_top1.safetensors" >short.safetensors
expect 1 'short.safetensors' "$mhmoe" verify short.safetensors
expect 1 'nowhere' "$mhmoe" import llama2c nowhere --tokenizer noise.model --output i
head -c 100 /dev/zero >zeros.bin
expect 1 'zeros.bin' "$mhmoe" import llama2c zeros.bin --tokenizer noise.model --output i
expect 0 '^none$' bash -c 'ls -d t.model* d d.mhmoe-tmp i i.mhmoe-tmp run 2>/dev/null || echo none' # nothing half-written

# ---- recipes

mkdir folder
for command in train compare; do
    expect 2 'folder is a folder; name a recipe, a YAML file' "$mhmoe" $command folder
done
touch folder/recipe.yaml
expect 2 'folder is a folder; name the recipe, folder/recipe.yaml' "$mhmoe" train folder --dry-run

expect 1 'tokens' "$mhmoe" train tiny.yaml
expect 2 'train.stpes.*train.steps' "$mhmoe" train tiny.yaml --set train.stpes=5
printf 'model:\n  dim: 32\n  laiers: 2\n' >misspelt.yaml
expect 1 'misspelt.yaml:3: .*model.layers' "$mhmoe" train misspelt.yaml
printf 'train:\n  steps: many\n' >words.yaml
expect 1 'words.yaml:2: .*train.steps' "$mhmoe" train words.yaml
printf 'train:\n  steps: -3\n' >range.yaml
expect 1 'range.yaml:2: .*train.steps' "$mhmoe" train range.yaml
printf 'train: [\n' >broken.yaml
expect 1 'broken.yaml:' "$mhmoe" train broken.yaml
expect 1 'moe.heads' "$mhmoe" info tiny.yaml --set model.vocab=400 --set moe.heads=3
expect 1 'moe.heads is 2, but the model has no experts' "$mhmoe" info --set model.vocab=400 --set moe.heads=2 /dev/null
expect 0 '^model .*' "$mhmoe" info --set model.vocab=400 --set model.preset=dense --set moe.heads=2 /dev/null
expect 1 'the nearest is mhmoe-h2' "$mhmoe" info tiny.yaml --set model.vocab=400 --set model.preset=mhmoe-k2
expect 1 'moe.score sigmoid and moe.balance gshard' "$mhmoe" info tiny.yaml --set model.vocab=400 --set moe.score=sigmoid
expect 1 'moe.top_k' "$mhmoe" info tiny.yaml --set model.vocab=400 --set moe.top_k=5

echo "$cases cases, $wrong wrong"
[ $wrong = 0 ]
