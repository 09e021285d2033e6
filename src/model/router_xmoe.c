/* X-MoE's routers (Chi et al., 2022): rows are reduced to r numbers and compared with one embedding an
 * expert. As published both sides have length 1 and a temperature is learnt; the authors' code normalises
 * only the embeddings and has none. */
#include "model/model.h"

#include <math.h>
#include <string.h>

enum { REDUCE, EMBED, TEMPERATURE };                            /* parameters */
enum { REDUCED, REDUCED_STAT, TEMPERED, EMBEDDED, EMBED_STAT }; /* f32 [S, r], [S], [S, r], [E, r], [E] */
static const float eps = 1e-4f; /* of the normalisation, as in the authors' code */

static bool published(const mh_moe_config *moe)
{
    return moe->router == MH_ROUTER_XMOE;
}

/* r: 16, and with several heads the paper's 16 / h. */
static int64_t width(const mh_moe_config *moe)
{
    return !published(moe) ? 16 : moe->heads < 16 ? 16 / moe->heads : 1;
}

static void add(mh_ffn *ffn, mh_params *params, const char *prefix)
{
    const mh_moe_config *moe = &ffn->moe;
    mh_param reduce = mh_router_weight(width(moe), ffn->dim / moe->heads);
    mh_param embed = mh_router_weight(moe->experts, width(moe)), temperature = mh_router_weight(1, 1);
    /* rows of norm about 1.5, as the authors' code keeps them; only their direction matters */
    embed.init = MH_INIT_NORMAL, embed.scale = 1.5 / sqrt((double)width(moe));
    ffn->router[REDUCE] = mh_params_add(params, prefix, "router.reduce.weight", reduce);
    ffn->router[EMBED] = mh_params_add(params, prefix, "router.embed", embed);
    if (!published(moe))
        return;
    temperature.rank = 1, temperature.flags = MH_KEEP_F32, temperature.init = MH_INIT_CONSTANT;
    temperature.scale = log(moe->score == MH_SCORE_SIGMOID ? 0.07 : 0.3);
    ffn->router[TEMPERATURE] = mh_params_add(params, prefix, "router.log_temperature", temperature);
}

static void layout(const mh_ffn *ffn, mh_mat *mats, mh_arena *arena, int64_t rows)
{
    int64_t r = width(&ffn->moe);
    mats[REDUCED] = mh_take_mat(arena, rows, r, MH_F32);
    mats[EMBEDDED] = mh_take_mat(arena, ffn->moe.experts, r, MH_F32);
    mats[EMBED_STAT] = mh_take_mat(arena, ffn->moe.experts, 1, MH_F32);
    if (published(&ffn->moe)) {
        mats[REDUCED_STAT] = mh_take_mat(arena, rows, 1, MH_F32);
        mats[TEMPERED] = mh_take_mat(arena, rows, r, MH_F32);
    }
}

static int64_t products(const mh_moe_config *moe, int64_t s)
{
    return s * width(moe) + width(moe) * moe->experts;
}

/* What is compared with the embeddings. */
static mh_mat key(const mh_ffn *ffn, const mh_mat *mats, int64_t rows)
{
    return mh_mat_rows(mats[published(&ffn->moe) ? TEMPERED : REDUCED], 0, rows);
}

static void fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_mat *v,
                mh_mat logits, mh_mat rows)
{
    mh_mat reduced = mh_mat_rows(v[REDUCED], 0, rows.rows);
    ops->linear_fwd(reduced, rows, mh_param_linear(params, ffn->router[REDUCE]), NULL, NULL, 1);
    if (published(&ffn->moe)) {
        ops->normalize_fwd(reduced, v[REDUCED_STAT].p, reduced, eps);
        ops->temper_fwd(key(ffn, v, rows.rows), reduced, mh_param_vector(params, ffn->router[TEMPERATURE]));
    }
    ops->normalize_fwd(v[EMBEDDED], v[EMBED_STAT].p, mh_param_value(params, ffn->router[EMBED]), eps);
    ops->linear_fwd(logits, key(ffn, v, rows.rows), (mh_linear_weights){.w = v[EMBEDDED]}, NULL, NULL, 1);
}

static void bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, const mh_mat *v,
                mh_mat *d, mh_mat drows, bool add_to, mh_mat dlogits, mh_mat rows)
{
    mh_mat reduced = mh_mat_rows(v[REDUCED], 0, rows.rows), dreduced = mh_mat_rows(d[REDUCED], 0, rows.rows);
    mh_mat embedded = v[EMBEDDED], dembedded = d[EMBEDDED];
    mh_mat grad = mh_mat_of(mh_param_grad(params, ffn->router[EMBED]), embedded.rows, embedded.cols, MH_F32);

    memset(dembedded.p, 0, (size_t)(dembedded.rows * dembedded.cols) * sizeof(float));
    ops->linear_bwd(key(ffn, d, rows.rows), false, dembedded.p, NULL, dlogits, key(ffn, v, rows.rows),
                    (mh_linear_weights){.w = embedded}, NULL, 1);
    ops->normalize_bwd(dembedded, dembedded, embedded, v[EMBED_STAT].p, eps);
    ops->add(grad, grad, dembedded);
    if (published(&ffn->moe)) {
        ops->temper_bwd(dreduced, mh_param_grad(params, ffn->router[TEMPERATURE]), key(ffn, d, rows.rows),
                        key(ffn, v, rows.rows), mh_param_vector(params, ffn->router[TEMPERATURE]));
        ops->normalize_bwd(dreduced, dreduced, reduced, v[REDUCED_STAT].p, eps);
    }
    ops->linear_bwd(drows, add_to, mh_param_grad(params, ffn->router[REDUCE]), NULL, dreduced, rows,
                    mh_param_linear(params, ffn->router[REDUCE]), NULL, 1);
}

#define ROUTER                                                                     \
    {                                                                              \
        .add = add, .layout = layout, .products = products, .fwd = fwd, .bwd = bwd \
    }
const mh_router mh_router_xmoe = ROUTER, mh_router_xmoe_code = ROUTER;
