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

/* Whether row a's gate is below row b's, for choice `gate` points to in row 0; ties: the later row is below.
 */
static bool below(const float *gate, int top_k, int32_t a, int32_t b)
{
    float x = gate[a * top_k], y = gate[b * top_k];
    return x != y ? x < y : a > b;
}

/* Heapsort: rows in falling order of their gates. It needs no memory, as qsort does. */
static void sort_rows(int32_t *row, int64_t n, const float *gate, int top_k)
{
    for (int64_t heap = n / 2, end = n; end > 1;) {
        int64_t at;
        int32_t moved;
        if (heap > 0) { /* first every row, from the last parent on, sinks below smaller ones */
            at = --heap;
            moved = row[at];
        } else { /* then the smallest goes to the end */
            at = 0;
            moved = row[--end];
            row[end] = row[0];
        }
        for (int64_t child; (child = 2 * at + 1) < end; at = child) {
            child += child + 1 < end && below(gate, top_k, row[child + 1], row[child]);
            if (!below(gate, top_k, row[child], moved))
                break;
            row[at] = row[child];
        }
        row[at] = moved;
    }
}

/* First who is kept: all first choices in row order, then all second choices (the order of the authors' code,
 * so that a row rather loses its second expert than another its first). Then where: sorted by expert, rows in
 * order, which makes sums over an expert's rows reproducible. */
void mh_cpu_plan(mh_plan *plan, int64_t rows, int64_t capacity, mh_drop drop)
{
    int top_k = plan->top_k;
    int64_t *fill = plan->fill;
    bool sorted = capacity > 0 && drop == MH_DROP_PROBABILITY;
    int32_t *order = plan->source; /* not in use yet */
    plan->rows = rows;
    memset(fill, 0, (size_t)plan->experts * sizeof *fill);
    for (int c = 0; c < top_k; c++) {
        for (int64_t r = 0; sorted && r < rows; r++)
            order[r] = (int32_t)r;
        if (sorted)
            sort_rows(order, rows, plan->gate + c, top_k);
        for (int64_t i = 0; i < rows; i++) {
            int64_t pair = (sorted ? order[i] : i) * top_k + c;
            int32_t e = plan->choice[pair];
            bool kept = e >= 0 && (capacity == 0 || fill[e] < capacity);
            plan->slot[pair] = kept ? 0 : -1;
            if (kept)
                fill[e]++;
        }
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
