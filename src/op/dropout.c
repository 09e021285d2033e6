/* Noise: dropout sets elements to zero at random and enlarges the others so that the mean stays; jitter
 * multiplies each by a number near 1. */
#include "kernel/kernel.h"
#include "op/op.h"

typedef float factor_of(uint32_t random, float strength);

static float dropped(uint32_t random, float rate)
{
    return random >= (uint64_t)((double)rate * 4294967296.0) ? 1.0f / (1.0f - rate) : 0.0f;
}

static float jittered(uint32_t random, float range)
{
    return (float)(1 + (double)range * ((double)random * 0x1p-31 - 1));
}

/* Factors of elements first, first + 1, ... of the whole matrix. One call of the generator serves four
 * elements: element e uses number e % 4 of index e / 4. */
static inline void draw(float *factor, factor_of *of, float strength, uint64_t seed, uint64_t stream,
                        uint64_t first, int64_t n)
{
    uint32_t random[4];
    for (int64_t i = 0; i < n; i++) {
        uint64_t e = first + (uint64_t)i;
        if (i == 0 || e % 4 == 0)
            mh_random4(seed, stream, e / 4, random);
        factor[i] = of(random[e % 4], strength);
    }
}

static inline void multiply(mh_mat x, factor_of *of, float strength, uint64_t seed, uint64_t stream)
{
    if (strength <= 0)
        return;
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t r = 0; r < x.rows; r++) {
        float factor[MH_CHUNK], buffer[MH_CHUNK];
        for (int64_t j = 0; j < x.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, x.cols - j);
            float *piece = mh_room(x, r, j, buffer);
            draw(factor, of, strength, seed, stream, (uint64_t)(r * x.cols + j), n);
            mh_rows_now()->multiply(piece, mh_read(x, r, j, n, buffer), factor, n);
            mh_write(x, r, j, n, piece);
        }
    }
}

void mh_cpu_dropout_fwd(mh_mat x, float rate, uint64_t seed, uint64_t stream)
{
    multiply(x, dropped, rate, seed, stream);
}

/* The same elements, drawn again from the same numbers. */
void mh_cpu_dropout_bwd(mh_mat dx, float rate, uint64_t seed, uint64_t stream)
{
    mh_cpu_dropout_fwd(dx, rate, seed, stream);
}

void mh_cpu_jitter_fwd(mh_mat x, float range, uint64_t seed, uint64_t stream)
{
    multiply(x, jittered, range, seed, stream);
}

void mh_cpu_jitter_bwd(mh_mat dx, float range, uint64_t seed, uint64_t stream)
{
    multiply(dx, jittered, range, seed, stream);
}
