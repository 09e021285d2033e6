/* probe: the widest multiply-adds of the processor on registers alone, as fast as it can go. Benchmarks
 * measure themselves by it, because the speed of a shared machine changes from one second to the next. */
#include "kernel/kernel.h"

#include <stddef.h>

/* Sums that do not wait for one another: a multiply-add takes four cycles, and up to two begin in each. */
enum { SUMS = 12 };

/* Makes the compiler believe that `x` is read. */
#define KEEP(x) __asm__ volatile("" : : "m"(x))

static void run_portable(int64_t rounds)
{
    enum { LANES = 64 };
    float sum[LANES] = {0};
    for (; rounds > 0; rounds--)
        for (int i = 0; i < LANES; i++)
            sum[i] = sum[i] * 0.5f + 0.5f;
    KEEP(sum);
}

static const mh_probe portable = {"portable f32", 64 * 2, run_portable};

#ifdef __x86_64__
#    include <immintrin.h>

#    define FMA(name, isa, vector, prefix)                                  \
        __attribute__((target(isa))) static void run_##name(int64_t rounds) \
        {                                                                   \
            const vector half = prefix##_set1_ps(0.5f);                     \
            vector sum[SUMS];                                               \
            for (int i = 0; i < SUMS; i++)                                  \
                sum[i] = half;                                              \
            for (; rounds > 0; rounds--)                                    \
                for (int i = 0; i < SUMS; i++)                              \
                    sum[i] = prefix##_fmadd_ps(sum[i], half, half);         \
            KEEP(sum);                                                      \
        }

FMA(avx2, "avx2,fma", __m256, _mm256)
FMA(avx512, "avx512f", __m512, _mm512)

/* Each lane adds two products; of 1 and of 0 here, so that sums neither grow nor become denormal. */
__attribute__((target("avx512f,avx512bf16"))) static void run_avx512_bf16(int64_t rounds)
{
    const __m512bh zero = (__m512bh)_mm512_setzero_si512();
    const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
    __m512 sum[SUMS];
    for (int i = 0; i < SUMS; i++)
        sum[i] = _mm512_set1_ps(0.5f);
    for (; rounds > 0; rounds--)
        for (int i = 0; i < SUMS; i++)
            sum[i] = _mm512_dpbf16_ps(sum[i], zero, one);
    KEEP(sum);
}

/* Tiles 0 to 5 are sums, 6 and 7 the factors: 16 rows of 64 bytes each. mh_isa_best() has asked the system
 * for the permission to use them. */
__attribute__((target("amx-tile,amx-bf16"))) static void run_amx(int64_t rounds)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 64;
        shape.rows[i] = 16;
    }
    _tile_loadconfig(&shape);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (; rounds > 0; rounds--) {
        _tile_dpbf16ps(0, 6, 7);
        _tile_dpbf16ps(1, 6, 7);
        _tile_dpbf16ps(2, 6, 7);
        _tile_dpbf16ps(3, 6, 7);
        _tile_dpbf16ps(4, 6, 7);
        _tile_dpbf16ps(5, 6, 7);
    }
    _tile_release();
}

static const mh_probe avx2 = {"AVX2 FMA f32", SUMS * 8 * 2, run_avx2};
static const mh_probe avx512 = {"AVX-512 FMA f32", SUMS * 16 * 2, run_avx512};
static const mh_probe avx512_bf16 = {"AVX512-BF16 dot products", SUMS * 32 * 2, run_avx512_bf16};
static const mh_probe amx = {"AMX bf16 tiles", 6 * 16 * 16 * 32 * 2, run_amx};
#endif

const mh_probe *mh_probe_of(mh_type type)
{
#ifdef __x86_64__
    mh_isa isa = mh_isa_best();
    if (type == MH_BF16 && isa >= MH_ISA_AMX)
        return &amx;
    if (type == MH_BF16 && isa >= MH_ISA_AVX512_BF16)
        return &avx512_bf16;
    if (isa >= MH_ISA_AVX512)
        return &avx512;
    if (isa >= MH_ISA_AVX2)
        return &avx2;
#endif
    (void)type;
    return &portable;
}
