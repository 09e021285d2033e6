/* From sub-tokens to a plan: the router's logits, probabilities, choices, gates, auxiliary losses. */
#include "model/model.h"

#include <math.h>
#include <string.h>

#define ROUTER(VALUE, name, text) extern const mh_router mh_router_##name;
MH_ROUTERS(ROUTER)
#undef ROUTER

const mh_router *mh_router_of(const mh_moe_config *moe)
{
#define ROUTER(VALUE, name, text) [MH_ROUTER_##VALUE] = &mh_router_##name,
    static const mh_router *const routers[] = {MH_ROUTERS(ROUTER)};
    return routers[moe->router];
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

/* Rows an expert may take: the authors' C = K ceil(S/E), times the factor; 0 for no limit. */
static int64_t capacity_rows(const mh_moe_config *m, int64_t routed)
{
    if (m->capacity_factor == 0)
        return 0;
    int64_t share = (routed + m->experts - 1) / m->experts;
    return (int64_t)ceil(m->capacity_factor * (double)(m->top_k * share));
}

/* The router's input in f32: the sub-tokens themselves, or a copy of them. */
static mh_mat router_input(const mh_ffn_mats *v, mh_mat rows)
{
    return v->wide.p ? mh_mat_rows(v->wide, 0, rows.rows) : rows;
}

static bool jittered(const mh_ffn *f, const mh_draw *draw)
{
    return draw->train && f->moe.jitter > 0;
}

static uint64_t stream_of(const mh_draw *draw, mh_use use)
{
    return mh_stream(use, draw->step, draw->layer);
}

static void choose(const mh_ffn *f, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                   mh_mat prob)
{
    const mh_moe_config *m = &f->moe;
    int32_t *choice = pass->plan.choice;
    if (pass->forced != NULL) {
        memcpy(choice, pass->forced, (size_t)(prob.rows * m->top_k) * sizeof *choice);
        return;
    }
    ops->top_k(choice, prob, mh_param_vector(params, f->choice_bias), (int)m->top_k);
    if (pass->draw.train && m->top_k == 2)
        ops->second_expert(choice, prob, (mh_second)m->second_expert, pass->draw.seed,
                           stream_of(&pass->draw, MH_RANDOM_SECOND));
}

void mh_route_fwd(const mh_ffn *f, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                  mh_mat rows)
{
    const mh_moe_config *m = &f->moe;
    const mh_balancing *balancing = mh_balancing_of(m);
    mh_plan *plan = &pass->plan;
    mh_mat prob = mh_mat_rows(pass->v.prob, 0, rows.rows), input = router_input(&pass->v, rows);
    if (input.p != rows.p)
        ops->cast(input, rows);
    if (jittered(f, &pass->draw))
        ops->jitter_fwd(input, (float)m->jitter, pass->draw.seed, stream_of(&pass->draw, MH_RANDOM_JITTER));

    mh_router_of(m)->fwd(f, params, ops, pass->v.router, prob, input);
    if (m->z_weight > 0)
        pass->z_loss = (double)ops->z_loss_fwd(pass->lse, prob);
    (m->score == MH_SCORE_SIGMOID ? ops->sigmoid_fwd : ops->softmax_fwd)(prob, prob);
    choose(f, params, ops, pass, prob);
    ops->gates_fwd(plan->gate, prob, plan->choice, (int)m->top_k, m->renormalize);
    if (balancing->fwd)
        pass->balance = balancing->fwd(ops, prob, plan);
    ops->plan(plan, rows.rows, capacity_rows(m, rows.rows), (mh_drop)m->drop);
}

void mh_route_bwd(const mh_ffn *f, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                  mh_ffn_back *back, mh_mat drows, mh_mat rows, double aux_scale)
{
    const mh_moe_config *m = &f->moe;
    const mh_balancing *balancing = mh_balancing_of(m);
    const mh_plan *plan = &pass->plan;
    mh_mat prob = mh_mat_rows(pass->v.prob, 0, rows.rows), dprob = mh_mat_rows(back->d.prob, 0, rows.rows);

    ops->gates_bwd(dprob, back->gates, prob, plan->choice, (int)m->top_k, m->renormalize);
    if (balancing->bwd)
        balancing->bwd(ops, dprob, aux_scale * m->balance_weight, plan);
    (m->score == MH_SCORE_SIGMOID ? ops->sigmoid_bwd : ops->softmax_bwd)(dprob, dprob, prob);
    if (m->z_weight > 0)
        ops->z_loss_bwd(dprob, (float)(aux_scale * m->z_weight), prob, pass->lse);

    mh_mat input = router_input(&pass->v, rows), dinput = router_input(&back->d, drows);
    bool apart = dinput.p != drows.p;
    mh_router_of(m)->bwd(f, params, ops, pass->v.router, back->d.router, dinput, !apart, dprob, input);
    if (jittered(f, &pass->draw))
        ops->jitter_bwd(dinput, (float)m->jitter, pass->draw.seed, stream_of(&pass->draw, MH_RANDOM_JITTER));
    if (apart)
        ops->add(drows, drows, dinput);
}
