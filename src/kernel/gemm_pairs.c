/* gemm by AVX512-BF16's dot products of pairs, for any number of rows. oneDNN 2.6 wants a primitive for each
 * shape and, in a weight gradient, goes through all of C for each: where rows are few, that is most of the
 * time. */
#include "kernel/kernel.h"

#ifdef __x86_64__

#    include <immintrin.h>
#    include <string.h>

/* A block of C is ROWS x MH_PANEL sums, which stay in registers while k goes by. */
enum { ROWS = 4, LANES = 16, VECTORS = MH_PANEL / LANES };

#    define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#    define INLINE TARGET __attribute__((always_inline)) static inline

/* The pairs of A: pair l of row i begins at p[i*down + l*along]. */
typedef struct {
    const uint16_t *p;
    int64_t down, along;
} pairs;

/* Rows of C from `p` on, in the columns of one panel; those that C lacks are not in `mask`. */
typedef struct {
    char *p;
    size_t stride; /* bytes from row to row */
    uint64_t mask;
    bool f32, add;
} columns;

INLINE char *vector_at(const columns *c, int i, int v)
{
    return c->p + (size_t)i * c->stride + (size_t)(v * LANES) * (c->f32 ? sizeof(float) : sizeof(uint16_t));
}

INLINE __mmask16 mask_of(const columns *c, int v)
{
    return (__mmask16)(c->mask >> v * LANES);
}

INLINE void load(__m512 sum[ROWS][VECTORS], const columns *c, int rows)
{
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < VECTORS; v++)
            if (!c->add)
                sum[i][v] = _mm512_setzero_ps();
            else if (c->f32)
                sum[i][v] = _mm512_maskz_loadu_ps(mask_of(c, v), vector_at(c, i, v));
            else
                sum[i][v] = _mm512_castsi512_ps(_mm512_slli_epi32(
                    _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask_of(c, v), vector_at(c, i, v))), 16));
}

INLINE void store(const columns *c, __m512 sum[ROWS][VECTORS], int rows)
{
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < VECTORS; v++)
            if (c->f32)
                _mm512_mask_storeu_ps(vector_at(c, i, v), mask_of(c, v), sum[i][v]);
            else
                _mm256_mask_storeu_epi16(vector_at(c, i, v), mask_of(c, v),
                                         (__m256i)_mm512_cvtneps_pbh(sum[i][v]));
}

/* sum += the pair l of each row of A times that of B. Where k is odd, the second half of the last pair would
 * be beyond A's row; B has a zero for it. */
INLINE void step(__m512 sum[ROWS][VECTORS], pairs a, const uint16_t *b, int64_t l, bool half, int rows)
{
    for (int i = 0; i < rows; i++) {
        uint32_t pair = 0;
        memcpy(&pair, a.p + i * a.down + l * a.along, half ? sizeof(uint16_t) : sizeof pair);
        for (int v = 0; v < VECTORS; v++)
            sum[i][v] = _mm512_dpbf16_ps(sum[i][v], (__m512bh)_mm512_set1_epi32((int)pair),
                                         (__m512bh)_mm512_loadu_si512(b + 2 * (l * MH_PANEL + v * LANES)));
    }
}

INLINE void block(const columns *c, pairs a, const uint16_t *b, int64_t k, int rows)
{
    __m512 sum[ROWS][VECTORS];
    load(sum, c, rows);
    for (int i = 0; i < rows; i++) /* the block below: C is too large for the nearest cache */
        for (int v = 0; v < VECTORS; v++)
            __builtin_prefetch(vector_at(c, ROWS + i, v), 1);
    for (int64_t l = 0; l < k / 2; l++)
        step(sum, a, b, l, false, rows);
    if (k % 2)
        step(sum, a, b, k / 2, true, rows);
    store(c, sum, rows);
}

/* C = A B or C += A B for `m` rows and the columns of one panel. */
TARGET static void rows(columns c, pairs a, const uint16_t *b, int64_t m, int64_t k)
{
    for (; m >= ROWS; m -= ROWS, c.p += ROWS * c.stride, a.p += ROWS * a.down)
        block(&c, a, b, k, ROWS);
    for (; m > 0; m--, c.p += c.stride, a.p += a.down)
        block(&c, a, b, k, 1);
}

/* From row i and column j on. */
static inline columns columns_at(const mh_product *p, int64_t i, int64_t j)
{
    size_t size = p->out == MH_F32 ? sizeof(float) : sizeof(uint16_t);
    return (columns){.p = (char *)p->c + (size_t)(i * p->ldc + j) * size,
                     .stride = (size_t)p->ldc * size,
                     .mask = ~UINT64_C(0) >> (MH_PANEL - mh_least(MH_PANEL, p->n - j)),
                     .f32 = p->out == MH_F32,
                     .add = p->add};
}

/* The panel of column j, and where j stands in it. */
static uint16_t *panel_of(uint16_t *panels, int64_t k, int64_t j)
{
    return panels + mh_panels_elements(k, j / MH_PANEL * MH_PANEL) + 2 * (j % MH_PANEL);
}

static void fill(uint16_t *panels, const uint16_t *x, int64_t ld, int64_t k, int64_t n)
{
    for (int64_t j = 0; j < n; j += MH_PANEL)
        mh_panels_fill(panel_of(panels, k, j), x + j, ld, false, k, mh_least(MH_PANEL, n - j));
}

/* C goes by row by row, for it comes from memory. */
static void weight_gradient(const mh_product *p, uint16_t *a)
{
    uint16_t *b = a + mh_panels_elements(p->k, p->m);
    fill(a, p->a, p->lda, p->k, p->m);
    fill(b, p->b, p->ldb, p->k, p->n);
    for (int64_t i = 0; i < p->m; i += ROWS)
        for (int64_t j = 0; j < p->n; j += MH_PANEL)
            rows(columns_at(p, i, j), (pairs){panel_of(a, p->k, i), 2, 2 * MH_PANEL}, panel_of(b, p->k, j),
                 mh_least(ROWS, p->m - i), p->k);
}

static void of_panels(const mh_product *p)
{
    const uint16_t *b = p->panels;
    for (int64_t j = 0; j < p->n; j += MH_PANEL)
        rows(columns_at(p, 0, j), (pairs){p->a, p->lda, 2}, b + mh_panels_elements(p->k, j), p->m, p->k);
}

size_t mh_gemm_pairs_bytes(const mh_product *p)
{
    int64_t elements = mh_panels_elements(p->k, p->m) + mh_panels_elements(p->k, p->n);
    return p->transpose_a ? (size_t)elements * sizeof(uint16_t) : 0;
}

bool mh_gemm_pairs(const mh_product *p, void *work)
{
    if (p->transpose_a)
        weight_gradient(p, work);
    else
        of_panels(p);
    return true;
}

#else /* not reached: no other processor has these instructions */

size_t mh_gemm_pairs_bytes(const mh_product *p)
{
    (void)p;
    return 0;
}

bool mh_gemm_pairs(const mh_product *p, void *work)
{
    (void)p;
    (void)work;
    return false;
}

#endif
