/* random: numbers that are a function of (seed, stream, index), so that neither threads nor a restart can
 * change them. Philox 4x32-10 with the index and the stream as counter and the seed as key (Salmon et al.,
 * SC 2011). */
#include "base/base.h"

#include <math.h>
#include <Random123/philox.h>

/* Fields that do not overlap: streams of different uses cannot meet. */
uint64_t mh_stream(mh_use use, uint64_t step, uint32_t layer)
{
    return (uint64_t)use << 60 | ((uint64_t)layer & 0xffffff) << 36 | (step & 0xfffffffff);
}

void mh_random4(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
{
    philox4x32_ctr_t counter = {
        {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    philox4x32_ctr_t r = philox4x32(counter, key);
    for (int i = 0; i < 4; i++)
        out[i] = r.v[i];
}

/* 53 random bits as a multiple of 2^-53 in [0, 1). */
static double unit(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

double mh_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t r[4];
    mh_random4(seed, stream, index, r);
    return unit(r[0], r[1]);
}

/* Box-Muller; 1 - u keeps the logarithm finite. */
double mh_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t r[4];
    mh_random4(seed, stream, index, r);
    return sqrt(-2 * log(1 - unit(r[0], r[1]))) * cos(2 * M_PI * unit(r[2], r[3]));
}

/* A Feistel network over the smallest even number of bits that holds n, followed along its cycle until it
 * falls below n again (Black and Rogaway, CT-RSA 2002): a bijection on [0, n) whatever the round function,
 * and under four tries on average. Eight rounds make even small n look shuffled. */
uint64_t mh_permute(uint64_t seed, uint64_t stream, uint64_t n, uint64_t i)
{
    enum { ROUNDS = 8 };
    int half = 1;
    while (half < 32 && (n - 1) >> (2 * half) != 0)
        half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            uint32_t r[4];
            mh_random4(seed, stream, round << 32 | right, r);
            uint64_t next = left ^ (r[0] & mask);
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}
