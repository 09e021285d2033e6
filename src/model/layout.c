/* Memory of models and passes: each is measured and carved by the same function. */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>

static void block_register(mh_block *block, mh_params *params, const mh_config *config, int64_t layer)
{
    char prefix[64], inside[96];
    bool moe = mh_config_is_moe(config, layer);
    mh_param norm = {.groups = 1,
                     .rows = 1,
                     .cols = config->dim,
                     .rank = 1,
                     .flags = MH_KEEP_F32,
                     .part = MH_PART_NORMS,
                     .init = MH_INIT_ONE};
    snprintf(prefix, sizeof prefix, "layers.%lld.", (long long)layer);
    snprintf(inside, sizeof inside, "%s%s", prefix, moe ? "moe." : "ffn.");

    block->attn_norm = mh_params_add(params, prefix, "attn_norm.weight", norm);
    mh_attention_register(&block->attention, params, config, prefix);
    block->ffn_norm = mh_params_add(params, prefix, "ffn_norm.weight", norm);
    mh_ffns_register(&block->ffn, &block->shared, params, config, moe, inside);
}

void mh_model_register(mh_model *m, mh_params *params)
{
    const mh_config *c = &m->config;
    double deviation = 1 / sqrt((double)c->dim);
    mh_param table = {.groups = 1,
                      .rows = c->vocab,
                      .cols = c->dim,
                      .rank = 2,
                      .flags = MH_DECAY | (c->tied_embeddings ? MH_LINEAR : 0),
                      .part = MH_PART_EMBEDDING,
                      .init = MH_INIT_NORMAL,
                      .scale = deviation};
    m->embed = mh_params_add(params, "", "embed.weight", table);
    for (int64_t i = 0; i < c->layers; i++) {
        mh_block unused;
        block_register(m->blocks ? &m->blocks[i] : &unused, params, c, i);
    }
    m->norm = mh_params_add(params, "", "norm.weight",
                            (mh_param){.groups = 1,
                                       .rows = 1,
                                       .cols = c->dim,
                                       .rank = 1,
                                       .flags = MH_KEEP_F32,
                                       .part = MH_PART_NORMS,
                                       .init = MH_INIT_ONE});
    table.part = MH_PART_OUTPUT, table.flags |= MH_LINEAR;
    m->output = c->tied_embeddings ? m->embed : mh_params_add(params, "", "output.weight", table);
}

static void model_layout(mh_model *m, mh_arena *arena, const mh_params *counted, bool training)
{
    mh_params *p = &m->params;
    m->blocks = mh_take(arena, (size_t)m->config.layers * sizeof *m->blocks);
    p->list = mh_take(arena, (size_t)counted->count * sizeof *p->list);
    p->capacity = counted->count;
    p->value = mh_take(arena, (size_t)counted->elements * sizeof *p->value);
    if (training)
        p->grad = mh_take(arena, (size_t)counted->elements * sizeof *p->grad);
    mh_params_work_layout(p, arena, counted, m->precision, m->config.quant);
    mh_params_panels_layout(p, arena, counted, training);
}

size_t mh_model_bytes(const mh_config *config, mh_precision precision, bool training)
{
    mh_model shell = {.config = *config, .precision = precision};
    mh_params counted = {0};
    mh_arena count = {0};
    mh_model_register(&shell, &counted);
    model_layout(&shell, &count, &counted, training);
    return count.used;
}

mh_status mh_model_create(mh_model **model, const mh_config *config, mh_precision precision, bool training)
{
    mh_model *m = calloc(1, sizeof *m);
    if (m == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for a model");
    m->config = *config;
    m->precision = precision;
    m->ops = mh_cpu_ops();
    mh_params counted = {0};
    mh_model_register(m, &counted);
    mh_status status = mh_arena_init(&m->memory, mh_model_bytes(config, precision, training), "parameters");
    if (status != MH_OK) {
        free(m);
        return status;
    }
    model_layout(m, &m->memory, &counted, training);
    mh_model_register(m, &m->params);
    *model = m;
    return MH_OK;
}

void mh_model_free(mh_model *m)
{
    if (m == NULL)
        return;
    mh_arena_release(&m->memory);
    free(m);
}

void mh_model_init(mh_model *m, uint64_t seed)
{
    mh_params_init(&m->params, seed);
    mh_params_refresh(&m->params, m->ops);
}

static float *take_floats(mh_arena *arena, int64_t count)
{
    return mh_take(arena, (size_t)count * sizeof(float));
}

/* Rows of logits held at once: enough that the output weights' gradient is not rewritten too often, few
 * enough to stay in cache. */
static int64_t logit_rows(int64_t rows, int64_t vocab)
{
    int64_t fit = (1 << 22) / vocab;
    fit = fit < 256 ? 256 : fit > 1024 ? 1024 : fit;
    return rows < fit ? rows : fit;
}

/* What one block keeps. In inference all blocks use the same memory, their keys and values apart. */
static void block_layout(mh_block_pass *b, mh_arena *arena, const mh_config *c, mh_type type,
                         mh_pass_shape shape, int64_t layer)
{
    int64_t n = shape.batch * shape.rows, kv = c->kv_heads * mh_config_head_dim(c);
    mh_block block;
    mh_params counted = {0};
    block_register(&block, &counted, c, layer);

    b->x = mh_take_mat(arena, n, c->dim, type);
    b->norm1 = mh_take_mat(arena, n, c->dim, type);
    b->mid = mh_take_mat(arena, n, c->dim, type);
    b->norm2 = mh_take_mat(arena, n, c->dim, type);
    b->stat1 = take_floats(arena, 2 * n);
    b->stat2 = take_floats(arena, 2 * n);
    b->attention.q = mh_take_mat(arena, n, c->dim, type);
    b->attention.y = mh_take_mat(arena, n, c->dim, type);
    b->attention.lse = take_floats(arena, n * c->attention_heads);
    if (c->quant == MH_QUANT_BITNET158) {
        b->attention.rounded_x = mh_take_mat(arena, n, c->dim, type);
        b->attention.rounded_y = mh_take_mat(arena, n, c->dim, type);
    }
    mh_ffn_layout(&block.ffn, &b->ffn, arena, n, type);
    if (block.shared.moe.ffn_dim)
        mh_ffn_layout(&block.shared, &b->shared, arena, n, type);
    if (shape.training) {
        b->attention.k = mh_take_mat(arena, n, kv, type);
        b->attention.v = mh_take_mat(arena, n, kv, type);
    }
}

static void back_layout(mh_pass *p, mh_arena *arena, const mh_config *c, mh_type type)
{
    int64_t n = p->shape.batch * p->shape.rows, kv = c->kv_heads * mh_config_head_dim(c);
    p->dhidden = mh_take_mat(arena, n, c->dim, type);
    p->dx = mh_take_mat(arena, n, c->dim, type);
    p->dnorm = mh_take_mat(arena, n, c->dim, type);
    if (c->dropout > 0)
        p->dbranch = mh_take_mat(arena, n, c->dim, type);
    p->dlogits = mh_take_mat(arena, logit_rows(n, c->vocab), c->vocab, type);

    /* The halves of a block take turns: their buffers share memory. */
    size_t start = arena->used, end = start;
    p->attention_back.dq = mh_take_mat(arena, n, c->dim, type);
    p->attention_back.dk = mh_take_mat(arena, n, kv, type);
    p->attention_back.dv = mh_take_mat(arena, n, kv, type);
    p->attention_back.dy = mh_take_mat(arena, n, c->dim, type);
    for (int64_t layer = 0; layer < c->layers; layer++) {
        mh_block block;
        mh_params counted = {0};
        block_register(&block, &counted, c, layer);
        end = arena->used > end ? arena->used : end;
        arena->used = start;
        mh_ffn_layout_back(&block.ffn, block.ffn.moe.experts ? &p->moe_back : &p->dense_back, arena, n, type);
        if (block.shared.moe.ffn_dim)
            mh_ffn_layout_back(&block.shared, &p->shared_back, arena, n, type);
    }
    arena->used = arena->used > end ? arena->used : end;
}

static void pass_layout(mh_pass *p, mh_arena *arena, const mh_config *c, mh_precision precision)
{
    mh_type type = precision == MH_PRECISION_BF16 ? MH_BF16 : MH_F32;
    mh_pass_shape shape = p->shape;
    int64_t n = shape.batch * shape.rows, head_dim = mh_config_head_dim(c);

    p->blocks = mh_take(arena, (size_t)c->layers * sizeof *p->blocks);
    p->x = mh_take_mat(arena, n, c->dim, type);
    p->hidden = mh_take_mat(arena, n, c->dim, type);
    p->stat = take_floats(arena, 2 * n);
    p->branch = mh_take_mat(arena, n, c->dim, type);
    if (c->moe.shared_experts)
        p->shared = mh_take_mat(arena, n, c->dim, type);
    p->logits = mh_take_mat(arena, logit_rows(n, c->vocab), c->vocab, MH_F32);
    p->position = mh_take(arena, (size_t)n * sizeof *p->position);
    p->rotary = take_floats(arena, shape.capacity * head_dim);
    p->scratch.bytes = mh_attention_scratch(shape.capacity, (int)head_dim);
    p->scratch.threads = mh_threads();
    p->scratch.base = mh_take(arena, p->scratch.bytes * (size_t)p->scratch.threads);

    if (!shape.training) {
        for (int64_t i = 0; i < c->layers; i++) {
            mh_block_pass unused, *b = p->blocks ? &p->blocks[i] : &unused;
            b->attention.k = mh_take_mat(arena, shape.batch * shape.capacity, c->kv_heads * head_dim, type);
            b->attention.v = mh_take_mat(arena, shape.batch * shape.capacity, c->kv_heads * head_dim, type);
        }
    }
    size_t start = arena->used, end = start;
    for (int64_t i = 0; i < c->layers; i++) {
        mh_block_pass unused;
        if (!shape.training)
            arena->used = start;
        block_layout(p->blocks ? &p->blocks[i] : &unused, arena, c, type, shape, i);
        end = arena->used > end ? arena->used : end;
    }
    arena->used = end;
    if (shape.training)
        back_layout(p, arena, c, type);
}

size_t mh_pass_bytes(const mh_config *config, mh_precision precision, mh_pass_shape shape)
{
    mh_pass shell = {.shape = shape};
    mh_arena count = {0};
    pass_layout(&shell, &count, config, precision);
    return count.used;
}

/* Angle t * base^(-2i/head_dim) of position t and pair i: cosines in the first half of a row, sines in the
 * second. */
static void fill_rotary(float *table, int64_t positions, int64_t head_dim, double base)
{
    for (int64_t t = 0; t < positions; t++)
        for (int64_t i = 0; i < head_dim / 2; i++) {
            double angle = (double)t * pow(base, -2.0 * (double)i / (double)head_dim);
            table[t * head_dim + i] = (float)cos(angle);
            table[t * head_dim + head_dim / 2 + i] = (float)sin(angle);
        }
}

mh_status mh_pass_create(mh_pass **pass, const mh_model *model, mh_pass_shape shape)
{
    mh_pass *p = calloc(1, sizeof *p);
    if (p == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for a pass");
    p->shape = shape;
    p->layers = model->config.layers;
    mh_status status =
        mh_arena_init(&p->memory, mh_pass_bytes(&model->config, model->precision, shape), "activations");
    if (status != MH_OK) {
        free(p);
        return status;
    }
    pass_layout(p, &p->memory, &model->config, model->precision);
    fill_rotary(p->rotary, shape.capacity, mh_config_head_dim(&model->config), model->config.rotary_base);
    *pass = p;
    return MH_OK;
}

void mh_pass_free(mh_pass *p)
{
    if (p == NULL)
        return;
    mh_arena_release(&p->memory);
    free(p);
}
