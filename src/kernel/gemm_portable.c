/* gemm, portable: the specification of mh_product, used where there is no oneDNN. */
#include "kernel/kernel.h"

/* A block of C is ROWS x COLS sums that stay in the first cache while k goes by in steps of DEPTH; the pieces
 * of A and B are widened to f32 and laid out in the order in which they are read. */
enum { ROWS = 16, COLS = 64, DEPTH = 256 };

/* y[r*width + c] = element (r0 + r, c0 + c) of op(X), for r < rows and c < cols; a transposed X is read along
 * its own rows and spread. */
static void pack(float *y, int64_t width, const void *x, mh_type type, int64_t ld, bool transpose, int64_t r0,
                 int64_t c0, int64_t rows, int64_t cols)
{
    const mh_rows *kernel = mh_rows_now();
    const char *from =
        (const char *)x + (size_t)(transpose ? c0 * ld + r0 : r0 * ld + c0) * mh_type_size(type);
    size_t stride = (size_t)ld * mh_type_size(type);
    if (!transpose) {
        for (int64_t r = 0; r < rows; r++)
            kernel->load(y + r * width, from + (size_t)r * stride, type, cols);
        return;
    }
    float line[DEPTH];
    for (int64_t c = 0; c < cols; c++) {
        kernel->load(line, from + (size_t)c * stride, type, rows);
        for (int64_t r = 0; r < rows; r++)
            y[r * width + c] = line[r];
    }
}

static void block(const mh_product *p, int64_t i0, int64_t j0, int64_t rows, int64_t cols)
{
    const mh_rows *kernel = mh_rows_now();
    float sum[ROWS][COLS] = {{0}}, a[ROWS * DEPTH], b[DEPTH * COLS];
    for (int64_t k0 = 0; k0 < p->k; k0 += DEPTH) {
        int64_t depth = mh_least(DEPTH, p->k - k0);
        pack(a, DEPTH, p->a, p->in, p->lda, p->transpose_a, i0, k0, rows, depth);
        pack(b, COLS, p->b, p->in, p->ldb, p->transpose_b, k0, j0, depth, cols);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < depth; k++)
                kernel->axpy(sum[i], a[i * DEPTH + k], b + k * COLS, cols);
    }
    for (int64_t i = 0; i < rows; i++) {
        char *c = (char *)p->c + (size_t)((i0 + i) * p->ldc + j0) * mh_type_size(p->out);
        if (p->add) {
            float old[COLS];
            kernel->load(old, c, p->out, cols);
            kernel->add(sum[i], sum[i], old, cols);
        }
        kernel->store(c, p->out, sum[i], cols);
    }
}

void mh_gemm_portable(const mh_product *p)
{
    for (int64_t i = 0; i < p->m; i += ROWS)
        for (int64_t j = 0; j < p->n; j += COLS)
            block(p, i, j, mh_least(ROWS, p->m - i), mh_least(COLS, p->n - j));
}
