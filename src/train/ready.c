/* What a run and its rehearsal make ready alike. */
#include "train/train.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

mh_status mh_train_open(mh_recipe *recipe, mh_batches **train, mh_batches **valid, mh_tokenizer **tokenizer)
{
    const mh_data_config *data = &recipe->data;
    MH_TRY(mh_recipe_data(recipe, train));
    MH_TRY(mh_tokenizer_load(tokenizer, mh_batches_tokenizer(*train)));
    MH_TRY(mh_batches_open(valid, data->valid[0] ? data->valid : data->train, "valid",
                           mh_recipe_length(recipe), (uint64_t)mh_recipe_data_seed(recipe),
                           mh_tokenizer_hash(*tokenizer)));
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

/* What a run leaves that was killed before its first checkpoint. */
static bool of_run(const char *name)
{
    static const char *const names[] = {
        ".",          "..", "lock", "recipe.yaml", ("recipe.yaml" MH_ASIDE), "checkpoints", "metrics.jsonl",
        "report.html"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return strncmp(name, "events.out.", 11) == 0;
}

/* A log that the shell has just opened in the run folder. */
static bool is_empty_file(const char *folder, const char *name)
{
    char path[MH_PATH];
    struct stat s;
    return mh_path_join(path, folder, name) == MH_OK && stat(path, &s) == 0 && S_ISREG(s.st_mode) &&
           s.st_size == 0;
}

/* A run in a folder of other things, say of data, could not be told from them or removed. */
static mh_status refuse_foreign(const char *run)
{
    DIR *dir = opendir(run);
    if (dir == NULL)
        return errno == ENOENT ? MH_OK : mh_fail_errno("read folder", run);
    mh_status status = MH_OK;
    for (const struct dirent *entry; status == MH_OK && (entry = readdir(dir)) != NULL;)
        if (!of_run(entry->d_name) && !is_empty_file(run, entry->d_name))
            status =
                mh_fail(MH_ESTATE,
                        "%s: this folder is no run's, it holds %s; choose another by --set train.run=FOLDER",
                        run, entry->d_name);
    closedir(dir);
    return status;
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
    return resume ? MH_OK : refuse_foreign(run);
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
