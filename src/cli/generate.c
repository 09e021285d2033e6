/* mhmoe generate: continue a text. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#define PROMPT_LIMIT \
    ((size_t)16 << 20) /* far over any context, so that the model's own limit is the one told */

/* Where the text goes: straight to stdout, or into the object that is printed at the end. */
typedef struct {
    const volatile int *stop;
    bool json, failed;
    mh_text text;
} output;

static bool on_text(void *context, const char *text, size_t length)
{
    output *out = context;
    if (out->json) {
        out->failed = mh_text_add(&out->text, text, length) != MH_OK;
    } else if (length > 0) {
        fwrite(text, 1, length, stdout);
        out->failed = fflush(stdout) != 0; /* the reader went away, or the disk is full: main tells */
    }
    return !out->failed && !*out->stop;
}

/* "-": all of standard input. Invalid bytes are replaced, because tokenizers take UTF-8. */
static mh_status read_prompt(const char *prompt, mh_text *out)
{
    mh_text raw = {0};
    mh_status status = MH_OK;
    if (strcmp(prompt, "-") != 0) {
        status = mh_text_add(&raw, prompt, strlen(prompt));
    } else {
        char block[4096];
        for (size_t n; status == MH_OK && (n = fread(block, 1, sizeof block, stdin)) > 0;)
            status = raw.length + n > PROMPT_LIMIT
                         ? mh_fail(MH_EVALUE, "the prompt on standard input is over %zu MiB; shorten it",
                                   PROMPT_LIMIT >> 20)
                         : mh_text_add(&raw, block, n);
    }
    if (status == MH_OK && ferror(stdin))
        status = mh_fail(MH_EIO, "the prompt could not be read from standard input: %s; try --prompt TEXT",
                         strerror(errno));
    int64_t invalid = 0;
    if (status == MH_OK)
        status = mh_utf8_clean(raw.data ? raw.data : "", raw.length, out, &invalid);
    mh_text_release(&raw);
    return status;
}

static double rate(int64_t tokens, double seconds)
{
    return seconds > 0 ? (double)tokens / seconds : 0;
}

static int print_result(const mh_generated *result, const char *prompt, const mh_text *text)
{
    return cli_print_json(json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:f}", "prompt", prompt, "text",
                                    text->data ? text->data : "", "reason", result->reason, "prompt_tokens",
                                    (json_int_t)result->prompt_tokens, "tokens", (json_int_t)result->tokens,
                                    "prompt_seconds", result->prompt_seconds, "seconds", result->seconds));
}

static int run(const char *checkpoint, mh_precision precision, mh_generation *generation, bool json)
{
    mh_model *model = NULL;
    mh_tokenizer *tokenizer = NULL;
    mh_session *session = NULL;
    mh_generated result;
    mh_text prompt = {0};
    output out = {.json = json, .stop = cli_catch_signals()};

    mh_status status = read_prompt(generation->prompt, &prompt);
    if (status == MH_OK)
        status = mh_model_load(&model, &tokenizer, checkpoint, precision);
    if (status == MH_OK)
        status = mh_session_create(&session, model);
    if (status == MH_OK) {
        generation->prompt = prompt.data ? prompt.data : "";
        status = mh_generate(session, tokenizer, generation, on_text, &out, &result);
    }
    int code = cli_report(status);
    if (status == MH_OK) {
        if (json)
            code = print_result(&result, generation->prompt, &out.text);
        else
            putchar('\n');
        fflush(stdout);
        fprintf(stderr, "%lld tokens at %.1f a second after a prompt of %lld at %.1f a second; ended: %s\n",
                (long long)result.tokens, rate(result.tokens, result.seconds),
                (long long)result.prompt_tokens, rate(result.prompt_tokens, result.prompt_seconds),
                result.reason);
    }
    mh_session_free(session);
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
    mh_text_release(&out.text);
    mh_text_release(&prompt);
    return code;
}

int cli_generate(int argc, char **argv)
{
    int64_t seed = 0;
    mh_precision precision = MH_PRECISION_F32;
    bool json = false;
    mh_generation generation = {.prompt = "", .max_tokens = 256, .sampler = {.temperature = 1, .top_p = 1}};
    const cli_option options[] = {
        {"prompt", "TEXT|-", "text to continue; - reads it from standard input", CLI_STRING,
         &generation.prompt, 0, 0, true},
        {"max-tokens", "N", "write at most N tokens (256)", CLI_INT, &generation.max_tokens, 1, 1 << 30,
         false},
        {"temperature", "T", "0 always takes the likeliest token, 1 draws as the model predicts (1)",
         CLI_FLOAT, &generation.sampler.temperature, 0, 100, false},
        {"top-k", "K", "draw among the K likeliest tokens; 0: all (0)", CLI_INT, &generation.sampler.top_k, 0,
         1 << 30, false},
        {"top-p", "P", "draw among the fewest tokens that hold the share P (1)", CLI_FLOAT,
         &generation.sampler.top_p, 1e-9, 1, false},
        {"seed", "S", "the same seed gives the same text (0)", CLI_INT, &seed, 0, 0, false},
        {"stop", "TEXT", "end before this text", CLI_STRING, &generation.stop, 0, 0, false},
        {"precision", "f32|bf16", "precision of the computation (f32)", CLI_CHOICE, &precision, 0, 0, false},
        {"json", NULL, "print one JSON object at the end", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "CHECKPOINT",
        .summary =
            "Continues a text with the model of a checkpoint folder, or of the newest checkpoint of a run "
            "folder. The new text goes to standard output as it is written.",
        .examples =
            "mhmoe generate runs/demo --prompt 'Once upon a time'\n"
            "mhmoe generate runs/demo --prompt 'A list:' --temperature 0.8 --top-p 0.95 --seed 7\n"
            "printf 'Q: why?\\nA:' | mhmoe generate runs/demo --prompt - --stop 'Q:' --max-tokens 100",
        .min_arguments = 1,
        .max_arguments = 1,
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    cli_list arguments = {0};
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    if (generation.stop != NULL && *generation.stop == '\0')
        return cli_report(mh_fail(MH_EUSAGE, "--stop is empty, and every text ends before that; name a text "
                                             "or leave it out"));
    generation.sampler.seed = (uint64_t)seed;
    return run(arguments.item[0], precision, &generation, json);
}
