/* One feed-forward layer: head, split, route, dispatch, experts, combine, merge (spec: papers A and B;
 * docs/math.md). Dense, SMoE and MH-MoE are settings of it. */
#include "model/model.h"

#include <math.h>

void mh_ffn_register(mh_ffn *f, mh_params *params, const char *prefix)
{
    const mh_moe_config *m = &f->moe;
    int64_t e = m->experts, d = f->dim, s = e ? d / m->heads : d, width = m->ffn_dim;
    bool gated = f->activation == MH_SWIGLU;
    f->merge_weight = f->merge_bias = f->choice_bias = -1;
    f->gate = f->gate_bias = f->up_bias = f->down_bias = -1;

    /* The default initialisation of a linear layer: uniform within 1/sqrt(fan in). */
    double wide = 1 / sqrt((double)s), deep = 1 / sqrt((double)width);
    mh_param linear = {.groups = e ? e : 1,
                       .rank = e ? 3 : 2,
                       .flags = MH_DECAY | MH_TERNARY | MH_LINEAR | (e ? MH_EXPERT : 0),
                       .part = e           ? MH_PART_EXPERTS
                               : f->shared ? MH_PART_SHARED
                                           : MH_PART_FFN,
                       .init = MH_INIT_UNIFORM};
    mh_param up = linear, down = linear, bias = linear;
    up.rows = width, up.cols = s, up.scale = wide;
    down.rows = s, down.cols = width, down.scale = deep;
    bias.rows = 1, bias.cols = width, bias.scale = wide, bias.rank = e ? 2 : 1;
    bias.flags = MH_KEEP_F32 | (e ? MH_EXPERT : 0);

    if (e)
        mh_head_add(f, params, prefix);
    if (e && m->merge == MH_ON) {
        mh_param square = mh_square_weight(d, sqrt(3 / (double)d)), square_bias = square; /* Xavier, gain 1 */
        square_bias.rows = 1, square_bias.rank = 1, square_bias.flags = MH_KEEP_F32;
        square_bias.init = MH_INIT_ZERO;
        f->merge_weight = mh_params_add(params, prefix, "merge.weight", square);
        f->merge_bias = mh_params_add(params, prefix, "merge.bias", square_bias);
    }
    if (e)
        mh_router_of(m)->add(f, params, prefix);
    if (e && mh_balancing_of(m)->add)
        mh_balancing_of(m)->add(f, params, prefix);

    char inside[128];
    snprintf(inside, sizeof inside, "%s%s", prefix, e ? "experts." : "");
    if (gated)
        f->gate = mh_params_add(params, inside, "gate.weight", up);
    f->up = mh_params_add(params, inside, "up.weight", up);
    f->down = mh_params_add(params, inside, "down.weight", down);
    if (f->bias) {
        if (gated)
            f->gate_bias = mh_params_add(params, inside, "gate.bias", bias);
        f->up_bias = mh_params_add(params, inside, "up.bias", bias);
        bias.cols = s, bias.scale = deep;
        f->down_bias = mh_params_add(params, inside, "down.bias", bias);
    }
}

void mh_ffns_register(mh_ffn *ffn, mh_ffn *shared, mh_params *params, const mh_config *config, bool moe,
                      const char *prefix)
{
    *ffn = (mh_ffn){
        .dim = config->dim, .activation = config->activation, .bias = config->bias, .quant = config->quant};
    *shared = *ffn;
    shared->shared = true;
    if (moe)
        ffn->moe = config->moe;
    else
        ffn->moe.ffn_dim = config->ffn_dim;
    mh_ffn_register(ffn, params, prefix);
    if (moe && config->moe.shared_experts) {
        char inside[128];
        shared->moe.ffn_dim = config->moe.shared_experts * config->moe.shared_ffn_dim;
        snprintf(inside, sizeof inside, "%sshared.", prefix);
        mh_ffn_register(shared, params, inside);
    }
}

/* Rows that reach the experts: all of a dense layer's, each choice of each sub-token of an MoE layer's. */
static int64_t expert_rows(const mh_ffn *f, int64_t rows)
{
    return f->moe.experts ? rows * f->moe.heads * f->moe.top_k : rows;
}

static void mats_layout(const mh_ffn *f, mh_ffn_mats *mats, mh_arena *arena, int64_t rows, mh_type type)
{
    const mh_moe_config *m = &f->moe;
    int64_t inner = expert_rows(f, rows);
    mats->up = mh_take_mat(arena, inner, m->ffn_dim, type);
    mats->act = mh_take_mat(arena, inner, m->ffn_dim, type);
    if (f->activation == MH_SWIGLU)
        mats->gate = mh_take_mat(arena, inner, m->ffn_dim, type);
    if (!m->experts)
        return;

    int64_t routed = rows * m->heads, s = f->dim / m->heads;
    for (int i = 0; i < mh_head_linears(m); i++)
        mats->head[i] = mh_take_mat(arena, rows, f->dim, type);
    if (type != MH_F32 || m->jitter > 0)
        mats->wide = mh_take_mat(arena, routed, s, MH_F32);
    if (mh_router_of(m)->layout)
        mh_router_of(m)->layout(f, mats->router, arena, routed);
    mats->prob = mh_take_mat(arena, routed, m->experts, MH_F32);
    mats->in = mh_take_mat(arena, inner, s, type);
    mats->out = mh_take_mat(arena, inner, s, type);
    if (m->merge == MH_ON)
        mats->combined = mh_take_mat(arena, rows, f->dim, type);
}

void mh_ffn_layout(const mh_ffn *f, mh_ffn_pass *pass, mh_arena *arena, int64_t rows, mh_type type)
{
    const mh_moe_config *m = &f->moe;
    mats_layout(f, &pass->v, arena, rows, type);
    if (f->quant == MH_QUANT_BITNET158) /* in place where the rows are the layer's own copies */
        pass->rounded = m->experts ? pass->v.in : mh_take_mat(arena, rows, f->dim, type);
    if (!m->experts)
        return;
    mh_plan_layout(&pass->plan, arena, rows * m->heads, (int)m->experts, (int)m->top_k);
    if (m->z_weight > 0)
        pass->lse = mh_take(arena, (size_t)(rows * m->heads) * sizeof *pass->lse);
    if (mh_balancing_of(m)->update)
        pass->load = mh_take(arena, (size_t)m->experts * sizeof *pass->load);
}

void mh_ffn_layout_back(const mh_ffn *f, mh_ffn_back *back, mh_arena *arena, int64_t rows, mh_type type)
{
    mats_layout(f, &back->d, arena, rows, type);
    if (f->moe.experts)
        back->gates = mh_take(arena, (size_t)expert_rows(f, rows) * sizeof(float));
}

static mh_mat first_rows(mh_mat m, int64_t rows)
{
    return mh_mat_rows(m, 0, rows);
}

void mh_ffn_fwd(const mh_ffn *f, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                mh_mat y, mh_mat x)
{
    const mh_moe_config *m = &f->moe;
    if (!m->experts) {
        mh_experts_fwd(f, params, ops, pass, y, x, NULL);
        return;
    }
    mh_mat head = mh_head_out(f, &pass->v, x);
    mh_mat combined = m->merge == MH_ON ? first_rows(pass->v.combined, x.rows) : y;
    mh_head_fwd(f, params, ops, pass, x);
    mh_mat rows = mh_mat_split(head, (int)m->heads);
    mh_route_fwd(f, params, ops, pass, rows);

    int64_t kept = pass->plan.begin[m->experts];
    mh_mat in = first_rows(pass->v.in, kept), out = first_rows(pass->v.out, kept);
    ops->dispatch_fwd(in, rows, &pass->plan);
    mh_experts_fwd(f, params, ops, pass, out, in, pass->plan.begin);
    ops->combine_fwd(mh_mat_split(combined, (int)m->heads), out, &pass->plan);

    if (m->inner_residual)
        ops->add(combined, combined, head);
    if (m->merge == MH_ON)
        ops->linear_fwd(y, combined, mh_param_linear(params, f->merge_weight),
                        mh_param_vector(params, f->merge_bias), NULL, 1);
}

void mh_ffn_bwd(const mh_ffn *f, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                mh_ffn_back *back, mh_mat dx, mh_mat dy, mh_mat x, double aux_scale)
{
    const mh_moe_config *m = &f->moe;
    if (!m->experts) {
        mh_experts_bwd(f, params, ops, pass, back, dx, dy, x, NULL);
        return;
    }
    mh_mat head = mh_head_out(f, &pass->v, x), dhead = mh_head_out(f, &back->d, dx);
    mh_mat dcombined = dy;
    if (m->merge == MH_ON) {
        dcombined = first_rows(back->d.combined, x.rows);
        ops->linear_bwd(dcombined, false, mh_param_grad(params, f->merge_weight),
                        mh_param_grad(params, f->merge_bias), dy, first_rows(pass->v.combined, x.rows),
                        mh_param_linear(params, f->merge_weight), NULL, 1);
    }
    mh_mat rows = mh_mat_split(head, (int)m->heads), drows = mh_mat_split(dhead, (int)m->heads);

    int64_t kept = pass->plan.begin[m->experts];
    mh_mat in = first_rows(pass->v.in, kept), out = first_rows(pass->v.out, kept);
    mh_mat din = first_rows(back->d.in, kept), dout = first_rows(back->d.out, kept);
    ops->combine_bwd(dout, back->gates, mh_mat_split(dcombined, (int)m->heads), out, &pass->plan);
    mh_experts_bwd(f, params, ops, pass, back, din, dout, in, pass->plan.begin);
    ops->dispatch_bwd(drows, din, &pass->plan);
    mh_route_bwd(f, params, ops, pass, back, drows, rows, aux_scale);

    if (m->inner_residual)
        ops->add(dhead, dhead, dcombined);
    mh_head_bwd(f, params, ops, pass, back, dx, x);
}

void mh_shared_fwd(const mh_ffn *shared, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                   mh_mat y, mh_mat x, mh_mat work)
{
    if (!shared->moe.ffn_dim)
        return;
    mh_ffn_fwd(shared, params, ops, pass, work, x);
    ops->add(y, y, work);
}

void mh_shared_bwd(const mh_ffn *shared, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                   mh_ffn_back *back, mh_mat dx, mh_mat dy, mh_mat x, mh_mat work)
{
    if (!shared->moe.ffn_dim)
        return;
    mh_ffn_bwd(shared, params, ops, pass, back, work, dy, x, 0);
    ops->add(dx, dx, work);
}
