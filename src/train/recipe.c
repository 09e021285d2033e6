/* Everything a run is told: the rows of data and train, and the checks that concern several keys. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

#define DATA(field)    offsetof(mh_data_config, field)
#define TRAIN(field)   offsetof(mh_train_config, field)
#define COMPARE(field) offsetof(mh_compare_config, field)
#define COUNT(rows)    (int)(sizeof rows / sizeof *rows)
#define EXACT          9007199254740991.0 /* 2^53 - 1: whole numbers up to here survive a double */

static const mh_option data_rows[] = {
    {"train", "", "folders made by 'mhmoe data build': \"a\", or a mixture \"a=0.7, b=0.3\"",
     MH_OPTION_STRING, DATA(train), 0, 0, NULL, 0},
    {"valid", "", "folders whose validation part is measured; empty: those of data.train", MH_OPTION_STRING,
     DATA(valid), 0, 0, NULL, 0},
    {"mask_documents", "false", "attention does not cross from one document into the next", MH_OPTION_BOOL,
     DATA(mask_documents), 0, 0, NULL, 0},
};

static const mh_option train_rows[] = {
    {"run", "", "the run folder; empty: runs/ and the name of the recipe", MH_OPTION_STRING, TRAIN(run), 0, 0,
     NULL, MH_OPTION_RESUME},
    {"precision", "f32", "of weights, activations and gradients; sums and moments are f32 in both",
     MH_OPTION_CHOICE, TRAIN(precision), 0, 0, "f32|bf16", 0},
    {"seed", "1", "of the first weights and of dropout", MH_OPTION_INT, TRAIN(seed), 0, EXACT, NULL, 0},
    {"data_seed", "-1", "of the order of the data; -1: train.seed", MH_OPTION_INT, TRAIN(data_seed), -1,
     EXACT, NULL, 0},
    {"steps", "1000", "number of updates", MH_OPTION_INT, TRAIN(steps), 1, 1e12, NULL, 0},
    {"batch", "32", "sequences in an update", MH_OPTION_INT, TRAIN(batch), 1, 1 << 24, NULL, 0},
    {"micro_batch", "0", "sequences computed at a time, a divisor of batch; less takes less memory; 0: all",
     MH_OPTION_INT, TRAIN(micro_batch), 0, 1 << 24, NULL, 0},
    {"sequence", "0", "tokens in a sequence; 0: model.context", MH_OPTION_INT, TRAIN(sequence), 0, 1 << 20,
     NULL, 0},
    {"schedule", "cosine", "of the rate after the warm-up; wsd: constant, then linear over decay_steps",
     MH_OPTION_CHOICE, TRAIN(schedule), 0, 0, "cosine|linear|wsd", 0},
    {"rate", "1e-3", "learning rate after the warm-up", MH_OPTION_FLOAT, TRAIN(rate), 0, 10, NULL, 0},
    {"min_rate", "1e-4", "learning rate at the last step", MH_OPTION_FLOAT, TRAIN(min_rate), 0, 10, NULL, 0},
    {"warmup", "100", "updates over which the rate rises from 0", MH_OPTION_INT, TRAIN(warmup), 0, 1e12, NULL,
     0},
    {"decay_steps", "0", "length of wsd's last phase; 0: a fifth of train.steps", MH_OPTION_INT,
     TRAIN(decay_steps), 0, 1e12, NULL, 0},
    {"beta1", "0.9", "AdamW: memory of the mean gradient", MH_OPTION_FLOAT, TRAIN(beta1), 0, 0.9999, NULL, 0},
    {"beta2", "0.95", "AdamW: memory of the mean square", MH_OPTION_FLOAT, TRAIN(beta2), 0, 0.999999, NULL,
     0},
    {"eps", "1e-8", "AdamW: added to the root of the mean square", MH_OPTION_FLOAT, TRAIN(eps), 1e-20, 1,
     NULL, 0},
    {"decay", "0.1", "weight decay, of matrices only", MH_OPTION_FLOAT, TRAIN(decay), 0, 10, NULL, 0},
    {"clip", "1", "longest gradient; a longer one is scaled down to it; 0: any", MH_OPTION_FLOAT, TRAIN(clip),
     0, 1e9, NULL, 0},
    {"log_every", "10", "updates between two lines of the log", MH_OPTION_INT, TRAIN(log_every), 1, 1e12,
     NULL, MH_OPTION_RESUME},
    {"eval_every", "200", "updates between two evaluations; 0: one at the end", MH_OPTION_INT,
     TRAIN(eval_every), 0, 1e12, NULL, MH_OPTION_RESUME},
    {"eval_sequences", "64", "validation sequences an evaluation looks at; 0: all", MH_OPTION_INT,
     TRAIN(eval_sequences), 0, 1e12, NULL, MH_OPTION_RESUME},
    {"checkpoint_every", "200", "updates between two checkpoints; 0: one at the end", MH_OPTION_INT,
     TRAIN(checkpoint_every), 0, 1e12, NULL, MH_OPTION_RESUME},
    {"keep", "3", "newest checkpoints that are kept; 0: all", MH_OPTION_INT, TRAIN(keep), 0, 1e9, NULL,
     MH_OPTION_RESUME},
};

/* The keys of a run may not change when it is resumed; to a comparison, models and seeds may be added. */
static const mh_option compare_rows[] = {
    {"models", "", "what 'mhmoe compare' trains: presets, or NAME=PRESET KEY=VALUE ..., with commas between",
     MH_OPTION_STRING, COMPARE(models), 0, 0, NULL, MH_OPTION_RESUME},
    {"baseline", "", "the model that the others are compared with; empty: the first", MH_OPTION_STRING,
     COMPARE(baseline), 0, 0, NULL, MH_OPTION_RESUME},
    {"seeds", "3", "runs of each model: train.seed, train.seed + 1, ...", MH_OPTION_INT, COMPARE(seeds), 1,
     MH_SEEDS_MAX, NULL, MH_OPTION_RESUME},
    {"match", "off",
     "what models with experts get in common with the first of them: FLOPs by the experts' width, parameters "
     "by their number",
     MH_OPTION_CHOICE, COMPARE(match), 0, 0, "off|params|flops|params,flops", MH_OPTION_RESUME},
    {"budget", "", "length of a run: steps=N, tokens=N, flops=N or seconds=N; empty: train.steps",
     MH_OPTION_STRING, COMPARE(budget), 0, 0, NULL, MH_OPTION_RESUME},
    {"valid", "", "texts that are measured at the end beside the validation part: \"NAME=PATH, ...\"",
     MH_OPTION_STRING, COMPARE(valid), 0, 0, NULL, MH_OPTION_RESUME},
    {"output", "", "the folder of all runs; empty: train.run with -compare behind it", MH_OPTION_STRING,
     COMPARE(output), 0, 0, NULL, MH_OPTION_RESUME},
};

enum { MOE_SECTION = 1 };
static const mh_section sections[] = {
    {"model", "the decoder", mh_model_rows, MH_MODEL_ROWS, offsetof(mh_recipe, model)},
    [MOE_SECTION] = {"moe", "its feed-forward layers", mh_moe_rows, MH_MOE_ROWS,
                     offsetof(mh_recipe, model.moe)},
    {"data", "what it learns from", data_rows, COUNT(data_rows), offsetof(mh_recipe, data)},
    {"train", "how it learns", train_rows, COUNT(train_rows), offsetof(mh_recipe, train)},
    {"compare", "models that are trained alike", compare_rows, COUNT(compare_rows),
     offsetof(mh_recipe, compare)},
};
const mh_options mh_recipe_options = {sections, COUNT(sections)};
static const mh_options moe_options = {&sections[MOE_SECTION], 1};

/* "recipes/demo.yaml" -> "runs/demo" */
static mh_status name_run(char run[MH_OPTION_TEXT], const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    const char *name = slash ? slash + 1 : path ? path : "unnamed";
    const char *dot = strrchr(name, '.');
    snprintf(run, MH_OPTION_TEXT, "runs/%.*s", (int)(dot > name ? dot - name : (ptrdiff_t)strlen(name)),
             name);
    if (mh_utf8_valid(run, strlen(run)))
        return MH_OK;
    return mh_fail(MH_EVALUE, "%s is no name in UTF-8 for a run; name another by train.run", run);
}

mh_status mh_recipe_read(mh_recipe *recipe, const char *path, const char *const *sets, int set_count)
{
    memset(recipe, 0, sizeof *recipe);
    mh_options_defaults(&mh_recipe_options, recipe);
    if (path)
        MH_TRY(mh_options_read_yaml(&mh_recipe_options, recipe, path));
    for (int i = 0; i < set_count; i++) {
        mh_status status = mh_options_assign(&mh_recipe_options, recipe, sets[i], "--set");
        if (status != MH_OK)
            return status == MH_EVALUE ? MH_EUSAGE : status; /* it was given on the command line */
    }
    return recipe->train.run[0] ? MH_OK : name_run(recipe->train.run, path);
}

mh_status mh_recipe_load(mh_recipe **recipe, const char *path)
{
    mh_recipe *r = malloc(sizeof *r);
    *recipe = NULL;
    if (r == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for a recipe");
    mh_status status = mh_recipe_read(r, path, NULL, 0);
    if (status == MH_OK)
        *recipe = r;
    else
        free(r);
    return status;
}

void mh_recipe_free(mh_recipe *recipe)
{
    free(recipe);
}

mh_status mh_recipe_set(mh_recipe *recipe, const char *assignment)
{
    return mh_options_assign(&mh_recipe_options, recipe, assignment, "mh_recipe_set");
}

int64_t mh_recipe_length(const mh_recipe *recipe)
{
    return recipe->train.sequence ? recipe->train.sequence : recipe->model.context;
}

int64_t mh_recipe_data_seed(const mh_recipe *recipe)
{
    return recipe->train.data_seed >= 0 ? recipe->train.data_seed : recipe->train.seed;
}

mh_status mh_recipe_data(const mh_recipe *recipe, mh_batches **batches)
{
    *batches = NULL;
    if (!recipe->data.train[0])
        return mh_fail(MH_EVALUE, "data.train is not set; name a folder made by 'mhmoe data build'");
    return mh_batches_open(batches, recipe->data.train, "train", mh_recipe_length(recipe),
                           (uint64_t)mh_recipe_data_seed(recipe), NULL);
}

mh_status mh_recipe_valid(const mh_recipe *recipe, const mh_tokenizer *tokenizer, mh_batches **batches)
{
    const mh_data_config *data = &recipe->data;
    return mh_batches_open(batches, data->valid[0] ? data->valid : data->train, "valid",
                           mh_recipe_length(recipe), (uint64_t)mh_recipe_data_seed(recipe),
                           mh_tokenizer_hash(tokenizer));
}

mh_status mh_recipe_take_vocab(mh_recipe *recipe, int64_t vocab, int64_t eos)
{
    mh_config *model = &recipe->model;
    if (model->vocab && model->vocab != vocab)
        return mh_fail(MH_EMISMATCH,
                       "model.vocab is %lld, but the tokenizer has %lld pieces; leave model.vocab out",
                       (long long)model->vocab, (long long)vocab);
    if (vocab > MH_VOCAB_LIMIT)
        return mh_fail(MH_EVALUE, "the tokenizer has %lld pieces, and a model at most %d; use a smaller one",
                       (long long)vocab, MH_VOCAB_LIMIT);
    model->vocab = vocab;
    /* Documents are separated by </s>, so a text starts after one, and <s> is never seen in training. */
    model->bos = model->bos < 0 ? eos : model->bos;
    model->eos = model->eos < 0 ? eos : model->eos;
    return MH_OK;
}

/* A dispatch plan numbers its rows in 32 bits. */
static mh_status check_batch(mh_train_config *t, const mh_moe_config *m)
{
    t->micro_batch = t->micro_batch ? t->micro_batch : t->batch;
    double rows = (double)t->micro_batch * (double)t->sequence;
    if (m->experts)
        rows *= (double)m->heads * (double)m->top_k;
    if (rows > INT32_MAX)
        return mh_fail(MH_EVALUE,
                       "train.micro_batch %lld of train.sequence %lld makes %.3g rows at a time, and at most "
                       "2^31 - 1 fit; lower one of the two",
                       (long long)t->micro_batch, (long long)t->sequence, rows);
    return mh_check_divides("train.batch", t->batch, "train.micro_batch", t->micro_batch);
}

static mh_status check_schedule(mh_train_config *t)
{
    if (t->min_rate > t->rate)
        return mh_fail(MH_EVALUE, "train.min_rate %g is over train.rate %g; the rate only falls, so lower it",
                       t->min_rate, t->rate);
    if (t->warmup >= t->steps)
        return mh_fail(
            MH_EVALUE,
            "train.warmup %lld leaves none of train.steps %lld at full rate; use fewer, for example %lld",
            (long long)t->warmup, (long long)t->steps, (long long)(t->steps / 10));
    if (t->schedule != MH_SCHEDULE_WSD)
        return MH_OK;
    t->decay_steps = t->decay_steps ? t->decay_steps : (t->steps + 4) / 5;
    if (t->warmup + t->decay_steps > t->steps)
        return mh_fail(MH_EVALUE,
                       "train.warmup %lld and train.decay_steps %lld are together over train.steps %lld; "
                       "lower one of them",
                       (long long)t->warmup, (long long)t->decay_steps, (long long)t->steps);
    return MH_OK;
}

/* Settings of experts beside none: most of all `experts` forgotten under moe:. */
static mh_status check_dense(const mh_recipe *recipe)
{
    mh_recipe usual;
    char key[128];
    mh_options_defaults(&mh_recipe_options, &usual);
    if (!mh_options_conflict(&moe_options, &usual, recipe, key))
        return MH_OK;
    mh_text value = {0};
    mh_status status = mh_recipe_value(recipe, key, &value);
    if (status == MH_OK)
        status = mh_fail(MH_EVALUE,
                         "%s is %s, but the model has no experts that it could apply to; set moe.experts or "
                         "a model.preset ('mhmoe presets'; dense leaves section moe out)",
                         key, value.data);
    mh_text_release(&value);
    return status;
}

mh_status mh_recipe_resolve(mh_recipe *recipe, const mh_batches *batches)
{
    if (batches)
        MH_TRY(mh_recipe_take_vocab(recipe, mh_batches_vocab(batches), mh_batches_eos(batches)));
    MH_TRY(mh_config_resolve(&recipe->model));
    if (recipe->model.moe.experts == 0)
        MH_TRY(check_dense(recipe));
    recipe->train.sequence = mh_recipe_length(recipe);
    recipe->train.data_seed = mh_recipe_data_seed(recipe);
    if (recipe->train.sequence > recipe->model.context)
        return mh_fail(MH_EVALUE,
                       "train.sequence %lld is over model.context %lld; lower the one or raise the other",
                       (long long)recipe->train.sequence, (long long)recipe->model.context);
    MH_TRY(check_batch(&recipe->train, &recipe->model.moe));
    return check_schedule(&recipe->train);
}

mh_status mh_recipe_essence(const mh_recipe *recipe, mh_recipe *essence)
{
    *essence = *recipe;
    for (int s = 0; s < COUNT(sections); s++)
        for (int r = 0; r < sections[s].count; r++) {
            const mh_option *row = &sections[s].rows[r];
            char key[128];
            snprintf(key, sizeof key, "%s.%s", sections[s].name, row->key);
            if (row->flags & MH_OPTION_RESUME)
                MH_TRY(mh_options_set(&mh_recipe_options, essence, key, row->value, "defaults"));
        }
    return MH_OK;
}

/* Of the values alone: another wording of the help would otherwise end all runs. */
mh_status mh_recipe_identity(const mh_recipe *recipe, char identity[17])
{
    mh_recipe essence;
    MH_TRY(mh_recipe_essence(recipe, &essence));
    mh_text text = {0};
    mh_status status = MH_OK;
    for (int s = 0; s < COUNT(sections) && status == MH_OK; s++) {
        json_t *section = mh_section_to_json(&sections[s], &essence);
        status = mh_json_dump(section, false, &text);
        json_decref(section);
    }
    if (status == MH_OK)
        mh_hash_text(mh_hash(text.data, text.length), identity);
    mh_text_release(&text);
    return status;
}

void mh_recipe_data_identity(const mh_batches *batches, const mh_tokenizer *tokenizer, char identity[17])
{
    char text[256];
    int length =
        snprintf(text, sizeof text, "%s %016llx %lld", mh_tokenizer_hash(tokenizer),
                 (unsigned long long)mh_batches_checksum(batches), (long long)mh_batches_sequences(batches));
    mh_hash_text(mh_hash(text, (size_t)length), identity);
}

void mh_recipe_valid_identity(const mh_recipe *recipe, const mh_batches *valid, const mh_tokenizer *tokenizer,
                              char identity[17])
{
    char text[64], data[17];
    int64_t all = mh_batches_sequences(valid), most = recipe->train.eval_sequences;
    mh_recipe_data_identity(valid, tokenizer, data);
    int length =
        snprintf(text, sizeof text, "%s %lld", data, (long long)(most > 0 && most < all ? most : all));
    mh_hash_text(mh_hash(text, (size_t)length), identity);
}

mh_status mh_recipe_value(const mh_recipe *recipe, const char *key, mh_text *text)
{
    mh_status status = MH_OK;
    for (int s = 0; s < COUNT(sections) && status == MH_OK; s++) {
        size_t length = strlen(sections[s].name);
        if (strncmp(key, sections[s].name, length) != 0 || key[length] != '.')
            continue;
        json_t *section = mh_section_to_json(&sections[s], recipe);
        status = mh_json_dump(json_object_get(section, key + length + 1), false, text);
        json_decref(section);
    }
    return status;
}

mh_status mh_recipe_difference(const mh_recipe *a, const mh_recipe *b, const char *const *keys, int count,
                               const char **key, mh_text values[2])
{
    *key = NULL;
    for (int i = 0; i < count && *key == NULL; i++) {
        values[0].length = values[1].length = 0;
        MH_TRY(mh_recipe_value(a, keys[i], &values[0]));
        MH_TRY(mh_recipe_value(b, keys[i], &values[1]));
        if (strcmp(values[0].data, values[1].data) != 0)
            *key = keys[i];
    }
    return MH_OK;
}

mh_status mh_recipe_compare(const mh_recipe *recipe, const char *path)
{
    mh_recipe was;
    MH_TRY(mh_recipe_read(&was, path, NULL, 0));
    char key[128];
    if (!mh_options_conflict(&mh_recipe_options, &was, recipe, key))
        return MH_OK;
    mh_text before = {0}, now = {0};
    mh_status status = mh_recipe_value(&was, key, &before);
    if (status == MH_OK)
        status = mh_recipe_value(recipe, key, &now);
    if (status == MH_OK)
        status = mh_fail(MH_EMISMATCH,
                         "%s may not change when a run is resumed: it was %s (%s) and is now %s; restore it, "
                         "or begin anew in another folder ('mhmoe train --init-from' keeps the weights)",
                         key, before.data, path, now.data);
    mh_text_release(&before);
    mh_text_release(&now);
    return status;
}
