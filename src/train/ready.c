/* What a run and its rehearsal make ready alike. */
#include "train/train.h"

#include <math.h>

mh_status mh_train_open(mh_recipe *recipe, mh_batches **train, mh_batches **valid, mh_tokenizer **tokenizer)
{
    MH_TRY(mh_recipe_data(recipe, train));
    MH_TRY(mh_tokenizer_load(tokenizer, mh_batches_tokenizer(*train)));
    MH_TRY(mh_recipe_valid(recipe, *tokenizer, valid));
    return mh_recipe_resolve(recipe, *train);
}

mh_train_facts mh_train_facts_of(const mh_recipe *recipe, const mh_batches *train, const mh_batches *valid)
{
    const mh_train_config *c = &recipe->train;
    double drawn = (double)c->steps * (double)c->batch;
    mh_train_facts facts = {.params = mh_count_params(&recipe->model),
                            .flops = mh_count_flops(&recipe->model, c->sequence),
                            .memory = mh_train_bytes(recipe),
                            .train_tokens = mh_batches_tokens(train),
                            .valid_tokens = mh_batches_tokens(valid),
                            .epochs = drawn / (double)mh_batches_sequences(train)};
    mh_batches_passes(train, drawn, &facts.least_epochs, &facts.most_epochs);
    return facts;
}

mh_status mh_check_place(const char *folder)
{
    static const char *const of_others[] = {"train.tokens", "config.json"};
    char path[MH_PATH];
    for (size_t i = 0; i < sizeof of_others / sizeof *of_others; i++) {
        MH_TRY(mh_path_join(path, folder, of_others[i]));
        if (mh_path_exists(path))
            return mh_fail(MH_ESTATE, "%s is the folder of %s, it holds %s; choose another", folder,
                           i == 0 ? "data" : "a checkpoint", of_others[i]);
    }
    return MH_OK;
}

mh_status mh_train_check_folder(const char *run, bool resume)
{
    char speed[MH_PATH];
    bool exists = false;
    MH_TRY(mh_path_join(speed, run, MH_SPEED_FILE));
    if (mh_path_exists(speed))
        return mh_fail(
            MH_ESTATE,
            "%s: a comparison is in this folder; go on with it by 'mhmoe compare' and --resume, or choose "
            "another by --set train.run=FOLDER",
            run);
    MH_TRY(mh_state_exists(run, &exists));
    if (!resume && exists)
        return mh_fail(
            MH_ESTATE,
            "%s: a run is in this folder already; go on with it by --resume, choose another by --set "
            "train.run=FOLDER, or remove it",
            run);
    return resume ? MH_OK : mh_check_place(run);
}

/* Settings that change no shape: weights of others would load and mean nothing. Not the rotary embedding's
 * base, which is raised to go on with a longer context. */
static mh_status check_alike(const mh_recipe *recipe, const mh_config *config, const char *folder)
{
    static const char *const keys[] = {"model.attention_heads", "model.norm"};
    mh_recipe theirs = *recipe;
    mh_text values[2] = {0};
    const char *key;
    theirs.model = *config;
    mh_status status = mh_recipe_difference(recipe, &theirs, keys, 2, &key, values);
    if (status == MH_OK && key != NULL)
        status = mh_fail(MH_EMISMATCH, "%s: its %s is %s, that of the recipe %s; make them agree", folder,
                         key, values[1].data, values[0].data);
    mh_text_release(&values[0]);
    mh_text_release(&values[1]);
    return status;
}

static mh_status init_from(mh_model *model, const mh_recipe *recipe, const char *path)
{
    char folder[MH_PATH], hash[17];
    mh_config config;
    MH_TRY(mh_checkpoint_locate(path, folder));
    MH_TRY(mh_checkpoint_config(&config, hash, folder));
    MH_TRY(check_alike(recipe, &config, folder));
    MH_TRY(mh_checkpoint_weights(model, folder));
    const mh_params *params = &model->params;
    for (int i = 0; i < params->count; i++)
        if (!isfinite(model->ops->square_sum(mh_param_value(params, i).p, mh_param_size(&params->list[i]))))
            return mh_fail(MH_EVALUE, "%s: %s holds a NaN or infinity; start from an older checkpoint",
                           folder, params->list[i].name);
    return MH_OK;
}

mh_status mh_train_weights(mh_model *model, const mh_recipe *recipe, const char *path)
{
    if (path)
        return init_from(model, recipe, path);
    mh_model_init(model, (uint64_t)recipe->train.seed);
    return MH_OK;
}
