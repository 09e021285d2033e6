/* The learning rate as a function of the step. */
#include "train/train.h"

#include <math.h>

double mh_schedule_rate(const mh_train_config *c, int64_t step)
{
    if (step < c->warmup)
        return c->rate * (double)step / (double)c->warmup;
    int64_t flat = c->schedule == MH_SCHEDULE_WSD ? c->steps - c->decay_steps : c->warmup;
    if (step <= flat)
        return c->rate;
    double share = (double)(step - flat) / (double)(c->steps - flat);
    double left = c->schedule == MH_SCHEDULE_COSINE ? (1 + cos(M_PI * share)) / 2 : 1 - share;
    return c->min_rate + (c->rate - c->min_rate) * left;
}
