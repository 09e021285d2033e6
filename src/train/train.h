/* train: recipes, the optimizer's schedule, state on disk, metrics, and the trainer. */
#ifndef MH_TRAIN_H
#define MH_TRAIN_H

#include "eval/eval.h"

/* ---- recipe.c: everything a run is told
 * -------------------------------------------------------------------------------- */

typedef enum { MH_SCHEDULE_COSINE, MH_SCHEDULE_LINEAR, MH_SCHEDULE_WSD } mh_schedule_kind;

typedef struct {
    char train[MH_OPTION_TEXT]; /* folders made by `mhmoe data build`: "a" or "a=0.7, b=0.3" */
    char valid[MH_OPTION_TEXT]; /* empty: the same folders' validation part */
    int mask_documents;
} mh_data_config;

typedef struct {
    char run[MH_OPTION_TEXT]; /* the run folder */
    int precision;            /* mh_precision */
    int64_t seed, steps, batch, micro_batch,
        sequence; /* batch: sequences an update; micro_batch: sequences a forward */
    int schedule; /* mh_schedule_kind */
    double rate, min_rate, beta1, beta2, eps, decay, clip;
    int64_t warmup, decay_steps; /* decay_steps: length of WSD's last phase */
    int64_t log_every, eval_every, eval_sequences, checkpoint_every,
        keep; /* keep: newest checkpoints kept, 0 = all */
} mh_train_config;

typedef struct {
    mh_config model;
    mh_data_config data;
    mh_train_config train;
} mh_recipe;

/* Sections model, moe, data, train. */
extern const mh_options mh_recipe_options;

/* Defaults, then the YAML file (may be NULL), then `sets` ("key=value"). Does not resolve the model yet: the
 * vocabulary comes from the data. */
mh_status mh_recipe_read(mh_recipe *recipe, const char *path, const char *const *sets, int set_count);

/* Checks what concerns several keys, takes vocab, bos and eos from the data if they are unset, resolves the
 * model. `batches` may be NULL (mhmoe info without data: vocab must then be set). */
mh_status mh_recipe_resolve(mh_recipe *recipe, const mh_batches *batches);

/* ---- schedule.c
 * ----------------------------------------------------------------------------------------------------------
 */

/* Learning rate of update `step` (from 1). Linear warm-up to rate; then cosine or linear to min_rate at
 * `steps`; WSD keeps the rate and falls linearly over its last decay_steps. */
double mh_schedule_rate(const mh_train_config *config, int64_t step);

/* ---- optimizer.c: AdamW over the parameter registry
 * --------------------------------------------------------------------- */

typedef struct {
    float *m, *v; /* [params.elements] */
    int64_t step; /* updates made */
    mh_arena memory;
} mh_optimizer;

mh_status mh_optimizer_init(mh_optimizer *optimizer, const mh_model *model);
void mh_optimizer_release(mh_optimizer *optimizer);

/* One update from the summed gradients: returns their norm before clipping, clears them and refreshes the
 * bf16 copies. */
double mh_optimizer_step(mh_optimizer *optimizer, mh_model *model, const mh_train_config *config,
                         mh_scratch scratch);

/* ---- state.c: a training checkpoint = model checkpoint + optimizer.safetensors + trainer_state.json +
 * README.md -------- */

typedef struct {
    int64_t step, tokens;
    double seconds;    /* of training so far */
    double best_valid; /* lowest validation loss, or infinity */
} mh_trainer_state;

mh_status mh_state_save(const char *run, const mh_recipe *recipe, const mh_model *model,
                        const mh_tokenizer *tokenizer, const mh_optimizer *optimizer,
                        const mh_trainer_state *state);
/* Newest complete checkpoint of a run; damaged ones are passed over with a sentence in `skipped` (may be
 * NULL). */
mh_status mh_state_load(const char *run, mh_model *model, mh_optimizer *optimizer, mh_trainer_state *state,
                        mh_text *skipped);
mh_status mh_state_prune(const char *run, int64_t keep);

/* ---- tensorboard.c: event files
 * ---------------------------------------------------------------------------------------- */

typedef struct mh_events mh_events;
mh_status mh_events_open(mh_events **events, const char *folder);
mh_status mh_events_scalar(mh_events *events, const char *tag, int64_t step, double value);
mh_status mh_events_flush(mh_events *events);
void mh_events_close(mh_events *events);

/* ---- trainer.c: the loop
 * ---------------------------------------------------------------------------------------------------- */

/* One line of the log. */
typedef struct {
    int64_t step, steps, tokens;
    double loss, perplexity, balance, grad_norm, rate, tokens_per_second, flops_per_second, seconds_left;
    size_t memory;
    int moe_layers;
    const mh_load *load;      /* [moe_layers] */
    const int64_t *moe_layer; /* their numbers */
    bool validated;
    double valid_loss, valid_perplexity, valid_bits_per_byte;
} mh_train_log;

/* Told before the first step. */
typedef struct {
    mh_counts params;
    mh_flops flops;
    size_t memory, available;
    int64_t train_tokens, valid_tokens, start_step;
    double epochs;
} mh_train_facts;

typedef struct {
    void *context;
    void (*facts)(void *context, const mh_recipe *recipe, const mh_train_facts *facts);
    void (*log)(void *context, const mh_train_log *log);
    void (*step)(void *context, const mh_train_log *log); /* every step, for the progress bar */
    void (*message)(void *context, const char *sentence); /* "checkpoint written", "resumed at step 40" */
    const volatile int *stop;
} mh_train_watch;

typedef enum { MH_TRAIN_NEW, MH_TRAIN_RESUME } mh_train_mode;

/* Trains as the recipe says, from `init_from`'s weights if not NULL. Ends with MH_OK, or MH_EINTERRUPTED
 * after a clean stop with a checkpoint. */
mh_status mh_train(mh_recipe *recipe, mh_train_mode mode, const char *init_from, const mh_train_watch *watch);

/* Bytes a run will take: parameters, gradients, moments, activations, evaluation. */
size_t mh_train_bytes(const mh_recipe *recipe);

#endif
