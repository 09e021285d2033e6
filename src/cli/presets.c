/* mhmoe presets: the feed-forward layers that recipes know by name, and what each costs. */
#include "cli/cli.h"

#include <string.h>

typedef struct {
    int64_t dim, ffn_dim, experts;
    mh_activation activation;
} request;

/* One layer: what it is made of, and its cost. */
typedef struct {
    mh_moe_config moe;
    int64_t width; /* of an expert, or of the dense layer */
    double params, flops;
} layer;

static mh_status measure(const request *r, const char *preset, layer *out)
{
    mh_config c;
    mh_options_defaults(&mh_config_options, &c);
    snprintf(c.preset, sizeof c.preset, "%s", preset);
    c.dim = r->dim, c.ffn_dim = r->ffn_dim, c.moe.baseline_experts = r->experts;
    c.activation = (int)r->activation;
    c.layers = c.attention_heads = c.moe.every = 1;
    c.vocab = 2;
    MH_TRY(mh_config_resolve(&c));
    mh_flops f = mh_count_flops(&c, 1);
    mh_counts n = mh_count_params(&c);
    *out = (layer){.moe = c.moe,
                   .width = c.moe.experts ? c.moe.ffn_dim : c.ffn_dim,
                   .params = (double)(n.ffn + n.head_merge + n.experts + n.shared + n.router),
                   .flops = f.ffn + f.head_merge + f.experts + f.shared + f.router};
    return MH_OK;
}

static void print_row(const char *name, const char *summary, const layer *l, const layer *base)
{
    char a[32], b[32];
    if (l->moe.experts)
        printf("%-16s %5lld %6lld %8lld", name, (long long)l->moe.heads, (long long)l->moe.top_k,
               (long long)l->moe.experts);
    else
        printf("%-16s %5s %6s %8s", name, "-", "-", "-");
    printf(" %6lld %9s %+7.1f%% %9s %+7.1f%%  %s\n", (long long)l->width, cli_count(l->params, a),
           100 * (l->params / base->params - 1), cli_count(l->flops, b), 100 * (l->flops / base->flops - 1),
           summary);
}

static json_t *row_json(const char *name, const char *summary, const layer *l)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:f}", "preset", name, "summary", summary, "heads",
                     (json_int_t)l->moe.heads, "top_k", (json_int_t)l->moe.top_k, "experts",
                     (json_int_t)l->moe.experts, "ffn_dim", (json_int_t)l->width, "layer_params", l->params,
                     "layer_flops_per_token", l->flops);
}

/* "#" in a summary is the number in the name. */
static void tell(const char *name, const char *summary, char out[128])
{
    const char *number = name + strcspn(name, "123456789");
    size_t used = 0;
    for (; *summary && used + 8 < 128; summary++)
        used += (size_t)snprintf(out + used, 128 - used, "%.*s", *summary == '#' ? 4 : 1,
                                 *summary == '#' ? number : summary);
    out[used] = '\0';
}

static int list_all(const request *r, bool as_json)
{
    char name[64], text[128];
    const char *summary;
    layer base, l;
    mh_status status = measure(r, "smoe-top1", &base);
    if (status != MH_OK)
        return cli_report(status);
    json_t *rows = json_array(), *suffixes = json_array();
    if (!as_json)
        printf("%-16s %5s %6s %8s %6s %9s %8s %9s %8s\n", "preset", "heads", "top-k", "experts", "width",
               "params", "", "FLOPs", "");
    for (int i = 0; mh_preset_at(i, name, &summary); i++) {
        tell(name, summary, text);
        bool there = measure(r, name, &l) == MH_OK;
        if (as_json)
            mh_json_append(rows, there ? row_json(name, text, &l)
                                       : json_pack("{s:s, s:s}", "preset", name, "error", mh_message()));
        else if (there)
            print_row(name, text, &l, &base);
        else
            printf("%-16s not at these sizes: %s\n", name, mh_message());
    }
    for (int i = 0; mh_preset_suffix_at(i, name, &summary); i++) {
        if (as_json)
            mh_json_append(suffixes, json_pack("{s:s, s:s}", "suffix", name, "summary", summary));
        else
            printf("%-16s %s\n", name, summary);
    }
    if (as_json)
        return cli_print_json(json_pack("{s:I, s:I, s:o, s:o}", "dim", (json_int_t)r->dim, "ffn_dim",
                                        (json_int_t)base.width, "presets", rows, "suffixes", suffixes));
    json_decref(rows);
    json_decref(suffixes);
    printf(
        "\nOne layer of width %lld, baseline width %lld, %lld baseline experts; parameters, and FLOPs of a "
        "token forward, router and biases included; percentages against smoe-top1. Other numbers work too.\n",
        (long long)r->dim, (long long)base.width, (long long)r->experts);
    return CLI_OK;
}

int cli_presets(int argc, char **argv)
{
    request r = {.dim = 768, .experts = 8};
    bool json = false;
    const cli_option options[] = {
        {"dim", "D", "width of the model (768)", CLI_INT, &r.dim, 8, 16384, false},
        {"ffn", "F", "hidden width of a dense layer and of the baseline's experts (8/3 D)", CLI_INT,
         &r.ffn_dim, 1, 1 << 20, false},
        {"experts", "E", "experts of the baseline (8)", CLI_INT, &r.experts, 1, 4096, false},
        {"activation", "swiglu|gelu", "three matrices an expert (default), or two", CLI_CHOICE, &r.activation,
         0, 0, false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "",
        .summary =
            "Lists what model.preset of a recipe may be, with the layer that comes of it and its cost.",
        .examples = "mhmoe presets\n"
                    "mhmoe presets --dim 192 --ffn 512 --json",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    cli_list arguments;
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    return list_all(&r, json);
}
