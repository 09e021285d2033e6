/* embedding: rows of a table named by tokens. */
#include "kernel/kernel.h"
#include "op/op.h"

/* y_n = w[token_n] */
void mh_cpu_embedding_fwd(mh_mat y, const int32_t *token, mh_mat w)
{
#pragma omp parallel for schedule(static) if (mh_worth(y.rows * y.cols))
    for (int64_t r = 0; r < y.rows; r++)
        mh_copy_row(y, r, w, token[r]);
}

/* dw[token_n] += dy_n: a token may occur many times, so threads share the columns, and rows go in order. */
void mh_cpu_embedding_bwd(float *dw, const int32_t *token, mh_mat dy)
{
    enum { COLS = 64 };
#pragma omp parallel for schedule(static) if (mh_worth(dy.rows * dy.cols))
    for (int64_t j = 0; j < dy.cols; j += COLS) {
        float buffer[COLS];
        int64_t n = mh_least(COLS, dy.cols - j);
        for (int64_t r = 0; r < dy.rows; r++) {
            float *row = dw + token[r] * dy.cols + j;
            mh_rows_now()->add(row, row, mh_read(dy, r, j, n, buffer), n);
        }
    }
}
