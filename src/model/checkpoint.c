/* A checkpoint: configuration, weights and tokenizer in a folder, in Hugging Face's manner. */
#include "model/model.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_TYPE     "mhmoe"
#define FORMAT_VERSION 1

#define CONFIG_FILE    "config.json"
#define WEIGHTS_FILE   "model.safetensors"
#define TOKENIZER_FILE "tokenizer.model"

/* A parameter as it stands in the file, its data apart. */
static mh_tensor describe(const mh_param *param)
{
    mh_tensor tensor = {.name = param->name, .type = MH_F32, .rank = param->rank};
    mh_param_shape(param, tensor.shape);
    return tensor;
}

static mh_status write_config(const mh_model *model, const char *hash, const char *folder)
{
    char path[MH_PATH];
    MH_TRY(mh_path_join(path, folder, CONFIG_FILE));
    json_t *config = mh_config_to_json(&model->config);
    json_t *json = json_pack("{s:s, s:[s], s:i, s:s, s:s}", "model_type", MODEL_TYPE, "architectures",
                             "MhmoeForCausalLM", "format_version", FORMAT_VERSION, "torch_dtype", "float32",
                             "tokenizer_hash", hash);
    mh_status status = json_object_update(json, config) == 0
                           ? mh_json_seal(json, path)
                           : mh_fail(MH_EMEMORY, "%s: the system refused memory to write it", path);
    if (status == MH_OK)
        status = mh_json_write(path, json);
    json_decref(json);
    json_decref(config);
    return status;
}

/* Always the f32 masters: a run resumes from them bit for bit. */
static mh_status write_weights(const mh_model *model, const char *folder)
{
    const mh_params *params = &model->params;
    char path[MH_PATH];
    MH_TRY(mh_path_join(path, folder, WEIGHTS_FILE));
    mh_tensor *tensor = calloc((size_t)params->count, sizeof *tensor);
    json_t *meta = json_pack("{s:s}", "format", "pt"); /* what transformers looks for */
    mh_status status;
    if (tensor == NULL || meta == NULL) {
        status = mh_fail(MH_EMEMORY, "%s: the system refused memory to write it", path);
    } else {
        for (int i = 0; i < params->count; i++) {
            tensor[i] = describe(&params->list[i]);
            tensor[i].data = mh_param_value(params, i).p;
        }
        status = mh_tensors_write(path, tensor, params->count, meta);
    }
    json_decref(meta);
    free(tensor);
    return status;
}

mh_status mh_checkpoint_write(const mh_model *model, const mh_tokenizer *tokenizer, const char *folder)
{
    MH_TRY(write_config(model, tokenizer ? mh_tokenizer_hash(tokenizer) : model->tokenizer_hash, folder));
    MH_TRY(write_weights(model, folder));
    if (tokenizer == NULL)
        return MH_OK;
    char path[MH_PATH];
    MH_TRY(mh_path_join(path, folder, TOKENIZER_FILE));
    size_t bytes;
    const void *data = mh_tokenizer_bytes(tokenizer, &bytes);
    return mh_file_write(path, data, bytes);
}

static mh_status check_config(json_t *json, char tokenizer_hash[17], const char *path)
{
    const char *type = json_string_value(json_object_get(json, "model_type"));
    if (type == NULL || strcmp(type, MODEL_TYPE) != 0)
        return mh_fail(MH_EFORMAT,
                       "%s: a checkpoint of architecture \"%s\", but only \"" MODEL_TYPE
                       "\" is read; `mhmoe import` converts the formats it lists",
                       path, type ? type : "(none named)");
    MH_TRY(mh_json_check_version(json, FORMAT_VERSION, path));
    const char *hash = json_string_value(json_object_get(json, "tokenizer_hash"));
    if (hash == NULL || (strlen(hash) != 0 && strlen(hash) != 16))
        return mh_fail(
            MH_EFORMAT,
            "%s: \"tokenizer_hash\" must be 16 hexadecimal digits or empty; use another copy of the file",
            path);
    strcpy(tokenizer_hash, hash);
    return mh_json_check_seal(json, path);
}

mh_status mh_checkpoint_config(mh_config *config, char tokenizer_hash[17], const char *folder)
{
    char path[MH_PATH];
    MH_TRY(mh_path_join(path, folder, CONFIG_FILE));
    if (!mh_path_exists(path))
        return mh_fail(MH_EIO,
                       "%s: no " CONFIG_FILE
                       " in it, so it is not a checkpoint; name a run folder or a checkpoint",
                       folder);
    json_t *json;
    MH_TRY(mh_json_read(&json, path));
    mh_status status = check_config(json, tokenizer_hash, path);
    if (status == MH_OK)
        status = mh_config_from_json(config, json, path);
    json_decref(json);
    return status;
}

static const char *shape_text(const mh_tensor *tensor, char out[96])
{
    int length = 0;
    for (int i = 0; i < tensor->rank; i++)
        length += sprintf(out + length, "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
    out[length] = '\0';
    return out;
}

/* `who` asks for the parameter: "config.json". */
static mh_status check_tensor(const mh_param *param, const mh_tensor *found, const char *who,
                              const char *path)
{
    mh_tensor want = describe(param);
    char is[96], should[96];
    if (found == NULL)
        return mh_fail(MH_EMISMATCH,
                       "%s: tensor \"%s\" is missing, which %s asks for; give weights of the same model",
                       path, want.name, who);
    if (found->rank != want.rank ||
        memcmp(found->shape, want.shape, (size_t)want.rank * sizeof *want.shape) != 0)
        return mh_fail(
            MH_EMISMATCH,
            "%s: tensor \"%s\" has shape [%s], but %s asks for [%s]; give weights of the same model", path,
            want.name, shape_text(found, is), who, shape_text(&want, should));
    if (found->type != MH_F32 && found->type != MH_BF16)
        return mh_fail(MH_EFORMAT, "%s: tensor \"%s\" is of type %s; weights are F32 or BF16", path,
                       want.name, mh_type_name(found->type));
    return MH_OK;
}

static mh_status check_tensors(const mh_params *params, const mh_tensors *tensors, const char *who,
                               const char *path)
{
    for (int i = 0; i < params->count; i++)
        MH_TRY(check_tensor(&params->list[i], mh_tensors_find(tensors, params->list[i].name), who, path));
    for (int i = 0; i < mh_tensors_count(tensors); i++) {
        const char *name = mh_tensors_at(tensors, i)->name;
        if (mh_params_find(params, name) < 0)
            return mh_fail(MH_EMISMATCH,
                           "%s: tensor \"%s\" has no place in the model that %s asks for; give weights of "
                           "the same model",
                           path, name, who);
    }
    return MH_OK;
}

/* The same before there is a model: a wrong configuration must not cost the memory it asks for. */
static mh_status check_config_tensors(const mh_config *config, const mh_tensors *tensors, const char *path)
{
    mh_model shell = {.config = *config};
    mh_params counted = {0}, listed = {0};
    mh_model_register(&shell, &counted);
    listed.capacity = counted.count;
    listed.list = calloc((size_t)counted.count, sizeof *listed.list);
    if (listed.list == NULL)
        return mh_fail(MH_EMEMORY, "%s: the system refused memory to read it", path);
    mh_model_register(&shell, &listed);
    mh_status status = check_tensors(&listed, tensors, CONFIG_FILE, path);
    free(listed.list);
    return status;
}

/* Tensors that were checked. */
static void copy_tensors(mh_model *model, const mh_tensors *tensors)
{
    const mh_params *params = &model->params;
    for (int i = 0; i < params->count; i++) {
        mh_mat value = mh_param_value(params, i);
        const mh_tensor *found = mh_tensors_find(tensors, params->list[i].name);
        model->ops->cast(value, mh_mat_of((void *)found->data, value.rows, value.cols, found->type));
    }
    mh_params_refresh(params, model->ops);
}

static mh_status open_weights(mh_tensors **tensors, char path[MH_PATH], const char *folder)
{
    MH_TRY(mh_path_join(path, folder, WEIGHTS_FILE));
    return mh_tensors_open(tensors, path);
}

static mh_status check_hash(const char *is, const char *should, const char *what, const char *folder)
{
    if (*is == '\0' || *should == '\0' || strcmp(is, should) == 0)
        return MH_OK;
    return mh_fail(
        MH_EMISMATCH,
        "%s: its weights were trained with tokenizer %s, but %s is %s; use the tokenizer of the training",
        folder, should, what, is);
}

mh_status mh_checkpoint_weights(mh_model *model, const char *folder)
{
    mh_config config;
    mh_tensors *tensors;
    char hash[17], path[MH_PATH];
    MH_TRY(mh_checkpoint_config(&config, hash, folder));
    MH_TRY(check_hash(model->tokenizer_hash, hash, "the model's", folder));
    MH_TRY(open_weights(&tensors, path, folder));
    mh_status status = check_tensors(&model->params, tensors, "the recipe", path);
    if (status == MH_OK)
        copy_tensors(model, tensors);
    mh_tensors_close(tensors);
    return status;
}

static mh_status read_tokenizer(mh_tokenizer **tokenizer, const mh_config *config, const char *hash,
                                const char *folder)
{
    char path[MH_PATH];
    MH_TRY(mh_path_join(path, folder, TOKENIZER_FILE));
    if (!mh_path_exists(path))
        return MH_OK;
    MH_TRY(mh_tokenizer_load(tokenizer, path));
    MH_TRY(check_hash(mh_tokenizer_hash(*tokenizer), hash, "its " TOKENIZER_FILE, folder));
    if (mh_tokenizer_vocab(*tokenizer) != config->vocab)
        return mh_fail(MH_EMISMATCH,
                       "%s: " TOKENIZER_FILE
                       " has %d pieces, but the model's vocabulary %lld; use the tokenizer of the training",
                       folder, mh_tokenizer_vocab(*tokenizer), (long long)config->vocab);
    return MH_OK;
}

static mh_status create_model(mh_model **model, const mh_config *config, const char *folder,
                              mh_precision precision, bool training)
{
    mh_tensors *tensors;
    char path[MH_PATH];
    MH_TRY(open_weights(&tensors, path, folder));
    mh_status status = check_config_tensors(config, tensors, path);
    if (status == MH_OK)
        status = mh_model_create(model, config, precision, training);
    if (status == MH_OK)
        copy_tensors(*model, tensors);
    mh_tensors_close(tensors);
    return status;
}

mh_status mh_checkpoint_read(mh_model **model, mh_tokenizer **tokenizer, const char *folder,
                             mh_precision precision, bool training)
{
    mh_config config;
    char hash[17];
    mh_model *m = NULL;
    mh_tokenizer *t = NULL;
    mh_status status = mh_checkpoint_config(&config, hash, folder);
    if (status == MH_OK && tokenizer != NULL)
        status = read_tokenizer(&t, &config, hash, folder);
    if (status == MH_OK)
        status = create_model(&m, &config, folder, precision, training);
    if (status == MH_OK) {
        strcpy(m->tokenizer_hash, hash);
    } else {
        mh_tokenizer_free(t);
        t = NULL;
    }
    *model = m;
    if (tokenizer != NULL)
        *tokenizer = t;
    return status;
}

/* -1 also for what is still being written, with MH_ASIDE behind, and for a name that mh_checkpoint_name would
 * not give: else one step could have two folders. */
int64_t mh_checkpoint_step(const char *folder)
{
    const char *slash = strrchr(folder, '/'), *name = slash != NULL ? slash + 1 : folder;
    char own[MH_CHECKPOINT_NAME];
    int64_t step;
    if (strncmp(name, "step-", 5) != 0 || !mh_text_to_int(name + 5, &step) || step < 0)
        return -1;
    mh_checkpoint_name(own, step);
    return strcmp(own, name) == 0 ? step : -1;
}

void mh_checkpoint_name(char name[MH_CHECKPOINT_NAME], int64_t step)
{
    snprintf(name, MH_CHECKPOINT_NAME, "step-%06lld", (long long)step);
}

/* Whether folder/name holds a model: folders of other things may bear such a name too. */
static bool has_model(const char *folder, const char *name)
{
    char path[MH_PATH], config[MH_PATH], weights[MH_PATH];
    return mh_path_join(path, folder, name) == MH_OK && mh_path_join(config, path, CONFIG_FILE) == MH_OK &&
           mh_path_join(weights, path, WEIGHTS_FILE) == MH_OK && mh_path_exists(config) &&
           mh_path_exists(weights);
}

mh_status mh_checkpoint_locate(const char *path, char folder[MH_PATH])
{
    char config[MH_PATH], compare[MH_PATH], checkpoints[MH_PATH], newest[256] = "";
    MH_TRY(mh_path_join(config, path, CONFIG_FILE));
    if (mh_path_exists(config)) {
        snprintf(folder, MH_PATH, "%s", path);
        return MH_OK;
    }
    MH_TRY(mh_path_join(compare, path, "compare.json"));
    if (mh_path_exists(compare))
        return mh_fail(MH_EIO, "%s: a comparison of several models; name one of its runs, %s/MODEL/seed-N",
                       path, path);
    MH_TRY(mh_path_join(checkpoints, path, "checkpoints"));
    DIR *dir = opendir(checkpoints);
    if (dir == NULL && errno != ENOENT && errno != ENOTDIR)
        return mh_fail_errno("read folder", checkpoints);
    if (dir == NULL)
        return mh_fail(MH_EIO,
                       "%s: neither a checkpoint (a folder with " CONFIG_FILE
                       ") nor a run folder (with checkpoints/ in it); name one of these",
                       path);
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (mh_checkpoint_step(entry->d_name) > mh_checkpoint_step(newest) &&
            has_model(checkpoints, entry->d_name))
            snprintf(newest, sizeof newest, "%s", entry->d_name);
    closedir(dir);
    if (*newest == '\0')
        return mh_fail(MH_ESTATE, "%s: no checkpoint in it yet; wait until the run has reached its first",
                       checkpoints);
    return mh_path_join(folder, checkpoints, newest);
}
