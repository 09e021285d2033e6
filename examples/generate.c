/* Continues a text, in one call and by hand: generate CHECKPOINT PROMPT */
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

    /* The same by hand, for a sampler or a search of one's own: text to tokens, tokens to logits, logits to
     * the next token, and that to text. */
    int64_t vocab = mh_model_vocab(model);
    mh_ids ids = {NULL, 0, 0};
    mh_text text = {NULL, 0, 0};
    mh_candidate *work = (mh_candidate *)malloc((size_t)vocab * sizeof *work);
    must(mh_prompt_encode(model, tokenizer, argv[2], strlen(argv[2]), &ids));
    for (int i = 0; i < 40; i++) {
        must(mh_session_sync(session, ids.id, ids.count));
        int32_t next = mh_sample(&greedy, (uint64_t)i, mh_session_logits(session), vocab, work);
        if (next == mh_model_eos(model))
            break;
        must(mh_tokenizer_piece(tokenizer, next, &text));
        if (ids.count == mh_model_context(model))
            break;
        must(mh_ids_add(&ids, &next, 1));
    }
    fprintf(stderr, "by hand: %s\n", text.data ? text.data : "");

    free(work);
    mh_text_release(&text);
    mh_ids_release(&ids);
    mh_session_free(session);
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
    return 0;
}
