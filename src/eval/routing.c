/* routing: what the router of one layer chose for the tokens of a text, as counts. */
#include "eval/eval.h"

#include <string.h>

static void kinds_layout(mh_routed *kinds, mh_arena *arena, size_t experts)
{
    kinds->seen = mh_take(arena, (size_t)kinds->count * sizeof *kinds->seen);
    kinds->chosen = mh_take(arena, (size_t)kinds->count * experts * sizeof *kinds->chosen);
}

void mh_routing_layout(mh_routing *r, mh_arena *arena)
{
    size_t heads = (size_t)r->heads, experts = (size_t)r->experts, width = (size_t)(r->heads * r->top_k);
    r->load = mh_take(arena, experts * sizeof *r->load);
    r->head_load = mh_take(arena, heads * experts * sizeof *r->head_load);
    r->together = mh_take(arena, experts * experts * sizeof *r->together);
    r->distinct = mh_take(arena, (width + 1) * sizeof *r->distinct);
    kinds_layout(&r->token, arena, experts);
    kinds_layout(&r->label, arena, experts);
    r->last = mh_take(arena, (size_t)r->token.count * width * sizeof *r->last);
    r->kept = mh_take(arena, heads * sizeof *r->kept);
    r->reached = mh_take(arena, width * sizeof *r->reached);
}

int64_t mh_routing_shared(const int32_t *a, const int32_t *b, int64_t top_k)
{
    int64_t shared = 0;
    for (int64_t i = 0; i < top_k; i++)
        for (int64_t j = 0; j < top_k; j++)
            shared += a[i] == b[j];
    return shared;
}

/* Against the choices at the token's last occurrence. */
static void count_change(mh_routing *r, const int32_t *choice, int32_t token)
{
    int64_t width = r->heads * r->top_k;
    int32_t *last = r->last + token * width;
    if (r->token.seen[token] > 0) {
        r->repeats++;
        for (int64_t j = 0; j < r->heads; j++)
            r->kept[j] += mh_routing_shared(choice + j * r->top_k, last + j * r->top_k, r->top_k);
    }
    memcpy(last, choice, (size_t)width * sizeof *last);
}

/* The experts that the heads reach, each once; returns how many. */
static int64_t reach(mh_routing *r, const int32_t *choice)
{
    int64_t count = 0;
    for (int64_t i = 0; i < r->heads * r->top_k; i++) {
        int64_t j = 0;
        while (j < count && r->reached[j] != choice[i])
            j++;
        r->reached[j] = choice[i];
        count += j == count;
    }
    return count;
}

static void count_kind(const mh_routing *r, mh_routed *kinds, int32_t kind, const int32_t *choice)
{
    kinds->seen[kind]++;
    for (int64_t i = 0; i < r->heads * r->top_k; i++)
        kinds->chosen[kind * r->experts + choice[i]]++;
}

void mh_routing_count(mh_routing *r, const int32_t *choice, int32_t token, int32_t label)
{
    r->tokens++;
    for (int64_t i = 0; i < r->heads * r->top_k; i++) {
        r->load[choice[i]]++;
        r->head_load[i / r->top_k * r->experts + choice[i]]++;
    }
    int64_t distinct = reach(r, choice);
    r->distinct[distinct]++;
    for (int64_t i = 0; i < distinct; i++)
        for (int64_t j = 0; j < distinct; j++)
            r->together[r->reached[i] * r->experts + r->reached[j]]++;
    count_change(r, choice, token);
    count_kind(r, &r->token, token, choice);
    if (r->label.count > 0)
        count_kind(r, &r->label, label, choice);
}
