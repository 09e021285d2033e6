/* Import of llama2.c's format (version 0): seven numbers, then all weights in f32. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

/* Text in llama2.c's training is separated by <s>, so <s> both starts and ends it. */
enum { LLAMA2C_BOS = 1 };

typedef struct {
    int32_t dim, hidden, layers, heads, kv_heads, vocab, context; /* vocab < 0: the output layer is apart */
} header;

/* The tensors in the file's order; those of layers come stacked. After them stand cos and sin of the rotary
 * embedding, which we compute ourselves, and then the output layer if it is apart. */
static const struct {
    const char *name;
    bool layered, turned;
} file_order[] = {
    {"embed.weight", false, false},
    {"layers.%d.attn_norm.weight", true, false},
    {"layers.%d.attn.q.weight", true, true},
    {"layers.%d.attn.k.weight", true, true},
    {"layers.%d.attn.v.weight", true, false},
    {"layers.%d.attn.o.weight", true, false},
    {"layers.%d.ffn_norm.weight", true, false},
    {"layers.%d.ffn.gate.weight", true, false},
    {"layers.%d.ffn.down.weight", true, false},
    {"layers.%d.ffn.up.weight", true, false},
    {"norm.weight", false, false},
};

/* By way of JSON, because that checks every range. */
static mh_status config_of(mh_config *config, const header *h, const char *file)
{
    json_t *json =
        json_pack("{s:{s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:b, s:i, s:i}, s:{}}", "model", "dim", h->dim,
                  "layers", h->layers, "attention_heads", h->heads, "kv_heads", h->kv_heads, "context",
                  h->context, "ffn_dim", h->hidden, "vocab", (json_int_t)llabs(h->vocab), "tied_embeddings",
                  h->vocab > 0, "bos", LLAMA2C_BOS, "eos", LLAMA2C_BOS, "moe");
    if (json == NULL)
        return mh_fail(MH_EMEMORY, "%s: the system refused memory to read it", file);
    mh_status status = mh_config_from_json(config, json, file);
    json_decref(json);
    return status;
}

/* llama2.c turns the pairs (2i, 2i+1) of a head, we turn (i, i + width/2): rows change places accordingly. */
static void copy_turned(mh_mat to, const unsigned char *from, int64_t head_dim)
{
    size_t row_bytes = (size_t)to.cols * sizeof(float);
    for (int64_t row = 0; row < to.rows; row++) {
        int64_t in_head = row % head_dim;
        int64_t half = in_head % 2 * (head_dim / 2);
        memcpy(mh_mat_row(to, row - in_head + half + in_head / 2), from + (size_t)row * row_bytes, row_bytes);
    }
}

static const unsigned char *copy_tensor(mh_model *model, int index, bool turned, const unsigned char *from)
{
    mh_mat to = mh_param_value(&model->params, index);
    size_t bytes = (size_t)(to.rows * to.cols) * sizeof(float);
    if (turned)
        copy_turned(to, from, mh_config_head_dim(&model->config));
    else
        memcpy(to.p, from, bytes);
    return from + bytes;
}

static void copy_weights(mh_model *model, const unsigned char *from)
{
    const mh_config *config = &model->config;
    for (size_t i = 0; i < sizeof file_order / sizeof *file_order; i++)
        for (int layer = 0; layer < (file_order[i].layered ? config->layers : 1); layer++) {
            char name[96];
            snprintf(name, sizeof name, file_order[i].name, layer);
            from = copy_tensor(model, mh_params_find(&model->params, name), file_order[i].turned, from);
        }
    from += (size_t)(config->context * mh_config_head_dim(config)) * sizeof(float);
    if (!config->tied_embeddings)
        copy_tensor(model, model->output, false, from);
}

static mh_status read_model(mh_model **model, const char *file)
{
    mh_map map;
    header h;
    mh_config config;
    mh_status status;
    MH_TRY(mh_map_open(&map, file));
    if (map.size < sizeof h) {
        status = mh_fail(MH_EFORMAT,
                         "%s: %zu bytes are too few for a llama2.c model; use another copy of the file", file,
                         map.size);
        goto done;
    }
    memcpy(&h, map.data, sizeof h);
    status = config_of(&config, &h, file);
    if (status != MH_OK) {
        status = mh_fail_in(status, "not a llama2.c model of version 0, such as its export.py writes");
        goto done;
    }
    int64_t floats = mh_count_params(&config).total + config.context * mh_config_head_dim(&config);
    if (map.size != sizeof h + (size_t)floats * sizeof(float)) {
        status = mh_fail(
            MH_EFORMAT,
            "%s: %zu bytes, but its header announces %zu; the file is damaged or not of llama2.c's version 0",
            file, map.size, sizeof h + (size_t)floats * sizeof(float));
        goto done;
    }
    status = mh_model_create(model, &config, MH_PRECISION_F32, false);
    if (status == MH_OK)
        copy_weights(*model, map.data + sizeof h);
done:
    mh_map_close(&map);
    return status;
}

mh_status mh_import_llama2c(const char *file, const char *tokenizer, const char *output)
{
    mh_model *model = NULL;
    mh_tokenizer *pieces = NULL;
    mh_new_folder folder;
    MH_TRY(mh_new_folder_begin(&folder, output));
    mh_status status = read_model(&model, file);
    if (status == MH_OK)
        status = mh_tokenizer_load(&pieces, tokenizer);
    if (status == MH_OK && mh_tokenizer_vocab(pieces) != model->config.vocab)
        status = mh_fail(MH_EMISMATCH,
                         "%s: %d pieces, but %s has a vocabulary of %lld; give the model's own tokenizer",
                         tokenizer, mh_tokenizer_vocab(pieces), file, (long long)model->config.vocab);
    if (status == MH_OK)
        status = mh_checkpoint_write(model, pieces, folder.aside);
    if (status == MH_OK)
        status = mh_new_folder_commit(&folder);
    else
        mh_new_folder_abort(&folder);
    mh_tokenizer_free(pieces);
    mh_model_free(model);
    return status;
}
