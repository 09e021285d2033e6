/* parts: where the time of a step goes, seen from the table of operations. Only what a training step calls
 * and a part is named after is timed; the rest is the rest. */
#include "bench/bench.h"

#define TEXT(name, text) text,
static const char *const names[MH_TIMES] = {MH_TIME_PARTS(TEXT)};

const char *mh_time_name(mh_time_part part)
{
    return names[part];
}

/* Operations have no context of their own, so what the table works for stands here. */
static struct {
    const struct mh_ops *real;
    const mh_params *params;
    double *seconds;
} now;

#define TIMED(part, call)                                    \
    do {                                                     \
        double start = mh_seconds();                         \
        now.real->call;                                      \
        now.seconds[MH_TIME_##part] += mh_seconds() - start; \
    } while (0)

static mh_time_part part_of(mh_mat w)
{
    static const mh_time_part of[MH_PARTS] = {
        [MH_PART_EMBEDDING] = MH_TIME_EMBEDDING,
        [MH_PART_ATTENTION] = MH_TIME_ATTENTION,
        [MH_PART_FFN] = MH_TIME_FFN,
        [MH_PART_HEAD_MERGE] = MH_TIME_HEAD_MERGE,
        [MH_PART_EXPERTS] = MH_TIME_EXPERTS,
        [MH_PART_ROUTER] = MH_TIME_ROUTER,
        [MH_PART_NORMS] = MH_TIME_NORM,
        [MH_PART_OUTPUT] = MH_TIME_LOSS,
    };
    for (int i = 0; i < now.params->count; i++)
        if (w.p == mh_param_work(now.params, i).p || w.p == mh_param_value(now.params, i).p)
            return of[now.params->list[i].part];
    return MH_TIME_REST;
}

static void linear_fwd(mh_mat y, mh_mat x, mh_linear_weights w, const float *bias, const int64_t *begin,
                       int groups)
{
    double start = mh_seconds();
    now.real->linear_fwd(y, x, w, bias, begin, groups);
    now.seconds[part_of(w.w)] += mh_seconds() - start;
}

static void linear_bwd(mh_mat dx, bool add, float *dw, float *dbias, mh_mat dy, mh_mat x, mh_linear_weights w,
                       const int64_t *begin, int groups)
{
    double start = mh_seconds();
    now.real->linear_bwd(dx, add, dw, dbias, dy, x, w, begin, groups);
    now.seconds[part_of(w.w)] += mh_seconds() - start;
}

static void experts_fwd(mh_expert_rows r, const mh_experts *e)
{
    double start = mh_seconds();
    now.real->experts_fwd(r, e);
    now.seconds[part_of(e->up.w)] += mh_seconds() - start;
}

static void experts_bwd(mh_expert_rows d, const mh_expert_grads *dw, mh_expert_rows r, const mh_experts *e)
{
    double start = mh_seconds();
    now.real->experts_bwd(d, dw, r, e);
    now.seconds[part_of(e->up.w)] += mh_seconds() - start;
}

static void norm_fwd(mh_mat y, float *stat, mh_mat x, const float *w, mh_norm_kind kind, float eps)
{
    TIMED(NORM, norm_fwd(y, stat, x, w, kind, eps));
}

static void norm_bwd(mh_mat dx, float *dw, mh_mat dy, mh_mat x, const float *w, const float *stat,
                     mh_norm_kind kind)
{
    TIMED(NORM, norm_bwd(dx, dw, dy, x, w, stat, kind));
}

static void rotary_fwd(mh_mat x, int head_dim, const int32_t *position, const float *table)
{
    TIMED(ATTENTION, rotary_fwd(x, head_dim, position, table));
}

static void rotary_bwd(mh_mat dx, int head_dim, const int32_t *position, const float *table)
{
    TIMED(ATTENTION, rotary_bwd(dx, head_dim, position, table));
}

static void attention_fwd(mh_mat y, float *lse, mh_mat q, mh_mat k, mh_mat v, const mh_attention *shape)
{
    TIMED(ATTENTION, attention_fwd(y, lse, q, k, v, shape));
}

static void attention_bwd(mh_mat dq, mh_mat dk, mh_mat dv, mh_mat dy, mh_mat y, mh_mat q, mh_mat k, mh_mat v,
                          const float *lse, const mh_attention *shape)
{
    TIMED(ATTENTION, attention_bwd(dq, dk, dv, dy, y, q, k, v, lse, shape));
}

static void embedding_fwd(mh_mat y, const int32_t *token, mh_mat w)
{
    TIMED(EMBEDDING, embedding_fwd(y, token, w));
}

static void embedding_bwd(float *dw, const int32_t *token, mh_mat dy)
{
    TIMED(EMBEDDING, embedding_bwd(dw, token, dy));
}

static void softmax_fwd(mh_mat p, mh_mat logits)
{
    TIMED(ROUTER, softmax_fwd(p, logits));
}

static void softmax_bwd(mh_mat dlogits, mh_mat dp, mh_mat p)
{
    TIMED(ROUTER, softmax_bwd(dlogits, dp, p));
}

static void gates_fwd(float *gate, mh_mat p, const int32_t *choice, int top_k, bool renormalize)
{
    TIMED(ROUTER, gates_fwd(gate, p, choice, top_k, renormalize));
}

static void gates_bwd(mh_mat dp, const float *dgate, mh_mat p, const int32_t *choice, int top_k,
                      bool renormalize)
{
    TIMED(ROUTER, gates_bwd(dp, dgate, p, choice, top_k, renormalize));
}

static float balance_fwd(mh_mat p, const int32_t *choice, int top_k)
{
    double start = mh_seconds();
    float balance = now.real->balance_fwd(p, choice, top_k);
    now.seconds[MH_TIME_ROUTER] += mh_seconds() - start;
    return balance;
}

static void balance_bwd(mh_mat dp, float weight, const int32_t *choice, int top_k)
{
    TIMED(ROUTER, balance_bwd(dp, weight, choice, top_k));
}

static void top_k(int32_t *choice, mh_mat p, const float *bias, int k)
{
    TIMED(ROUTER, top_k(choice, p, bias, k));
}

/* In a pass only the router's input is cast. */
static void cast(mh_mat y, mh_mat x)
{
    TIMED(ROUTER, cast(y, x));
}

static void plan(mh_plan *p, int64_t rows, int64_t capacity, mh_drop drop)
{
    TIMED(DISPATCH, plan(p, rows, capacity, drop));
}

static void dispatch_fwd(mh_mat y, mh_mat x, const mh_plan *p)
{
    TIMED(DISPATCH, dispatch_fwd(y, x, p));
}

static void dispatch_bwd(mh_mat dx, mh_mat dy, const mh_plan *p)
{
    TIMED(DISPATCH, dispatch_bwd(dx, dy, p));
}

static void combine_fwd(mh_mat y, mh_mat x, const mh_plan *p)
{
    TIMED(DISPATCH, combine_fwd(y, x, p));
}

static void combine_bwd(mh_mat dx, float *dgate, mh_mat dy, mh_mat x, const mh_plan *p)
{
    TIMED(DISPATCH, combine_bwd(dx, dgate, dy, x, p));
}

static void loss(float *nll, mh_mat dx, float *dw, mh_mat x, mh_linear_weights w, const int32_t *target,
                 float scale, mh_mat logits, mh_mat dlogits)
{
    TIMED(LOSS, loss(nll, dx, dw, x, w, target, scale, logits, dlogits));
}

const struct mh_ops *mh_timed_ops(const mh_params *params, double *seconds)
{
    static struct mh_ops table;
    now.real = mh_cpu_ops();
    now.params = params;
    now.seconds = seconds;
    table = *now.real;
#define PAIR(name) table.name##_fwd = name##_fwd, table.name##_bwd = name##_bwd;
    PAIR(linear)
    PAIR(experts)
    PAIR(norm)
    PAIR(rotary)
    PAIR(attention)
    PAIR(embedding)
    PAIR(softmax)
    PAIR(gates)
    PAIR(balance)
    PAIR(dispatch)
    PAIR(combine)
    table.top_k = top_k;
    table.cast = cast;
    table.plan = plan;
    table.loss = loss;
    return &table;
}
