/* Generation: the tokens that follow a prompt, told as text as soon as it is certain. */
#include "infer/infer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Text that was generated but not told yet. */
typedef struct {
    mh_text held, told; /* told: the piece in hand, cleaned */
    const char *stop;
    size_t stop_length;
    mh_on_text *on_text;
    void *context;
    bool stopped; /* the listener wants no more */
} stream;

/* Length of the longest end of `text` that could be the beginning of `stop`. */
static size_t begun_stop(const char *text, size_t length, const char *stop, size_t stop_length)
{
    for (size_t n = stop_length > length + 1 ? length : stop_length - 1; n > 0; n--)
        if (memcmp(text + length - n, stop, n) == 0)
            return n;
    return 0;
}

/* Length of the UTF-8 sequence that `text` ends in the middle of; 0 if it ends with a whole character. */
static size_t begun_character(const char *text, size_t length)
{
    for (size_t n = 1; n <= 3 && n <= length; n++) {
        unsigned char byte = (unsigned char)text[length - n];
        if (byte >= 0xC0) { /* the first byte of a sequence tells its length */
            size_t whole = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
            return whole > n ? n : 0;
        }
        if (byte < 0x80)
            break;
    }
    return 0;
}

/* Tells the first `length` bytes of what is held, invalid ones replaced. */
static mh_status tell(stream *s, size_t length)
{
    int64_t invalid = 0;
    s->told.length = 0;
    if (length > 0) {
        MH_TRY(mh_utf8_clean(s->held.data, length, &s->told, &invalid));
        s->held.length -= length;
        memmove(s->held.data, s->held.data + length, s->held.length);
    }
    s->stopped = !s->on_text(s->context, length ? s->told.data : "", s->told.length);
    return MH_OK;
}

/* Adds the text of a token. At the start of a text the space that the tokenizer puts before the first word is
 * left out, as in decoding a whole text. */
static mh_status hold(stream *s, const mh_tokenizer *tokenizer, int32_t id, bool *at_start)
{
    size_t before = s->held.length;
    MH_TRY(mh_tokenizer_piece(tokenizer, id, &s->held));
    if (!*at_start || s->held.length == before)
        return MH_OK;
    *at_start = false;
    s->told.length = 0;
    MH_TRY(mh_tokenizer_decode(tokenizer, &id, 1, &s->told));
    if (s->told.length < s->held.length)
        memmove(s->held.data, s->held.data + 1, --s->held.length);
    return MH_OK;
}

/* Takes the text of one more token; *reason is set where that ends the text. */
static mh_status take(stream *s, const mh_tokenizer *tokenizer, int32_t id, bool *at_start,
                      const char **reason)
{
    MH_TRY(hold(s, tokenizer, id, at_start));
    size_t length = s->held.length;
    if (s->stop_length > 0 && length > 0) {
        const char *found = memmem(s->held.data, length, s->stop, s->stop_length);
        if (found != NULL) {
            *reason = "stop";
            s->held.length = (size_t)(found - s->held.data);
            return MH_OK;
        }
        length -= begun_stop(s->held.data, length, s->stop, s->stop_length);
    }
    length -= begun_character(s->held.data, length);
    MH_TRY(tell(s, length));
    if (s->stopped)
        *reason = "interrupted";
    return MH_OK;
}

static mh_status check(const mh_generation *g, const mh_model *model, const mh_tokenizer *tokenizer)
{
    const mh_sampler *sampler = &g->sampler;
    if (g->max_tokens < 1)
        return mh_fail(MH_EVALUE, "max_tokens is %lld; ask for at least one token", (long long)g->max_tokens);
    if (!(sampler->temperature >= 0) || isinf(sampler->temperature))
        return mh_fail(MH_EVALUE, "temperature is %g; it must be 0 (greedy) or above", sampler->temperature);
    if (sampler->top_k < 0)
        return mh_fail(MH_EVALUE, "top_k is %lld; it must be 0 (all) or above", (long long)sampler->top_k);
    if (!(sampler->top_p > 0 && sampler->top_p <= 1))
        return mh_fail(MH_EVALUE, "top_p is %g; it must be over 0 and at most 1 (all)", sampler->top_p);
    if (mh_tokenizer_vocab(tokenizer) != model->config.vocab ||
        (model->tokenizer_hash[0] && strcmp(model->tokenizer_hash, mh_tokenizer_hash(tokenizer)) != 0))
        return mh_fail(MH_EMISMATCH,
                       "this tokenizer of %d pieces is not the one that the model of vocabulary %lld was "
                       "trained with; use the model's own",
                       mh_tokenizer_vocab(tokenizer), (long long)model->config.vocab);
    return MH_OK;
}

mh_status mh_prompt_encode(const mh_model *model, const mh_tokenizer *tokenizer, const char *text,
                           size_t length, mh_ids *ids)
{
    int32_t start = mh_model_bos(model);
    if (start >= 0)
        MH_TRY(mh_ids_add(ids, &start, 1));
    return mh_tokenizer_encode(tokenizer, text, length, ids);
}

/* `ids` gets room for the whole context. */
static mh_status encode_prompt(mh_ids *ids, const mh_model *model, const mh_tokenizer *tokenizer,
                               const char *prompt)
{
    int64_t context = mh_model_context(model);
    MH_TRY(mh_prompt_encode(model, tokenizer, prompt, strlen(prompt), ids));
    if (ids->count == 0)
        return mh_fail(MH_EVALUE,
                       "the prompt is empty and the model has no token that starts a text; give a prompt");
    if (ids->count > context)
        return mh_fail(MH_EVALUE,
                       "the prompt has %lld tokens, but the model's context is %lld; shorten the prompt",
                       (long long)ids->count, (long long)context);
    int32_t *room = realloc(ids->id, (size_t)context * sizeof *room);
    if (room == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for %lld tokens", (long long)context);
    *ids = (mh_ids){room, ids->count, context};
    return MH_OK;
}

static mh_status write_text(mh_session *session, const mh_tokenizer *tokenizer, const mh_generation *g,
                            mh_ids *ids, mh_candidate *work, stream *s, mh_generated *result)
{
    const mh_config *config = &mh_session_model(session)->config;
    bool at_start = *g->prompt == '\0';
    double started = mh_seconds();
    MH_TRY(mh_session_sync(session, ids->id, ids->count));
    double read = mh_seconds();
    result->prompt_tokens = ids->count;
    result->prompt_seconds = read - started;

    while (result->reason == NULL) {
        int32_t id =
            mh_sample(&g->sampler, (uint64_t)result->tokens, mh_session_logits(session), config->vocab, work);
        if (id == config->eos) {
            result->reason = "end of text";
            break;
        }
        result->tokens++;
        MH_TRY(take(s, tokenizer, id, &at_start, &result->reason));
        if (result->reason != NULL)
            break;
        if (result->tokens == g->max_tokens) {
            result->reason = "length";
        } else if (ids->count == config->context) {
            result->reason = "context full";
        } else {
            ids->id[ids->count++] = id;
            MH_TRY(mh_session_sync(session, ids->id, ids->count));
        }
    }
    result->seconds = mh_seconds() - read;
    return s->stopped ? MH_OK : tell(s, s->held.length);
}

mh_status mh_generate(mh_session *session, const mh_tokenizer *tokenizer, const mh_generation *generation,
                      mh_on_text *on_text, void *context, mh_generated *result)
{
    const mh_model *model = mh_session_model(session);
    stream s = {.stop = generation->stop, .on_text = on_text, .context = context};
    s.stop_length = s.stop ? strlen(s.stop) : 0;
    mh_ids ids = {0};
    mh_candidate *work = NULL;
    *result = (mh_generated){0};
    mh_status status = check(generation, model, tokenizer);
    if (status == MH_OK)
        status = encode_prompt(&ids, model, tokenizer, generation->prompt);
    if (status == MH_OK) {
        work = malloc((size_t)mh_model_vocab(model) * sizeof *work);
        status = work ? write_text(session, tokenizer, generation, &ids, work, &s, result)
                      : mh_fail(MH_EMEMORY, "the system refused memory for %lld candidates",
                                (long long)mh_model_vocab(model));
    }
    free(work);
    mh_ids_release(&ids);
    mh_text_release(&s.held);
    mh_text_release(&s.told);
    return status;
}
