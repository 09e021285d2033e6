/* Continues a text, and then looks at what the model expects: generate CHECKPOINT PROMPT */
#include <mhmoe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The library neither prints nor exits: a failure is a status and a sentence, what becomes of it is ours. */
static void must(mh_status status)
{
    if (status == MH_OK)
        return;
    fprintf(stderr, "%s\n", mh_message());
    exit(1);
}

static bool print(void *file, const char *text, size_t length)
{
    return fwrite(text, 1, length, (FILE *)file) == length; /* false would end the text here */
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s CHECKPOINT PROMPT\n", argv[0]);
        return 2;
    }
    mh_model *model;
    mh_tokenizer *tokenizer;
    mh_session *session;
    must(mh_model_load(&model, &tokenizer, argv[1], MH_PRECISION_F32));
    must(mh_session_create(&session, model));

    /* All in one call. */
    mh_sampler greedy = {0, 0, 1, 1}; /* temperature, top_k, top_p, seed */
    mh_generation generation = {argv[2], 40, greedy, NULL};
    mh_generated made;
    must(mh_generate(session, tokenizer, &generation, print, stdout, &made));
    fprintf(stderr, "\n%lld tokens in %.2f s: %s\n", (long long)made.tokens, made.seconds, made.reason);

    /* Step by step: text to tokens, tokens to logits, logits to a token, and that to text. */
    const char *begin = "Once upon a";
    int64_t vocab = mh_model_vocab(model);
    mh_ids ids = {NULL, 0, 0};
    mh_text text = {NULL, 0, 0};
    mh_candidate *work = (mh_candidate *)malloc((size_t)vocab * sizeof *work);
    must(mh_tokenizer_encode(tokenizer, begin, strlen(begin), &ids));
    must(mh_session_sync(session, ids.id, ids.count));
    int32_t next = mh_sample(&greedy, 0, mh_session_logits(session), vocab, work);
    must(mh_tokenizer_decode(tokenizer, &next, 1, &text));
    fprintf(stderr, "likeliest after '%s': '%s'\n", begin, text.data);

    free(work);
    mh_text_release(&text);
    mh_ids_release(&ids);
    mh_session_free(session);
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
    return 0;
}
