/* dispatch: rows to their experts and back, along a plan. Every loop writes each row once, so rows may be
 * shared among threads in any way. */
#include "kernel/kernel.h"
#include "op/op.h"

#include <string.h>

/* Rows at random places: asked for so many rows or choices ahead, they are there when their turn comes. */
enum { AHEAD = 4, LINE = 64 };

static inline void fetch(mh_mat x, int64_t row, bool write)
{
    const char *p = mh_mat_row(x, row);
    for (size_t i = 0; i < (size_t)x.cols * mh_type_size(x.type); i += LINE)
        write ? __builtin_prefetch(p + i, 1) : __builtin_prefetch(p + i, 0);
}

/* The row of a choice, if there is such a choice and it was kept. */
static inline void fetch_slot(mh_mat x, const mh_plan *plan, int64_t pair, bool write)
{
    if (pair < plan->rows * plan->top_k && plan->slot[pair] >= 0)
        fetch(x, plan->slot[pair], write);
}

/* y[i] = x[source[i]] */
void mh_cpu_dispatch_fwd(mh_mat y, mh_mat x, const mh_plan *plan)
{
    int64_t kept = plan->begin[plan->experts];
#pragma omp parallel for schedule(static) if (mh_worth(kept * x.cols))
    for (int64_t i = 0; i < kept; i++) {
        if (i + AHEAD < kept)
            fetch(x, plan->source[i + AHEAD], false);
        mh_copy_row(y, i, x, plan->source[i]);
    }
}

/* out[r] = sum_c gate[r,c] in[slot[r,c]] over kept choices; gate NULL: 1 */
static void gather(mh_mat out, mh_mat in, const float *gate, const mh_plan *plan)
{
    int top_k = plan->top_k;
#pragma omp parallel for schedule(static) if (mh_worth(out.rows * out.cols))
    for (int64_t r = 0; r < out.rows; r++) {
        float sum[MH_CHUNK], buffer[MH_CHUNK];
        for (int c = 0; c < top_k; c++)
            fetch_slot(in, plan, (r + AHEAD) * top_k + c, false);
        for (int64_t j = 0; j < out.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, out.cols - j);
            memset(sum, 0, (size_t)n * sizeof *sum);
            for (int64_t pair = r * top_k; pair < (r + 1) * top_k; pair++)
                if (plan->slot[pair] >= 0)
                    mh_rows_now()->axpy(sum, gate ? gate[pair] : 1,
                                        mh_read(in, plan->slot[pair], j, n, buffer), n);
            mh_write(out, r, j, n, sum);
        }
    }
}

/* dx[r] = sum_c dy[slot[r,c]] */
void mh_cpu_dispatch_bwd(mh_mat dx, mh_mat dy, const mh_plan *plan)
{
    gather(dx, dy, NULL, plan);
}

/* y[r] = sum_c gate[r,c] x[slot[r,c]] */
void mh_cpu_combine_fwd(mh_mat y, mh_mat x, const mh_plan *plan)
{
    gather(y, x, plan->gate, plan);
}

/* dx[slot] = gate dy[r], dgate = dy[r].x[slot] */
void mh_cpu_combine_bwd(mh_mat dx, float *dgate, mh_mat dy, mh_mat x, const mh_plan *plan)
{
    const mh_rows *kernel = mh_rows_now();
    int top_k = plan->top_k;
#pragma omp parallel for schedule(static) if (mh_worth(dy.rows * dy.cols))
    for (int64_t r = 0; r < dy.rows; r++)
        for (int64_t pair = r * top_k; pair < (r + 1) * top_k; pair++) {
            float left[MH_CHUNK], right[MH_CHUNK];
            int64_t slot = plan->slot[pair];
            fetch_slot(x, plan, pair + AHEAD, false);
            fetch_slot(dx, plan, pair + AHEAD, true);
            dgate[pair] = 0;
            for (int64_t j = 0; slot >= 0 && j < dy.cols; j += MH_CHUNK) {
                int64_t n = mh_least(MH_CHUNK, dy.cols - j);
                const float *up = mh_read(dy, r, j, n, left);
                dgate[pair] += kernel->dot(up, mh_read(x, slot, j, n, right), n);
                float *piece = mh_room(dx, slot, j, right);
                kernel->scale(piece, plan->gate[pair], up, n);
                mh_write(dx, slot, j, n, piece);
            }
        }
}
