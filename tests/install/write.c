/* A user of the installed library: writes text, and looks at the model's prediction itself. Also valid C++.
 */
#include <mhmoe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(mh_status status)
{
    if (status == MH_OK)
        return;
    fprintf(stderr, "%s\n", mh_message());
    exit(1);
}

static bool print(void *context, const char *text, size_t length)
{
    *(size_t *)context += length;
    return fwrite(text, 1, length, stdout) == length;
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

    mh_generation generation;
    memset(&generation, 0, sizeof generation);
    generation.prompt = argv[2];
    generation.max_tokens = 40;
    generation.sampler.top_p = 1;
    mh_generated result;
    size_t bytes = 0;
    must(mh_generate(session, tokenizer, &generation, print, &bytes, &result));
    fprintf(stderr, "\n%s: %lld tokens, %zu bytes, %s\n", mh_version(), (long long)result.tokens, bytes,
            result.reason);

    /* What comes after a given text, token by token. */
    mh_ids ids = {NULL, 0, 0};
    mh_text text = {NULL, 0, 0};
    must(mh_tokenizer_encode(tokenizer, "Once upon a", 11, &ids));
    must(mh_session_sync(session, ids.id, ids.count));
    mh_candidate *work = (mh_candidate *)malloc((size_t)mh_model_vocab(model) * sizeof *work);
    int32_t next = mh_sample(&generation.sampler, 0, mh_session_logits(session), mh_model_vocab(model), work);
    must(mh_tokenizer_decode(tokenizer, &next, 1, &text));
    fprintf(stderr, "after 'Once upon a': '%s'\n", text.data);

    free(work);
    mh_text_release(&text);
    mh_ids_release(&ids);
    mh_session_free(session);
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
    return bytes > 0 ? 0 : 1;
}
