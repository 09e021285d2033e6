/* mhmoe eval: how well a model predicts text, and answers questions. */
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

static int measure_text(const char *checkpoint, mh_precision precision, const cli_list *paths, int64_t stride,
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
    bool causal = mh_config_noncausal(&model->config) == NULL;
    if (!causal)
        fprintf(stderr, "mhmoe: the model %s, so this perplexity is not quite that of a causal model\n",
                mh_config_noncausal(&model->config));
    cli_bar_init(&bar);
    status = mh_eval_perplexity(model, tokenizer, paths->item, paths->count, stride, &progress, &result);
    cli_bar_clear(&bar);
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
    if (status != MH_OK)
        return cli_report(status);
    if (json)
        return cli_print_json(json_pack(
            "{s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:b}", "documents", (json_int_t)result.documents, "tokens",
            (json_int_t)result.tokens, "bytes", (json_int_t)result.bytes, "nll", mh_json_real(result.nll),
            "perplexity", mh_json_real(result.perplexity), "bits_per_byte",
            mh_json_real(result.bits_per_byte), "seconds", mh_json_real(result.seconds), "causal", causal));
    print_table(&result);
    if (!causal)
        puts("not of a causal model");
    return CLI_OK;
}

/* Options of the other half of the command would be without effect. */
static mh_status check_request(const cli_tasks *tasks, const cli_list *paths, int64_t stride,
                               const char *command)
{
    const mh_task_options *o = &tasks->options;
    const char *of_tasks = o->data         ? "data"
                           : o->limit > 0  ? "limit"
                           : tasks->log    ? "log-samples"
                           : o->shots_path ? "shots-file"
                           : o->shots > 0  ? "shots"
                                           : NULL;
    if ((paths->count > 0) == (tasks->names != NULL))
        return mh_fail(MH_EUSAGE, "name either texts with --perplexity, or --tasks; try '%s --help'",
                       command);
    if (tasks->names != NULL && stride > 0)
        return mh_fail(MH_EUSAGE, "--stride goes with --perplexity; leave it out, questions have no window");
    if (tasks->names == NULL && of_tasks != NULL)
        return mh_fail(MH_EUSAGE, "--%s goes with --tasks; leave it out, or name the tasks", of_tasks);
    return MH_OK;
}

int cli_eval(int argc, char **argv)
{
    cli_list paths = {0}, arguments = {0};
    cli_tasks tasks = {0};
    int64_t stride = 0;
    mh_precision precision = MH_PRECISION_F32;
    bool json = false;
    const cli_option options[] = {
        {"perplexity", "PATH...",
         "texts to predict: files, folders or tars of .txt, .md, .jsonl, also compressed", CLI_LIST, &paths,
         0, 0, false},
        {"stride", "N", "move the window over long documents by N tokens (half the context)", CLI_INT,
         &stride, 1, 1 << 20, false},
        {"tasks", "NAME,...",
         "choose answers: arc_easy, arc_challenge, piqa, openbookqa, boolq, winogrande, hellaswag, rte, "
         "truthfulqa_mc1, truthfulqa_mc2, or files of your own with a {\"query\", \"choices\", \"gold\"} a "
         "line (name.jsonl)",
         CLI_STRING, &tasks.names, 0, 0, false},
        {"data", "DIR", "the folder with the files of the tasks", CLI_STRING, &tasks.options.data, 0, 0,
         false},
        {"shots", "N", "worked examples before each question (0)", CLI_INT, &tasks.options.shots, 0, 1000,
         false},
        {"shots-file", "PATH",
         "where they are taken from, the first N: a file in the task's format, or a folder with such files",
         CLI_STRING, &tasks.options.shots_path, 0, 0, false},
        {"limit", "N", "ask only the first N questions of each task", CLI_INT, &tasks.options.limit, 1,
         1 << 30, false},
        {"log-samples", "FILE", "write every question with its log-likelihoods, a JSON line each", CLI_STRING,
         &tasks.log, 0, 0, false},
        {"precision", "f32|bf16", "precision of the computation (f32)", CLI_CHOICE, &precision, 0, 0, false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "CHECKPOINT",
        .summary = "Measures the model of a checkpoint folder, or of the newest checkpoint of a run folder. "
                   "--perplexity: how well it predicts text, per token, and in bits per byte, which compares "
                   "tokenizers too. --tasks: how often it finds the right one of several answers the "
                   "likeliest, with the prompts and measures of lm-evaluation-harness 0.4.",
        .examples = "mhmoe eval runs/demo --perplexity held-out.txt\n"
                    "mhmoe eval runs/demo --perplexity books.tar.xz more/ --stride 64 --json\n"
                    "mhmoe eval runs/demo --tasks arc_easy,piqa,hellaswag --data bench/ --limit 500\n"
                    "mhmoe eval runs/demo --tasks mine.jsonl --shots 3 --shots-file examples.jsonl "
                    "--log-samples answers.jsonl",
        .min_arguments = 1,
        .max_arguments = 1,
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    mh_status status = check_request(&tasks, &paths, stride, argv[0]);
    if (status != MH_OK)
        return cli_report(status);
    if (tasks.names != NULL)
        return cli_eval_tasks(&tasks, arguments.item[0], precision, json);
    return measure_text(arguments.item[0], precision, &paths, stride, json);
}
