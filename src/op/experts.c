/* experts: the feed-forward network of each expert on its rows; a dense layer is one expert. Where rows are
 * many they go block by block through all of it, so that what one product leaves for the next is still near.
 */
#include "op/op.h"

#include <stddef.h>

enum {
    BLOCK = 256,
    FEW = 512
}; /* rows of a block; up to FEW rows the columns of each product are shared out */

static mh_expert_rows block_rows(mh_expert_rows r, int64_t first, int64_t count)
{
    mh_mat *all[] = {&r.in, &r.gate, &r.up, &r.act, &r.out};
    for (int i = 0; i < 5; i++)
        if (all[i]->p)
            *all[i] = mh_mat_rows(*all[i], first, count);
    return r;
}

/* One expert of several. */
static mh_experts expert_of(const mh_experts *e, int expert)
{
    mh_experts one = *e;
    int64_t width = e->up.w.rows / e->groups, dim = e->down.w.rows / e->groups;
    one.gate = e->gate.w.p ? mh_linear_group(e->gate, expert, e->groups) : e->gate;
    one.up = mh_linear_group(e->up, expert, e->groups);
    one.down = mh_linear_group(e->down, expert, e->groups);
    one.gate_bias = e->gate_bias ? e->gate_bias + expert * width : NULL;
    one.up_bias = e->up_bias ? e->up_bias + expert * width : NULL;
    one.down_bias = e->down_bias ? e->down_bias + expert * dim : NULL;
    one.begin = NULL;
    one.groups = 1;
    return one;
}

/* act = up silu(gate) or gelu(up), out = down(act) */
static void forward(mh_expert_rows r, const mh_experts *e, mh_tiling tiling)
{
    mh_linear_fwd(r.up, r.in, e->up, e->up_bias, e->begin, e->groups, tiling);
    if (e->gate.w.p) {
        mh_linear_fwd(r.gate, r.in, e->gate, e->gate_bias, e->begin, e->groups, tiling);
        mh_cpu_swiglu_fwd(r.act, r.gate, r.up);
    } else {
        mh_cpu_gelu_fwd(r.act, r.up);
    }
    if (e->quantize)
        mh_cpu_quantize(r.act, r.act); /* nothing else reads it, in backward neither */
    mh_linear_fwd(r.out, r.act, e->down, e->down_bias, e->begin, e->groups, tiling);
}

/* Gradients of what forward computed; those of the weights need all rows of an expert. */
static void backward(mh_expert_rows d, mh_expert_rows r, const mh_experts *e, mh_tiling tiling)
{
    mh_linear_dx(d.act, false, d.out, e->down, e->begin, e->groups, tiling);
    if (e->gate.w.p) {
        mh_cpu_swiglu_bwd(d.gate, d.up, d.act, r.gate, r.up);
        mh_linear_dx(d.in, false, d.gate, e->gate, e->begin, e->groups, tiling);
    } else {
        mh_cpu_gelu_bwd(d.up, d.act, r.up);
    }
    mh_linear_dx(d.in, e->gate.w.p != NULL, d.up, e->up, e->begin, e->groups, tiling);
}

/* Forward of r, or with `d` backward. */
static void run(const mh_expert_rows *d, mh_expert_rows r, const mh_experts *e)
{
    int64_t rows = r.in.rows, longest = rows;
    if (rows <= FEW) {
        d ? backward(*d, r, e, MH_TILES_SHARED) : forward(r, e, MH_TILES_SHARED);
        return;
    }
    for (int g = 0; e->begin && g < e->groups; g++)
        longest = g == 0 || e->begin[g + 1] - e->begin[g] > longest ? e->begin[g + 1] - e->begin[g] : longest;
    int64_t blocks = (longest + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < e->groups * blocks; i++) {
        int g = (int)(i / blocks);
        int64_t first = (e->begin ? e->begin[g] : 0) + i % blocks * BLOCK;
        int64_t count = mh_least(BLOCK, (e->begin ? e->begin[g + 1] : rows) - first);
        if (count <= 0)
            continue;
        mh_experts one = expert_of(e, g);
        if (d)
            backward(block_rows(*d, first, count), block_rows(r, first, count), &one, MH_TILES_WHOLE);
        else
            forward(block_rows(r, first, count), &one, MH_TILES_WHOLE);
    }
}

void mh_cpu_experts_fwd(mh_expert_rows r, const mh_experts *e)
{
    run(NULL, r, e);
}

void mh_cpu_experts_bwd(mh_expert_rows d, const mh_expert_grads *dw, mh_expert_rows r, const mh_experts *e)
{
    mh_mat none = {0};
    run(&d, r, e);
    mh_cpu_linear_bwd(none, false, dw->down, dw->down_bias, d.out, r.act, e->down, e->begin, e->groups);
    if (e->gate.w.p)
        mh_cpu_linear_bwd(none, false, dw->gate, dw->gate_bias, d.gate, r.in, e->gate, e->begin, e->groups);
    mh_cpu_linear_bwd(none, false, dw->up, dw->up_bias, d.up, r.in, e->up, e->begin, e->groups);
}
