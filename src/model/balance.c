/* The table of balancing methods, and the counting for those that act after an update. */
#include "model/model.h"

#include <string.h>

#define BALANCING(VALUE, name, text) extern const mh_balancing mh_balancing_##name;
MH_BALANCINGS(BALANCING)
#undef BALANCING

const mh_balancing mh_balancing_none = {0};

const mh_balancing *mh_balancing_of(const mh_moe_config *moe)
{
#define BALANCING(VALUE, name, text) [MH_BALANCING_##VALUE] = &mh_balancing_##name,
    static const mh_balancing *const balancings[] = {MH_BALANCINGS(BALANCING)};
    return balancings[moe->balance];
}

void mh_balance_count(mh_pass *pass, const mh_model *model)
{
    for (int64_t i = 0; i < model->config.layers; i++) {
        const mh_ffn_pass *ffn = &pass->blocks[i].ffn;
        const mh_plan *plan = &ffn->plan;
        for (int64_t pair = 0; ffn->load && pair < plan->rows * plan->top_k; pair++)
            if (plan->choice[pair] >= 0)
                ffn->load[plan->choice[pair]]++;
    }
}

void mh_balance_update(mh_pass *pass, const mh_model *model)
{
    for (int64_t i = 0; i < model->config.layers; i++) {
        const mh_ffn *ffn = &model->blocks[i].ffn;
        if (pass->blocks[i].ffn.load)
            mh_balancing_of(&ffn->moe)->update(ffn, &model->params, pass->blocks[i].ffn.load);
    }
    mh_balance_clear(pass, model);
}

void mh_balance_clear(mh_pass *pass, const mh_model *model)
{
    for (int64_t i = 0; i < model->config.layers; i++) {
        int64_t *load = pass->blocks[i].ffn.load;
        if (load)
            memset(load, 0, (size_t)model->config.moe.experts * sizeof *load);
    }
}
