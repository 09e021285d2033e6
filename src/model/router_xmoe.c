/* X-MoE's router (Chi et al., 2022): rows are reduced to a few numbers and compared with one embedding an
 * expert. */
#include "model/model.h"

#include <math.h>
#include <string.h>

enum { REDUCE, EMBED };                 /* parameters */
enum { REDUCED, EMBEDDED, EMBED_STAT }; /* matrices: f32 [S, r], normalised [E, r], [E, 1] */
static const int64_t width = 16;        /* r */
static const float eps = 1e-4f;         /* of the normalisation, as in the authors' code */

static void add(mh_ffn *ffn, mh_params *params, const char *prefix)
{
    mh_param reduce = mh_router_weight(width, ffn->dim / ffn->moe.heads);
    mh_param embed = mh_router_weight(ffn->moe.experts, width);
    /* rows of norm about 1.5, as the authors' code keeps them; only their direction matters */
    embed.init = MH_INIT_NORMAL, embed.scale = 1.5 / sqrt((double)width);
    ffn->router[REDUCE] = mh_params_add(params, prefix, "router.reduce.weight", reduce);
    ffn->router[EMBED] = mh_params_add(params, prefix, "router.embed", embed);
}

static void layout(const mh_ffn *ffn, mh_mat *mats, mh_arena *arena, int64_t rows)
{
    mats[REDUCED] = mh_take_mat(arena, rows, width, MH_F32);
    mats[EMBEDDED] = mh_take_mat(arena, ffn->moe.experts, width, MH_F32);
    mats[EMBED_STAT] = mh_take_mat(arena, ffn->moe.experts, 1, MH_F32);
}

static int64_t products(const mh_moe_config *moe, int64_t s)
{
    return s * width + width * moe->experts;
}

static void fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_mat *v,
                mh_mat logits, mh_mat rows)
{
    mh_mat reduced = mh_mat_rows(v[REDUCED], 0, rows.rows);
    ops->linear_fwd(reduced, rows, mh_param_value(params, ffn->router[REDUCE]), NULL, NULL, 1);
    ops->normalize_fwd(v[EMBEDDED], v[EMBED_STAT].p, mh_param_value(params, ffn->router[EMBED]), eps);
    ops->linear_fwd(logits, reduced, v[EMBEDDED], NULL, NULL, 1);
}

static void bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, const mh_mat *v,
                mh_mat *d, mh_mat drows, bool add_to, mh_mat dlogits, mh_mat rows)
{
    mh_mat reduced = mh_mat_rows(v[REDUCED], 0, rows.rows), dreduced = mh_mat_rows(d[REDUCED], 0, rows.rows);
    mh_mat embedded = v[EMBEDDED], dembedded = d[EMBEDDED];
    mh_mat grad = mh_mat_of(mh_param_grad(params, ffn->router[EMBED]), embedded.rows, embedded.cols, MH_F32);

    memset(dembedded.p, 0, (size_t)(dembedded.rows * dembedded.cols) * sizeof(float));
    ops->linear_bwd(dreduced, false, dembedded.p, NULL, dlogits, reduced, embedded, NULL, 1);
    ops->normalize_bwd(dembedded, dembedded, embedded, v[EMBED_STAT].p, eps);
    ops->add(grad, grad, dembedded);
    ops->linear_bwd(drows, add_to, mh_param_grad(params, ffn->router[REDUCE]), NULL, dreduced, rows,
                    mh_param_value(params, ffn->router[REDUCE]), NULL, 1);
}

const mh_router mh_router_xmoe_code = {
    .add = add, .layout = layout, .products = products, .fwd = fwd, .bwd = bwd};
