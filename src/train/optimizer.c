/* AdamW over the parameter registry. */
#include "train/train.h"

#include <math.h>

static void layout(mh_optimizer *o, mh_arena *arena, const mh_model *model)
{
    size_t bytes = (size_t)model->params.elements * sizeof(float);
    o->m = mh_take(arena, bytes);
    o->v = mh_take(arena, bytes);
}

mh_status mh_optimizer_init(mh_optimizer *optimizer, const mh_model *model)
{
    *optimizer = (mh_optimizer){0};
    mh_arena count = {0};
    layout(optimizer, &count, model);
    MH_TRY(mh_arena_init(&optimizer->memory, count.used, "the optimizer's moments"));
    layout(optimizer, &optimizer->memory, model);
    return MH_OK;
}

void mh_optimizer_release(mh_optimizer *optimizer)
{
    mh_arena_release(&optimizer->memory);
    *optimizer = (mh_optimizer){0};
}

static double square_sum(const mh_model *model, int index)
{
    return model->ops->square_sum(mh_param_grad(&model->params, index),
                                  mh_param_size(&model->params.list[index]));
}

int mh_optimizer_find_nan(const mh_model *model)
{
    for (int i = 0; i < model->params.count; i++)
        if (!isfinite(square_sum(model, i)))
            return i;
    return -1;
}

/* m = beta1 m + (1-beta1) g, v = beta2 v + (1-beta2) g^2, and with both corrected for their start at zero
 * w -= rate (m / (sqrt(v) + eps) + decay w): decay stands outside of the moments (Loshchilov and Hutter). */
double mh_optimizer_step(mh_optimizer *optimizer, mh_model *model, const mh_train_config *config)
{
    mh_params *params = &model->params;
    double sum = 0;
    for (int i = 0; i < params->count; i++)
        sum += square_sum(model, i);
    double norm = sqrt(sum);
    if (!isfinite(norm))
        return norm;

    optimizer->step++;
    mh_adamw rule = {.rate = mh_schedule_rate(config, optimizer->step),
                     .beta1 = config->beta1,
                     .beta2 = config->beta2,
                     .eps = config->eps,
                     .step = optimizer->step,
                     .grad_scale = config->clip > 0 && norm > config->clip ? config->clip / norm : 1};
    for (int i = 0; i < params->count; i++) {
        const mh_param *p = &params->list[i];
        rule.decay = p->flags & MH_DECAY ? config->decay : 0;
        model->ops->adamw(params->value + p->offset, optimizer->m + p->offset, optimizer->v + p->offset,
                          params->grad + p->offset, mh_param_size(p), &rule);
    }
    mh_params_clear(params);
    mh_params_refresh(params, model->ops);
    return norm;
}
