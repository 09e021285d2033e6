/* FLOPs- and parameter-matched MH-MoE layers (paper B, section 3; docs/math.md, "Parity"). */
#include "model/model.h"

#include <math.h>

/* Multiply-adds of one token, and parameters. */
typedef struct {
    double flops, params;
} cost;

/* A layer of h heads, K choices, E experts of m matrices and width F. Head and merge layers come with h > 1.
 */
static cost layer_cost(const mh_parity_baseline *b, double h, double k, double f, double e)
{
    double d = (double)b->dim, m = (double)b->matrices, r = b->count_router;
    double head_merge = h > 1 ? 2 * d * d : 0;
    return (cost){.flops = head_merge + k * m * d * f + r * d * e,
                  .params = head_merge + (m * f + r) * d / h * e};
}

typedef enum { SOLVED, MANY_CHOICES, NO_WIDTH, FEW_EXPERTS, MANY_EXPERTS } outcome;

/* With u = m F + r (r = 1 if the router counts, else 0) parity of parameters reads u E = A and that of FLOPs
 * K (u - r) + r E = C: K u^2 - (C + K r) u + r A = 0, whose larger root is the layer of fewer, wider experts.
 */
static outcome solve(const mh_parity_baseline *b, int64_t heads, int64_t top_k, mh_parity_plan *plan)
{
    double d = (double)b->dim, h = (double)heads, m = (double)b->matrices, k = (double)top_k;
    double r = b->count_router, step = (double)b->multiple_of;
    cost base = layer_cost(b, 1, (double)b->top_k, (double)b->ffn_dim, (double)b->experts);
    cost fixed = layer_cost(b, h, k, 0, 0);
    double a = (base.params - fixed.params) * h / d, c = (base.flops - fixed.flops) / d;
    double root = (c + k * r) * (c + k * r) - 4 * k * r * a;
    double u = (c + k * r + sqrt(root > 0 ? root : 0)) / (2 * k), f = (u - r) / m,
           width = round(f / step) * step;
    double e = a / (m * width + r);
    *plan = (mh_parity_plan){.heads = heads, .top_k = top_k, .exact_ffn_dim = f, .exact_experts = e};
    if (top_k > MH_TOP_K_MOST)
        return MANY_CHOICES;
    if (root < 0 || c <= 0 || width < step)
        return NO_WIDTH;
    if (round(e) < k)
        return FEW_EXPERTS;
    if (round(e) > MH_EXPERTS_MOST)
        return MANY_EXPERTS;
    /* Not before: without width the experts are infinitely many. */
    plan->ffn_dim = (int64_t)width;
    plan->experts = (int64_t)round(e);
    cost ours = layer_cost(b, h, k, width, round(e));
    plan->flops_percent = 100 * (ours.flops / base.flops - 1);
    plan->params_percent = 100 * (ours.params / base.params - 1);
    return SOLVED;
}

/* What would work instead: fewer choices, or a wider baseline. */
static mh_status no_plan(const mh_parity_baseline *b, int64_t heads, int64_t top_k, outcome why,
                         double experts)
{
    char remedy[96] = "no other number of choices or width of the baseline does";
    mh_parity_plan plan;
    mh_parity_baseline wider = *b;
    int64_t k = top_k - 1;
    while (k > 0 && solve(b, heads, k, &plan) != SOLVED)
        k--;
    while (k == 0 && wider.ffn_dim < 1 << 20 && solve(&wider, heads, top_k, &plan) != SOLVED)
        wider.ffn_dim++;
    if (k > 0)
        snprintf(remedy, sizeof remedy, "top-k %lld works", (long long)k);
    else if (solve(&wider, heads, top_k, &plan) == SOLVED)
        snprintf(remedy, sizeof remedy, "a baseline width of at least %lld works", (long long)wider.ffn_dim);
    char reason[128];
    if (why == MANY_CHOICES)
        snprintf(reason, sizeof reason, "at most %d experts are chosen for a sub-token", MH_TOP_K_MOST);
    else if (why == NO_WIDTH)
        snprintf(reason, sizeof reason,
                 "the baseline's FLOPs, head and merge layers%s taken off, leave no width for the experts",
                 b->count_router ? " and router" : "");
    else if (why == FEW_EXPERTS)
        snprintf(reason, sizeof reason, "the baseline's parameters make %.1f experts, fewer than are chosen",
                 experts);
    else
        snprintf(reason, sizeof reason,
                 "the baseline's parameters make %.0f experts, more than the %d of a layer", experts,
                 MH_EXPERTS_MOST);
    return mh_fail(MH_EVALUE, "no plan for %lld heads and top-k %lld: %s; %s", (long long)heads,
                   (long long)top_k, reason, remedy);
}

mh_status mh_parity_solve(const mh_parity_baseline *b, int64_t heads, int64_t top_k, mh_parity_plan *plan)
{
    int64_t k = top_k ? top_k : heads;
    MH_TRY(mh_check_divides("the width", b->dim, "the number of heads", heads));
    outcome result = solve(b, heads, k, plan);
    return result == SOLVED ? MH_OK : no_plan(b, heads, k, result, plan->exact_experts);
}
