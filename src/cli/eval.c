/* mhmoe eval: how well a model predicts text. */
#include "cli/cli.h"

static void print_table(const mh_perplexity *r)
{
    char text[32];
    printf("documents        %14lld\n", (long long)r->documents);
    printf("tokens           %14lld\n", (long long)r->tokens);
    printf("bytes            %14lld\n", (long long)r->bytes);
    printf("perplexity       %14s\n", cli_real(r->perplexity, 4, text));
    printf("bits per byte    %14s\n", cli_real(r->bits_per_byte, 4, text));
    printf("time             %14s\n", cli_duration(r->seconds, text));
    printf("tokens per second%14.0f\n", (double)r->tokens / r->seconds);
}

static int run(const char *checkpoint, mh_precision precision, const cli_list *paths, int64_t stride,
               bool json)
{
    mh_model *model;
    mh_tokenizer *tokenizer;
    mh_perplexity result;
    cli_bar bar;
    mh_progress progress = {.report = cli_bar_report, .context = &bar, .stop = cli_catch_signals()};

    mh_status status = mh_model_load(&model, &tokenizer, checkpoint, precision);
    if (status != MH_OK)
        return cli_report(status);
    if (model->config.moe.capacity_factor > 0)
        fprintf(stderr,
                "mhmoe: the model has a capacity factor (%g): which tokens it drops depends on later ones "
                "and on the "
                "batch, so this perplexity is not quite that of a causal model\n",
                model->config.moe.capacity_factor);
    cli_bar_init(&bar);
    status = mh_eval_perplexity(model, tokenizer, paths->item, paths->count, stride, &progress, &result);
    cli_bar_clear(&bar);
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
    if (status != MH_OK)
        return cli_report(status);
    if (json)
        return cli_print_json(json_pack(
            "{s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "documents", (json_int_t)result.documents, "tokens",
            (json_int_t)result.tokens, "bytes", (json_int_t)result.bytes, "nll", mh_json_real(result.nll),
            "perplexity", mh_json_real(result.perplexity), "bits_per_byte",
            mh_json_real(result.bits_per_byte), "seconds", mh_json_real(result.seconds)));
    print_table(&result);
    return CLI_OK;
}

int cli_eval(int argc, char **argv)
{
    cli_list paths = {0}, arguments = {0};
    int64_t stride = 0;
    const char *precision_name = "f32";
    mh_precision precision;
    bool json = false;
    const cli_option options[] = {
        {"perplexity", "PATH...",
         "texts to predict: files, folders or tars of .txt, .md, .jsonl, also compressed", CLI_LIST, &paths,
         0, 0, true},
        {"stride", "N", "move the window over long documents by N tokens (half the context)", CLI_INT,
         &stride, 1, 1 << 20, false},
        {"precision", "f32|bf16", "precision of the computation (f32)", CLI_STRING, &precision_name, 0, 0,
         false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "CHECKPOINT",
        .summary = "Measures how well the model of a checkpoint folder, or of the newest checkpoint of a run "
                   "folder, "
                   "predicts text: perplexity per token, and bits per byte, which compares tokenizers too.",
        .examples = "mhmoe eval runs/demo --perplexity held-out.txt\n"
                    "mhmoe eval runs/demo --perplexity books.tar.xz more/ --stride 64 --json",
        .min_arguments = 1,
        .max_arguments = 1,
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    if ((code = cli_precision(precision_name, &precision)) >= 0)
        return code;
    return run(arguments.item[0], precision, &paths, stride, json);
}
