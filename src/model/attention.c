/* The attention half of a block: q, k, v, rotary, causal attention, output projection. No biases. */
#include "model/model.h"

#include <math.h>

void mh_attention_register(mh_attention_layer *a, mh_params *params, const mh_config *config,
                           const char *prefix)
{
    int64_t d = config->dim, head_dim = mh_config_head_dim(config), kv = config->kv_heads * head_dim;
    *a = (mh_attention_layer){
        .dim = d, .heads = config->attention_heads, .kv_heads = config->kv_heads, .head_dim = head_dim};
    mh_param linear = {.groups = 1,
                       .rows = d,
                       .cols = d,
                       .rank = 2,
                       .flags = MH_DECAY | MH_TERNARY | MH_LINEAR,
                       .part = MH_PART_ATTENTION,
                       .init = MH_INIT_UNIFORM,
                       .scale = 1 / sqrt((double)d)};
    mh_param narrow = linear;
    narrow.rows = kv;
    a->q = mh_params_add(params, prefix, "attn.q.weight", linear);
    a->k = mh_params_add(params, prefix, "attn.k.weight", narrow);
    a->v = mh_params_add(params, prefix, "attn.v.weight", narrow);
    a->o = mh_params_add(params, prefix, "attn.o.weight", linear);
}

/* New keys and values of sequence b stand in the cache at rows b*capacity + past. In training the cache is
 * exactly full, so that all sequences are one product. */
static bool contiguous(const mh_attention *s)
{
    return s->past == 0 && s->rows == s->capacity;
}

static void project_cached(const struct mh_ops *ops, mh_mat cache, mh_mat x, mh_linear_weights w,
                           const mh_attention *s)
{
    if (contiguous(s)) {
        ops->linear_fwd(mh_mat_rows(cache, 0, x.rows), x, w, NULL, NULL, 1);
        return;
    }
    for (int64_t b = 0; b < s->batch; b++)
        ops->linear_fwd(mh_mat_rows(cache, b * s->capacity + s->past, s->rows),
                        mh_mat_rows(x, b * s->rows, s->rows), w, NULL, NULL, 1);
}

static void rotate_cached(const struct mh_ops *ops, mh_mat cache, const mh_attention *s,
                          const int32_t *position, const float *rotary)
{
    for (int64_t b = 0; b < s->batch; b++)
        ops->rotary_fwd(mh_mat_rows(cache, b * s->capacity + s->past, s->rows), s->head_dim,
                        position + b * s->rows, rotary);
}

void mh_attention_fwd(const mh_attention_layer *a, const mh_params *params, const struct mh_ops *ops,
                      mh_attention_pass *pass, mh_mat out, mh_mat x, const mh_attention *shape,
                      const int32_t *position, const float *rotary)
{
    mh_mat q = mh_mat_rows(pass->q, 0, x.rows), y = mh_mat_rows(pass->y, 0, x.rows);
    x = mh_linear_input(ops, pass->rounded_x, x);
    ops->linear_fwd(q, x, mh_param_linear(params, a->q), NULL, NULL, 1);
    project_cached(ops, pass->k, x, mh_param_linear(params, a->k), shape);
    project_cached(ops, pass->v, x, mh_param_linear(params, a->v), shape);
    ops->rotary_fwd(q, shape->head_dim, position, rotary);
    rotate_cached(ops, pass->k, shape, position, rotary);
    ops->attention_fwd(y, pass->lse, q, pass->k, pass->v, shape);
    ops->linear_fwd(out, mh_linear_input(ops, pass->rounded_y, y), mh_param_linear(params, a->o), NULL, NULL,
                    1);
}

void mh_attention_bwd(const mh_attention_layer *a, const mh_params *params, const struct mh_ops *ops,
                      mh_attention_pass *pass, mh_attention_back *back, mh_mat dx, mh_mat dout, mh_mat x,
                      const mh_attention *shape, const int32_t *position, const float *rotary)
{
    mh_mat q = mh_mat_rows(pass->q, 0, x.rows), y = mh_mat_rows(pass->y, 0, x.rows);
    mh_mat k = mh_mat_rows(pass->k, 0, x.rows), v = mh_mat_rows(pass->v, 0, x.rows);
    mh_mat dq = mh_mat_rows(back->dq, 0, x.rows), dy = mh_mat_rows(back->dy, 0, x.rows);
    mh_mat dk = mh_mat_rows(back->dk, 0, x.rows), dv = mh_mat_rows(back->dv, 0, x.rows);

    x = mh_linear_input_kept(pass->rounded_x, x);
    ops->linear_bwd(dy, false, mh_param_grad(params, a->o), NULL, dout,
                    mh_linear_input_kept(pass->rounded_y, y), mh_param_linear(params, a->o), NULL, 1);
    ops->attention_bwd(dq, dk, dv, dy, y, q, k, v, pass->lse, shape);
    ops->rotary_bwd(dq, shape->head_dim, position, rotary);
    ops->rotary_bwd(dk, shape->head_dim, position, rotary);
    ops->linear_bwd(dx, false, mh_param_grad(params, a->q), NULL, dq, x, mh_param_linear(params, a->q), NULL,
                    1);
    ops->linear_bwd(dx, true, mh_param_grad(params, a->k), NULL, dk, x, mh_param_linear(params, a->k), NULL,
                    1);
    ops->linear_bwd(dx, true, mh_param_grad(params, a->v), NULL, dv, x, mh_param_linear(params, a->v), NULL,
                    1);
}
