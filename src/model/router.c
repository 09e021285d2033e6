/* From sub-tokens to a plan: the router's logits, probabilities, choices, gates, auxiliary losses. */
#include "model/model.h"

#include <math.h>
#include <string.h>

#define ROUTER(VALUE, name, text)    extern const mh_router mh_router_##name;
#define BALANCING(VALUE, name, text) extern const mh_balancing mh_balancing_##name;
MH_ROUTERS(ROUTER)
MH_BALANCINGS(BALANCING)
#undef ROUTER
#undef BALANCING

const mh_balancing mh_balancing_none = {0};

const mh_router *mh_router_of(const mh_moe_config *moe)
{
#define ROUTER(VALUE, name, text) [MH_ROUTER_##VALUE] = &mh_router_##name,
    static const mh_router *const routers[] = {MH_ROUTERS(ROUTER)};
    return routers[moe->router];
}

const mh_balancing *mh_balancing_of(const mh_moe_config *moe)
{
#define BALANCING(VALUE, name, text) [MH_BALANCING_##VALUE] = &mh_balancing_##name,
    static const mh_balancing *const balancings[] = {MH_BALANCINGS(BALANCING)};
    return balancings[moe->balance];
}

mh_param mh_router_weight(int64_t rows, int64_t cols)
{
    return (mh_param){.groups = 1,
                      .rows = rows,
                      .cols = cols,
                      .rank = 2,
                      .flags = MH_DECAY | MH_KEEP_F32,
                      .part = MH_PART_ROUTER,
                      .init = MH_INIT_UNIFORM,
                      .scale = 1 / sqrt((double)cols)};
}

/* Rows an expert may take: the authors' C = k ceil(S/E), times the factor; 0 for no limit. */
static int64_t capacity_rows(const mh_moe_config *m, int64_t routed)
{
    if (m->capacity_factor == 0)
        return 0;
    int64_t share = (routed + m->experts - 1) / m->experts;
    return (int64_t)ceil(m->capacity_factor * (double)(m->top_k * share));
}

/* The router's input in f32: the sub-tokens themselves, or their copy in a bf16 run. */
static mh_mat router_input(const mh_ffn_mats *v, mh_mat rows)
{
    return v->wide.p ? mh_mat_rows(v->wide, 0, rows.rows) : rows;
}

void mh_route_fwd(const mh_ffn *f, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                  mh_mat rows)
{
    const mh_moe_config *m = &f->moe;
    const mh_balancing *balancing = mh_balancing_of(m);
    mh_plan *plan = &pass->plan;
    int k = (int)m->top_k;
    mh_mat prob = mh_mat_rows(pass->v.prob, 0, rows.rows), input = router_input(&pass->v, rows);
    if (input.p != rows.p)
        ops->cast(input, rows);
    mh_router_of(m)->fwd(f, params, ops, pass->v.router, prob, input);
    ops->softmax_fwd(prob, prob);
    if (pass->forced != NULL)
        memcpy(plan->choice, pass->forced, (size_t)(rows.rows * k) * sizeof *plan->choice);
    else
        ops->top_k(plan->choice, prob, NULL, k);
    ops->gates_fwd(plan->gate, prob, plan->choice, k, m->renormalize);
    pass->balance = balancing->fwd ? balancing->fwd(ops, prob, plan) : 0;
    ops->plan(plan, rows.rows, capacity_rows(m, rows.rows), MH_DROP_POSITION);
}

void mh_route_bwd(const mh_ffn *f, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                  mh_ffn_back *back, mh_mat drows, mh_mat rows, double balance_scale)
{
    const mh_moe_config *m = &f->moe;
    const mh_balancing *balancing = mh_balancing_of(m);
    const mh_plan *plan = &pass->plan;
    mh_mat prob = mh_mat_rows(pass->v.prob, 0, rows.rows), dprob = mh_mat_rows(back->d.prob, 0, rows.rows);

    ops->gates_bwd(dprob, back->gates, prob, plan->choice, (int)m->top_k, m->renormalize);
    if (balancing->bwd)
        balancing->bwd(ops, dprob, balance_scale * m->balance_weight, plan);
    ops->softmax_bwd(dprob, dprob, prob);
    mh_mat input = router_input(&pass->v, rows), dinput = router_input(&back->d, drows);
    bool apart = dinput.p != drows.p;
    mh_router_of(m)->bwd(f, params, ops, pass->v.router, back->d.router, dinput, !apart, dprob, input);
    if (apart)
        ops->add(drows, drows, dinput);
}
