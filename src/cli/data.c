/* mhmoe data: turn text into token files. */
#include "cli/cli.h"

static void print_table(const mh_build_result *r, const char *output)
{
    char time[32];
    printf("%-16s%16s%16s%16s\n", "", "all", "training", "validation");
    printf("%-16s%16lld", "documents", (long long)r->documents);
    if (r->by_blocks && r->valid_documents > 0)
        printf("%16s%9lld blocks", "", (long long)r->valid_documents);
    else
        printf("%16lld%16lld", (long long)(r->documents - r->valid_documents), (long long)r->valid_documents);
    printf("\n%-16s%16lld%16lld%16lld\n", "tokens", (long long)r->tokens,
           (long long)(r->tokens - r->valid_tokens), (long long)r->valid_tokens);
    printf("%-16s%16lld%16lld%16lld\n", "bytes", (long long)r->bytes, (long long)(r->bytes - r->valid_bytes),
           (long long)r->valid_bytes);
    printf("%-16s%16.3f\n", "bytes per token", (double)r->bytes / (double)r->tokens);
    printf("%-16s%16lld\n", "invalid bytes", (long long)r->invalid);
    printf("%-16s%16lld\n", "files left out", (long long)r->skipped);
    printf("%-16s%16s\n", "time", cli_duration(r->seconds, time));
    printf("\nwrote %s\n", output);
}

static int build(const mh_build *build, bool json)
{
    mh_build_result r;
    cli_bar bar;
    mh_progress progress = {.report = cli_bar_report, .context = &bar, .stop = cli_catch_signals()};
    cli_bar_init(&bar);
    mh_status status = mh_data_build(build, &progress, &r);
    cli_bar_clear(&bar);
    if (status != MH_OK)
        return cli_report(status);
    if (json)
        return cli_print_json(
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:f, s:f}", "output", build->output,
                      "documents", (json_int_t)r.documents, "tokens", (json_int_t)r.tokens, "bytes",
                      (json_int_t)r.bytes, "valid_documents", (json_int_t)r.valid_documents, "valid_tokens",
                      (json_int_t)r.valid_tokens, "valid_bytes", (json_int_t)r.valid_bytes, "split",
                      r.by_blocks ? "blocks" : "documents", "invalid_bytes", (json_int_t)r.invalid,
                      "skipped_files", (json_int_t)r.skipped, "bytes_per_token",
                      (double)r.bytes / (double)r.tokens, "seconds", r.seconds));
    print_table(&r, build->output);
    return CLI_OK;
}

static int run_build(int argc, char **argv)
{
    cli_list inputs = {0}, arguments = {0};
    const char *tokenizer = NULL, *output = NULL;
    double valid_fraction = 0.01;
    bool json = false;
    const cli_option options[] = {
        {"tokenizer", "FILE", "the .model file to encode with", CLI_STRING, &tokenizer, 0, 0, true},
        {"input", "PATH...", "text: files, folders or tars of .txt, .md, .jsonl, also compressed", CLI_LIST,
         &inputs, 0, 0, true},
        {"output", "DIR", "the folder to make", CLI_STRING, &output, 0, 0, true},
        {"valid-fraction", "F", "share of the text kept for validation, 0 for none (0.01)", CLI_FLOAT,
         &valid_fraction, 0, 0.5, false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "",
        .summary =
            "Encodes text into a folder that recipes name as data.train. Which documents are kept for "
            "validation depends on their content alone; of fewer than 100 documents, stretches of text are.",
        .examples = "mhmoe data build --tokenizer my.model --input books.tar.xz --output data/books\n"
                    "mhmoe data build --tokenizer my.model --input a.jsonl.zst notes/ --output data/mine "
                    "--valid-fraction 0.05",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    mh_build how = {.tokenizer = tokenizer,
                    .inputs = inputs.item,
                    .input_count = inputs.count,
                    .output = output,
                    .valid_fraction = valid_fraction};
    return build(&how, json);
}

int cli_data(int argc, char **argv)
{
    static const cli_command commands[] = {{"build", "encode text into token files", run_build}};
    return cli_dispatch(argv[0], commands, sizeof commands / sizeof *commands, argc, argv);
}
