/* A comparison: all models with all seeds on the same batches, however often it is stopped. */
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RESULT_FILE "result.json" /* of a run: it is finished */

typedef struct {
    mh_comparison c;
    const mh_compare_watch *watch;
    mh_progress progress; /* the watch's */
    mh_batches *data;
    mh_budget budget;
    mh_lock lock;
    double *loss; /* [runs][sets] */
} comparer;

static void release(comparer *m)
{
    mh_lock_release(&m->lock);
    mh_batches_close(m->data);
    free(m->c.run);
    free(m->c.set);
    free(m->c.arm);
    free(m->loss);
}

/* ---- the plan: nothing is written yet ------------------------------------------------------------------ */

/* Reads a text to its end: found unfit only after the first training, it would be late. */
static mh_status check_text(mh_compare_set *set, const mh_progress *progress)
{
    mh_corpus *corpus;
    mh_document document;
    bool end = false;
    uint64_t hash[2] = {0}; /* of all before, and of the last document */
    const char *path = set->path;
    MH_TRY(mh_corpus_open(&corpus, &path, 1));
    mh_status status = MH_OK;
    while (status == MH_OK && !end) {
        status = mh_corpus_next(corpus, &document, &end);
        if (status == MH_OK && !end) {
            hash[1] = mh_hash(document.text, document.length);
            hash[0] = mh_hash(hash, sizeof hash);
        }
        mh_corpus_state at = mh_corpus_where(corpus);
        mh_progress_report(progress, "checking texts", at.read, at.total, NULL);
        if (status == MH_OK && mh_progress_stopped(progress))
            status = mh_fail(MH_EINTERRUPTED, "stopped while %s was checked", path);
    }
    if (status == MH_OK)
        status = mh_corpus_check(corpus);
    mh_hash_text(hash[0], set->text);
    mh_corpus_close(corpus);
    return status;
}

/* "NAME=PATH, ..." behind the validation part. */
static mh_status read_sets(mh_comparison *c, char *list, const mh_progress *progress)
{
    snprintf(c->set[c->sets++].name, MH_ARM_NAME, "valid");
    for (char *item; (item = strsep(&list, ",")) != NULL; c->sets++) {
        mh_compare_set *set = &c->set[c->sets];
        const char *name = mh_text_trim(strsep(&item, "=")), *path = item ? mh_text_trim(item) : "";
        if (!name[0] || strlen(name) >= sizeof set->name || !path[0])
            return mh_fail(MH_EVALUE, "compare.valid takes NAME=PATH, not \"%.100s\"; give every text a name",
                           name);
        snprintf(set->name, sizeof set->name, "%s", name);
        snprintf(set->path, sizeof set->path, "%s", path);
        for (int i = 0; i < c->sets; i++)
            if (strcmp(c->set[i].name, name) == 0)
                return mh_fail(MH_EVALUE,
                               "compare.valid: two texts are called %s%s; give one of them another name",
                               name, i == 0 ? ", which is the name of the validation part" : "");
        MH_TRY(check_text(set, progress));
    }
    return MH_OK;
}

static mh_status make_sets(mh_comparison *c, const mh_progress *progress)
{
    int most = 2;
    for (const char *comma = c->recipe.compare.valid; (comma = strchr(comma, ',')) != NULL; comma++)
        most++;
    c->set = calloc((size_t)most, sizeof *c->set);
    char *list = strdup(c->recipe.compare.valid);
    mh_status status = c->set && list ? read_sets(c, list[0] ? list : NULL, progress)
                                      : mh_fail(MH_EMEMORY, "the system refused memory for %d texts", most);
    free(list);
    return status;
}

static mh_status find_baseline(mh_comparison *c)
{
    const char *name = c->recipe.compare.baseline;
    for (c->baseline = 0; name[0] && strcmp(c->arm[c->baseline].name, name) != 0;)
        if (++c->baseline == c->arms)
            return mh_fail(MH_EVALUE,
                           "compare.baseline: none of the models %s is called %s; name one of them",
                           c->recipe.compare.models, name);
    return MH_OK;
}

static mh_status name_folder(mh_comparison *c)
{
    const char *output = c->recipe.compare.output;
    if (output[0])
        return mh_path_join(c->folder, "", output);
    int length = snprintf(c->folder, sizeof c->folder, "%s-compare", c->recipe.train.run);
    return length < (int)sizeof c->folder
               ? MH_OK
               : mh_fail(MH_EVALUE, "train.run is too long a name; shorten it, or give --output");
}

static mh_status make_runs(comparer *m)
{
    mh_comparison *c = &m->c;
    c->runs = c->arms * (int)c->recipe.compare.seeds;
    c->run = calloc((size_t)c->runs, sizeof *c->run);
    m->loss = calloc((size_t)c->runs * (size_t)c->sets, sizeof *m->loss);
    if (c->run == NULL || m->loss == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for %d runs", c->runs);
    for (int i = 0; i < c->runs; i++) {
        mh_compare_run *run = &c->run[i];
        char name[MH_ARM_NAME + 32];
        run->arm = i % c->arms;
        run->seed = c->recipe.train.seed + i / c->arms;
        run->loss = m->loss + (ptrdiff_t)i * c->sets;
        snprintf(name, sizeof name, "%s/seed-%lld", c->arm[run->arm].name, (long long)run->seed);
        MH_TRY(mh_path_join(run->folder, c->folder, name));
        if (strlen(run->folder) >= MH_OPTION_TEXT) /* it becomes train.run */
            return mh_fail(MH_EVALUE,
                           "%.100s... is too long for the name of a folder; choose another --output",
                           run->folder);
    }
    return MH_OK;
}

static mh_status set_lengths(comparer *m)
{
    for (int i = 0; i < m->c.arms; i++)
        MH_TRY(mh_arm_set_length(&m->c.arm[i], &m->budget));
    return MH_OK;
}

static mh_status identify_data(comparer *m)
{
    mh_tokenizer *tokenizer;
    mh_batches *valid;
    MH_TRY(mh_tokenizer_load(&tokenizer, mh_batches_tokenizer(m->data)));
    mh_recipe_data_identity(m->data, tokenizer, m->c.data);
    mh_status status = mh_recipe_valid(&m->c.recipe, tokenizer, &valid);
    if (status == MH_OK)
        mh_recipe_valid_identity(&m->c.recipe, valid, tokenizer, m->c.valid);
    mh_batches_close(valid);
    mh_tokenizer_free(tokenizer);
    return status;
}

static mh_status plan(comparer *m)
{
    mh_comparison *c = &m->c;
    MH_TRY(mh_recipe_data(&c->recipe, &m->data));
    MH_TRY(identify_data(m));
    MH_TRY(mh_arms_read(&c->arm, &c->arms, &c->recipe, m->data));
    MH_TRY(find_baseline(c));
    for (int i = 0; i < c->arms; i++)
        if (mh_train_check_memory(&c->arm[i].recipe) != MH_OK)
            return mh_fail_in(MH_EMEMORY, "model %s", c->arm[i].name);
    MH_TRY(make_sets(c, &m->progress));
    MH_TRY(mh_budget_read(&m->budget, &c->recipe));
    if (m->budget.kind != MH_BUDGET_SECONDS)
        MH_TRY(set_lengths(m));
    MH_TRY(name_folder(c));
    return make_runs(m);
}

/* ---- the folder ---------------------------------------------------------------------------------------- */

static mh_recipe recipe_of(const mh_comparison *c, const mh_compare_run *run)
{
    mh_recipe recipe = c->arm[run->arm].recipe;
    recipe.train.seed = run->seed;
    strcpy(recipe.train.run, run->folder); /* make_runs saw to the length */
    return recipe;
}

static mh_status write_recipe(const mh_comparison *c)
{
    char path[MH_PATH];
    mh_text yaml = {0};
    MH_TRY(mh_path_join(path, c->folder, "recipe.yaml"));
    mh_status status = mh_options_write_yaml(&mh_recipe_options, &c->recipe, &yaml);
    if (status == MH_OK)
        status = mh_file_write(path, yaml.data, yaml.length);
    mh_text_release(&yaml);
    return status;
}

static bool is_asked_for(const mh_comparison *c, const char *folder)
{
    for (int i = 0; i < c->runs; i++)
        if (strcmp(c->run[i].folder, folder) == 0)
            return true;
    return false;
}

/* The comparison as it was: a report would show runs that are asked for no more beside a table without them,
 * and curves of evaluations of two kinds. */
static mh_status check_kept(const comparer *m, const char *path)
{
    comparer before = {.c.sets = 1}; /* the validation part, of which each run has a loss */
    MH_TRY(mh_recipe_read(&before.c.recipe, path, NULL, 0));
    int64_t was = before.c.recipe.train.eval_sequences, now = m->c.recipe.train.eval_sequences;
    if (was != now)
        return mh_fail(
            MH_EMISMATCH,
            "train.eval_sequences may not change when a comparison is resumed: it was %lld (%s) and is "
            "now %lld; restore it, or choose another --output",
            (long long)was, path, (long long)now);
    strcpy(before.c.folder, m->c.folder);
    mh_status status = mh_arms_read(&before.c.arm, &before.c.arms, &before.c.recipe, m->data);
    if (status == MH_OK)
        status = make_runs(&before);
    for (int i = 0; i < before.c.runs && status == MH_OK; i++) {
        const char *folder = before.c.run[i].folder;
        if (mh_path_exists(folder) && !is_asked_for(&m->c, folder))
            status = mh_fail(MH_EMISMATCH,
                             "%s is a run of this comparison that is asked for no more; models and seeds may "
                             "be added, not taken away: name them all, or remove that folder",
                             folder);
    }
    release(&before);
    return status;
}

/* By its recipe.yaml, which stands in the folder from the beginning, a comparison is known. */
static mh_status enter(comparer *m, bool resume)
{
    mh_comparison *c = &m->c;
    char lock[MH_PATH], recipe[MH_PATH];
    bool is_run;
    MH_TRY(mh_path_join(lock, c->folder, "lock"));
    MH_TRY(mh_path_join(recipe, c->folder, "recipe.yaml"));
    if (resume && !mh_path_exists(recipe))
        return mh_fail(MH_ESTATE, "%s: there is no comparison to resume; start it without --resume",
                       c->folder);
    if (!resume) {
        MH_TRY(mh_check_place(c->folder));
        MH_TRY(mh_make_dirs(c->folder));
    }
    MH_TRY(mh_lock_take(&m->lock, lock));
    MH_TRY(mh_state_exists(c->folder, &is_run));
    if (is_run)
        return mh_fail(MH_ESTATE, "%s: this is the folder of a single run; choose another --output",
                       c->folder);
    if (!resume && mh_path_exists(recipe))
        return mh_fail(MH_ESTATE,
                       "%s: a comparison is in this folder already; go on with it by --resume, choose "
                       "another --output, or remove it",
                       c->folder);
    if (resume) {
        MH_TRY(mh_recipe_compare(&c->recipe, recipe));
        return check_kept(m, recipe);
    }
    return write_recipe(c);
}

/* ---- one run ------------------------------------------------------------------------------------------- */

static bool holds(const json_t *json, const char *key, const char *text)
{
    const char *value = json_string_value(json_object_get(json, key));
    return value != NULL && strcmp(value, text) == 0;
}

/* The losses of a finished run on all sets that are asked for; *found is false where something is missing. */
static mh_status read_result(const mh_comparison *c, mh_compare_run *run, bool *found)
{
    char path[MH_PATH], identity[17];
    json_t *json;
    mh_recipe recipe = recipe_of(c, run);
    *found = false;
    MH_TRY(mh_path_join(path, run->folder, RESULT_FILE));
    if (!mh_path_exists(path))
        return MH_OK;
    MH_TRY(mh_recipe_identity(&recipe, identity));
    mh_status status = mh_json_read(&json, path);
    if (status == MH_OK)
        status = mh_json_check_seal(json, path);
    if (status == MH_EFORMAT)
        status = mh_fail_in(status, "the run is evaluated again without this file");
    if (status == MH_OK && (!holds(json, "recipe", identity) || !holds(json, "data", c->data) ||
                            !holds(json, "valid", c->valid)))
        status = mh_fail(MH_EMISMATCH,
                         "%s: this run was made with other data, another tokenizer or other settings, and "
                         "cannot be compared with new ones; choose another --output",
                         run->folder);
    *found = status == MH_OK;
    for (int i = 0; i < c->sets && *found; i++) {
        const json_t *set = json_object_get(json_object_get(json, "sets"), c->set[i].name);
        const json_t *loss = json_object_get(set, "loss");
        *found =
            json_is_number(loss) && holds(set, "path", c->set[i].path) && holds(set, "text", c->set[i].text);
        run->loss[i] = json_number_value(loss);
    }
    json_decref(json);
    return status;
}

/* Runs that are there already must be of the same settings: found out now and not after hours. */
static mh_status take_stock(mh_comparison *c)
{
    char path[MH_PATH];
    for (int i = 0; i < c->runs; i++) {
        mh_compare_run *run = &c->run[i];
        mh_recipe recipe = recipe_of(c, run);
        bool found;
        MH_TRY(mh_path_join(path, run->folder, "recipe.yaml"));
        if (mh_path_exists(path))
            MH_TRY(mh_recipe_compare(&recipe, path));
        MH_TRY(read_result(c, run, &found));
        run->state = found ? MH_RUN_FINISHED : MH_RUN_WAITING;
    }
    return MH_OK;
}

static mh_status write_result(const mh_comparison *c, const mh_compare_run *run)
{
    char path[MH_PATH], identity[17];
    mh_recipe recipe = recipe_of(c, run);
    MH_TRY(mh_path_join(path, run->folder, RESULT_FILE));
    MH_TRY(mh_recipe_identity(&recipe, identity));
    json_t *sets = json_object();
    for (int i = 0; i < c->sets; i++)
        mh_json_set(sets, c->set[i].name,
                    json_pack("{s:s, s:s, s:o}", "path", c->set[i].path, "text", c->set[i].text, "loss",
                              mh_json_real(run->loss[i])));
    json_t *json = json_pack("{s:s, s:s, s:s, s:o}", "recipe", identity, "data", c->data, "valid", c->valid,
                             "sets", sets);
    mh_status status = mh_json_seal(json, path);
    if (status == MH_OK)
        status = mh_json_write(path, json);
    json_decref(json);
    return status;
}

/* The validation part: the run's own last evaluation. */
static mh_status measure_valid(const mh_comparison *c, mh_compare_run *run)
{
    mh_curve curve;
    MH_TRY(mh_curve_read(&curve, run->folder));
    int64_t steps = c->arm[run->arm].recipe.train.steps;
    mh_point last = curve.count ? curve.point[curve.count - 1] : (mh_point){0};
    mh_curve_release(&curve);
    if (last.step != steps)
        return mh_fail(
            MH_EFORMAT,
            "%s/metrics.jsonl: no evaluation after update %lld in it; remove the folder and --resume",
            run->folder, (long long)steps);
    run->loss[0] = last.loss;
    return MH_OK;
}

static mh_status measure_texts(const comparer *m, mh_compare_run *run)
{
    const mh_comparison *c = &m->c;
    mh_model *model;
    mh_tokenizer *tokenizer;
    if (c->sets == 1)
        return MH_OK;
    MH_TRY(mh_model_load(&model, &tokenizer, run->folder,
                         (mh_precision)c->arm[run->arm].recipe.train.precision));
    mh_status status = MH_OK;
    for (int i = 1; i < c->sets && status == MH_OK; i++) {
        mh_perplexity result;
        const char *path = c->set[i].path;
        status = mh_eval_perplexity(model, tokenizer, &path, 1, 0, &m->progress, &result);
        run->loss[i] = result.nll / (double)result.tokens;
    }
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
    return status;
}

static void on_step(void *context, const mh_train_log *log)
{
    const comparer *m = context;
    if (m->watch->step)
        m->watch->step(m->watch->context, &m->c, log);
}

static void on_log(void *context, const mh_train_log *log)
{
    const comparer *m = context;
    if (m->watch->log)
        m->watch->log(m->watch->context, &m->c, log);
}

static mh_status train_run(comparer *m, mh_compare_run *run)
{
    mh_recipe recipe = recipe_of(&m->c, run);
    mh_train_watch watch = {.context = m, .step = on_step, .log = on_log, .stop = m->watch->stop};
    bool begun;
    MH_TRY(mh_state_exists(run->folder, &begun));
    MH_TRY(mh_train(&recipe, begun ? MH_TRAIN_RESUME : MH_TRAIN_NEW, NULL, &watch));
    MH_TRY(measure_valid(&m->c, run));
    MH_TRY(measure_texts(m, run));
    return write_result(&m->c, run);
}

static double seconds_of(const mh_comparison *c, const mh_compare_run *run)
{
    const mh_arm *arm = &c->arm[run->arm];
    return (double)arm->recipe.train.steps * arm->update_seconds;
}

/* What is wrong with one model is a result; a full disk, other data and Ctrl-C concern all of them. */
static mh_status make_run(comparer *m, mh_compare_run *run)
{
    mh_status status = run->state == MH_RUN_FINISHED ? MH_OK : train_run(m, run);
    run->state = status == MH_OK ? MH_RUN_FINISHED : MH_RUN_FAILED;
    if (status == MH_EIO || status == MH_EINTERRUPTED || status == MH_EMISMATCH)
        return mh_fail_in(status, "%s, seed %lld", m->c.arm[run->arm].name, (long long)run->seed);
    if (status != MH_OK)
        snprintf(run->message, sizeof run->message, "%s", mh_message());
    m->c.done += seconds_of(&m->c, run);
    if (m->watch->run)
        m->watch->run(m->watch->context, &m->c, run);
    return MH_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static mh_status write_results(const comparer *m, json_t **result)
{
    const mh_comparison *c = &m->c;
    char path[MH_PATH];
    mh_text text = {0};
    json_decref(*result);
    *result = NULL;
    MH_TRY(mh_compare_results(c, result));
    MH_TRY(mh_path_join(path, c->folder, "compare.json"));
    MH_TRY(mh_json_write(path, *result));
    MH_TRY(mh_path_join(path, c->folder, "compare.md"));
    mh_status status = mh_compare_markdown(*result, &text);
    if (status == MH_OK)
        status = mh_file_write(path, text.data, text.length);
    mh_text_release(&text);
    return status;
}

static mh_status compare(comparer *m, bool resume, json_t **result)
{
    mh_comparison *c = &m->c;
    char speed[MH_PATH];
    MH_TRY(plan(m));
    MH_TRY(enter(m, resume));
    MH_TRY(mh_path_join(speed, c->folder, MH_SPEED_FILE));
    MH_TRY(mh_arms_time(c->arm, c->arms, m->data, speed, &m->progress));
    if (m->budget.kind == MH_BUDGET_SECONDS)
        MH_TRY(set_lengths(m));
    MH_TRY(take_stock(c));
    if (resume) /* not before: what was refused must not be what the next call finds */
        MH_TRY(write_recipe(c));
    for (int i = 0; i < c->runs; i++)
        c->total += seconds_of(c, &c->run[i]);
    if (m->watch->plan)
        m->watch->plan(m->watch->context, c);
    for (c->current = 0; c->current < c->runs; c->current++) {
        MH_TRY(make_run(m, &c->run[c->current]));
        MH_TRY(write_results(m, result));
    }
    return MH_OK;
}

mh_status mh_compare(const mh_recipe *recipe, bool resume, const mh_compare_watch *watch, json_t **result)
{
    *result = NULL;
    comparer m = {
        .c.recipe = *recipe, .watch = watch, .progress = {watch->progress, watch->context, watch->stop}};
    mh_status status = compare(&m, resume, result);
    release(&m);
    return status;
}
