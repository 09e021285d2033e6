/* Feed-forward layers by the papers' names, at any width: a preset fills what the user left open. */
#include "model/model.h"

#include <math.h>
#include <string.h>

enum { SHOWN = 4 };

typedef struct {
    const char *name, *summary; /* a name that ends in '#' is followed by a number */
    mh_status (*apply)(mh_config *config, int64_t number);
    int64_t shown[SHOWN]; /* numbers that are worth listing */
} preset;

static void fill(int64_t *setting, int64_t value)
{
    if (*setting == 0)
        *setting = value;
}

/* Fills a setting that is part of the preset's name. */
static mh_status demand(int64_t *setting, int64_t value, const char *key, const mh_config *c)
{
    if (*setting != 0 && *setting != value)
        return mh_fail(MH_EVALUE, "model.preset %s and %s %lld contradict each other; leave one of them out",
                       c->preset, key, (long long)*setting);
    *setting = value;
    return MH_OK;
}

/* Whatever the recipe says of experts: so any recipe's dense baseline is one setting away. */
static mh_status dense(mh_config *c, int64_t number)
{
    (void)number;
    mh_config usual;
    mh_options_defaults(&mh_config_options, &usual);
    c->moe = usual.moe;
    return MH_OK;
}

static mh_status smoe(mh_config *c, int64_t k)
{
    fill(&c->moe.experts, c->moe.baseline_experts);
    MH_TRY(demand(&c->moe.heads, 1, "moe.heads", c));
    return demand(&c->moe.top_k, k, "moe.top_k", c);
}

static mh_status xmoe(mh_config *c, int64_t number)
{
    (void)number;
    if (c->moe.router == MH_ROUTER_LINEAR)
        return mh_fail(MH_EVALUE,
                       "model.preset %s and moe.router linear contradict each other; leave one of them out",
                       c->preset);
    fill(&c->moe.experts, c->moe.baseline_experts);
    fill(&c->moe.top_k, 1);
    c->moe.router = c->moe.router ? c->moe.router : MH_ROUTER_XMOE;
    return MH_OK;
}

static mh_status fine_grained(mh_config *c, int64_t k)
{
    fill(&c->moe.experts, k * c->moe.baseline_experts);
    fill(&c->moe.top_k, k);
    if (c->moe.ffn_dim == 0)
        MH_TRY(mh_check_divides("model.ffn_dim", c->ffn_dim, "the preset's number of pieces", k));
    fill(&c->moe.ffn_dim, c->ffn_dim / k);
    return MH_OK;
}

static mh_status fine_grained_usual(mh_config *c, int64_t number)
{
    (void)number;
    return fine_grained(c, 2);
}

static mh_status fine_grained_k(mh_config *c, int64_t k)
{
    MH_TRY(demand(&c->moe.top_k, k, "moe.top_k", c));
    return fine_grained(c, k);
}

static double matrices(const mh_config *c)
{
    return c->activation == MH_SWIGLU ? 3 : 2;
}

/* Paper A: as many experts as the baseline, beta h times as wide; n (D/h) f' E + 2 D^2 = n D f E where beta
 * is left to parity. */
static mh_status mhmoe_a(mh_config *c, int64_t number)
{
    (void)number;
    mh_moe_config *m = &c->moe;
    fill(&m->heads, 4);
    fill(&m->experts, m->baseline_experts);
    fill(&m->top_k, 1);
    m->router = m->router ? m->router : MH_ROUTER_XMOE;
    m->inner_residual = true;
    double wide = (double)(m->heads * c->ffn_dim);
    double parity = 1 - 2 * (double)c->dim / (matrices(c) * (double)(c->ffn_dim * m->experts));
    int64_t width = llround((m->beta > 0 ? m->beta : parity) * wide / 8) * 8;
    if (width < 8)
        return mh_fail(
            MH_EVALUE,
            "model.preset %s with model.ffn_dim %lld and %lld experts: head and merge layer have more "
            "parameters than the baseline's experts; widen model.ffn_dim",
            c->preset, (long long)c->ffn_dim, (long long)m->experts);
    if (m->beta > 0 && m->ffn_dim != 0 && m->ffn_dim != width)
        return mh_fail(
            MH_EVALUE,
            "moe.beta %g makes experts of width %lld, but moe.ffn_dim is %lld; leave one of them out",
            m->beta, (long long)width, (long long)m->ffn_dim);
    fill(&m->ffn_dim, width);
    return MH_OK;
}

/* Paper B: FLOPs and parameters of the SMoE top-1 baseline. */
static mh_status mhmoe_b(mh_config *c, int64_t heads)
{
    mh_moe_config *m = &c->moe;
    mh_parity_plan plan;
    mh_parity_baseline baseline = {.dim = c->dim,
                                   .experts = m->baseline_experts,
                                   .ffn_dim = c->ffn_dim,
                                   .top_k = 1,
                                   .matrices = (int64_t)matrices(c),
                                   .multiple_of = 8};
    MH_TRY(demand(&m->heads, heads, "moe.heads", c));
    if (c->dim % m->heads != 0) /* an example that attention can cut, too */
        return mh_fail(MH_EVALUE,
                       "model.preset %s cuts model.dim %lld into %lld heads, which must be alike; choose a "
                       "multiple, for example %lld",
                       c->preset, (long long)c->dim, (long long)m->heads,
                       (long long)mh_multiple(c->dim, 2 * c->attention_heads * m->heads));
    mh_status status = mh_parity_solve(&baseline, m->heads, m->top_k, &plan);
    if (status != MH_OK)
        return mh_fail_in(status, "model.preset %s with model.ffn_dim %lld", c->preset,
                          (long long)c->ffn_dim);
    m->top_k = plan.top_k;
    fill(&m->ffn_dim, plan.ffn_dim);
    fill(&m->experts, plan.experts);
    return MH_OK;
}

static const preset presets[] = {
    {"dense", "one feed-forward layer for all tokens; section moe is left out", dense, {0}},
    {"smoe-top#", "SMoE top-# (Switch has top-1, GShard top-2 at twice the FLOPs)", smoe, {1, 2}},
    {"xmoe", "SMoE top-1 with X-MoE's cosine router as published", xmoe, {0}},
    {"fine-grained", "SMoE top-2, twice as many experts of half the width", fine_grained_usual, {0}},
    {"fine-grained-k#", "SMoE top-#, # times as many experts of 1/# of the width", fine_grained_k, {8}},
    {"mhmoe-a", "MH-MoE of paper A: as many parameters, about four times the FLOPs", mhmoe_a, {0}},
    {"mhmoe-h#", "MH-MoE of paper B with # heads: as many parameters and FLOPs", mhmoe_b, {2, 3, 4, 6}},
};
enum { PRESETS = sizeof presets / sizeof *presets };

static mh_status shared(mh_config *c, int64_t number)
{
    (void)number;
    fill(&c->moe.shared_experts, 1);
    return MH_OK;
}

static mh_status bitnet(mh_config *c, int64_t number)
{
    (void)number;
    c->quant = MH_QUANT_BITNET158;
    return MH_OK;
}

static const preset suffixes[] = {
    {"+shared", "and an expert of width model.ffn_dim that takes every token", shared, {0}},
    {"+bitnet", "trained as BitNet b1.58: model.quant bitnet158", bitnet, {0}},
};
enum { SUFFIXES = sizeof suffixes / sizeof *suffixes };

/* Whether `row` is called by the first `length` characters of `name`, and with which number. */
static bool named(const preset *row, const char *name, size_t length, int64_t *number)
{
    char digits[16];
    size_t stem = strcspn(row->name, "#");
    if (length < stem || strncmp(row->name, name, stem) != 0)
        return false;
    if (row->name[stem] == '\0')
        return length == stem;
    if (length - stem >= sizeof digits || name[stem] < '1' || name[stem] > '9')
        return false;
    snprintf(digits, sizeof digits, "%.*s", (int)(length - stem), name + stem);
    return mh_text_to_int(digits, number) && *number <= 1024;
}

static const preset *find(const preset *rows, int count, const char *name, size_t length, int64_t *number)
{
    for (int i = 0; i < count; i++)
        if (named(&rows[i], name, length, number))
            return &rows[i];
    return NULL;
}

/* Number i of the names that rows stand for, with every number that is shown. */
static bool list(const preset *rows, int count, int i, char name[64], const char **summary)
{
    for (int r = 0; r < count; r++)
        for (int n = 0; n < SHOWN && (n == 0 || rows[r].shown[n]); n++, i--)
            if (i == 0) {
                size_t stem = strcspn(rows[r].name, "#");
                snprintf(name, 64, "%.*s", (int)stem, rows[r].name);
                if (rows[r].name[stem] == '#')
                    snprintf(name + stem, 64 - stem, "%lld", (long long)rows[r].shown[n]);
                *summary = rows[r].summary;
                return true;
            }
    return false;
}

bool mh_preset_at(int i, char name[64], const char **summary)
{
    return list(presets, PRESETS, i, name, summary);
}

bool mh_preset_suffix_at(int i, char name[64], const char **summary)
{
    return list(suffixes, SUFFIXES, i, name, summary);
}

static mh_status unknown(const char *name)
{
    char known[64], best[64] = "";
    const char *summary;
    int least = INT32_MAX;
    for (int i = 0; strlen(name) < 64 && mh_preset_at(i, known, &summary); i++) {
        int distance = mh_text_distance(known, name);
        if (distance < least) {
            least = distance;
            strcpy(best, known);
        }
    }
    return mh_fail(MH_EVALUE, "model.preset \"%.100s\" is not known%s%s; 'mhmoe presets' lists all", name,
                   best[0] ? ", the nearest is " : "", best);
}

mh_status mh_preset_apply(mh_config *c)
{
    if (c->moe.beta > 0 && strncmp(c->preset, "mhmoe-a", strlen("mhmoe-a")) != 0)
        return mh_fail(
            MH_EVALUE,
            "moe.beta %g is a setting of model.preset mhmoe-a, but that is %s; leave one of them out",
            c->moe.beta, c->preset);
    if (strcmp(c->preset, "none") == 0)
        return MH_OK;
    int64_t number = 0;
    size_t length = strcspn(c->preset, "+");
    const preset *row = find(presets, PRESETS, c->preset, length, &number);
    if (row == NULL)
        return unknown(c->preset);
    MH_TRY(row->apply(c, number));
    unsigned seen = 0;
    for (const char *at = c->preset + length; *at != '\0'; at += length) {
        length = 1 + strcspn(at + 1, "+");
        row = find(suffixes, SUFFIXES, at, length, &number);
        if (row == NULL)
            return mh_fail(
                MH_EVALUE,
                "model.preset \"%.100s\": there is no \"%.100s\"; 'mhmoe presets' lists what there is",
                c->preset, at);
        unsigned bit = 1u << (row - suffixes);
        if (seen & bit)
            return mh_fail(MH_EVALUE, "model.preset \"%.100s\": \"%s\" stands in it twice; leave one out",
                           c->preset, row->name);
        seen |= bit;
        MH_TRY(row->apply(c, number));
    }
    return MH_OK;
}
