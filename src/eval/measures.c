/* measures: what the counts of a layer's routing say, as JSON (docs/formats.md, "Analysis"). */
#include "eval/eval.h"

#include <math.h>

enum { TOP = 10 /* tokens and labels told of an expert */ };

/* Added to both counts that a lift compares, so that what is rare comes to the top only where it is far from
 * chance. */
#define PRIOR 5.0

json_t *mh_rounded(double value)
{
    return mh_json_real(round(value * 1e6) / 1e6);
}

json_t *mh_experts_json(const int32_t *choice, int64_t top_k)
{
    json_t *experts = json_array();
    for (int64_t i = 0; i < top_k; i++)
        mh_json_append(experts, json_integer(choice[i]));
    return experts;
}

json_t *mh_token_json(const mh_tokenizer *tokenizer, int32_t id)
{
    mh_text text = {0};
    json_t *json = NULL;
    if (mh_tokenizer_piece(tokenizer, id, &text) == MH_OK) {
        if (text.length > 0 && mh_utf8_valid(text.data, text.length))
            json = json_stringn(text.data, text.length);
        else if (text.length == 1) /* a byte piece that is no character */
            json = json_sprintf("<0x%02X>", (unsigned char)text.data[0]);
        else
            json = json_sprintf("<%d>", (int)id);
    }
    mh_text_release(&text);
    return json;
}

static json_t *rounded_list(const int64_t *count, int64_t n, double whole)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++)
        mh_json_append(list, mh_rounded((double)count[i] / whole));
    return list;
}

/* ---- load ---------------------------------------------------------------------------------------------- */

/* Entropy of n counts' shares divided by that of equal shares: 1 is even. */
static double evenness(const int64_t *count, int64_t n, double total)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (count[i] > 0)
            sum -= (double)count[i] / total * log((double)count[i] / total);
    return n > 1 ? sum / log((double)n) : 1;
}

static json_t *head_loads(const mh_routing *r)
{
    json_t *heads = json_array();
    for (int64_t j = 0; j < r->heads; j++)
        mh_json_append(
            heads, rounded_list(r->head_load + j * r->experts, r->experts, (double)(r->tokens * r->top_k)));
    return heads;
}

static json_t *head_entropies(const mh_routing *r)
{
    json_t *heads = json_array();
    for (int64_t j = 0; j < r->heads; j++)
        mh_json_append(heads, mh_rounded(evenness(r->head_load + j * r->experts, r->experts,
                                                  (double)(r->tokens * r->top_k))));
    return heads;
}

/* ---- activation ---------------------------------------------------------------------------------------- */

/* Share of the experts that are chosen more than `threshold` times in each of `events`. */
static json_t *active(const mh_routing *r, double threshold, int64_t events)
{
    int64_t count = 0;
    for (int64_t e = 0; e < r->experts; e++)
        count += (double)r->load[e] > threshold * (double)events;
    return mh_rounded((double)count / (double)r->experts);
}

/* Paper A's ratio counts choices a token, of which h heads make h times as many. Corrected, it counts an
 * expert's share of all choices. */
static json_t *activation_at(const mh_routing *r, double threshold)
{
    return json_pack("{s:f, s:o, s:o}", "threshold", threshold, "ratio", active(r, threshold, r->tokens),
                     "corrected", active(r, threshold, r->tokens * r->heads * r->top_k));
}

static json_t *activation(const mh_routing *r, double threshold)
{
    static const double thresholds[] = {0,    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005,
                                        0.01, 0.02,   0.05,   0.1,    0.2,   0.5,   1};
    json_t *at = activation_at(r, threshold), *curve = json_array();
    for (size_t i = 0; i < sizeof thresholds / sizeof *thresholds; i++)
        mh_json_append(curve, activation_at(r, thresholds[i]));
    mh_json_set(at, "curve", curve);
    return at;
}

/* ---- experts of a token -------------------------------------------------------------------------------- */

static json_t *distinct(const mh_routing *r)
{
    int64_t width = r->heads * r->top_k, most = width < r->experts ? width : r->experts;
    double sum = 0;
    for (int64_t n = 1; n <= most; n++)
        sum += (double)(n * r->distinct[n]);
    return json_pack("{s:o, s:o}", "mean", mh_rounded(sum / (double)r->tokens), "histogram",
                     rounded_list(r->distinct + 1, most, (double)r->tokens));
}

static json_t *repeats(const mh_routing *r)
{
    json_t *heads = json_array();
    double choices = (double)(r->repeats * r->top_k), kept = 0;
    for (int64_t j = 0; j < r->heads; j++) {
        mh_json_append(heads, mh_rounded(1 - (double)r->kept[j] / choices));
        kept += (double)r->kept[j];
    }
    return json_pack("{s:I, s:o, s:o}", "tokens", (json_int_t)r->repeats, "changed",
                     mh_rounded(1 - kept / (choices * (double)r->heads)), "heads", heads);
}

static double lift_of(double count, double expected)
{
    return (count + PRIOR) / (expected + PRIOR);
}

/* Tokens that reach two experts, and how many those are for experts that know nothing of each other. */
static json_t *coactivation(const mh_routing *r, bool lifts)
{
    json_t *rows = json_array();
    for (int64_t a = 0; a < r->experts; a++) {
        json_t *row = json_array();
        for (int64_t b = 0; b < r->experts; b++) {
            int64_t both = r->together[a * r->experts + b];
            double chance = (double)r->together[a * r->experts + a] *
                            (double)r->together[b * r->experts + b] / (double)r->tokens;
            mh_json_append(row, lifts ? mh_rounded(lift_of((double)both, chance))
                                      : json_integer((json_int_t)both));
        }
        mh_json_append(rows, row);
    }
    return rows;
}

/* ---- what an expert takes ------------------------------------------------------------------------------ */

typedef struct {
    int64_t kind, count;
    double lift;
} lifted;

/* The kinds that expert e takes most often for what chance would send it: the largest lifts over 1, ties in
 * order. Returns how many. */
static int most_lifted(const mh_routing *r, const mh_routed *kinds, int64_t e, lifted top[TOP])
{
    double share = (double)r->load[e] / (double)r->tokens; /* its choices a token */
    int n = 0;
    for (int64_t i = 0; i < kinds->count; i++) {
        int64_t count = kinds->chosen[i * r->experts + e];
        double lift = lift_of((double)count, share * (double)kinds->seen[i]);
        int place = n;
        for (; place > 0 && lift > top[place - 1].lift; place--)
            if (place < TOP)
                top[place] = top[place - 1];
        if (lift > 1 && place < TOP) {
            top[place] = (lifted){i, count, lift};
            n += n < TOP;
        }
    }
    return n;
}

static json_t *expert(const mh_routing *r, int64_t e, const mh_tokenizer *tokenizer, char *const *label)
{
    json_t *tokens = json_array(), *labels = json_array();
    lifted top[TOP];
    int n = most_lifted(r, &r->token, e, top);
    for (int i = 0; i < n; i++)
        mh_json_append(tokens,
                       json_pack("{s:o, s:o, s:I}", "text", mh_token_json(tokenizer, (int32_t)top[i].kind),
                                 "lift", mh_rounded(top[i].lift), "count", (json_int_t)top[i].count));
    n = most_lifted(r, &r->label, e, top);
    for (int i = 0; i < n; i++)
        mh_json_append(labels, json_pack("{s:s, s:o, s:o}", "label", label[top[i].kind], "share",
                                         mh_rounded((double)top[i].count / (double)r->load[e]), "lift",
                                         mh_rounded(top[i].lift)));
    return json_pack("{s:o, s:o}", "tokens", tokens, "labels", labels);
}

json_t *mh_routing_json(const mh_routing *r, double threshold, const mh_tokenizer *tokenizer,
                        char *const *label)
{
    json_t *experts = json_array();
    for (int64_t e = 0; e < r->experts; e++)
        mh_json_append(experts, expert(r, e, tokenizer, label));
    double choices = (double)(r->tokens * r->heads * r->top_k);
    if (threshold < 0)
        threshold = round(0.5e6 / (double)r->experts) / 1e6;
    return json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "layer",
                     (json_int_t)r->layer, "heads", (json_int_t)r->heads, "top_k", (json_int_t)r->top_k,
                     "load", head_loads(r), "entropy", mh_rounded(evenness(r->load, r->experts, choices)),
                     "head_entropy", head_entropies(r), "activation", activation(r, threshold), "distinct",
                     distinct(r), "repeats", repeats(r), "coactivation", coactivation(r, false),
                     "coactivation_lift", coactivation(r, true), "experts", experts);
}
