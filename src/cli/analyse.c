/* mhmoe analyse: which experts real text goes to. */
#include "cli/cli.h"

static mh_status write_file(mh_writer *out, const json_t *analysis)
{
    mh_text text = {0};
    mh_status status = mh_json_dump(analysis, true, &text);
    if (status == MH_OK)
        status = mh_text_add(&text, "\n", 1);
    if (status == MH_OK)
        status = mh_writer_put(out, text.data, text.length);
    mh_text_release(&text);
    return status == MH_OK ? mh_writer_commit(out) : status;
}

static int run(const mh_analysis *request, const char *output, bool json)
{
    cli_bar bar;
    mh_progress progress = {.report = cli_bar_report, .context = &bar, .stop = cli_catch_signals()};
    json_t *analysis = NULL;
    mh_writer out = {0};
    /* a file that cannot be written is told before the work */
    mh_status status = output != NULL ? cli_check_ending("output", output, ".json") : MH_OK;
    if (status == MH_OK && output != NULL)
        status = mh_make_parent(output);
    if (status == MH_OK && output != NULL)
        status = mh_writer_open(&out, output);
    cli_bar_init(&bar);
    if (status == MH_OK)
        status = mh_analyse(request, &progress, &analysis);
    cli_bar_clear(&bar);
    if (status == MH_OK && output != NULL)
        status = write_file(&out, analysis);
    if (status != MH_OK)
        mh_writer_abort(&out);
    else if (json)
        return cli_print_json(analysis);
    else
        cli_print_analysis(analysis);
    json_decref(analysis);
    return cli_report(status);
}

int cli_analyse(int argc, char **argv)
{
    mh_analysis request = {.threshold = -1, .tokens = 100000};
    cli_list inputs = {0}, checkpoints = {0};
    const char *output = NULL;
    bool json = false;
    const cli_option options[] = {
        {"input", "PATH...", "text: files, folders or tars of .txt, .md, .jsonl, also compressed", CLI_LIST,
         &inputs, 0, 0, true},
        {"label-by", "none|file|folder", "tell which kinds of text an expert takes, by where the text stands",
         CLI_CHOICE, &request.label_by, 0, 0, false},
        {"threshold", "X", "an expert is active when chosen more than X times a token (half of 1/experts)",
         CLI_FLOAT, &request.threshold, 0, 1024, false},
        {"words", "WORD,...", "show the experts of these words in each sentence", CLI_STRING, &request.words,
         0, 0, false},
        {"tokens", "N", "read at most N tokens, spread evenly over the text (100000)", CLI_INT,
         &request.tokens, 1, 1e12, false},
        {"precision", "f32|bf16", "precision of the computation (f32)", CLI_CHOICE, &request.precision, 0, 0,
         false},
        {"output", "FILE.json", "write the whole analysis there", CLI_STRING, &output, 0, 0, false},
        {"json", NULL, "print the whole analysis as one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "CHECKPOINT...",
        .summary = "Shows which experts a model sends real text to: their load, which tokens and kinds of "
                   "text they take, which work together, and what a word's sentences change. Of several "
                   "checkpoints of a run, the last is analysed and the others' choices are compared with it.",
        .examples =
            "mhmoe analyse runs/demo --input texts/ --label-by file\n"
            "mhmoe analyse runs/demo --input texts.tar.xz --words bank,spring --output analysis.json\n"
            "mhmoe analyse runs/demo/checkpoints/step-* --input held-out.txt --tokens 20000",
        .min_arguments = 1,
        .max_arguments = CLI_LIST_MAX,
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &checkpoints);
    if (code >= 0)
        return code;
    request.checkpoints = checkpoints.item;
    request.checkpoint_count = checkpoints.count;
    request.inputs = inputs.item;
    request.input_count = inputs.count;
    return run(&request, output, json);
}
