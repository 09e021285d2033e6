/* gemm by AVX512-BF16's dot products of pairs, for any number of rows. oneDNN 2.6 wants a primitive for each
 * shape, so rows are cut into powers of two for it, and in a weight gradient each of those reads and writes
 * all of C. */
#include "kernel/kernel.h"

#ifdef __x86_64__

#    include <immintrin.h>
#    include <string.h>

/* A block of C is ROWS x MH_PANEL sums, which stay in registers while k goes by. */
enum { ROWS = 4, LANES = 16, VECTORS = MH_PANEL / LANES };
_Static_assert(ROWS == 4 && VECTORS == 4, "EACH unrolls by 4");
_Static_assert(MH_PANEL % ROWS == 0, "the rows of a block stand in one panel of a transposed A");

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
    bool add;
} columns;

/* What is INLINE is compiled once for f32 and once for bf16 C, for ROWS rows and one, and for the vectors of
 * a panel and half of them, which are enough for the last columns of some matrices. */

INLINE char *vector_at(const columns *c, int i, int v, bool f32)
{
    return c->p + (size_t)i * c->stride + (size_t)(v * LANES) * (f32 ? sizeof(float) : sizeof(uint16_t));
}

INLINE __mmask16 mask_of(const columns *c, int v)
{
    return (__mmask16)(c->mask >> v * LANES);
}

INLINE __m512 load(const columns *c, int i, int v, bool f32)
{
    if (f32)
        return _mm512_maskz_loadu_ps(mask_of(c, v), vector_at(c, i, v, f32));
    __m256i half = _mm256_maskz_loadu_epi16(mask_of(c, v), vector_at(c, i, v, f32));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void store(const columns *c, int i, int v, bool f32, __m512 sum)
{
    if (f32)
        _mm512_mask_storeu_ps(vector_at(c, i, v, f32), mask_of(c, v), sum);
    else
        _mm256_mask_storeu_epi16(vector_at(c, i, v, f32), mask_of(c, v), (__m256i)_mm512_cvtneps_pbh(sum));
}

/* The pair l of row i. Where k is odd, the second half of the last one would be beyond A's row; B has a zero
 * for it. */
INLINE __m512bh pair_at(pairs a, int i, int64_t l, bool half)
{
    uint32_t pair = 0;
    memcpy(&pair, a.p + i * a.down + l * a.along, half ? sizeof(uint16_t) : sizeof pair);
    return (__m512bh)_mm512_set1_epi32((int)pair);
}

INLINE __m512bh b_at(const uint16_t *b, int64_t l, int v)
{
    return (__m512bh)_mm512_loadu_si512(b + 2 * (l * MH_PANEL + v * LANES));
}

/* All vectors v of all rows i; unrolled, for a loop would keep sums in memory. */
#    define EACH(i, v, rows, vectors)                          \
        _Pragma("GCC unroll 4") for (int i = 0; i < rows; i++) \
            _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++)

/* `whole` pairs of each row, and half a pair after them. */
INLINE void block(const columns *c, pairs a, const uint16_t *b, int64_t whole, bool half, int rows,
                  int vectors, bool f32)
{
    __m512 sum[ROWS][VECTORS];
    EACH(i, v, rows, vectors)
        sum[i][v] = c->add ? load(c, i, v, f32) : _mm512_setzero_ps();
    if (rows == ROWS) /* what the next block reads: C is too large for the nearest cache */
        EACH(i, v, rows, vectors)
            __builtin_prefetch(vector_at(c, ROWS + i, v, f32), 1);
    for (int64_t l = 0; l < whole; l++)
        EACH(i, v, rows, vectors)
            sum[i][v] = _mm512_dpbf16_ps(sum[i][v], pair_at(a, i, l, false), b_at(b, l, v));
    if (half)
        EACH(i, v, rows, vectors)
            sum[i][v] = _mm512_dpbf16_ps(sum[i][v], pair_at(a, i, whole, true), b_at(b, whole, v));
    EACH(i, v, rows, vectors)
        store(c, i, v, f32, sum[i][v]);
}

INLINE void blocks(columns c, pairs a, const uint16_t *b, int64_t m, int64_t k, int vectors, bool f32)
{
    for (; m >= ROWS; m -= ROWS, c.p += ROWS * c.stride, a.p += ROWS * a.down)
        block(&c, a, b, k / 2, k % 2, ROWS, vectors, f32);
    for (; m > 0; m--, c.p += c.stride, a.p += a.down)
        block(&c, a, b, k / 2, k % 2, 1, vectors, f32);
}

static inline bool half_panel(const columns *c)
{
    return c->mask >> MH_PANEL / 2 == 0;
}

/* C = A B or C += A B for the columns of one panel. */
TARGET static void of_panel(columns c, const mh_product *p, const uint16_t *b)
{
    pairs a = {p->a, p->lda, 2};
    if (p->out == MH_F32)
        half_panel(&c) ? blocks(c, a, b, p->m, p->k, VECTORS / 2, true)
                       : blocks(c, a, b, p->m, p->k, VECTORS, true);
    else
        half_panel(&c) ? blocks(c, a, b, p->m, p->k, VECTORS / 2, false)
                       : blocks(c, a, b, p->m, p->k, VECTORS, false);
}

/* From row i and column j on; elements of C have `size` bytes. */
static inline columns columns_at(const mh_product *p, int64_t i, int64_t j, size_t size)
{
    return (columns){.p = (char *)p->c + (size_t)(i * p->ldc + j) * size,
                     .stride = (size_t)p->ldc * size,
                     .mask = ~UINT64_C(0) >> (MH_PANEL - mh_least(MH_PANEL, p->n - j)),
                     .add = p->add};
}

static void of_panels(const mh_product *p)
{
    const uint16_t *b = p->panels;
    int64_t panel = mh_panels_elements(p->k, MH_PANEL);
    for (int64_t j = 0; j < p->n; j += MH_PANEL, b += panel)
        of_panel(columns_at(p, 0, j, mh_type_size(p->out)), p, b);
}

/* `rows` of C, which is f32, one panel of columns after the other. `a` stands at their pairs. */
INLINE void gradient_rows(const mh_product *p, const uint16_t *a, const uint16_t *b, int64_t i, int rows)
{
    int64_t panel = mh_panels_elements(p->k, MH_PANEL);
    for (int64_t j = 0; j < p->n; j += MH_PANEL, b += panel) {
        columns c = columns_at(p, i, j, sizeof(float));
        pairs from = {a, 2, 2 * MH_PANEL};
        if (half_panel(&c))
            block(&c, from, b, (p->k + 1) / 2, false, rows, VECTORS / 2, true);
        else
            block(&c, from, b, (p->k + 1) / 2, false, rows, VECTORS, true);
    }
}

/* Both factors are laid out, with zeros where k is odd. C goes by row by row, for it comes from memory. */
TARGET static void weight_gradient(const mh_product *p, uint16_t *work)
{
    int64_t panel = mh_panels_elements(p->k, MH_PANEL), i = 0;
    uint16_t *a = work, *b = work + mh_panels_elements(p->k, p->m);
    mh_panels_fill(a, p->a, p->lda, false, p->k, p->m);
    mh_panels_fill(b, p->b, p->ldb, false, p->k, p->n);
    for (; i + ROWS <= p->m; i += ROWS)
        gradient_rows(p, a + i / MH_PANEL * panel + 2 * (i % MH_PANEL), b, i, ROWS);
    for (; i < p->m; i++)
        gradient_rows(p, a + i / MH_PANEL * panel + 2 * (i % MH_PANEL), b, i, 1);
}

size_t mh_gemm_pairs_bytes(const mh_product *p)
{
    int64_t elements = mh_panels_elements(p->k, p->m) + mh_panels_elements(p->k, p->n);
    return p->transpose_a ? (size_t)elements * sizeof(uint16_t) : 0;
}

void mh_gemm_pairs(const mh_product *p, void *work)
{
    if (p->transpose_a)
        weight_gradient(p, work);
    else
        of_panels(p);
}

#else /* no other processor has these instructions */

size_t mh_gemm_pairs_bytes(const mh_product *p)
{
    (void)p;
    return 0;
}

void mh_gemm_pairs(const mh_product *p, void *work)
{
    (void)work;
    mh_gemm_portable(p);
}

#endif
