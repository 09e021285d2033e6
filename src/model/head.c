/* The head layer of an MoE layer: up to three linears with ReLU between. */
#include "model/model.h"

#include <math.h>

int mh_head_linears(const mh_moe_config *moe)
{
    return moe->head - MH_OFF;
}

mh_param mh_square_weight(int64_t dim, double scale)
{
    return (mh_param){.groups = 1,
                      .rows = dim,
                      .cols = dim,
                      .rank = 2,
                      .flags = MH_DECAY | MH_LINEAR,
                      .part = MH_PART_HEAD_MERGE,
                      .init = MH_INIT_UNIFORM,
                      .scale = scale};
}

void mh_head_add(mh_ffn *ffn, mh_params *params, const char *prefix)
{
    static const char *const weights[MH_HEAD_LINEARS] = {"head.weight", "head.2.weight", "head.3.weight"};
    static const char *const biases[MH_HEAD_LINEARS] = {"head.bias", "head.2.bias", "head.3.bias"};
    double d = (double)ffn->dim;
    /* Xavier, gain 1/sqrt(2): sqrt(6/(d + d))/sqrt(2) */
    mh_param weight = mh_square_weight(ffn->dim, sqrt(1.5 / d)),
             bias = mh_square_weight(ffn->dim, 1 / sqrt(d));
    bias.rows = 1, bias.rank = 1, bias.flags = MH_KEEP_F32;
    for (int i = 0; i < mh_head_linears(&ffn->moe); i++) {
        /* NOLINTNEXTLINE(*CallAndMessage): mh_head_linears is MH_HEAD_LINEARS at most */
        ffn->head_weight[i] = mh_params_add(params, prefix, weights[i], weight);
        ffn->head_bias[i] = mh_params_add(params, prefix, biases[i], bias);
    }
}

/* What linear number i reads. */
static mh_mat before(const mh_ffn_mats *mats, int i, mh_mat x)
{
    return i > 0 ? mh_mat_rows(mats->head[i - 1], 0, x.rows) : x;
}

mh_mat mh_head_out(const mh_ffn *ffn, const mh_ffn_mats *mats, mh_mat x)
{
    return before(mats, mh_head_linears(&ffn->moe), x);
}

void mh_head_fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                 mh_mat x)
{
    int n = mh_head_linears(&ffn->moe);
    for (int i = 0; i < n; i++) {
        mh_mat y = before(&pass->v, i + 1, x);
        ops->linear_fwd(y, before(&pass->v, i, x), mh_param_linear(params, ffn->head_weight[i]),
                        mh_param_vector(params, ffn->head_bias[i]), NULL, 1);
        if (i + 1 < n)
            ops->relu_fwd(y, y);
    }
}

void mh_head_bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                 mh_ffn_back *back, mh_mat dx, mh_mat x)
{
    int n = mh_head_linears(&ffn->moe);
    for (int i = n - 1; i >= 0; i--) {
        mh_mat dy = before(&back->d, i + 1, dx);
        if (i + 1 < n)
            ops->relu_bwd(dy, dy, before(&pass->v, i + 1, x));
        ops->linear_bwd(before(&back->d, i, dx), false, mh_param_grad(params, ffn->head_weight[i]),
                        mh_param_grad(params, ffn->head_bias[i]), dy, before(&pass->v, i, x),
                        mh_param_linear(params, ffn->head_weight[i]), NULL, 1);
    }
}
