/* The usual router: logits are a linear of the row. */
#include "model/model.h"

static void add(mh_ffn *ffn, mh_params *params, const char *prefix)
{
    ffn->router[0] = mh_params_add(params, prefix, "router.weight",
                                   mh_router_weight(ffn->moe.experts, ffn->dim / ffn->moe.heads));
}

static int64_t products(const mh_moe_config *moe, int64_t width)
{
    return width * moe->experts;
}

static void fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_mat *v,
                mh_mat logits, mh_mat rows)
{
    (void)v;
    ops->linear_fwd(logits, rows, mh_param_linear(params, ffn->router[0]), NULL, NULL, 1);
}

static void bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, const mh_mat *v,
                mh_mat *d, mh_mat drows, bool add_to, mh_mat dlogits, mh_mat rows)
{
    (void)v;
    (void)d;
    ops->linear_bwd(drows, add_to, mh_param_grad(params, ffn->router[0]), NULL, dlogits, rows,
                    mh_param_linear(params, ffn->router[0]), NULL, 1);
}

const mh_router mh_router_linear = {.add = add, .products = products, .fwd = fwd, .bwd = bwd};
