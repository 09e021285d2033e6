/* panels: the right factor of a bf16 product as the processor's dot products of pairs take it. */
#include "kernel/kernel.h"

#include <string.h>

/* A panel has MH_PANEL columns. In it, row by row, stand the pairs (b[2i][j], b[2i+1][j]) of all its columns
 * j: what one instruction multiplies by a pair of A (and oneDNN's BA16a64b2a). Where k or n end early, zeros.
 */
enum { DEPTH = 32 }; /* k is filled up to a multiple of it */

int64_t mh_panels_elements(int64_t k, int64_t n)
{
    return mh_multiple(k, DEPTH) * mh_multiple(n, MH_PANEL);
}

size_t mh_panels_bytes(int64_t k, int64_t n)
{
#ifdef MHMOE_ONEDNN
    if (mh_gemm_onednn_panels())
        return (size_t)mh_panels_elements(k, n) * sizeof(uint16_t);
#endif
    (void)k;
    (void)n;
    return 0;
}

/* y[r][j] = the pair of elements (2r, j) and (2r+1, j) of B, whose element (i, j) is b[i*down + j*across]. */
static inline void pairs(uint16_t (*y)[MH_PANEL][2], const uint16_t *b, int64_t down, int64_t across,
                         int64_t k, int64_t n)
{
    for (int64_t r = 0; r < k / 2; r++)
        for (int64_t j = 0; j < n; j++) {
            y[r][j][0] = b[2 * r * down + j * across];
            y[r][j][1] = b[(2 * r + 1) * down + j * across];
        }
    for (int64_t j = 0; k % 2 && j < n; j++)
        y[k / 2][j][0] = b[(k - 1) * down + j * across];
}

static void fill_panel(uint16_t (*y)[MH_PANEL][2], const uint16_t *b, int64_t ldb, bool transpose_b,
                       int64_t k, int64_t n)
{
    for (int64_t i = 0; i < k; i += DEPTH, y += DEPTH / 2) {
        int64_t depth = mh_least(DEPTH, k - i);
        if (depth < DEPTH || n < MH_PANEL)
            memset(y, 0, sizeof *y * DEPTH / 2);
        if (transpose_b)
            pairs(y, b + i, 1, ldb, depth, n);
        else
            pairs(y, b + i * ldb, ldb, 1, depth, n);
    }
}

void mh_panels_fill(void *panels, const uint16_t *b, int64_t ldb, bool transpose_b, int64_t k, int64_t n)
{
    for (int64_t j = 0; j < n; j += MH_PANEL)
        fill_panel((void *)((uint16_t *)panels + mh_panels_elements(k, j)), b + (transpose_b ? j * ldb : j),
                   ldb, transpose_b, k, mh_least(MH_PANEL, n - j));
}
