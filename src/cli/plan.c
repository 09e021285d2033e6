/* mhmoe plan: MH-MoE layers with the FLOPs and parameters of an SMoE baseline. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

enum { HEADS_MAX = 64 };

typedef struct {
    mh_parity_baseline baseline;
    int64_t heads[HEADS_MAX];
    int count;
} request;

static mh_status parse_heads(const char *text, request *r)
{
    char word[32];
    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        int64_t heads = 0;
        if (length < sizeof word) {
            memcpy(word, text, length);
            word[length] = '\0';
        }
        if (length >= sizeof word || !mh_text_to_int(word, &heads) || heads < 1 || heads > 1024 ||
            r->count == HEADS_MAX)
            return mh_fail(MH_EUSAGE, "--heads takes whole numbers from 1 to 1024 such as 2,3,4, not '%s'",
                           text);
        r->heads[r->count++] = heads;
        text += length + (text[length] == ',');
    }
    return MH_OK;
}

static mh_status check(const request *r)
{
    if (r->count == 0)
        return mh_fail(MH_EUSAGE, "--heads is empty; give numbers such as 2,3,4");
    if (r->baseline.every > r->baseline.layers)
        return mh_fail(MH_EUSAGE, "--every %lld makes none of %lld layers an MoE layer; use at most --layers",
                       (long long)r->baseline.every, (long long)r->baseline.layers);
    return MH_OK;
}

static mh_status parse_baseline(const char *name, request *r)
{
    int64_t k = 0;
    if (strncmp(name, "smoe-top", 8) != 0 || !mh_text_to_int(name + 8, &k) || k < 1 ||
        k > r->baseline.experts || k > MH_TOP_K_MOST)
        return mh_fail(MH_EUSAGE,
                       "--baseline takes smoe-top1, smoe-top2 ... up to --experts and smoe-top%d, not '%s'",
                       MH_TOP_K_MOST, name);
    r->baseline.top_k = k;
    return MH_OK;
}

/* A model of the planned layers, so that its cost comes from where all costs are counted. */
static mh_config model_of(const request *r, int64_t heads, int64_t top_k, int64_t ffn_dim, int64_t experts)
{
    mh_config c = {.dim = r->baseline.dim,
                   .layers = r->baseline.layers,
                   .vocab = 2,
                   .ffn_dim = r->baseline.ffn_dim,
                   .attention_heads = 1,
                   .kv_heads = 1,
                   .tied_embeddings = true,
                   .activation = r->baseline.matrices == 3 ? MH_SWIGLU : MH_GELU};
    int on = heads > 1 ? MH_ON : MH_OFF;
    c.moe = (mh_moe_config){.heads = heads,
                            .experts = experts,
                            .top_k = top_k,
                            .ffn_dim = ffn_dim,
                            .head = on,
                            .merge = on,
                            .router = MH_ROUTER_LINEAR,
                            .every = r->baseline.every};
    return c;
}

/* FLOPs of a token and parameters of the model's feed-forward layers, as the plan counts them: the biases of
 * head and merge layer left out, the router only if asked for. */
static void feed_forward_cost(const mh_config *c, bool router, double *flops, double *params)
{
    mh_flops f = mh_count_flops(c, 1);
    mh_counts n = mh_count_params(c);
    int64_t biases = c->moe.head == MH_ON ? 2 * c->dim * (c->layers / c->moe.every) : 0;
    *flops = f.ffn + f.head_merge + f.experts + (router ? f.router : 0);
    *params = (double)(n.ffn + n.head_merge - biases + n.experts + (router ? n.router : 0));
}

static json_t *row_json(const char *name, const mh_parity_plan *p, double flops, double params)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "model", name, "heads",
                     (json_int_t)p->heads, "top_k", (json_int_t)p->top_k, "ffn_dim", (json_int_t)p->ffn_dim,
                     "experts", (json_int_t)p->experts, "exact_ffn_dim", p->exact_ffn_dim, "exact_experts",
                     p->exact_experts, "ffn_flops_per_token", flops, "ffn_params", params, "flops_percent",
                     p->flops_percent, "params_percent", p->params_percent);
}

static void print_row(const char *name, const mh_parity_plan *p, double flops, double params)
{
    char a[32], b[32];
    printf("%-12s %5lld %5lld %6lld %7lld %9.2f %9.2f %10s %10s %+8.2f%% %+8.2f%%\n", name,
           (long long)p->heads, (long long)p->top_k, (long long)p->ffn_dim, (long long)p->experts,
           p->exact_ffn_dim, p->exact_experts, cli_count(flops, a), cli_count(params, b), p->flops_percent,
           p->params_percent);
}

static void show(const char *name, const request *r, const mh_parity_plan *p, json_t *rows)
{
    double flops, params;
    mh_config c = model_of(r, p->heads, p->top_k, p->ffn_dim, p->experts);
    feed_forward_cost(&c, r->baseline.count_router, &flops, &params);
    if (rows != NULL)
        mh_json_append(rows, row_json(name, p, flops, params));
    else
        print_row(name, p, flops, params);
}

static int solve_all(const request *r, const char *baseline, int64_t top_k, bool json)
{
    json_t *rows = json ? json_array() : NULL;
    int code = CLI_OK;
    if (!json)
        printf("%-12s %5s %5s %6s %7s %9s %9s %10s %10s %9s %9s\n", "model", "heads", "top-k", "ffn",
               "experts", "exact ffn", "exact E", "FFN FLOPs", "FFN params", "FLOPs", "params");
    const mh_parity_baseline *b = &r->baseline;
    show(baseline, r,
         &(mh_parity_plan){1, b->top_k, b->ffn_dim, b->experts, 0, 0, (double)b->ffn_dim, (double)b->experts},
         rows);
    for (int i = 0; i < r->count; i++) {
        mh_parity_plan plan;
        char name[32];
        snprintf(name, sizeof name, "mhmoe-h%lld", (long long)r->heads[i]);
        if (mh_parity_solve(b, r->heads[i], top_k, &plan) == MH_OK)
            show(name, r, &plan, rows);
        else
            code = cli_report(MH_EVALUE);
    }
    if (json) {
        int printed = cli_print_json(json_pack("{s:I, s:I, s:o}", "dim", (json_int_t)b->dim, "layers",
                                               (json_int_t)b->layers, "plans", rows));
        return code ? code : printed;
    }
    printf("\nFFN FLOPs of a token and FFN params: all feed-forward layers of %lld layers, MoE every %lld. "
           "Percentages: an MoE layer against the baseline's; %s.\n",
           (long long)b->layers, (long long)b->every,
           b->count_router ? "router included" : "experts, head and merge layers, as the paper counts");
    return code;
}

int cli_plan(int argc, char **argv)
{
    request r = {.baseline = {.every = 2, .multiple_of = 1}};
    const char *baseline = "smoe-top1", *heads = "2,3,4";
    mh_activation activation = MH_SWIGLU;
    enum { PAPER, ALL } count = PAPER;
    int64_t top_k = 0;
    bool json = false;
    const cli_option options[] = {
        {"dim", "D", "width of the model", CLI_INT, &r.baseline.dim, 8, 16384, true},
        {"layers", "L", "number of blocks", CLI_INT, &r.baseline.layers, 1, 512, true},
        {"baseline", "NAME", "what to match: smoe-top1 (default), smoe-top2, ...", CLI_STRING, &baseline, 0,
         0, false},
        {"experts", "E", "experts of the baseline", CLI_INT, &r.baseline.experts, 1, MH_EXPERTS_MOST, true},
        {"ffn", "F", "hidden width of one of its experts", CLI_INT, &r.baseline.ffn_dim, 1, 1 << 20, true},
        {"heads", "H,H...", "numbers of heads to plan for (default 2,3,4)", CLI_STRING, &heads, 0, 0, false},
        {"top-k", "K", "experts chosen for each sub-token (default: as many as heads)", CLI_INT, &top_k, 1,
         64, false},
        {"multiple-of", "M", "round the experts' width to multiples (default 1)", CLI_INT,
         &r.baseline.multiple_of, 1, 4096, false},
        {"every", "N", "every N-th layer is MoE (default 2)", CLI_INT, &r.baseline.every, 1, 512, false},
        {"activation", "swiglu|gelu", "three matrices an expert (default), or two", CLI_CHOICE, &activation,
         0, 0, false},
        {"count", "paper|all", "experts, head and merge (default), or the router too", CLI_CHOICE, &count, 0,
         0, false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        "mhmoe plan",
        "",
        "Finds, in whole numbers, the expert width and the number of experts of MH-MoE layers that cost as "
        "many FLOPs a token and hold as many parameters as an SMoE baseline, and says what is left over.",
        "mhmoe plan --dim 768 --layers 12 --baseline smoe-top1 --experts 8 --ffn 2048\n"
        "mhmoe plan --dim 512 --layers 6 --experts 8 --ffn 1365 --heads 2 --multiple-of 32 --json",
        0,
        0,
        options,
        sizeof options / sizeof *options,
    };
    cli_list arguments;
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    r.baseline.matrices = activation == MH_GELU ? 2 : 3;
    r.baseline.count_router = count == ALL;
    mh_status status = parse_heads(heads, &r);
    if (status == MH_OK)
        status = parse_baseline(baseline, &r);
    if (status == MH_OK)
        status = check(&r);
    if (status != MH_OK)
        return cli_report(status);
    return solve_all(&r, baseline, top_k, json);
}
