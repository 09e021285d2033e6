/* loss: output layer and cross entropy together, a few rows at a time, so that the logits of all rows never
 * stand in memory at once (8192 rows of 32000 would be a gigabyte). */
#include "kernel/kernel.h"
#include "op/op.h"

#include <math.h>
#include <string.h>

/* One row: -log softmax(y)_t; leaves scale (softmax(y) - onehot(t)) in y. */
static float cross_entropy(float *y, int32_t t, float scale, int64_t vocab)
{
    const mh_rows *kernel = mh_rows_now();
    if (t < 0) {
        memset(y, 0, (size_t)vocab * sizeof *y);
        return 0;
    }
    float largest = kernel->max(y, vocab), wanted = y[t];
    float sum = kernel->exp(y, y, 1, largest, vocab);
    kernel->scale(y, scale / sum, y, vocab);
    y[t] -= scale;
    return largest - wanted + logf(sum);
}

void mh_cpu_loss(float *nll, mh_mat dx, float *dw, mh_mat x, mh_linear_weights w, const int32_t *target,
                 float scale, mh_mat logits, mh_mat dlogits)
{
    int64_t vocab = w.w.rows;
    for (int64_t first = 0; first < x.rows; first += logits.rows) {
        int64_t n = mh_least(logits.rows, x.rows - first);
        mh_mat rows = mh_mat_rows(x, first, n), y = mh_mat_rows(logits, 0, n);
        mh_cpu_linear_fwd(y, rows, w, NULL, NULL, 1);
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < n; r++) {
            float *row = mh_mat_row(y, r);
            nll[first + r] = cross_entropy(row, target[first + r], scale, vocab);
            if (dx.p)
                mh_rows_now()->store(mh_mat_row(dlogits, r), dlogits.type, row, vocab);
        }
        if (dx.p)
            mh_cpu_linear_bwd(mh_mat_rows(dx, first, n), false, dw, NULL, mh_mat_rows(dlogits, 0, n), rows, w,
                              NULL, 1);
    }
}
