/* A training checkpoint: the model's, with moments, progress and a model card. */
#include "train/train.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT_VERSION 1

#define MOMENTS_FILE   "optimizer.safetensors"
#define STATE_FILE     "trainer_state.json"
#define CARD_FILE      "README.md"

static mh_status folder_of(char path[MH_PATH], const char *run, int64_t step, const char *suffix)
{
    char step_name[MH_CHECKPOINT_NAME], name[64];
    mh_checkpoint_name(step_name, step);
    snprintf(name, sizeof name, "checkpoints/%s%s", step_name, suffix);
    return mh_path_join(path, run, name);
}

static int by_step(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The steps of all checkpoints, rising; the caller frees *step. A missing folder has none. */
static mh_status list_steps(const char *run, int64_t **step, int *count)
{
    char path[MH_PATH];
    mh_text found = {0};
    mh_status status = mh_path_join(path, run, "checkpoints");
    DIR *dir = status == MH_OK ? opendir(path) : NULL;
    if (status == MH_OK && dir == NULL && errno != ENOENT) /* what is there must not count as nothing */
        status = mh_fail_errno("read folder", path);
    for (const struct dirent *entry; dir && status == MH_OK && (entry = readdir(dir)) != NULL;) {
        int64_t number = mh_checkpoint_step(entry->d_name);
        if (number >= 0)
            status = mh_text_add(&found, &number, sizeof number);
    }
    if (dir)
        closedir(dir);
    if (status != MH_OK) {
        mh_text_release(&found);
        return status;
    }
    *count = (int)(found.length / sizeof **step);
    *step = (int64_t *)found.data;
    if (*count)
        qsort(*step, (size_t)*count, sizeof **step, by_step);
    return MH_OK;
}

mh_status mh_state_exists(const char *run, bool *exists)
{
    int64_t *step;
    int count;
    MH_TRY(list_steps(run, &step, &count));
    free(step);
    *exists = count > 0;
    return MH_OK;
}

/* ---- moments: two tensors for each parameter, NAME.m and NAME.v ---------------------------------------- */

enum { MOMENT_NAME = sizeof((mh_param *)0)->name + 2 };

/* Moment `which` ("m" or "v") of a parameter as it stands in the file. */
static mh_tensor moment(const mh_param *param, const char *which, const float *data, char name[MOMENT_NAME])
{
    snprintf(name, MOMENT_NAME, "%s.%s", param->name, which);
    mh_tensor tensor = {.name = name, .type = MH_F32, .rank = param->rank, .data = data + param->offset};
    mh_param_shape(param, tensor.shape);
    return tensor;
}

static mh_status write_moments(const mh_model *model, const mh_optimizer *optimizer, const char *folder)
{
    char path[MH_PATH];
    MH_TRY(mh_path_join(path, folder, MOMENTS_FILE));
    int count = model->params.count;
    mh_tensor *tensor = calloc(2 * (size_t)count, sizeof *tensor);
    char(*name)[MOMENT_NAME] = calloc(2 * (size_t)count, sizeof *name);
    mh_status status;
    if (tensor == NULL || name == NULL) {
        status = mh_fail(MH_EMEMORY, "%s: the system refused memory to write it", path);
    } else {
        for (int i = 0; i < count; i++) {
            const mh_param *param = &model->params.list[i];
            tensor[2 * i] = moment(param, "m", optimizer->m, name[2 * i]);
            tensor[2 * i + 1] = moment(param, "v", optimizer->v, name[2 * i + 1]);
        }
        status = mh_tensors_write(path, tensor, 2 * count, NULL);
    }
    free(tensor);
    free(name);
    return status;
}

static mh_status read_moment(const mh_tensors *tensors, const mh_param *param, const char *which, float *data,
                             const char *path)
{
    char name[MOMENT_NAME];
    mh_tensor want = moment(param, which, data, name);
    const mh_tensor *found = mh_tensors_find(tensors, name);
    if (found == NULL || found->type != MH_F32 || found->rank != want.rank ||
        memcmp(found->shape, want.shape, (size_t)want.rank * sizeof *want.shape) != 0)
        return mh_fail(
            MH_EMISMATCH,
            "%s: no tensor \"%s\" of the model's shape in it; resume with the recipe it was trained with",
            path, name);
    memcpy(data + param->offset, found->data, (size_t)mh_param_size(param) * sizeof *data);
    return MH_OK;
}

static mh_status read_moments(const mh_model *model, mh_optimizer *optimizer, const char *folder)
{
    char path[MH_PATH];
    mh_tensors *tensors;
    MH_TRY(mh_path_join(path, folder, MOMENTS_FILE));
    MH_TRY(mh_tensors_open(&tensors, path));
    mh_status status = MH_OK;
    for (int i = 0; i < model->params.count && status == MH_OK; i++) {
        const mh_param *param = &model->params.list[i];
        status = read_moment(tensors, param, "m", optimizer->m, path);
        if (status == MH_OK)
            status = read_moment(tensors, param, "v", optimizer->v, path);
    }
    mh_tensors_close(tensors);
    return status;
}

/* ---- trainer_state.json -------------------------------------------------------------------------------- */

static mh_status write_state(const mh_trainer_state *state, int64_t seed, const char *folder)
{
    char path[MH_PATH];
    MH_TRY(mh_path_join(path, folder, STATE_FILE));
    json_t *json = json_pack("{s:i, s:I, s:I, s:I, s:o, s:o, s:o, s:s, s:s, s:s}", "format_version",
                             FORMAT_VERSION, "step", (json_int_t)state->step, "tokens",
                             (json_int_t)state->tokens, "seed", (json_int_t)seed, "loss",
                             mh_json_real(state->loss), "valid_loss", mh_json_real(state->valid_loss),
                             "valid_bits_per_byte", mh_json_real(state->valid_bits_per_byte), "recipe",
                             state->recipe, "data", state->data, "valid", state->valid);
    mh_status status = mh_json_seal(json, path);
    if (status == MH_OK)
        status = mh_json_write(path, json);
    json_decref(json);
    return status;
}

static double number_or_nan(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* With its checksum right, a file of this version needs no further doubt. */
static mh_status check_state(json_t *json, const char *path)
{
    MH_TRY(mh_json_check_version(json, FORMAT_VERSION, path));
    if (json_object_get(json, "xxh3") == NULL)
        return mh_fail(MH_EFORMAT,
                       "%s: no checksum \"xxh3\" in it: the file is damaged; use another copy of it", path);
    return mh_json_check_seal(json, path);
}

static mh_status read_state(mh_trainer_state *state, const char *folder)
{
    char path[MH_PATH];
    json_t *json;
    MH_TRY(mh_path_join(path, folder, STATE_FILE));
    MH_TRY(mh_json_read(&json, path));
    mh_status status = check_state(json, path);
    if (status == MH_OK) {
        state->step = json_integer_value(json_object_get(json, "step"));
        state->tokens = json_integer_value(json_object_get(json, "tokens"));
        state->loss = number_or_nan(json, "loss");
        state->valid_loss = number_or_nan(json, "valid_loss");
        state->valid_bits_per_byte = number_or_nan(json, "valid_bits_per_byte");
        snprintf(state->recipe, sizeof state->recipe, "%s",
                 json_string_value(json_object_get(json, "recipe")));
        snprintf(state->data, sizeof state->data, "%s", json_string_value(json_object_get(json, "data")));
        const char *valid = json_string_value(json_object_get(json, "valid"));
        snprintf(state->valid, sizeof state->valid, "%s", valid != NULL ? valid : "");
    }
    json_decref(json);
    return status;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

/* The evaluation that a checkpoint lacked, because the run was stopped in it. The state comes last: until it
 * is there, the evaluation is made again. */
static mh_status add_evaluation(const char *folder, const mh_recipe *recipe, const mh_model *model,
                                const mh_trainer_state *state)
{
    MH_TRY(mh_card_write(recipe, model, state, folder));
    return write_state(state, recipe->train.seed, folder);
}

mh_status mh_state_save(const char *run, const mh_recipe *recipe, const mh_model *model,
                        const mh_tokenizer *tokenizer, const mh_optimizer *optimizer,
                        const mh_trainer_state *state)
{
    char folder[MH_PATH], aside[MH_PATH];
    MH_TRY(folder_of(folder, run, state->step, ""));
    if (mh_path_is_dir(folder))
        return add_evaluation(folder, recipe, model, state);
    MH_TRY(mh_folder_begin(aside, folder));
    mh_status status = mh_checkpoint_write(model, tokenizer, aside);
    if (status == MH_OK)
        status = write_moments(model, optimizer, aside);
    if (status == MH_OK)
        status = write_state(state, recipe->train.seed, aside);
    if (status == MH_OK)
        status = mh_card_write(recipe, model, state, aside);
    if (status == MH_OK)
        status = mh_folder_commit(aside, folder);
    if (status == MH_OK)
        return MH_OK;
    /* Room first: on a full disk the half-written folder is what fills it. */
    char sentence[2 * MH_PATH];
    snprintf(sentence, sizeof sentence, "%s", mh_message());
    mh_remove_tree(aside);
    return mh_fail(status, "%s", sentence);
}

static mh_status check_identity(const char *is, const char *should, const char *what, const char *folder)
{
    if (strcmp(is, should) == 0)
        return MH_OK;
    return mh_fail(MH_EMISMATCH,
                   "%s: written by a run with another %s (identity %s, now %s); resume with what it was "
                   "trained with, or start another run from its weights (mhmoe train --init-from)",
                   folder, what, is, should);
}

/* Damage is MH_EFORMAT or MH_EIO; a sound checkpoint of another run is MH_EMISMATCH. */
static mh_status load_one(const char *folder, int64_t step, mh_model *model, mh_optimizer *optimizer,
                          mh_trainer_state *state)
{
    mh_trainer_state found = {0};
    MH_TRY(read_state(&found, folder));
    if (found.step != step)
        return mh_fail(MH_EFORMAT,
                       "%s: it holds the state after step %lld; give the folder its own name back", folder,
                       (long long)found.step);
    MH_TRY(check_identity(found.recipe, state->recipe, "recipe", folder));
    MH_TRY(check_identity(found.data, state->data, "data", folder));
    mh_status status = mh_checkpoint_weights(model, folder);
    if (status == MH_OK)
        status = read_moments(model, optimizer, folder);
    if (status == MH_EMISMATCH || status == MH_EVALUE) /* the recipe agrees, so it is the files that do not */
        return mh_fail_in(MH_EFORMAT, "damaged");
    if (status == MH_OK)
        *state = found;
    return status;
}

/* Out of the way of `keep`, and of whoever looks for the newest. */
static mh_status set_aside(const char *run, int64_t step)
{
    char from[MH_PATH], to[MH_PATH];
    MH_TRY(folder_of(from, run, step, ""));
    MH_TRY(folder_of(to, run, step, ".damaged"));
    MH_TRY(mh_remove_tree(to));
    return rename(from, to) == 0 ? MH_OK : mh_fail_errno("rename", from);
}

static mh_status load_newest(const char *run, const int64_t *step, int count, mh_model *model,
                             mh_optimizer *optimizer, mh_trainer_state *state, mh_text *skipped)
{
    char folder[MH_PATH];
    int i;
    for (i = count - 1; i >= 0; i--) {
        MH_TRY(folder_of(folder, run, step[i], ""));
        mh_status status = load_one(folder, step[i], model, optimizer, state);
        if (status == MH_OK)
            break;
        if (status != MH_EFORMAT && status != MH_EIO)
            return status;
        MH_TRY(mh_text_printf(skipped, "%sstep %lld is passed over: %s", skipped->length ? "\n" : "",
                              (long long)step[i], mh_message()));
    }
    if (i < 0)
        return mh_fail(MH_EFORMAT,
                       "%s/checkpoints: none of its %d checkpoints can be used; start another run with --set "
                       "train.run=FOLDER. What is wrong with them: %s",
                       run, count, skipped->data);
    optimizer->step = step[i];
    while (++i < count)
        MH_TRY(set_aside(run, step[i]));
    return MH_OK;
}

mh_status mh_state_load(const char *run, mh_model *model, mh_optimizer *optimizer, mh_trainer_state *state,
                        mh_text *skipped)
{
    int64_t *step;
    int count;
    MH_TRY(list_steps(run, &step, &count));
    mh_status status =
        count ? load_newest(run, step, count, model, optimizer, state, skipped)
              : mh_fail(MH_ESTATE, "%s: no checkpoint to resume from; start the run without --resume", run);
    free(step);
    return status;
}

/* What a kill left of a checkpoint that was being written or removed. */
static mh_status remove_unfinished(const char *run)
{
    char path[MH_PATH], entry_path[MH_PATH];
    MH_TRY(mh_path_join(path, run, "checkpoints"));
    DIR *dir = opendir(path);
    if (dir == NULL)
        return mh_fail_errno("read folder", path);
    mh_status status = MH_OK;
    for (const struct dirent *entry; status == MH_OK && (entry = readdir(dir)) != NULL;) {
        const char *dot = strrchr(entry->d_name, '.');
        if (dot == NULL || dot == entry->d_name || strcmp(dot, MH_ASIDE) != 0)
            continue;
        status = mh_path_join(entry_path, path, entry->d_name);
        if (status == MH_OK)
            status = mh_remove_tree(entry_path);
    }
    closedir(dir);
    return status;
}

/* Renamed first, so that a kill in the middle leaves nothing half-removed that looks like a checkpoint. */
static mh_status remove_step(const char *run, int64_t step)
{
    char path[MH_PATH], aside[MH_PATH];
    MH_TRY(folder_of(path, run, step, ""));
    MH_TRY(folder_of(aside, run, step, MH_ASIDE));
    if (rename(path, aside) != 0)
        return mh_fail_errno("remove", path);
    return mh_remove_tree(aside);
}

mh_status mh_state_prune(const char *run, int64_t keep)
{
    int64_t *step;
    int count;
    MH_TRY(remove_unfinished(run));
    MH_TRY(list_steps(run, &step, &count));
    mh_status status = MH_OK;
    for (int i = 0; keep > 0 && i < count - keep && status == MH_OK; i++)
        status = remove_step(run, step[i]); /* NOLINT(*NullDereference): there are `count` */
    free(step);
    return status;
}
