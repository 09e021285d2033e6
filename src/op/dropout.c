/* dropout: elements set to zero at random, the others enlarged so that the mean stays. */
#include "kernel/kernel.h"
#include "op/op.h"

/* factor[i] = 0 or 1/(1-rate) for element first + i of the whole matrix. One call of the generator serves
 * four elements: element e uses number e % 4 of index e / 4. */
static void draw(float *factor, float rate, uint64_t seed, uint64_t stream, uint64_t first, int64_t n)
{
    uint64_t limit = (uint64_t)((double)rate * 4294967296.0);
    uint32_t random[4];
    for (int64_t i = 0; i < n; i++) {
        uint64_t e = first + (uint64_t)i;
        if (i == 0 || e % 4 == 0)
            mh_random4(seed, stream, e / 4, random);
        factor[i] = random[e % 4] >= limit ? 1.0f / (1.0f - rate) : 0.0f;
    }
}

void mh_cpu_dropout_fwd(mh_mat x, float rate, uint64_t seed, uint64_t stream)
{
    if (rate <= 0)
        return;
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t r = 0; r < x.rows; r++) {
        float factor[MH_CHUNK], buffer[MH_CHUNK];
        for (int64_t j = 0; j < x.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, x.cols - j);
            float *piece = mh_room(x, r, j, buffer);
            draw(factor, rate, seed, stream, (uint64_t)(r * x.cols + j), n);
            mh_rows_now()->multiply(piece, mh_read(x, r, j, n, buffer), factor, n);
            mh_write(x, r, j, n, piece);
        }
    }
}

/* The same elements, drawn again from the same numbers. */
void mh_cpu_dropout_bwd(mh_mat dx, float rate, uint64_t seed, uint64_t stream)
{
    mh_cpu_dropout_fwd(dx, rate, seed, stream);
}
