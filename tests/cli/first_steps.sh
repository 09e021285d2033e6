#!/bin/bash
# What a newcomer meets first: a new experiment, the dry run, versions.
. "$(dirname "$0")/tiny.sh"

make_corpus
make_tokens
make_recipe

# A dry run tells and writes nothing.
before=$(find .)
told=$("$mhmoe" train tiny.yaml --dry-run)
[ "$(find .)" = "$before" ] || fail "a dry run wrote files"
for line in 'parameters ' 'FLOPs ' 'data ' 'updates  *30 of 256 tokens' 'memory .* available$' 'speed .* tokens/s' \
    'disk  *3 checkpoints of .* kept' 'time .* of which 3 evaluations'; do
    grep -q "^$line" <<<"$told" || fail "a dry run says nothing of '$line': $told"
done

# Of a mixture no part is drawn as often as the whole.
cp -r tokens more
"$mhmoe" train tiny.yaml --dry-run --set data.train='tokens=0.25, more=0.75' >out
grep -q '^updates  *30 of 256 tokens: 0.09 to 0.27 times the parts of the data$' out || fail "the parts: $(cat out)"

# The checkpoints come out as large as it says.
number() {
    sed -n "s/.*\"$1\": \([0-9.]*\),*/\1/p" json
}
"$mhmoe" train tiny.yaml --dry-run --json >json
"$mhmoe" train tiny.yaml 2>/dev/null >out
bytes=$(du -bs run/checkpoints/step-000030 | cut -f1)
said=$(number checkpoint_bytes)
[ "$said" -le "$bytes" ] && [ $((bytes - said)) -lt 40000 ] || fail "checkpoints of $bytes bytes, and $said were told"
[ "$(find run/checkpoints -mindepth 1 -maxdepth 1 | wc -l)" = "$(number checkpoints)" ] || fail "not as many checkpoints as told"
[ "$(grep -c valid_loss run/metrics.jsonl)" = "$(number evaluations)" ] || fail "not as many evaluations as told"

# What would hinder the run hinders its rehearsal.
refused() {
    local pattern=$1
    shift
    ! "$mhmoe" train tiny.yaml --dry-run "$@" >out 2>err || fail "not refused: $*"
    grep -q "$pattern" err || fail "not refused for '$pattern': $(cat err)"
}
refused 'a run is in this folder already'
grep -q '^parameters' out || fail "a refused dry run does not tell what is known"
refused 'lower train.micro_batch' --set model.ffn_dim=1048576 --set model.layers=200
refused 'or model.dim$' --set model.ffn_dim=1048576 --set model.layers=200 --set train.precision=bf16
refused 'cannot read folder tiny.yaml/run/checkpoints: Not a directory' --set train.run=tiny.yaml/run
refused 'keep fewer by train.keep (now 0: all)' --set train.run=other --set train.keep=0 --set train.checkpoint_every=1 \
    --set train.steps=1000000000000
grep -q '^disk ' out && ! grep -q 'Without --dry-run it begins' out || fail "the disk that is missing is not told, or promised"
if [ "$(id -u)" != 0 ]; then # who may write anywhere
    mkdir -m 555 closed
    refused 'cannot write the run into closed: Permission denied' --set train.run=closed/run
fi
refused 'leave --resume out' --resume
refused 'warmup' --set train.warmup=30
! "$mhmoe" train tiny.yaml --json 2>err || fail "--json without --dry-run"
"$mhmoe" train tiny.yaml --dry-run --set train.run=other --init-from run >out || fail "--init-from"

# A folder whose name a shell would take apart.
eval "$("$mhmoe" init "a friend's fables" | sed -n 's/^  \(cd .*\)/(\1 \&\& cat recipe.yaml)/p')" | grep -q '^model:' || fail "cd"

# What could not be written whole is not in the way of the next attempt.
mkdir part
mkdir part/.gitignore.mhmoe-tmp
! "$mhmoe" init part 2>err || fail "init without .gitignore"
grep -q 'cannot write part/.gitignore' err || fail "init: $(cat err)"
rmdir part/.gitignore.mhmoe-tmp
"$mhmoe" init part >out || fail "init stops itself"

# A new experiment: the steps it tells, followed to the letter but for a vocabulary that the small corpus can fill.
"$mhmoe" init new/fables >told
[ "$(cd new/fables && find . -type f | LC_ALL=C sort | tr '\n' ' ')" = "./.gitignore ./recipe.yaml " ] || fail "other files"
mkdir new/fables/texts
for copy in 1 2 3 4 5; do
    cp corpus.jsonl new/fables/texts/$copy.jsonl # together enough for sequences of the recipe's context
done
steps=$(sed -n "s/^  //p" told | sed "s/--vocab 4096/--vocab 400/; s|^mhmoe|$mhmoe|
    s/^.* train recipe.yaml$/& --set train.steps=1 --set train.warmup=0/")
bash -euc "$steps" >out 2>&1 || fail "the steps that init tells do not work: $(cat out)"
[ -e new/fables/runs/first/report.html ] || fail "the steps that init tells do not end in a run"
(cd new/fables && git init -q && git add . && [ "$(git ls-files | wc -l)" = 7 ]) || fail "git would keep data or runs"
echo mine >new/fables/recipe.yaml
rm new/fables/.gitignore
! "$mhmoe" init new/fables 2>err || fail "init replaced a recipe"
grep -q 'recipe.yaml exists already' err || fail "init does not say what is in the way: $(cat err)"
[ ! -e new/fables/.gitignore ] && [ "$(cat new/fables/recipe.yaml)" = mine ] || fail "init wrote something"

# A build knows its commit by git, one from a tarball by what `git archive` wrote into it, any other says so.
commit_of() {
    cmake -DSOURCE="$1" -DOUTPUT="$work/commit.h" -P "$1/tools/commit.cmake"
    sed -n 's/^#define MHMOE_COMMIT "\(.*\)"$/\1/p' commit.h
}
if [ -e "$source/.git" ]; then
    commit=$(git -C "$source" rev-parse --short HEAD)
    [[ $(commit_of "$source") =~ ^$commit(\+changes)?$ ]] || fail "the commit is $(commit_of "$source"), not $commit"
    mkdir tarball copy
    git -C "$source" archive HEAD tools | tar -x -C tarball
    [ "$(commit_of tarball)" = "$commit" ] || fail "a tarball of $commit takes itself for $(commit_of tarball)"
    cp -r "$source/tools" copy
    [ "$(commit_of copy)" = unknown ] || fail "a copy takes itself for $(commit_of copy)"
fi

echo "all good"
