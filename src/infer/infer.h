/* infer: sessions over a loaded model, and sampling. */
#ifndef MH_INFER_H
#define MH_INFER_H

#include "model/model.h"

/* ---- session.c: one timeline with its KV cache
 * ------------------------------------------------------------------- */

typedef struct mh_session mh_session;

/* The model must outlive the session. Room for model->config.context positions; prompts are computed in
 * blocks. Refuses a model with a capacity factor: its output would depend on later tokens. */
mh_status mh_session_create(mh_session **session, const mh_model *model);
void mh_session_free(mh_session *session);

/* Makes the session's state that of exactly these tokens, recomputing only what follows the common prefix.
 * Fails where count exceeds the context or a token the vocabulary; the session then keeps its state. */
mh_status mh_session_sync(mh_session *session, const int32_t *token, int64_t count);

/* f32 [vocab] after the last token; valid until the next sync. */
const float *mh_session_logits(const mh_session *session);
int64_t mh_session_length(const mh_session *session);

/* ---- sampler.c
 * ---------------------------------------------------------------------------------------------------------
 */

typedef struct {
    double temperature; /* 0: greedy */
    int64_t top_k;      /* 0: all */
    double top_p;       /* 1: all */
    uint64_t seed;
} mh_sampler;

/* The next token from logits [vocab]; `index` numbers the draws of one text. work: [vocab] of work space. */
typedef struct {
    float p;
    int32_t id;
} mh_candidate;

int32_t mh_sample(const mh_sampler *sampler, uint64_t index, const float *logits, int64_t vocab,
                  mh_candidate *work);

/* ---- generate.c: text from a prompt
 * ------------------------------------------------------------------------------------ */

typedef struct {
    const char *prompt;
    int64_t max_tokens;
    mh_sampler sampler;
    const char *stop; /* end before this text, or NULL */
} mh_generation;

/* Called with each piece of new text as soon as it is certain (whole UTF-8 characters, no part of `stop`).
 * Return false to end. */
typedef bool mh_on_text(void *context, const char *text, size_t length);

typedef struct {
    int64_t prompt_tokens, tokens;
    double prompt_seconds, seconds;
    const char *reason; /* "length", "end of text", "stop", "interrupted" */
} mh_generated;

mh_status mh_generate(mh_session *session, const mh_tokenizer *tokenizer, const mh_generation *generation,
                      mh_on_text *on_text, void *context, mh_generated *result);

#endif
