/* A session: one timeline of tokens over a shared model, with the keys and values of what it has read. */
#include "infer/infer.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_ROWS 256 /* of a prompt computed at once: enough for the products, little memory */

struct mh_session {
    const mh_model *model;
    mh_pass *pass;
    int64_t block;
    int32_t *token; /* [context], the first `length` are read */
    int64_t length;
    float *logits; /* [vocab] */
    mh_arena memory;
};

static void layout(mh_session *session, mh_arena *arena)
{
    const mh_config *config = &session->model->config;
    session->token = mh_take(arena, (size_t)config->context * sizeof *session->token);
    session->logits = mh_take(arena, (size_t)config->vocab * sizeof *session->logits);
}

mh_status mh_session_create(mh_session **session, const mh_model *model)
{
    const mh_config *config = &model->config;
    *session = NULL;
    if (mh_config_noncausal(config))
        return mh_fail(MH_EVALUE, "this model cannot write text: it %s; train with moe.capacity_factor 0",
                       mh_config_noncausal(config));
    mh_session *s = calloc(1, sizeof *s);
    if (s == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for a session");
    s->model = model;
    s->block = config->context < BLOCK_ROWS ? config->context : BLOCK_ROWS;
    mh_arena count = {0};
    layout(s, &count);
    mh_status status = mh_arena_init(&s->memory, count.used, "a session");
    if (status == MH_OK) {
        layout(s, &s->memory);
        mh_pass_shape shape = {.batch = 1, .rows = s->block, .capacity = config->context};
        status = mh_pass_create(&s->pass, model, shape);
    }
    if (status != MH_OK) {
        mh_session_free(s);
        return status;
    }
    *session = s;
    return MH_OK;
}

void mh_session_free(mh_session *session)
{
    if (session == NULL)
        return;
    mh_pass_free(session->pass);
    mh_arena_release(&session->memory);
    free(session);
}

const mh_model *mh_session_model(const mh_session *session)
{
    return session->model;
}

static mh_status check_tokens(const mh_config *config, const int32_t *token, int64_t count)
{
    if (count < 1)
        return mh_fail(MH_EVALUE, "a session needs a token to predict the next from; give at least one");
    if (count > config->context)
        return mh_fail(MH_EVALUE, "%lld tokens are more than the model's context of %lld; give fewer",
                       (long long)count, (long long)config->context);
    for (int64_t i = 0; i < count; i++)
        if (token[i] < 0 || token[i] >= config->vocab)
            return mh_fail(MH_EVALUE,
                           "token %d at position %lld is not in the vocabulary of %lld; encode with the "
                           "model's own tokenizer",
                           token[i], (long long)i, (long long)config->vocab);
    return MH_OK;
}

mh_status mh_session_sync(mh_session *session, const int32_t *token, int64_t count)
{
    MH_TRY(check_tokens(&session->model->config, token, count));
    int64_t past = 0;
    while (past < count && past < session->length && token[past] == session->token[past])
        past++;
    if (past == count && count == session->length)
        return MH_OK;
    if (past == count)
        past--; /* the keys are there, the logits of that position are not */

    memcpy(session->token + past, token + past, (size_t)(count - past) * sizeof *token);
    session->length = count;
    int64_t rows = 0;
    for (; past < count; past += rows) {
        rows = count - past < session->block ? count - past : session->block;
        mh_forward(session->pass, session->model,
                   &(mh_call){.token = session->token + past, .batch = 1, .rows = rows, .past = past});
    }
    mh_logits(session->pass, session->model, rows - 1, 1, session->logits);
    return MH_OK;
}

const float *mh_session_logits(const mh_session *session)
{
    return session->logits;
}

int64_t mh_session_length(const mh_session *session)
{
    return session->length;
}
