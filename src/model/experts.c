/* The experts of a layer on dispatched rows: down(up * silu(gate)) or down(gelu(up)). A dense layer is one
 * expert. */
#include "model/model.h"

void mh_experts_fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                    mh_mat out, mh_mat in, const int64_t *begin)
{
    int groups = begin == NULL ? 1 : (int)ffn->moe.experts;
    mh_mat up = mh_mat_rows(pass->v.up, 0, in.rows), act = mh_mat_rows(pass->v.act, 0, in.rows);

    in = mh_linear_input(ops, pass->rounded, in);
    ops->linear_fwd(up, in, mh_param_linear(params, ffn->up), mh_param_vector(params, ffn->up_bias), begin,
                    groups);
    if (ffn->activation == MH_SWIGLU) {
        mh_mat gate = mh_mat_rows(pass->v.gate, 0, in.rows);
        ops->linear_fwd(gate, in, mh_param_linear(params, ffn->gate), mh_param_vector(params, ffn->gate_bias),
                        begin, groups);
        ops->swiglu_fwd(act, gate, up);
    } else {
        ops->gelu_fwd(act, up);
    }
    if (ffn->quant == MH_QUANT_BITNET158)
        ops->quantize(act, act); /* nothing else reads it, in backward neither */
    ops->linear_fwd(out, act, mh_param_linear(params, ffn->down), mh_param_vector(params, ffn->down_bias),
                    begin, groups);
}

void mh_experts_bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                    mh_ffn_back *back, mh_mat din, mh_mat dout, mh_mat in, const int64_t *begin)
{
    int groups = begin == NULL ? 1 : (int)ffn->moe.experts;
    mh_mat up = mh_mat_rows(pass->v.up, 0, in.rows), act = mh_mat_rows(pass->v.act, 0, in.rows);
    mh_mat dup = mh_mat_rows(back->d.up, 0, in.rows), dact = mh_mat_rows(back->d.act, 0, in.rows);

    in = mh_linear_input_kept(pass->rounded, in);
    ops->linear_bwd(dact, false, mh_param_grad(params, ffn->down), mh_param_grad(params, ffn->down_bias),
                    dout, act, mh_param_linear(params, ffn->down), begin, groups);
    if (ffn->activation == MH_SWIGLU) {
        mh_mat gate = mh_mat_rows(pass->v.gate, 0, in.rows), dgate = mh_mat_rows(back->d.gate, 0, in.rows);
        ops->swiglu_bwd(dgate, dup, dact, gate, up);
        ops->linear_bwd(din, false, mh_param_grad(params, ffn->gate), mh_param_grad(params, ffn->gate_bias),
                        dgate, in, mh_param_linear(params, ffn->gate), begin, groups);
    } else {
        ops->gelu_bwd(dup, dact, up);
    }
    ops->linear_bwd(din, ffn->activation == MH_SWIGLU, mh_param_grad(params, ffn->up),
                    mh_param_grad(params, ffn->up_bias), dup, in, mh_param_linear(params, ffn->up), begin,
                    groups);
}
