/* The models of a comparison: presets, with settings of their own, on one recipe. */
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading compare.models ---------------------------------------------------------------------------- */

static mh_status check_name(const char *name)
{
    static const char fit[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-";
    size_t length = strlen(name);
    if (length > 0 && length < MH_ARM_NAME && name[0] != '.' && strspn(name, fit) == length)
        return MH_OK;
    return mh_fail(MH_EVALUE,
                   "compare.models: \"%.100s\" cannot be the name of a model, for it names a folder; use up "
                   "to %d letters, digits and . _ + -",
                   name, MH_ARM_NAME - 1);
}

/* "mhmoe-h2" or "head-only=mhmoe-h2 moe.merge=off": cuts `words` up. `of_experts` is a setting of the model's
 * own that only a model with experts has, or NULL. */
static mh_status read_arm(mh_arm *arm, char *words, const char **of_experts)
{
    const char *preset = strsep(&words, " \t"), *word;
    char *equals = strchr(preset, '='), where[MH_ARM_NAME + 16];
    if (equals != NULL)
        *equals = '\0';
    MH_TRY(check_name(preset));
    snprintf(arm->name, sizeof arm->name, "%s", preset);
    snprintf(where, sizeof where, "model %s", arm->name);
    if (equals != NULL)
        preset = equals + 1;
    MH_TRY(mh_options_set(&mh_recipe_options, &arm->recipe, "model.preset", preset, where));
    bool named = equals != NULL;
    while ((word = strsep(&words, " \t")) != NULL) {
        if (*word == '\0')
            continue;
        equals = strchr(word, '=');
        if (equals != NULL && !named)
            return mh_fail(MH_EVALUE,
                           "%s: with settings of its own it is another model and needs another name; write "
                           "NAME=%s %s",
                           where, preset, word);
        if (equals == NULL)
            return mh_fail(
                MH_EVALUE,
                "%s: \"%.100s\" is no setting; write NAME=PRESET KEY=VALUE ..., and commas between models",
                where, word);
        *equals = '\0';
        MH_TRY(mh_options_set(&mh_recipe_options, &arm->recipe, word, equals + 1, where));
        if (strncmp(word, "moe.", 4) == 0)
            *of_experts = word;
    }
    return MH_OK;
}

/* What decides which tokens a model sees and which it is measured on. */
static mh_status check_comparable(const mh_arm *arm, const mh_recipe *common)
{
    static const char *const keys[] = {"data.train",       "data.valid",          "data.mask_documents",
                                       "train.sequence",   "train.batch",         "train.seed",
                                       "train.data_seed",  "train.steps",         "train.run",
                                       "train.eval_every", "train.eval_sequences"};
    mh_text values[2] = {0};
    const char *key;
    mh_status status =
        mh_recipe_difference(&arm->recipe, common, keys, sizeof keys / sizeof *keys, &key, values);
    if (status == MH_OK && key != NULL)
        status = mh_fail(MH_EMISMATCH,
                         "model %s cannot be compared with the others: its %s is %s and theirs %s; leave "
                         "that setting to the recipe",
                         arm->name, key, values[0].data, values[1].data);
    mh_text_release(&values[0]);
    mh_text_release(&values[1]);
    return status;
}

static void count_cost(mh_arm *arm)
{
    const mh_recipe *r = &arm->recipe;
    arm->params = mh_count_params(&r->model);
    arm->flops = mh_count_flops(&r->model, r->train.sequence);
    arm->memory = mh_train_bytes(r);
    arm->tokens = (double)(r->train.batch * r->train.sequence);
}

static mh_status make_arm(mh_arm *arm, char *words, const mh_recipe *common, const mh_batches *data)
{
    arm->recipe = *common;
    const char *of_experts = NULL;
    MH_TRY(read_arm(arm, words, &of_experts));
    MH_TRY(check_comparable(arm, common));
    mh_status status = mh_recipe_resolve(&arm->recipe, data);
    if (status != MH_OK)
        return mh_fail_in(status, "model %s", arm->name);
    if (of_experts != NULL && arm->recipe.model.moe.experts == 0)
        return mh_fail(MH_EVALUE,
                       "model %s: %s and model.preset %s contradict each other: without experts there is "
                       "nothing to set; leave it out, or choose a preset with experts",
                       arm->name, of_experts, arm->recipe.model.preset);
    count_cost(arm);
    return MH_OK;
}

/* What all arms start from: the recipe, with what a run does not have at its default. */
static mh_recipe common_of(const mh_recipe *recipe)
{
    mh_recipe common;
    mh_options_defaults(&mh_recipe_options, &common);
    mh_compare_config none = common.compare;
    common = *recipe;
    common.compare = none;
    common.train.sequence = mh_recipe_length(recipe);
    common.train.data_seed = mh_recipe_data_seed(recipe);
    return common;
}

static mh_status check_names_differ(const mh_arm *arm, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(arm[i].name, arm[count].name) == 0)
            return mh_fail(MH_EVALUE,
                           "compare.models: two models are called %s; give one of them a name of its own: "
                           "NAME=PRESET KEY=VALUE ...",
                           arm[i].name);
    return MH_OK;
}

static mh_status make_arms(mh_arm *arm, int *count, char *list, const mh_recipe *recipe,
                           const mh_batches *data)
{
    mh_recipe common = common_of(recipe);
    for (char *item; (item = strsep(&list, ",")) != NULL; (*count)++) {
        MH_TRY(make_arm(&arm[*count], mh_text_trim(item), &common, data));
        MH_TRY(check_names_differ(arm, *count));
    }
    return MH_OK;
}

/* ---- matching ------------------------------------------------------------------------------------------ */

static bool has_experts(const mh_arm *arm)
{
    return arm->recipe.model.moe.experts > 0;
}

static double feed_forward_flops(const mh_arm *arm)
{
    return arm->flops.ffn + arm->flops.head_merge + arm->flops.experts + arm->flops.shared;
}

static double feed_forward_params(const mh_arm *arm)
{
    return (double)(arm->params.ffn + arm->params.head_merge + arm->params.experts + arm->params.shared);
}

/* `now` scaled so that experts which cost `cost` cost what `target` leaves them; at least `step`. */
static int64_t scaled(int64_t now, double target, double others, double cost, int64_t step)
{
    int64_t to = llround((double)now * (target - others) / cost / (double)step) * step;
    return to > step ? to : step;
}

/* As paper B counts: feed-forward layers without their routers. FLOPs are linear in the experts' width, then
 * parameters in their number. */
static mh_status match(mh_arm *arm, const mh_arm *to, mh_match what)
{
    mh_moe_config *m = &arm->recipe.model.moe;
    double flops = feed_forward_flops(to), params = feed_forward_params(to);
    double other_flops = feed_forward_flops(arm) - arm->flops.experts;
    if (what != MH_MATCH_PARAMS && other_flops >= flops)
        return mh_fail(MH_EVALUE,
                       "model %s cannot match the FLOPs of %s: without its routed experts it costs %.0f a "
                       "token in feed-forward layers, and %s with them %.0f; take it out, or set its head "
                       "layers or shared experts otherwise",
                       arm->name, to->name, other_flops, to->name, flops);
    if (what != MH_MATCH_PARAMS)
        m->ffn_dim = scaled(m->ffn_dim, flops, other_flops, arm->flops.experts, 8);
    count_cost(arm);
    if (what != MH_MATCH_FLOPS)
        m->experts = scaled(m->experts, params, feed_forward_params(arm) - (double)arm->params.experts,
                            (double)arm->params.experts, 1);
    m->experts = m->experts > m->top_k ? m->experts : m->top_k;
    count_cost(arm);
    return MH_OK;
}

static mh_status match_all(mh_arm *arm, int count, mh_match what)
{
    const mh_arm *first = NULL;
    for (int i = 0; what != MH_MATCH_OFF && i < count; i++) {
        if (first != NULL && has_experts(&arm[i]))
            MH_TRY(match(&arm[i], first, what));
        if (first == NULL && has_experts(&arm[i]))
            first = &arm[i];
    }
    return MH_OK;
}

mh_status mh_arms_read(mh_arm **arms, int *count, const mh_recipe *recipe, const mh_batches *data)
{
    *arms = NULL;
    *count = 0;
    const char *list = recipe->compare.models;
    if (!list[0])
        return mh_fail(
            MH_EVALUE,
            "no models are named; give --models dense,smoe-top1,mhmoe-h2 or compare.models in the recipe");
    int most = 1;
    for (const char *comma = list; (comma = strchr(comma, ',')) != NULL; comma++)
        most++;
    *arms = calloc((size_t)most, sizeof **arms);
    char *words = strdup(list);
    mh_status status = *arms && words ? make_arms(*arms, count, words, recipe, data)
                                      : mh_fail(MH_EMEMORY, "the system refused memory for %d models", most);
    if (status == MH_OK)
        status = match_all(*arms, *count, (mh_match)recipe->compare.match);
    free(words);
    return status;
}

/* ---- length -------------------------------------------------------------------------------------------- */

mh_status mh_budget_read(mh_budget *budget, const mh_recipe *recipe)
{
    static const char *const kinds[] = {"steps=", "tokens=", "flops=", "seconds="};
    const char *text = recipe->compare.budget;
    *budget = (mh_budget){MH_BUDGET_STEPS, (double)recipe->train.steps};
    if (!text[0])
        return MH_OK;
    for (int i = 0; i < (int)(sizeof kinds / sizeof *kinds); i++) {
        size_t length = strlen(kinds[i]);
        if (strncmp(text, kinds[i], length) != 0)
            continue;
        budget->kind = i;
        bool read = mh_text_to_double(text + length, &budget->amount) && budget->amount > 0;
        if (read && (i != MH_BUDGET_STEPS || budget->amount == floor(budget->amount)))
            return MH_OK;
    }
    return mh_fail(MH_EVALUE,
                   "compare.budget is steps=N, tokens=N, flops=N or seconds=N with N over 0 (such as "
                   "tokens=10e6; steps are whole), not \"%.100s\"",
                   text);
}

mh_status mh_arm_set_length(mh_arm *arm, const mh_budget *budget)
{
    const double price[] = {[MH_BUDGET_STEPS] = 1,
                            [MH_BUDGET_TOKENS] = arm->tokens,
                            [MH_BUDGET_FLOPS] = arm->tokens * arm->flops.training,
                            [MH_BUDGET_SECONDS] = arm->update_seconds};
    double updates = round(budget->amount / price[budget->kind]);
    char steps[32];
    snprintf(steps, sizeof steps, "%.0f", updates > 1 ? updates : 1);
    mh_status status = mh_options_set(&mh_recipe_options, &arm->recipe, "train.steps", steps, "the budget");
    if (status == MH_OK)
        status = mh_recipe_resolve(&arm->recipe, NULL);
    return status == MH_OK ? MH_OK : mh_fail_in(status, "model %s", arm->name);
}
