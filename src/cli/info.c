/* mhmoe info: what a checkpoint or recipe is and costs. */
#include "cli/cli.h"

#include <string.h>

typedef struct {
    mh_config config;
    char folder[MH_PATH]; /* of a checkpoint */
    char tokenizer[17];
    bool is_recipe;
    int64_t length; /* tokens of a sequence, for attention's FLOPs */
    size_t memory;  /* of training it, or of its weights */
} subject;

/* A vocabulary stands in for data that is not there; data that is there must agree with it. */
static mh_status open_data(const mh_recipe *recipe, mh_batches **batches)
{
    mh_status status = mh_recipe_data(recipe, batches);
    bool absent = !recipe->data.train[0] || status == MH_EIO;
    if (!absent)
        return status;
    return recipe->model.vocab
               ? MH_OK
               : mh_fail(status, "%s; a vocabulary will do here: --set model.vocab=N", mh_message());
}

static mh_status read_recipe(subject *s, const char *path, const cli_list *sets)
{
    mh_recipe recipe;
    MH_TRY(mh_recipe_read(&recipe, path, sets->item, sets->count));
    mh_batches *batches;
    MH_TRY(open_data(&recipe, &batches));
    mh_status status = mh_recipe_resolve(&recipe, batches);
    mh_batches_close(batches);
    MH_TRY(status);
    s->config = recipe.model;
    s->is_recipe = true;
    s->length = mh_recipe_length(&recipe);
    s->memory = mh_train_bytes(&recipe);
    return MH_OK;
}

static mh_status read_checkpoint(subject *s, const char *path, const cli_list *sets)
{
    if (sets->count > 0)
        return mh_fail(MH_EUSAGE,
                       "--set changes a recipe, and %s is a checkpoint, whose model is made; leave it out or "
                       "name a recipe",
                       path);
    MH_TRY(mh_checkpoint_locate(path, s->folder));
    MH_TRY(mh_checkpoint_config(&s->config, s->tokenizer, s->folder));
    s->length = s->config.context;
    s->memory = mh_model_bytes(&s->config, MH_PRECISION_F32, false);
    return MH_OK;
}

typedef struct {
    const char *name;
    double value;
} line;

enum { PARAM_LINES = 9, FLOP_LINES = 8 };

static void param_lines(const mh_counts *n, line out[PARAM_LINES])
{
    line lines[PARAM_LINES] = {{"embedding", (double)n->embedding}, {"attention", (double)n->attention},
                               {"dense ffn", (double)n->ffn},       {"head and merge", (double)n->head_merge},
                               {"experts", (double)n->experts},     {"shared experts", (double)n->shared},
                               {"router", (double)n->router},       {"norms", (double)n->norms},
                               {"output", (double)n->output}};
    memcpy(out, lines, sizeof lines);
}

static void flop_lines(const mh_flops *f, line out[FLOP_LINES])
{
    line lines[FLOP_LINES] = {{"attention projections", f->attention_projections},
                              {"attention scores", f->attention_scores},
                              {"dense ffn", f->ffn},
                              {"head and merge", f->head_merge},
                              {"experts", f->experts},
                              {"shared experts", f->shared},
                              {"router", f->router},
                              {"output", f->output}};
    memcpy(out, lines, sizeof lines);
}

static void print_lines(const line *lines, int count, double total)
{
    char text[32];
    for (int i = 0; i < count; i++)
        if (lines[i].value > 0)
            printf("  %-22s %10s  %5.1f %%\n", lines[i].name, cli_count(lines[i].value, text),
                   100 * lines[i].value / total);
}

static json_t *lines_json(const line *lines, int count)
{
    json_t *object = json_object();
    for (int i = 0; i < count; i++)
        mh_json_set(object, lines[i].name, json_integer((json_int_t)lines[i].value));
    return object;
}

/* How tokens find their experts: the router, and what is not at its default. */
static void print_routing(const mh_config *c)
{
    static const char *const keys[] = {"router",      "score",          "balance",         "head",
                                       "merge",       "inner_residual", "capacity_factor", "drop",
                                       "renormalize", "second_expert",  "jitter",          "z_weight"};
    mh_config defaults;
    mh_options_defaults(&mh_config_options, &defaults);
    json_t *own = mh_config_to_json(c), *usual = mh_config_to_json(&defaults);
    const char *comma = "";
    printf("routing      ");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = json_object_get(json_object_get(own, "moe"), keys[i]);
        if (json_equal(value, json_object_get(json_object_get(usual, "moe"), keys[i])))
            continue;
        printf("%s%s", comma, keys[i]);
        if (json_is_string(value))
            printf(" %s", json_string_value(value));
        else if (json_is_number(value))
            printf(" %g", json_number_value(value));
        comma = ", ";
    }
    putchar('\n');
    json_decref(own);
    json_decref(usual);
}

static const char *plural(int64_t count)
{
    return count == 1 ? "" : "s";
}

static void print_shape(const subject *s)
{
    const mh_config *c = &s->config;
    printf("model        %lld layers, width %lld, %lld attention heads (%lld key/value), context %lld, "
           "vocabulary %lld\n",
           (long long)c->layers, (long long)c->dim, (long long)c->attention_heads, (long long)c->kv_heads,
           (long long)c->context, (long long)c->vocab);
    if (c->moe.experts) {
        printf("moe          every %lld layer%s: %lld head%s, %lld experts of width %lld, top-%lld, %s\n",
               (long long)c->moe.every, plural(c->moe.every), (long long)c->moe.heads, plural(c->moe.heads),
               (long long)c->moe.experts, (long long)c->moe.ffn_dim, (long long)c->moe.top_k,
               mh_config_noncausal(c) ? "with a capacity: not causal" : "dropless");
        print_routing(c);
    }
    if (c->moe.shared_experts)
        printf("shared       %lld expert%s of width %lld\n", (long long)c->moe.shared_experts,
               plural(c->moe.shared_experts), (long long)c->moe.shared_ffn_dim);
    printf("dense layers width %lld\n", (long long)c->ffn_dim);
    if (c->quant == MH_QUANT_BITNET158)
        printf("linears      BitNet b1.58: ternary weights, 8-bit inputs\n");
    if (s->tokenizer[0] != '\0')
        printf("tokenizer    %s\n", s->tokenizer);
}

static void print_text(const subject *s, const mh_counts *n, const mh_flops *f)
{
    line params[PARAM_LINES], flops[FLOP_LINES];
    char a[32], b[32];
    param_lines(n, params);
    flop_lines(f, flops);
    print_shape(s);
    printf("\nparameters   %s total, %s active for a token\n", cli_count((double)n->total, a),
           cli_count((double)n->active, b));
    print_lines(params, PARAM_LINES, (double)n->total);
    printf("\nFLOPs        %s a token forward, %s in training (sequences of %lld)\n",
           cli_count(f->forward, a), cli_count(f->training, b), (long long)s->length);
    print_lines(flops, FLOP_LINES, f->forward);
    printf("\nmemory       %s %s\n", cli_bytes((double)s->memory, a),
           s->is_recipe ? "to train" : "of weights in f32");
}

static int print_json(const subject *s, const mh_counts *n, const mh_flops *f)
{
    line params[PARAM_LINES], flops[FLOP_LINES];
    param_lines(n, params);
    flop_lines(f, flops);
    return cli_print_json(json_pack(
        "{s:o, s:{s:I, s:I, s:o}, s:{s:f, s:f, s:I, s:o}, s:I, s:s}", "config", mh_config_to_json(&s->config),
        "parameters", "total", (json_int_t)n->total, "active", (json_int_t)n->active, "parts",
        lines_json(params, PARAM_LINES), "flops_per_token", "forward", f->forward, "training", f->training,
        "sequence", (json_int_t)s->length, "parts", lines_json(flops, FLOP_LINES), "memory_bytes",
        (json_int_t)s->memory, "tokenizer", s->tokenizer));
}

int cli_info(int argc, char **argv)
{
    cli_list sets = {0}, arguments;
    bool json = false;
    const cli_option options[] = {
        {"set", "KEY=VALUE", "change a key of the recipe", CLI_LIST, &sets, 0, 0, false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        "mhmoe info",
        "CHECKPOINT|RECIPE",
        "Prints the shape of a model, its parameters (total and active), the FLOPs of a token and the memory "
        "it takes.",
        "mhmoe info runs/demo\n"
        "mhmoe info recipes/demo.yaml --set model.vocab=4096 --set model.preset=mhmoe-h3 --json",
        1,
        1,
        options,
        sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    subject s = {0};
    const char *path = arguments.item[0];
    mh_status status = mh_path_is_dir(path) ? read_checkpoint(&s, path, &sets) : read_recipe(&s, path, &sets);
    if (status != MH_OK)
        return cli_report(status);
    mh_counts counts = mh_count_params(&s.config);
    mh_flops flops = mh_count_flops(&s.config, s.length);
    if (json)
        return print_json(&s, &counts, &flops);
    print_text(&s, &counts, &flops);
    return CLI_OK;
}
