/* One feed-forward layer alone: public, for programs that want nothing else of the library. A layer never
 * changes; all that a call works on lies in memory of the caller's. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

struct mh_layer {
    mh_ffn ffn, shared;
    mh_type type;     /* of activations */
    mh_params params; /* names and places; the numbers are the caller's */
    mh_arena memory;
};

/* What a call's work space begins with; the matrices stand behind it. */
typedef struct {
    mh_params params;
    mh_ffn_pass pass, shared_pass;
    mh_ffn_back back, shared_back;
    mh_mat x, y, dx, dy; /* in f32 the caller's own */
    mh_mat part;         /* what the shared experts add */
} work;

static void params_layout(mh_params *params, mh_arena *arena, int count)
{
    *params = (mh_params){.list = mh_take(arena, (size_t)count * sizeof *params->list), .capacity = count};
}

mh_status mh_layer_of(mh_layer **layer, const mh_config *config, mh_precision precision)
{
    bool moe = config->moe.experts > 0;
    mh_params counted = {0};
    mh_arena count = {0};
    mh_layer *l = calloc(1, sizeof *l);
    *layer = NULL;
    if (l == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for a layer");
    l->type = precision == MH_PRECISION_BF16 ? MH_BF16 : MH_F32;
    mh_ffns_register(&l->ffn, &l->shared, &counted, config, moe, "");
    params_layout(&l->params, &count, counted.count);
    mh_status status = mh_arena_init(&l->memory, count.used, "a layer");
    if (status != MH_OK) {
        free(l);
        return status;
    }
    params_layout(&l->params, &l->memory, counted.count);
    mh_ffns_register(&l->ffn, &l->shared, &l->params, config, moe, "");
    *layer = l;
    return MH_OK;
}

void mh_layer_free(mh_layer *layer)
{
    if (layer == NULL)
        return;
    mh_arena_release(&layer->memory);
    free(layer);
}

int64_t mh_layer_dim(const mh_layer *layer)
{
    return layer->ffn.dim;
}

int64_t mh_layer_floats(const mh_layer *layer)
{
    return layer->params.elements;
}

bool mh_layer_weight(const mh_layer *layer, int index, mh_weight *weight)
{
    if (index < 0 || index >= layer->params.count)
        return false;
    const mh_param *p = &layer->params.list[index];
    *weight = (mh_weight){.name = p->name, .offset = p->offset, .rank = p->rank};
    mh_param_shape(p, weight->shape);
    return true;
}

void mh_layer_init(const mh_layer *layer, float *weights, uint64_t seed)
{
    mh_params params = layer->params;
    params.value = weights;
    /* Also what lies between two: it is copied to bf16 along with them. */
    memset(weights, 0, (size_t)params.elements * sizeof *weights);
    mh_params_init(&params, seed);
}

static void layout(const mh_layer *l, work *w, mh_arena *arena, int64_t tokens)
{
    mh_precision precision = l->type == MH_BF16 ? MH_PRECISION_BF16 : MH_PRECISION_F32;
    mh_params_work_layout(&w->params, arena, &l->params, precision, l->ffn.quant);
    mh_ffn_layout(&l->ffn, &w->pass, arena, tokens, l->type);
    mh_ffn_layout_back(&l->ffn, &w->back, arena, tokens, l->type);
    if (l->shared.moe.ffn_dim) {
        mh_ffn_layout(&l->shared, &w->shared_pass, arena, tokens, l->type);
        mh_ffn_layout_back(&l->shared, &w->shared_back, arena, tokens, l->type);
        w->part = mh_take_mat(arena, tokens, l->ffn.dim, l->type);
    }
    mh_mat *io[] = {&w->x, &w->y, &w->dx, &w->dy};
    for (int i = 0; l->type != MH_F32 && i < 4; i++)
        *io[i] = mh_take_mat(arena, tokens, l->ffn.dim, l->type);
}

size_t mh_layer_bytes(const mh_layer *layer, int64_t tokens)
{
    const mh_moe_config *m = &layer->ffn.moe;
    int64_t choices = m->experts ? m->heads * m->top_k : 1; /* a dispatch plan numbers its rows in 32 bits */
    if (tokens < 1 || tokens > INT32_MAX / choices)
        return 0;
    work w;
    mh_arena count = {0};
    mh_take(&count, sizeof w);
    layout(layer, &w, &count, tokens);
    return count.used + MH_ALIGN; /* the caller's memory may begin anywhere */
}

static work *begin(const mh_layer_call *call)
{
    uintptr_t at = (uintptr_t)call->work;
    return (work *)((at + MH_ALIGN - 1) / MH_ALIGN * MH_ALIGN);
}

static mh_mat rows_of(const mh_layer *l, const mh_layer_call *call, const float *p)
{
    return mh_mat_of((float *)p, call->tokens, l->ffn.dim, MH_F32);
}

/* What the layer works on: the caller's matrix, or where its own are bf16 the copy `inner`. */
static mh_mat side(const mh_layer *l, mh_mat inner, mh_mat outer)
{
    return l->type == MH_F32 ? outer : inner;
}

static void copy(const mh_layer *l, mh_mat to, mh_mat from)
{
    if (l->type != MH_F32)
        mh_cpu_ops()->cast(to, from);
}

double mh_layer_forward(const mh_layer *l, const mh_layer_call *call)
{
    const struct mh_ops *ops = mh_cpu_ops();
    const mh_moe_config *m = &l->ffn.moe;
    work *w = begin(call);
    mh_arena arena = {(char *)w, 0, mh_layer_bytes(l, call->tokens)};
    mh_mat x = rows_of(l, call, call->x), y = rows_of(l, call, call->y);
    mh_take(&arena, sizeof *w);
    *w = (work){.params = l->params};
    layout(l, w, &arena, call->tokens);
    w->params.value = (float *)call->weights;
    mh_params_refresh(&w->params, ops);
    w->pass.draw = (mh_draw){call->training, call->seed, call->step, 0};

    w->x = side(l, w->x, x);
    w->y = side(l, w->y, y);
    copy(l, w->x, x);
    mh_ffn_fwd(&l->ffn, &w->params, ops, &w->pass, w->y, w->x);
    mh_shared_fwd(&l->shared, &w->params, ops, &w->shared_pass, w->y, w->x, w->part);
    copy(l, y, w->y);
    return m->experts ? m->balance_weight * w->pass.balance + m->z_weight * w->pass.z_loss : 0;
}

void mh_layer_backward(const mh_layer *l, const mh_layer_call *call)
{
    const struct mh_ops *ops = mh_cpu_ops();
    work *w = begin(call);
    mh_mat dx = rows_of(l, call, call->dx), dy = rows_of(l, call, call->dy);
    w->params.grad = call->gradients;
    w->dx = side(l, w->dx, dx);
    w->dy = side(l, w->dy, dy);
    copy(l, w->dy, dy);
    mh_ffn_bwd(&l->ffn, &w->params, ops, &w->pass, &w->back, w->dx, w->dy, w->x, 1);
    mh_shared_bwd(&l->shared, &w->params, ops, &w->shared_pass, &w->shared_back, w->dx, w->dy, w->x, w->part);
    copy(l, dx, w->dx);
}
