/* mhmoe: sparse mixture-of-experts language models in C. The installed interface.
 *
 * Load a checkpoint with mh_model_load, open a session on it, then either let mh_generate write text, or feed
 * tokens with mh_session_sync and read mh_session_logits. A loaded model and its tokenizer never change and
 * may be shared by threads, each with a session of its own.
 *
 * Train a model of your own with mh_trainer_create and mh_trainer_step. Or use one mixture-of-experts layer
 * alone, with mh_layer_forward and mh_layer_backward.
 *
 * Handles are freed with their _free function, and freeing NULL is fine. What a _create or _load fills is
 * NULL where it fails. docs/library.md is the guide, examples/ has three small programs.
 */
#ifndef MHMOE_H
#define MHMOE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default) /* these functions, and no others of the library */

/* ---- failures as sentences ----------------------------------------------------------------------------- */

/* Every function that can fail returns one of these; mh_message() then holds a full sentence. */
#define MH_STATUS_LIST(X)                                 \
    X(MH_OK, "success")                                   \
    X(MH_EUSAGE, "wrong usage")                           \
    X(MH_EVALUE, "a value is out of range")               \
    X(MH_EIO, "input or output failed")                   \
    X(MH_EFORMAT, "a file is not in the expected format") \
    X(MH_EMEMORY, "not enough memory")                    \
    X(MH_ESTATE, "not possible in this state")            \
    X(MH_EMISMATCH, "two things that must agree do not")  \
    X(MH_EINTERRUPTED, "stopped by the user")

#define MH_STATUS_ENUM(name, text) name,
typedef enum { MH_STATUS_LIST(MH_STATUS_ENUM) } mh_status;
#undef MH_STATUS_ENUM

/* The sentence of this thread's last failure; empty before the first. Valid until the next failure. */
const char *mh_message(void);

/* "0.1.0" */
const char *mh_version(void);

/* ---- text and tokens ----------------------------------------------------------------------------------- */

/* A growing string. data is NUL-terminated once anything was added; {0} is empty. */
typedef struct {
    char *data;
    size_t length, capacity;
} mh_text;

void mh_text_release(mh_text *text);

/* A growing list of tokens; {0} is empty. */
typedef struct {
    int32_t *id;
    int64_t count, capacity;
} mh_ids;

/* Appends `count` tokens. */
mh_status mh_ids_add(mh_ids *ids, const int32_t *id, int64_t count);
void mh_ids_release(mh_ids *ids);

typedef struct mh_tokenizer mh_tokenizer;

/* Loads a SentencePiece .model file, checking it piece by piece. */
mh_status mh_tokenizer_load(mh_tokenizer **tokenizer, const char *path);
void mh_tokenizer_free(mh_tokenizer *tokenizer);

int mh_tokenizer_vocab(const mh_tokenizer *tokenizer);
int32_t mh_tokenizer_bos(const mh_tokenizer *tokenizer); /* <s>, or -1 */
int32_t mh_tokenizer_eos(const mh_tokenizer *tokenizer); /* </s>, or -1 */

/* Appends the ids of a whole text (UTF-8; other bytes become U+FFFD); no <s> or </s> is added. */
mh_status mh_tokenizer_encode(const mh_tokenizer *tokenizer, const char *text, size_t length, mh_ids *ids);

/* Appends the text of the `count` ids of a whole text, without the space that tokenizers put before its first
 * word; control pieces give nothing. decode(encode(x)) = x for UTF-8. A failure may leave a part of it. */
mh_status mh_tokenizer_decode(const mh_tokenizer *tokenizer, const int32_t *id, int64_t count, mh_text *text);

/* Appends the bytes that one id adds to a text before it, spaces and all; they may end within a character. */
mh_status mh_tokenizer_piece(const mh_tokenizer *tokenizer, int32_t id, mh_text *text);

/* ---- models -------------------------------------------------------------------------------------------- */

typedef struct mh_model mh_model;

typedef enum { MH_PRECISION_F32, MH_PRECISION_BF16 } mh_precision;

/* Loads the checkpoint folder `path`, or the newest checkpoint of the run folder `path`, for inference.
 * `tokenizer` may be NULL; otherwise a checkpoint without tokenizer is refused. */
mh_status mh_model_load(mh_model **model, mh_tokenizer **tokenizer, const char *path, mh_precision precision);
void mh_model_free(mh_model *model);

int64_t mh_model_vocab(const mh_model *model);
int64_t mh_model_context(const mh_model *model); /* the longest sequence, in tokens */

/* The token that texts of this model start after and the one that ends them, or -1. Both are </s> for models
 * that were trained here, whatever the tokenizer's <s>: documents were separated by it. */
int32_t mh_model_bos(const mh_model *model);
int32_t mh_model_eos(const mh_model *model);

/* ---- sessions: one timeline with its KV cache ---------------------------------------------------------- */

typedef struct mh_session mh_session;

/* The model must outlive the session. Room for the model's whole context; prompts are computed in blocks.
 * Refuses a model with a capacity factor: its output would depend on later tokens. */
mh_status mh_session_create(mh_session **session, const mh_model *model);
void mh_session_free(mh_session *session);
const mh_model *mh_session_model(const mh_session *session);

/* Makes the session's state that of exactly these tokens, at least one, recomputing only what follows the
 * common prefix. Fails where count exceeds the context or a token the vocabulary; the session then keeps its
 * state. How a text is cut into calls changes logits by f32 rounding, as each call computes its tokens
 * together. */
mh_status mh_session_sync(mh_session *session, const int32_t *token, int64_t count);

/* f32 [vocab] after the last token; valid until the next sync or mh_generate, zeros before the first. */
const float *mh_session_logits(const mh_session *session);
int64_t mh_session_length(const mh_session *session); /* in tokens; 0 before the first sync */

/* ---- sampling ------------------------------------------------------------------------------------------ */

/* How the next token is drawn: of the top_k most likely, the fewest that hold the share top_p. */
typedef struct {
    double temperature; /* 0: greedy */
    int64_t top_k;      /* 0: all */
    double top_p;       /* over 0 and at most 1: all */
    uint64_t seed;
} mh_sampler;

typedef struct {
    float p;
    int32_t id;
} mh_candidate;

/* The next token from logits [vocab], a function of all its arguments; ties go to the lowest token, and a
 * NaN is drawn only where all are. `index` numbers the draws of one text. work: [vocab] of work space. */
int32_t mh_sample(const mh_sampler *sampler, uint64_t index, const float *logits, int64_t vocab,
                  mh_candidate *work);

/* ---- text from a prompt -------------------------------------------------------------------------------- */

/* Appends what a session is to read before it goes on with `text`: mh_model_bos, where there is one, and the
 * ids of the text. */
mh_status mh_prompt_encode(const mh_model *model, const mh_tokenizer *tokenizer, const char *text,
                           size_t length, mh_ids *ids);

typedef struct {
    const char *prompt;
    int64_t max_tokens; /* at least 1 */
    mh_sampler sampler;
    const char *stop; /* end before this text; NULL or "": none */
} mh_generation;

/* Called after each token and at the end with the text that has become certain: whole UTF-8 characters, no
 * part of `stop`; often none. Return false to end. */
typedef bool mh_on_text(void *context, const char *text, size_t length);

typedef struct {
    int64_t prompt_tokens,
        tokens; /* the token that starts a text counts for the prompt, the one that ends it not */
    double prompt_seconds, seconds;
    const char *reason; /* "length", "end of text", "stop", "context full", "interrupted"; NULL: it failed */
} mh_generated;

/* Continues the prompt, with the model's own tokenizer. A prompt longer than the context is refused. The
 * session is left with the prompt and what was written, but for the last token unless the text ended itself.
 */
mh_status mh_generate(mh_session *session, const mh_tokenizer *tokenizer, const mh_generation *generation,
                      mh_on_text *on_text, void *context, mh_generated *result);

/* ---- recipes: what a model is and how it learns -------------------------------------------------------- */

typedef struct mh_recipe mh_recipe;

/* The defaults, and over them the YAML file `path` unless it is NULL. `mhmoe config` lists the keys. */
mh_status mh_recipe_load(mh_recipe **recipe, const char *path);
void mh_recipe_free(mh_recipe *recipe);

/* One key: "moe.experts=8". Whether all keys agree is found out by what is created from the recipe. */
mh_status mh_recipe_set(mh_recipe *recipe, const char *assignment);

/* ---- training, update by update ------------------------------------------------------------------------ */

typedef struct mh_trainer mh_trainer;

/* A model as sections model, moe and train of the recipe say, with what its updates need; section data is not
 * read. The vocabulary is the tokenizer's, which must outlive the trainer, or model.vocab where `tokenizer`
 * is NULL. It starts from the weights of the checkpoint or run folder `weights`, or if that is NULL from
 * random ones by train.seed. */
mh_status mh_trainer_create(mh_trainer **trainer, const mh_recipe *recipe, const mh_tokenizer *tokenizer,
                            const char *weights);
void mh_trainer_free(mh_trainer *trainer);

int64_t mh_trainer_batch(const mh_trainer *trainer);    /* B: sequences in an update */
int64_t mh_trainer_sequence(const mh_trainer *trainer); /* T: tokens in each */

/* The sequences of an update, [B, T] numbers each. */
typedef struct {
    const int32_t *token;
    const int32_t *target;    /* the token after each; -1: nothing is predicted there */
    const int32_t *first_key; /* the first position of its sequence that each looks back to; NULL: 0 */
} mh_batch;

typedef struct {
    double loss;      /* mean negative log-likelihood of the targets, in nats */
    double balance;   /* the balance losses' sum over layers, a mean over micro-batches */
    double z_loss;    /* the same of the routers' z-losses; 0 where moe.z_weight is 0 */
    double grad_norm; /* before clipping */
} mh_update;

/* One update: forward, backward, clipping, AdamW, with the rate of the recipe's schedule; the same bits as an
 * update of `mhmoe train`. Fails, and leaves the weights as they were, for tokens out of the vocabulary,
 * where loss or gradient are not finite, and after train.steps updates; `update` then means nothing. */
mh_status mh_trainer_step(mh_trainer *trainer, const mh_batch *batch, mh_update *update);

/* Updates made so far. */
int64_t mh_trainer_steps(const mh_trainer *trainer);

/* The model as it is now. A session keeps what it computed with the weights of then: create it anew after an
 * update. */
const mh_model *mh_trainer_model(const mh_trainer *trainer);

/* Writes a checkpoint folder for mh_model_load and `mhmoe generate`, with the folders above it; it appears
 * when it is complete. Meanwhile FOLDER.mhmoe-tmp and FOLDER.mhmoe-lock stand beside it; what a killed
 * process left under these names is removed. A `folder` that is there already is refused. */
mh_status mh_trainer_save(const mh_trainer *trainer, const char *folder);

/* ---- the layer alone, on the caller's memory ----------------------------------------------------------- */

typedef struct mh_layer mh_layer;

/* The feed-forward layer of recipe sections model (preset, dim, ffn_dim, activation, bias, quant) and moe:
 * heads, router, experts and shared experts; dense where moe.experts is 0. No norm and no residual. With
 * train.precision bf16 it computes in bf16; the caller's numbers are f32 in both. A layer never changes and
 * may be shared by threads. moe.balance bias acts in a trainer's updates: on a layer alone nothing moves it,
 * and one in training is balanced by gshard, a loss, or not at all. */
mh_status mh_layer_create(mh_layer **layer, const mh_recipe *recipe);
void mh_layer_free(mh_layer *layer);

int64_t mh_layer_dim(const mh_layer *layer);    /* D */
int64_t mh_layer_floats(const mh_layer *layer); /* P: length of weights and of gradients */

/* Of work space, for both directions. 0 where `tokens` is not from 1 to 2^31 - 1 over heads * top_k. */
size_t mh_layer_bytes(const mh_layer *layer, int64_t tokens);

/* Where one weight lies within the P floats. What lies between two is unused. */
typedef struct {
    const char *name; /* "experts.up.weight": that of checkpoints behind "layers.N.moe." (dense: ".ffn.") */
    int64_t offset;
    int rank;
    int64_t shape[3]; /* [rank]; matrices are [out, in], those of experts stacked in front */
} mh_weight;

/* Weight number `index` from 0; false past the last. */
bool mh_layer_weight(const mh_layer *layer, int index, mh_weight *weight);

/* Random first weights, a function of `seed`. */
void mh_layer_init(const mh_layer *layer, float *weights, uint64_t seed);

/* All a call works on, the caller's. None may overlap another; x, weights and work stay as they are, and
 * where they are, from a forward to its backward. */
typedef struct {
    int64_t tokens;       /* N, at least 1 */
    const float *weights; /* [P] */
    const float *x;       /* [N, D] */
    float *y;             /* [N, D] overwritten by forward */
    const float *dy;      /* [N, D] gradient of the loss by y; this and below for backward alone */
    float *dx;            /* [N, D] overwritten by backward */
    float *gradients;     /* [P] added to by backward */
    void *work;           /* mh_layer_bytes(layer, N), from forward to backward */
    bool training;        /* draw what the recipe leaves to chance (moe.jitter, moe.second_expert) */
    uint64_t seed, step;  /* what is drawn is a function of these */
} mh_layer_call;

/* y = layer(x). Returns the auxiliary losses by their weights (moe.balance_weight, moe.z_weight): what there
 * is to add to the loss. Neither direction can fail. */
double mh_layer_forward(const mh_layer *layer, const mh_layer_call *call);

/* After the forward of the same call: the gradients of the loss, with that of the auxiliary losses. */
void mh_layer_backward(const mh_layer *layer, const mh_layer_call *call);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
