/* eval: measuring a model. */
#ifndef MH_EVAL_H
#define MH_EVAL_H

#include "infer/infer.h"

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
