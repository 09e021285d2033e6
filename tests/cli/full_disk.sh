# Whatever writes, on a disk that is really full and on one that is really read-only: a sentence, and nothing under the
# name that was asked for. The disk is a small tmpfs in a namespace of its own; where there are none, this is skipped.
if [ -z "${MHMOE_OWN_MOUNTS-}" ]; then
    trial='mount -t tmpfs -o size=256k none /mnt && mount -o remount,ro /mnt'
    unshare --map-root-user --mount sh -c "$trial" 2>/dev/null || exit 77
    MHMOE_OWN_MOUNTS=1 exec unshare --map-root-user --mount bash "$0" "$@"
fi
. "$(dirname "$0")/tiny.sh"

make_corpus
make_tokens >/dev/null 2>&1
make_recipe
"$mhmoe" train tiny.yaml >/dev/null 2>&1
for ((i = 0; i < 100; i++)); do
    echo '{"query": "The fox", "choices": ["saw", "left"], "gold": 0}'
done >questions.jsonl
mount -t tmpfs -o size=256k none /mnt
ln -s /mnt disk

expect_refusal() {
    local sentence=$1 output=$2 code=0
    shift 2
    "$@" >out 2>err || code=$?
    [ $code = 1 ] && grep -q "$sentence" err || fail "$*: ended with $code and said: $(cat err)"
    [ ! -e "$output" ] || fail "$*: left $output"
    [ -z "$(find disk/ -name '*.mhmoe-*')" ] || fail "$*: left $(find disk/ -name '*.mhmoe-*')"
}

# trial OUTPUT COMMAND...: without room, and with room for a part.
trial() {
    local free
    for free in 0 4; do
        rm -rf disk/*
        head -c $(((256 - free) * 1024)) /dev/zero >disk/filler
        expect_refusal 'the disk is full: free space or choose another place' "$@"
    done
    rm -rf disk/*
    mount -o remount,ro /mnt
    expect_refusal 'the file system is read-only: choose another place' "$@"
    mount -o remount,rw /mnt
}

trial disk/new/recipe.yaml "$mhmoe" init disk/new
trial disk/new.model "$mhmoe" tokenizer train --input corpus.jsonl --vocab 400 --output disk/new.model
trial disk/tokens "$mhmoe" data build --tokenizer tokenizer.model --input corpus.jsonl --output disk/tokens
trial disk/run/checkpoints/step-000000 "$mhmoe" train tiny.yaml --set train.run=disk/run
trial disk/compared/compare.json "$mhmoe" compare dense.yaml --models dense,smoe-top1 --output disk/compared
trial disk/report.html "$mhmoe" report run --output disk/report.html
trial disk/analysis.json "$mhmoe" analyse run --input corpus.jsonl --output disk/analysis.json
trial disk/answers.jsonl "$mhmoe" eval run --tasks questions.jsonl --log-samples disk/answers.jsonl
