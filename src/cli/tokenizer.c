/* mhmoe tokenizer: train a tokenizer, encode and decode text. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Text and ids for encode and decode are held in memory. */
static const size_t INPUT_LIMIT = (size_t)1 << 30;

/* ---- train --------------------------------------------------------------------------------------------- */

static int train(const mh_tokenizer_training *training, const char *output, bool json)
{
    mh_tokenizer_trained r;
    cli_bar bar;
    mh_progress progress = {.report = cli_bar_report, .context = &bar, .stop = cli_catch_signals()};
    mh_status status = mh_path_check_new(output); /* it may be the text itself */
    cli_bar_init(&bar);
    if (status == MH_OK)
        status = mh_tokenizer_train(training, output, &progress, &r);
    cli_bar_clear(&bar);
    if (status != MH_OK)
        return cli_report(status);
    if (json)
        return cli_print_json(json_pack("{s:s, s:i, s:I, s:I, s:I, s:f, s:f}", "output", output, "vocab",
                                        training->vocab, "documents", (json_int_t)r.documents, "bytes",
                                        (json_int_t)r.bytes, "sample_bytes", (json_int_t)r.sample_bytes,
                                        "bytes_per_token", r.bytes_per_token, "seconds", r.seconds));
    char time[32];
    printf("documents      %14lld\n", (long long)r.documents);
    printf("bytes          %14lld\n", (long long)r.bytes);
    printf("sampled bytes  %14lld\n", (long long)r.sample_bytes);
    printf("vocabulary     %14d\n", training->vocab);
    printf("bytes per token%14.3f\n", r.bytes_per_token);
    printf("time           %14s\n", cli_duration(r.seconds, time));
    printf("\nwrote %s\n", output);
    return CLI_OK;
}

static int run_train(int argc, char **argv)
{
    cli_list inputs = {0}, arguments = {0};
    int64_t vocab = 0, sample_mb = 10, seed = 1;
    const char *output = NULL;
    bool json = false;
    const cli_option options[] = {
        {"input", "PATH...", "text: files, folders or tars of .txt, .md, .jsonl, also compressed", CLI_LIST,
         &inputs, 0, 0, true},
        {"vocab", "N", "number of pieces", CLI_INT, &vocab, 260, 1 << 20, true},
        {"output", "FILE", "the .model file to write", CLI_STRING, &output, 0, 0, true},
        {"sample-mb", "N", "learn from at most N MB of lines drawn from the text (10)", CLI_INT, &sample_mb,
         1, 1 << 16, false},
        {"seed", "N", "which lines are drawn (1)", CLI_INT, &seed, 0, 0, false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "",
        .summary = "Trains a SentencePiece tokenizer (BPE with byte fallback, as LLaMA's) that gives every "
                   "text back exactly. The bytes per token are measured on lines it was not trained on.",
        .examples =
            "mhmoe tokenizer train --input books.tar.xz --vocab 8192 --output books.model\n"
            "mhmoe tokenizer train --input notes/ more.jsonl --vocab 4096 --output my.model --sample-mb 64",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    mh_tokenizer_training training = {.inputs = inputs.item,
                                      .input_count = inputs.count,
                                      .vocab = (int)vocab,
                                      .sample_bytes = (size_t)sample_mb * 1000000,
                                      .seed = (uint64_t)seed};
    return train(&training, output, json);
}

/* ---- encode and decode --------------------------------------------------------------------------------- */

/* Prints the ids of a text, or the text of ids. */
typedef mh_status convert(const mh_tokenizer *tokenizer, const mh_text *input);

static mh_status encode(const mh_tokenizer *tokenizer, const mh_text *input)
{
    mh_text text = {0};
    mh_ids ids = {0};
    int64_t invalid = 0;
    mh_status status = mh_utf8_clean(input->data, input->length, &text, &invalid);
    if (status == MH_OK)
        status = mh_tokenizer_encode(tokenizer, text.data, text.length, &ids);
    if (status == MH_OK && invalid > 0)
        fprintf(stderr, "mhmoe: %lld bytes are not valid UTF-8 and were encoded as U+FFFD\n",
                (long long)invalid);
    for (int64_t i = 0; status == MH_OK && i < ids.count; i++)
        printf(i > 0 ? " %d" : "%d", ids.id[i]);
    if (status == MH_OK)
        putchar('\n');
    mh_text_release(&text);
    mh_ids_release(&ids);
    return status;
}

static mh_status decode(const mh_tokenizer *tokenizer, const mh_text *input)
{
    mh_ids ids = {0};
    mh_text text = {0};
    mh_status status = MH_OK;
    /* No more ids than half the characters. */
    ids.id = malloc((input->length / 2 + 1) * sizeof *ids.id);
    if (ids.id == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for the ids");
    for (const char *at = input->data; status == MH_OK && *(at += strspn(at, " \t\r\n,")) != '\0';) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno != 0 || id < 0 || id >= mh_tokenizer_vocab(tokenizer) ||
            (*end != '\0' && strchr(" \t\r\n,", *end) == NULL))
            status = mh_fail(MH_EVALUE, "\"%.*s\" is no token of this tokenizer; give numbers from 0 to %d",
                             (int)strcspn(at, " \t\r\n,"), at, mh_tokenizer_vocab(tokenizer) - 1);
        ids.id[ids.count++] = (int32_t)id;
        at = end;
    }
    if (status == MH_OK)
        status = mh_tokenizer_decode(tokenizer, ids.id, ids.count, &text);
    if (status == MH_OK)
        fwrite(text.data, 1, text.length, stdout);
    mh_ids_release(&ids);
    mh_text_release(&text);
    return status;
}

static int run_convert(int argc, char **argv, convert *what, const char *summary, const char *examples)
{
    cli_list arguments = {0};
    const char *model = NULL, *input = "-";
    const cli_option options[] = {
        {"tokenizer", "FILE", "the .model file", CLI_STRING, &model, 0, 0, true},
        {"input", "PATH|-", "what to convert; - is standard input (-)", CLI_STRING, &input, 0, 0, false},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "",
        .summary = summary,
        .examples = examples,
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    mh_tokenizer *tokenizer;
    mh_text text = {0};
    mh_status status = mh_tokenizer_load(&tokenizer, model);
    if (status == MH_OK)
        status = mh_file_read(strcmp(input, "-") == 0 ? "/dev/stdin" : input, INPUT_LIMIT, &text);
    if (status == MH_OK)
        status = what(tokenizer, &text);
    mh_text_release(&text);
    mh_tokenizer_free(tokenizer);
    return cli_report(status);
}

static int run_encode(int argc, char **argv)
{
    return run_convert(argc, argv, encode, "Prints the token ids of a text.",
                       "echo 'Once upon a time' | mhmoe tokenizer encode --tokenizer my.model\n"
                       "mhmoe tokenizer encode --tokenizer my.model --input chapter.txt > chapter.ids");
}

static int run_decode(int argc, char **argv)
{
    return run_convert(argc, argv, decode, "Prints the text of token ids, which blanks or commas separate.",
                       "echo '5618 39 2203' | mhmoe tokenizer decode --tokenizer my.model\n"
                       "mhmoe tokenizer decode --tokenizer my.model --input chapter.ids");
}

int cli_tokenizer(int argc, char **argv)
{
    static const cli_command commands[] = {
        {"train", "make a tokenizer from text", run_train},
        {"encode", "print the ids of a text", run_encode},
        {"decode", "print the text of ids", run_decode},
    };
    return cli_dispatch(argv[0], commands, sizeof commands / sizeof *commands, argc, argv);
}
