/* rotary: position as a rotation of pairs (i, i + head_dim/2) within each head. */
#include "kernel/kernel.h"
#include "op/op.h"

static void rotary(mh_mat x, int head_dim, const int32_t *position, const float *table, float turn)
{
    int64_t half = head_dim / 2;
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t r = 0; r < x.rows; r++) {
        float left[MH_CHUNK], right[MH_CHUNK];
        const float *cos = table + position[r] * (int64_t)head_dim, *sin = cos + half;
        for (int64_t head = 0; head < x.cols; head += head_dim)
            for (int64_t i = 0; i < half; i += MH_CHUNK) {
                int64_t n = mh_least(MH_CHUNK, half - i), a = head + i, b = a + half;
                /* mh_read gives what mh_room names: the row itself or the buffer */
                mh_read(x, r, a, n, left);
                mh_read(x, r, b, n, right);
                float *first = mh_room(x, r, a, left), *second = mh_room(x, r, b, right);
                mh_rows_now()->rotate(first, second, cos + i, sin + i, turn, n);
                mh_write(x, r, a, n, first);
                mh_write(x, r, b, n, second);
            }
    }
}

void mh_cpu_rotary_fwd(mh_mat x, int head_dim, const int32_t *position, const float *table)
{
    rotary(x, head_dim, position, table, 1);
}

/* A rotation's transpose turns back. */
void mh_cpu_rotary_bwd(mh_mat dx, int head_dim, const int32_t *position, const float *table)
{
    rotary(dx, head_dim, position, table, -1);
}
