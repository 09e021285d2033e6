/* quantize: the roundings of BitNet b1.58, kept as real numbers. Their gradients are straight-through: those
 * of a product with rounded factors, handed on as if nothing had been rounded. */
#include "kernel/kernel.h"
#include "op/op.h"

#define LEAST 1e-5f /* of a mean or largest magnitude, so that rows of zeros divide by something */

/* Row r of y = the multiples of 1/a of row r of x that lie nearest, cut to [low/a, high/a]. */
static void quantize_row(mh_mat y, mh_mat x, int64_t r, float a, float low, float high)
{
    float buffer[MH_CHUNK];
    for (int64_t j = 0; j < x.cols; j += MH_CHUNK) {
        int64_t n = mh_least(MH_CHUNK, x.cols - j);
        float *piece = mh_room(y, r, j, buffer);
        mh_rows_now()->quantize(piece, mh_read(x, r, j, n, buffer), a, low, high, n);
        mh_write(y, r, j, n, piece);
    }
}

static float row_max_abs(mh_mat x, int64_t r)
{
    float largest = 0, buffer[MH_CHUNK];
    for (int64_t j = 0; j < x.cols; j += MH_CHUNK) {
        int64_t n = mh_least(MH_CHUNK, x.cols - j);
        float m = mh_rows_now()->max_abs(mh_read(x, r, j, n, buffer), n);
        largest = m > largest ? m : largest;
    }
    return largest;
}

/* y = round(a x) / a by rows, a = 127 / max(max|x|, 1e-5) */
void mh_cpu_quantize(mh_mat y, mh_mat x)
{
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t r = 0; r < x.rows; r++) {
        float largest = row_max_abs(x, r);
        quantize_row(y, x, r, 127 / (largest > LEAST ? largest : LEAST), -128, 127);
    }
}

/* The mean of |w|: rows in f32, their sums in order and in double. */
static float mean_abs(mh_mat w)
{
    double sum = 0;
    for (int64_t r = 0; r < w.rows; r++)
        sum += (double)mh_rows_now()->sum_abs(mh_mat_row(w, r), w.cols);
    return (float)(sum / (double)(w.rows * w.cols));
}

/* y = round(a w) / a cut to -1/a, 0, 1/a, a = 1 / max(mean|w|, 1e-5), each of `groups` matrices by itself */
void mh_cpu_ternarize(mh_mat y, mh_mat w, int groups)
{
    int64_t rows = w.rows / groups;
#pragma omp parallel for schedule(dynamic)
    for (int g = 0; g < groups; g++) {
        mh_mat from = mh_mat_rows(w, g * rows, rows), to = mh_mat_rows(y, g * rows, rows);
        float mean = mean_abs(from), a = 1 / (mean > LEAST ? mean : LEAST);
        for (int64_t r = 0; r < rows; r++)
            quantize_row(to, from, r, a, -1, 1);
    }
}
