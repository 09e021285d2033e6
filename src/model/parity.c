/* FLOPs- and parameter-matched MH-MoE layers (paper B, section 3; docs/math.md, "Parity"). */
#include "model/model.h"

#include <math.h>

/* Multiply-adds of one token and parameters, of a layer with h heads: for h = 1 the plain SMoE without head
 * and merge layers. m matrices an expert, E experts, K choices, F width. */
typedef struct {
    double flops, params;
} cost;

static cost layer_cost(const mh_parity_baseline *b, double h, double k, double f, double e, bool head_merge)
{
    double d = (double)b->dim, m = (double)b->matrices, linears = head_merge ? 2 * d * d : 0;
    double router_flops = b->count_router ? d * e : 0, router_params = b->count_router ? d / h * e : 0;
    return (cost){.flops = linears + k * m * d * f + router_flops,
                  .params = linears + m * d / h * f * e + router_params};
}

static mh_status check(const mh_parity_baseline *b, int64_t heads, int64_t k)
{
    if (b->dim % heads != 0) {
        int64_t near = heads;
        while (b->dim % near != 0)
            near--;
        return mh_fail(MH_EVALUE, "%lld heads do not divide width %lld; the nearest below that do are %lld",
                       (long long)heads, (long long)b->dim, (long long)near);
    }
    double head_merge = 2.0 * (double)b->dim / (double)b->matrices;
    double spare = (double)(b->top_k * b->ffn_dim) - head_merge;
    if (spare < (double)(k * b->multiple_of) / 2)
        return mh_fail(MH_EVALUE,
                       "no plan for %lld heads: head and merge layers leave %.0f of the baseline's FLOPs' "
                       "width for %lld experts; "
                       "a baseline width of at least %.0f works",
                       (long long)heads, spare > 0 ? spare : 0, (long long)k,
                       ceil((head_merge + (double)(k * b->multiple_of)) / (double)b->top_k));
    return MH_OK;
}

mh_status mh_parity_solve(const mh_parity_baseline *b, int64_t heads, int64_t top_k, mh_parity_plan *plan)
{
    int64_t k = top_k ? top_k : heads;
    MH_TRY(check(b, heads, k));
    double d = (double)b->dim, h = (double)heads, m = (double)b->matrices, step = (double)b->multiple_of;
    cost base = layer_cost(b, 1, (double)b->top_k, (double)b->ffn_dim, (double)b->experts, false);

    /* Without the router the first pass is exact. Its share depends on E, which depends on F: a contraction,
     * since the router is a small part of both sums. */
    double f = 0, e = 0, rounded = 0;
    for (int pass = 0; pass < 64; pass++) {
        double router = b->count_router ? d * e : 0;
        f = (base.flops - 2 * d * d - router) / ((double)k * m * d);
        rounded = round(f / step) * step;
        double width = rounded >= step ? rounded : step;
        e = (base.params - 2 * d * d) / (m * d / h * width + (b->count_router ? d / h : 0));
    }
    if (rounded < 1 || round(e) < (double)k)
        return mh_fail(MH_EVALUE,
                       "no plan for %lld heads: parameters allow %.1f experts of width %.0f but %lld are "
                       "chosen for each sub-token; "
                       "use --top-k %lld or a baseline with more experts",
                       (long long)heads, e, rounded, (long long)k, (long long)(e >= 1 ? floor(e) : 1));

    cost ours = layer_cost(b, h, (double)k, rounded, round(e), true);
    *plan = (mh_parity_plan){.heads = heads,
                             .top_k = k,
                             .ffn_dim = (int64_t)rounded,
                             .experts = (int64_t)round(e),
                             .flops_percent = 100 * (ours.flops / base.flops - 1),
                             .params_percent = 100 * (ours.params / base.params - 1),
                             .exact_ffn_dim = f,
                             .exact_experts = e};
    return MH_OK;
}
