/* norm: RMSNorm and LayerNorm, and the division by the length of a row (X-MoE's expert embeddings). */
#include "kernel/kernel.h"
#include "op/op.h"

#include <math.h>

/* y = (x - m) r w; RMSNorm: m = 0, r = 1/sqrt(mean x^2 + eps); LayerNorm: m = mean x, r = 1/sqrt(var x + eps)
 */
void mh_cpu_norm_fwd(mh_mat y, float *stat, mh_mat x, const float *w, mh_norm_kind kind, float eps)
{
    const mh_rows *kernel = mh_rows_now();
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t i = 0; i < x.rows; i++) {
        float buffer[MH_CHUNK], m = 0, s = 0;
        for (int64_t j = 0; kind == MH_NORM_LAYER && j < x.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, x.cols - j);
            m += kernel->sum(mh_read(x, i, j, n, buffer), n) / (float)x.cols;
        }
        for (int64_t j = 0; j < x.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, x.cols - j);
            s += kernel->squares(mh_read(x, i, j, n, buffer), m, n);
        }
        float r = 1.0f / sqrtf(s / (float)x.cols + eps);
        for (int64_t j = 0; j < x.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, x.cols - j);
            float *piece = mh_room(y, i, j, buffer);
            kernel->norm(piece, mh_read(x, i, j, n, buffer), w + j, m, r, n);
            mh_write(y, i, j, n, piece);
        }
        stat[2 * i] = m;
        stat[2 * i + 1] = r;
    }
}

/* With z = (x - m) r and g = dy w: dx = r (g - mean g - z mean(g z)); RMSNorm has no mean g. */
static void norm_dx(mh_mat dx, mh_mat dy, mh_mat x, const float *w, const float *stat, mh_norm_kind kind)
{
    const mh_rows *kernel = mh_rows_now();
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t i = 0; i < x.rows; i++) {
        float left[MH_CHUNK], right[MH_CHUNK], sums[2] = {0, 0}, m = stat[2 * i], r = stat[2 * i + 1];
        for (int64_t j = 0; j < x.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, x.cols - j);
            kernel->norm_sums(sums, mh_read(dy, i, j, n, left), mh_read(x, i, j, n, right), w + j, m, r, n);
        }
        float a = kind == MH_NORM_LAYER ? sums[0] / (float)x.cols : 0, b = sums[1] / (float)x.cols;
        for (int64_t j = 0; j < x.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, x.cols - j);
            float *piece = mh_room(dx, i, j, left);
            kernel->norm_bwd(piece, mh_read(dy, i, j, n, left), mh_read(x, i, j, n, right), w + j, m, r, a, b,
                             n);
            mh_write(dx, i, j, n, piece);
        }
    }
}

/* dw += sum dy z over all rows in order; threads share the columns. Before dx, which may stand in dy. */
static void norm_dw(float *dw, mh_mat dy, mh_mat x, const float *stat)
{
    enum { COLS = 256 }; /* narrower strips touch each page too often: a quarter of the speed at 64 */
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t j = 0; j < x.cols; j += COLS) {
        float left[COLS], right[COLS];
        int64_t n = mh_least(COLS, x.cols - j);
        for (int64_t i = 0; i < x.rows; i++)
            mh_rows_now()->norm_dw(dw + j, mh_read(dy, i, j, n, left), mh_read(x, i, j, n, right),
                                   stat[2 * i], stat[2 * i + 1], n);
    }
}

void mh_cpu_norm_bwd(mh_mat dx, float *dw, mh_mat dy, mh_mat x, const float *w, const float *stat,
                     mh_norm_kind kind)
{
    norm_dw(dw, dy, x, stat);
    norm_dx(dx, dy, x, w, stat, kind);
}

/* y = x / max(|x|, eps) */
void mh_cpu_normalize_fwd(mh_mat y, float *stat, mh_mat x, float eps)
{
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t i = 0; i < x.rows; i++) {
        const float *row = mh_mat_row(x, i);
        stat[i] = fmaxf(sqrtf(mh_rows_now()->squares(row, 0, x.cols)), eps);
        mh_rows_now()->scale(mh_mat_row(y, i), 1.0f / stat[i], row, x.cols);
    }
}

/* dx = (dy - y (y.dy)) / |x|, or dy / eps where the row was shorter than eps */
void mh_cpu_normalize_bwd(mh_mat dx, mh_mat dy, mh_mat y, const float *stat, float eps)
{
    const mh_rows *kernel = mh_rows_now();
#pragma omp parallel for schedule(static) if (mh_worth(y.rows * y.cols))
    for (int64_t i = 0; i < y.rows; i++) {
        float along = stat[i] > eps ? kernel->dot(mh_mat_row(y, i), mh_mat_row(dy, i), y.cols) : 0;
        kernel->scale(mh_mat_row(dx, i), 1.0f / stat[i], mh_mat_row(dy, i), y.cols);
        kernel->axpy(mh_mat_row(dx, i), -along / stat[i], mh_mat_row(y, i), y.cols);
    }
}
