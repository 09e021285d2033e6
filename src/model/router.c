/* Routers: logits over the experts for each routed row, in f32 whatever the run's precision. */
#include "model/model.h"

#include <string.h>

/* eps of the normalisation of X-MoE's embeddings, as in the authors' code */
static const float xmoe_eps = 1e-4f;

void mh_router_fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                   mh_mat logits, mh_mat rows)
{
    if (ffn->moe.router == MH_ROUTER_LINEAR) {
        ops->linear_fwd(logits, rows, mh_param_value(params, ffn->router), NULL, NULL, 1);
        return;
    }
    mh_mat reduced = mh_mat_rows(pass->v.reduced, 0, rows.rows);
    ops->linear_fwd(reduced, rows, mh_param_value(params, ffn->router_reduce), NULL, NULL, 1);
    ops->normalize_fwd(pass->v.embed, pass->embed_norm, mh_param_value(params, ffn->router_embed), xmoe_eps);
    ops->linear_fwd(logits, reduced, pass->v.embed, NULL, NULL, 1);
}

void mh_router_bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                   mh_ffn_back *back, mh_mat drows, bool add, mh_mat dlogits, mh_mat rows)
{
    if (ffn->moe.router == MH_ROUTER_LINEAR) {
        ops->linear_bwd(drows, add, mh_param_grad(params, ffn->router), NULL, dlogits, rows,
                        mh_param_value(params, ffn->router), NULL, 1);
        return;
    }
    mh_mat reduced = mh_mat_rows(pass->v.reduced, 0, rows.rows),
           dreduced = mh_mat_rows(back->d.reduced, 0, rows.rows);
    mh_mat stored = mh_param_value(params, ffn->router_embed);
    mh_mat grad = mh_mat_of(mh_param_grad(params, ffn->router_embed), stored.rows, stored.cols, MH_F32);

    memset(back->d.embed.p, 0, (size_t)(back->d.embed.rows * back->d.embed.cols) * sizeof(float));
    ops->linear_bwd(dreduced, false, back->d.embed.p, NULL, dlogits, reduced, pass->v.embed, NULL, 1);
    ops->normalize_bwd(back->d.embed, back->d.embed, pass->v.embed, pass->embed_norm, xmoe_eps);
    ops->add(grad, grad, back->d.embed);
    ops->linear_bwd(drows, add, mh_param_grad(params, ffn->router_reduce), NULL, dreduced, rows,
                    mh_param_value(params, ffn->router_reduce), NULL, 1);
}
