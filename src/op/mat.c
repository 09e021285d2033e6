/* mat: matrices of rows, and the way operations read and write them in f32. */
#include "kernel/kernel.h"
#include "op/op.h"

#include <omp.h>
#include <string.h>

mh_mat mh_mat_of(void *p, int64_t rows, int64_t cols, mh_type type)
{
    return (mh_mat){p, rows, cols, cols, type};
}

void *mh_mat_at(mh_mat m, int64_t row, int64_t col)
{
    return (char *)m.p + (size_t)(row * m.ld + col) * mh_type_size(m.type);
}

void *mh_mat_row(mh_mat m, int64_t row)
{
    return mh_mat_at(m, row, 0);
}

/* Slices of an absent matrix stay absent. */
mh_mat mh_mat_rows(mh_mat m, int64_t first, int64_t count)
{
    m.p = m.p ? mh_mat_at(m, first, 0) : NULL;
    m.rows = count;
    return m;
}

mh_mat mh_mat_cols(mh_mat m, int64_t first, int64_t count)
{
    m.p = m.p ? mh_mat_at(m, 0, first) : NULL;
    m.cols = count;
    return m;
}

mh_mat mh_mat_split(mh_mat m, int heads)
{
    return mh_mat_of(m.p, m.rows * heads, m.cols / heads, m.type);
}

mh_mat mh_take_mat(mh_arena *arena, int64_t rows, int64_t cols, mh_type type)
{
    /* Counted for any recipe, also for one that no machine could hold. */
    size_t bytes;
    if (__builtin_mul_overflow((size_t)rows, (size_t)cols * mh_type_size(type), &bytes))
        bytes = SIZE_MAX;
    return mh_mat_of(mh_take(arena, bytes), rows, cols, type);
}

int mh_threads(void)
{
    return omp_get_max_threads();
}

const float *mh_read(mh_mat x, int64_t row, int64_t col, int64_t n, float *buffer)
{
    const void *at = mh_mat_at(x, row, col);
    if (x.type == MH_F32)
        return at;
    mh_rows_now()->load(buffer, at, x.type, n);
    return buffer;
}

float *mh_room(mh_mat y, int64_t row, int64_t col, float *buffer)
{
    return y.type == MH_F32 ? mh_mat_at(y, row, col) : buffer;
}

void mh_write(mh_mat y, int64_t row, int64_t col, int64_t n, const float *piece)
{
    void *at = mh_mat_at(y, row, col);
    if (at != piece)
        mh_rows_now()->store(at, y.type, piece, n);
}

void mh_copy_row(mh_mat y, int64_t to, mh_mat x, int64_t from)
{
    if (x.type == y.type) {
        memmove(mh_mat_row(y, to), mh_mat_row(x, from), (size_t)x.cols * mh_type_size(x.type));
        return;
    }
    float buffer[MH_CHUNK];
    for (int64_t j = 0; j < x.cols; j += MH_CHUNK) {
        int64_t n = mh_least(MH_CHUNK, x.cols - j);
        mh_write(y, to, j, n, mh_read(x, from, j, n, buffer));
    }
}

void mh_cpu_cast(mh_mat y, mh_mat x)
{
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t r = 0; r < x.rows; r++)
        mh_copy_row(y, r, x, r);
}

void mh_cpu_add(mh_mat y, mh_mat a, mh_mat b)
{
#pragma omp parallel for schedule(static) if (mh_worth(y.rows * y.cols))
    for (int64_t r = 0; r < y.rows; r++) {
        float left[MH_CHUNK], right[MH_CHUNK];
        for (int64_t j = 0; j < y.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, y.cols - j);
            float *sum = mh_room(y, r, j, left);
            mh_rows_now()->add(sum, mh_read(a, r, j, n, left), mh_read(b, r, j, n, right), n);
            mh_write(y, r, j, n, sum);
        }
    }
}
