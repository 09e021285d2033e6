/* eval: measuring a model. */
#ifndef MH_EVAL_H
#define MH_EVAL_H

#include "infer/infer.h"

/* ---- windows.c: texts of any length as batches of the model's context ---------------------------------- */

/* A text longer than the context is read by windows, each `stride` tokens after the one before; each of its
 * tokens counts once, where it has most context. Windows of short texts share a sequence: first_key keeps
 * each from seeing its neighbours, and rotary positions count only as differences. */
typedef struct mh_windows {
    const mh_model *model;
    mh_pass *pass; /* the caller's */
    int64_t stride;
    void (*measure)(struct mh_windows *w); /* called with every full batch */
    void *context;                         /* of measure */
    int32_t text;                          /* the caller's number of the open text */

    int64_t batch, rows;        /* sequences, and positions in each */
    int64_t sequence, used;     /* where the next window goes */
    int32_t *token, *first_key; /* [batch*rows] */
    int32_t *target;            /* [batch*rows] the next token; -1 where this position does not count */
    int32_t *tag;               /* [batch*rows] the `text` of each position */
    float *nll;                 /* [batch*rows] room for losses */
    mh_ids ids;                 /* of the open text, as far as later windows need it */
    int64_t seen;               /* of its predictions that are counted already */
    mh_arena memory;
} mh_windows;

/* The shape of a pass for windows: as many contexts as are worth computing at once. */
mh_pass_shape mh_windows_shape(const mh_model *model);

/* Batches of the pass's shape; the fields before `batch` are set. Release leaves the pass alone. */
mh_status mh_windows_init(mh_windows *w);
void mh_windows_release(mh_windows *w);

/* Adds tokens to the open text, which begins with the model's bos, or ends it, with the model's eos as last
 * target. Texts follow each other in a batch; flush measures the last ones. */
mh_status mh_windows_add(mh_windows *w, const int32_t *id, int64_t count);
mh_status mh_windows_end_text(mh_windows *w);
void mh_windows_flush(mh_windows *w);

/* Empties the batch: token 0 without target where nothing is put. */
void mh_windows_clear(mh_windows *w);

static inline bool mh_windows_new_text(const mh_windows *w)
{
    return w->ids.count == 0;
}

/* ---- perplexity.c -------------------------------------------------------------------------------------- */

typedef struct {
    int64_t documents, tokens, bytes; /* tokens predicted, </s> of each document included; bytes of text */
    double nll;                       /* nats, summed */
    double perplexity;                /* exp(nll / tokens) */
    double bits_per_byte;             /* nll / ln 2 / bytes */
    double seconds;
} mh_perplexity;

/* Every token of every document of `paths` is predicted once. Documents longer than the context are read with
 * a window of the context's length moved by `stride` tokens (0: half the context), each token counted where
 * it has most context. Fails where the model gives NaN; the measures may be infinite. */
mh_status mh_eval_perplexity(const mh_model *model, const mh_tokenizer *tokenizer, const char *const *paths,
                             int count, int64_t stride, const mh_progress *progress, mh_perplexity *result);

/* The same measure over the first `sequences` sequences of a validation set (0: all), as training reports it.
 * bytes come from the set's bytes a token. */
mh_status mh_eval_batches(const mh_model *model, mh_pass *pass, const mh_batches *batches, int64_t sequences,
                          bool mask_documents, const mh_progress *progress, mh_perplexity *result);

/* ---- verify.c: reference vectors ----------------------------------------------------------------------- */

typedef struct {
    char name[128];
    double error, bound; /* |ours - expected| / |expected| */
} mh_verified;

typedef struct {
    mh_verified *tensor;
    int count;
    int64_t choices, flips; /* routed choices, and how many of the router's own differ from the expected */
    int64_t kept, drops;    /* kept flags compared, and how many differ */
    bool passed;
} mh_verify_result;

/* Runs the layer or decoder of a reference vector file (tests/golden/README.md), forward and backward. In
 * bf16 the expected choices are forced. Fails for a file that is malformed or of a kind not supported; a
 * disagreement is a result, not a failure. */
mh_status mh_verify(const char *path, mh_precision precision, mh_verify_result *result);
void mh_verify_release(mh_verify_result *result);

#endif
