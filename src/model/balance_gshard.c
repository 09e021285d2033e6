/* GShard's balance loss: E sum_e f_e P_e, counted before capacity. */
#include "model/model.h"

static double fwd(const struct mh_ops *ops, mh_mat prob, const mh_plan *plan)
{
    return (double)ops->balance_fwd(prob, plan->choice, plan->top_k);
}

static void bwd(const struct mh_ops *ops, mh_mat dprob, double weight, const mh_plan *plan)
{
    ops->balance_bwd(dprob, (float)weight, plan->choice, plan->top_k);
}

const mh_balancing mh_balancing_gshard = {.fwd = fwd, .bwd = bwd};
