/* Balancing without a loss (Wang et al., 2024; DeepSeek-V3): a bias on each expert's score takes part in the
 * choice, but not in the gate, and moves by a fixed step towards an even load after each update. */
#include "model/model.h"

static void add(mh_ffn *ffn, mh_params *params, const char *prefix)
{
    mh_param bias = mh_router_weight(1, ffn->moe.experts);
    /* A parameter, so that checkpoints hold it; but no gradient reaches it, so that AdamW leaves it alone. */
    bias.rank = 1, bias.flags = MH_KEEP_F32, bias.init = MH_INIT_ZERO;
    ffn->choice_bias = mh_params_add(params, prefix, "router.bias", bias);
}

/* b_e += rate sign(mean load - load_e), in integers: E load_e against the sum */
static void update(const mh_ffn *ffn, const mh_params *params, const int64_t *load)
{
    float *bias = mh_param_value(params, ffn->choice_bias).p;
    int64_t experts = ffn->moe.experts, sum = 0;
    for (int64_t e = 0; e < experts; e++)
        sum += load[e];
    for (int64_t e = 0; e < experts; e++)
        bias[e] += (float)ffn->moe.bias_rate * (float)((load[e] * experts < sum) - (load[e] * experts > sum));
}

const mh_balancing mh_balancing_bias = {.add = add, .update = update};
