/* The experts of a layer on dispatched rows. A dense layer is one expert. */
#include "model/model.h"

static mh_experts experts_of(const mh_ffn *f, const mh_params *params, const int64_t *begin)
{
    bool gated = f->activation == MH_SWIGLU;
    return (mh_experts){.gate =
                            gated ? mh_param_linear(params, f->gate) : (mh_linear_weights){.forward = NULL},
                        .up = mh_param_linear(params, f->up),
                        .down = mh_param_linear(params, f->down),
                        .gate_bias = mh_param_vector(params, f->gate_bias),
                        .up_bias = mh_param_vector(params, f->up_bias),
                        .down_bias = mh_param_vector(params, f->down_bias),
                        .begin = begin,
                        .groups = begin == NULL ? 1 : (int)f->moe.experts,
                        .quantize = f->quant == MH_QUANT_BITNET158};
}

static mh_expert_rows rows_of(const mh_ffn *f, const mh_ffn_mats *m, mh_mat in, mh_mat out)
{
    return (mh_expert_rows){.in = in,
                            .gate =
                                f->activation == MH_SWIGLU ? mh_mat_rows(m->gate, 0, in.rows) : (mh_mat){0},
                            .up = mh_mat_rows(m->up, 0, in.rows),
                            .act = mh_mat_rows(m->act, 0, in.rows),
                            .out = out};
}

void mh_experts_fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                    mh_mat out, mh_mat in, const int64_t *begin)
{
    mh_experts experts = experts_of(ffn, params, begin);
    in = mh_linear_input(ops, pass->rounded, in);
    ops->experts_fwd(rows_of(ffn, &pass->v, in, out), &experts);
}

void mh_experts_bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                    mh_ffn_back *back, mh_mat din, mh_mat dout, mh_mat in, const int64_t *begin)
{
    mh_experts experts = experts_of(ffn, params, begin);
    mh_expert_grads grads = {mh_param_grad(params, ffn->gate),    mh_param_grad(params, ffn->up),
                             mh_param_grad(params, ffn->down),    mh_param_grad(params, ffn->gate_bias),
                             mh_param_grad(params, ffn->up_bias), mh_param_grad(params, ffn->down_bias)};
    in = mh_linear_input_kept(pass->rounded, in);
    ops->experts_bwd(rows_of(ffn, &back->d, din, dout), &grads, rows_of(ffn, &pass->v, in, (mh_mat){0}),
                     &experts);
}
