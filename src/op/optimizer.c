/* optimizer: AdamW and the norm of gradients, over flat arrays. */
#include "kernel/kernel.h"
#include "op/op.h"

#include <math.h>

enum { BLOCK = 16384 };

/* m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2, w -= rate (m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps) + decay w) */
void mh_cpu_adamw(float *w, float *m, float *v, const float *dw, int64_t n, const mh_adamw *rule)
{
    mh_adamw_factors factors = {
        .grad_scale = (float)rule->grad_scale,
        .beta1 = (float)rule->beta1,
        .beta2 = (float)rule->beta2,
        .rate = (float)(rule->rate / (1 - pow(rule->beta1, (double)rule->step))),
        .root = (float)(1 / sqrt(1 - pow(rule->beta2, (double)rule->step))),
        .eps = (float)rule->eps,
        .keep = (float)(1 - rule->rate * rule->decay),
    };
#pragma omp parallel for schedule(static) if (mh_worth(n))
    for (int64_t i = 0; i < n; i += BLOCK)
        mh_rows_now()->adamw(w + i, m + i, v + i, dw + i, &factors, mh_least(BLOCK, n - i));
}

/* sum x^2 in double; PARTS partial sums whose bounds depend on n alone, added in order */
double mh_cpu_square_sum(const float *x, int64_t n)
{
    enum { PARTS = 256 };
    double part[PARTS], sum = 0;
    int64_t width = (n + PARTS - 1) / PARTS;
#pragma omp parallel for schedule(static) if (mh_worth(n))
    for (int i = 0; i < PARTS; i++) {
        int64_t first = mh_least(i * width, n);
        part[i] = mh_rows_now()->squares_wide(x + first, mh_least(width, n - first));
    }
    for (int i = 0; i < PARTS; i++)
        sum += part[i];
    return sum;
}
