/* plan: which routed row goes to which expert, as a stable counting sort; capacity; and how even it came out.
 */
#include "op/op.h"

#include <math.h>
#include <string.h>

void mh_plan_layout(mh_plan *plan, mh_arena *arena, int64_t rows, int experts, int top_k)
{
    size_t pairs = (size_t)rows * (size_t)top_k;
    plan->experts = experts;
    plan->top_k = top_k;
    plan->rows = rows;
    plan->begin = mh_take(arena, (size_t)(experts + 1) * sizeof *plan->begin);
    plan->fill = mh_take(arena, (size_t)experts * sizeof *plan->fill);
    plan->source = mh_take(arena, pairs * sizeof *plan->source);
    plan->slot = mh_take(arena, pairs * sizeof *plan->slot);
    plan->choice = mh_take(arena, pairs * sizeof *plan->choice);
    plan->gate = mh_take(arena, pairs * sizeof *plan->gate);
}

/* First who is kept: all first choices in row order, then all second choices (the order of the authors' code,
 * so that a row rather loses its second expert than another its first). Then where: sorted by expert, rows in
 * order, which makes sums over an expert's rows reproducible. */
void mh_cpu_plan(mh_plan *plan, int64_t rows, int64_t capacity)
{
    int top_k = plan->top_k;
    int64_t *fill = plan->fill;
    plan->rows = rows;
    memset(fill, 0, (size_t)plan->experts * sizeof *fill);
    for (int c = 0; c < top_k; c++)
        for (int64_t r = 0; r < rows; r++) {
            int64_t e = plan->choice[r * top_k + c];
            bool kept = capacity == 0 || fill[e] < capacity;
            plan->slot[r * top_k + c] = kept ? 0 : -1;
            fill[e] += kept;
        }
    plan->begin[0] = 0;
    for (int e = 0; e < plan->experts; e++) {
        plan->begin[e + 1] = plan->begin[e] + fill[e];
        fill[e] = plan->begin[e];
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t pair = r * top_k; pair < (r + 1) * top_k; pair++)
            if (plan->slot[pair] == 0) {
                int64_t slot = fill[plan->choice[pair]]++;
                plan->slot[pair] = (int32_t)slot;
                plan->source[slot] = (int32_t)r;
            }
}

mh_load mh_plan_load(const mh_plan *plan)
{
    int64_t kept = plan->begin[plan->experts], pairs = plan->rows * plan->top_k;
    mh_load load = {.entropy = plan->experts == 1, .dropped = pairs ? 1 - (double)kept / (double)pairs : 0};
    for (int e = 0; e < plan->experts; e++) {
        double share = kept ? (double)(plan->begin[e + 1] - plan->begin[e]) / (double)kept : 0;
        if (share > load.largest)
            load.largest = share;
        if (share > 0 && plan->experts > 1)
            load.entropy -= share * log(share) / log(plan->experts);
    }
    return load;
}
