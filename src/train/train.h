/* train: recipes, the optimizer and its schedule, state on disk, metrics, and the trainer. */
#ifndef MH_TRAIN_H
#define MH_TRAIN_H

#include "eval/eval.h"

/* ---- recipe.c: everything a run is told ---------------------------------------------------------------- */

/* mh_recipe_load, _set and _free are public, and so is all of api.c: see mhmoe.h. */

typedef enum { MH_SCHEDULE_COSINE, MH_SCHEDULE_LINEAR, MH_SCHEDULE_WSD } mh_schedule_kind;

typedef struct {
    char train[MH_OPTION_TEXT]; /* folders made by `mhmoe data build`: "a" or "a=0.7, b=0.3" */
    char valid[MH_OPTION_TEXT]; /* empty: the same folders' validation part */
    int mask_documents;
} mh_data_config;

typedef struct {
    char run[MH_OPTION_TEXT];                    /* the run folder */
    int precision;                               /* mh_precision */
    int64_t seed, data_seed;                     /* of weights and dropout; of the order of the data */
    int64_t steps, batch, micro_batch, sequence; /* batch: sequences an update; micro_batch: a pass */
    int schedule;                                /* mh_schedule_kind */
    double rate, min_rate, beta1, beta2, eps, decay, clip; /* clip 0: none */
    int64_t warmup, decay_steps;                           /* decay_steps: length of WSD's last phase */
    int64_t log_every, eval_every, eval_sequences, checkpoint_every, keep; /* 0: see the rows' help */
} mh_train_config;

typedef enum { MH_MATCH_OFF, MH_MATCH_PARAMS, MH_MATCH_FLOPS, MH_MATCH_BOTH } mh_match;

enum { MH_SEEDS_MAX = 1000 };

/* Of a comparison; see compare.c. A run keeps the defaults. */
typedef struct {
    char models[MH_OPTION_TEXT], baseline[MH_OPTION_TEXT];
    int64_t seeds;
    int match; /* mh_match */
    char budget[MH_OPTION_TEXT], valid[MH_OPTION_TEXT], output[MH_OPTION_TEXT];
} mh_compare_config;

struct mh_recipe {
    mh_config model;
    mh_data_config data;
    mh_train_config train;
    mh_compare_config compare;
};

/* Sections model, moe, data, train, compare. */
extern const mh_options mh_recipe_options;

/* Defaults, then the YAML file (may be NULL), then `sets` ("key=value"). An empty train.run becomes
 * runs/ and the file's name without .yaml. Does not resolve the model: the vocabulary comes from the data. */
mh_status mh_recipe_read(mh_recipe *recipe, const char *path, const char *const *sets, int set_count);

/* Tokens of a training sequence: train.sequence, or model.context. */
int64_t mh_recipe_length(const mh_recipe *recipe);

/* Seed of the order of the data: train.data_seed, or train.seed. */
int64_t mh_recipe_data_seed(const mh_recipe *recipe);

/* Opens the training part of the recipe's data. */
mh_status mh_recipe_data(const mh_recipe *recipe, mh_batches **batches);

/* Opens the validation part, for texts of this tokenizer. */
mh_status mh_recipe_valid(const mh_recipe *recipe, const mh_tokenizer *tokenizer, mh_batches **batches);

/* Takes vocab, bos and eos from a tokenizer's, where they are unset. */
mh_status mh_recipe_take_vocab(mh_recipe *recipe, int64_t vocab, int64_t eos);

/* Checks what concerns several keys, takes vocab, bos and eos from the data if they are unset, resolves the
 * model. `batches` may be NULL (mhmoe info without data: vocab must then be set). */
mh_status mh_recipe_resolve(mh_recipe *recipe, const mh_batches *batches);

/* The recipe with every key that may change on resume at its default: what decides the bits. And its hash. */
mh_status mh_recipe_essence(const mh_recipe *recipe, mh_recipe *essence);
mh_status mh_recipe_identity(const mh_recipe *recipe, char identity[17]);

/* Hash of what the order of the data depends on, the recipe apart: a rebuilt folder must not go unnoticed. */
void mh_recipe_data_identity(const mh_batches *batches, const mh_tokenizer *tokenizer, char identity[17]);

/* Of the validation sequences that evaluations look at: losses on others are not compared. */
void mh_recipe_valid_identity(const mh_recipe *recipe, const mh_batches *valid, const mh_tokenizer *tokenizer,
                              char identity[17]);

/* Adds the value of "section.key" as JSON writes it. */
mh_status mh_recipe_value(const mh_recipe *recipe, const char *key, mh_text *text);

/* The first of `keys` whose values differ, with these as text, which the caller releases; NULL where none
 * does. */
mh_status mh_recipe_difference(const mh_recipe *a, const mh_recipe *b, const char *const *keys, int count,
                               const char **key, mh_text values[2]);

/* Refuses, by name and with both values, the first key that differs from the run's recipe.yaml at `path` and
 * may not change when the run is resumed. */
mh_status mh_recipe_compare(const mh_recipe *recipe, const char *path);

/* ---- schedule.c ---------------------------------------------------------------------------------------- */

/* Learning rate of update `step` (from 1). Linear warm-up to rate; then cosine or linear to min_rate at
 * `steps`; WSD keeps the rate and falls linearly to min_rate over its last decay_steps. */
double mh_schedule_rate(const mh_train_config *config, int64_t step);

/* ---- optimizer.c: AdamW over the parameter registry ---------------------------------------------------- */

typedef struct {
    float *m, *v; /* [params.elements], laid out like params.value */
    int64_t step; /* updates made */
    mh_arena memory;
} mh_optimizer;

mh_status mh_optimizer_init(mh_optimizer *optimizer, const mh_model *model);
void mh_optimizer_release(mh_optimizer *optimizer);

/* One update from the gradients: returns their norm before clipping, clears them and refreshes the bf16
 * copies. Where the norm is not finite nothing is changed. */
double mh_optimizer_step(mh_optimizer *optimizer, mh_model *model, const mh_train_config *config);

/* The first parameter whose gradient holds a NaN or infinity, or -1. */
int mh_optimizer_find_nan(const mh_model *model);

/* ---- step.c: one update -------------------------------------------------------------------------------- */

/* All that an update works on. */
typedef struct {
    const mh_recipe *recipe; /* resolved; must outlive it */
    mh_model *model;         /* weights are zero at first: see mh_train_weights */
    mh_pass *pass;
    mh_optimizer optimizer;
    int32_t *token, *target, *first_key; /* [batch * sequence] of mh_step_next */
    float *nll;
    mh_arena memory;
} mh_step;

/* `tokenizer` is the one that the model will speak, or NULL. Release also after a failure. */
mh_status mh_step_init(mh_step *step, const mh_recipe *recipe, const mh_tokenizer *tokenizer);
void mh_step_release(mh_step *step);

/* An update on the sequences of `batch`, which have targets. Fails where the loss or the gradient is not
 * finite, naming the place; the weights are then those of the update before. */
mh_status mh_step_run(mh_step *step, const mh_batch *batch, mh_update *update);

/* The same on the sequences that a run's next update is made of. */
mh_status mh_step_next(mh_step *step, const mh_batches *batches, mh_update *update);

/* Fails where `value` ("the loss"), got from the last forward, is not finite, naming the layer. */
mh_status mh_step_check(const mh_step *step, int64_t number, const char *what, double value);

/* Bytes a run of a resolved recipe will take: parameters, gradients, moments, activations, evaluation. */
size_t mh_train_bytes(const mh_recipe *recipe);

/* Refuses a run that needs more than is free. */
mh_status mh_train_check_memory(const mh_recipe *recipe);

/* ---- state.c: a training checkpoint, RUN/checkpoints/step-000100 --------------------------------------- */

/* What a run needs besides weights and moments to go on; a function of recipe and data alone, so that a
 * resumed run writes the same bytes. */
typedef struct {
    int64_t step, tokens;
    double loss;                            /* of the last update; NaN before the first */
    double valid_loss, valid_bits_per_byte; /* of the last evaluation; NaN before it, or if stopped in it */
    char recipe[17], data[17], valid[17];   /* identities; the last, of what valid_loss was measured on */
} mh_trainer_state;

/* The model's checkpoint with optimizer.safetensors, trainer_state.json and README.md, all at once. Where
 * that step's is there, it gets the evaluation that it lacked. */
mh_status mh_state_save(const char *run, const mh_recipe *recipe, const mh_model *model,
                        const mh_tokenizer *tokenizer, const mh_optimizer *optimizer,
                        const mh_trainer_state *state);

/* The newest usable checkpoint of a run, which must have state->recipe and state->data as its identities.
 * Damaged ones are passed over, each with a sentence in `skipped`, and set aside as step-000100.damaged. */
mh_status mh_state_load(const char *run, mh_model *model, mh_optimizer *optimizer, mh_trainer_state *state,
                        mh_text *skipped);

/* Whether a run has any checkpoint. */
mh_status mh_state_exists(const char *run, bool *exists);

/* Removes all but the newest `keep` checkpoints (0: keeps all), and what an interrupted write left. */
mh_status mh_state_prune(const char *run, int64_t keep);

/* ---- card.c -------------------------------------------------------------------------------------------- */

/* README.md of a checkpoint: what the model is, how good, how to use it, and how it was made. */
mh_status mh_card_write(const mh_recipe *recipe, const mh_model *model, const mh_trainer_state *state,
                        const char *folder);

/* ---- tensorboard.c: event files ------------------------------------------------------------------------ */

typedef struct mh_events mh_events;

/* A new event file in `folder`. TensorBoard then drops what earlier files there say about later steps. */
mh_status mh_events_open(mh_events **events, const char *folder, int64_t step);
mh_status mh_events_scalar(mh_events *events, const char *tag, int64_t step, double value);
mh_status mh_events_flush(mh_events *events);
void mh_events_close(mh_events *events);

/* ---- metrics.c: the log of a run, metrics.jsonl and TensorBoard ---------------------------------------- */

/* One line. The means are over the updates since the line before. Where there are none, at step 0 and at the
 * repetition of an evaluation that was stopped, `loss` is NaN. */
typedef struct {
    int64_t step, steps, tokens;
    double loss, perplexity, balance, z_loss; /* z_loss NaN where moe.z_weight is 0 */
    double grad_norm, rate, tokens_per_second, flops_per_second;
    double memory;       /* peak bytes of this process in this run */
    double seconds_left; /* for people; not in the files */
    int moe_layers;
    const int64_t *moe_layer; /* [moe_layers] their numbers */
    const mh_load *load;      /* [moe_layers], of the last micro-batch */
    int experts;
    const int64_t *rows; /* [moe_layers, experts] that each expert took in that micro-batch */
    bool validated;      /* the three below were measured at this step */
    double valid_loss, valid_perplexity, valid_bits_per_byte;
} mh_train_log;

typedef struct {
    int file;     /* metrics.jsonl, opened for appending */
    bool started; /* a line was written since then */
    mh_events *events;
} mh_metrics;

/* Opens RUN's log to go on after `step` (-1: to begin anew): later lines, and one that a kill left
 * unfinished, are cut off. */
mh_status mh_metrics_open(mh_metrics *metrics, const char *run, int64_t step);
mh_status mh_metrics_add(mh_metrics *metrics, const mh_train_log *log);
mh_status mh_metrics_sync(const mh_metrics *metrics); /* the lines are on the disk */
void mh_metrics_close(mh_metrics *metrics);

/* The evaluations in RUN's log, in rising order of step. */
typedef struct {
    int64_t step;
    double loss;
} mh_point;

typedef struct {
    mh_point *point;
    int count;
} mh_curve;

mh_status mh_curve_read(mh_curve *curve, const char *run);
void mh_curve_release(mh_curve *curve);

/* ---- ready.c: what a run and its rehearsal make ready alike -------------------------------------------- */

/* Told before the first step. */
typedef struct {
    mh_counts params;
    mh_flops flops; /* of a token */
    size_t memory;  /* mh_train_bytes */
    int64_t train_tokens, valid_tokens;
    double epochs;                    /* of all data together ... */
    double least_epochs, most_epochs; /* ... and of the folders of a mixture */
} mh_train_facts;

/* Opens the data, which the caller closes also after a failure, and resolves the recipe, which takes its
 * vocabulary from there. */
mh_status mh_train_open(mh_recipe *recipe, mh_batches **train, mh_batches **valid, mh_tokenizer **tokenizer);

mh_train_facts mh_train_facts_of(const mh_recipe *recipe, const mh_batches *train, const mh_batches *valid);

/* Refuses a folder of data or of a checkpoint: a run or a comparison could not be told from that, or removed.
 */
mh_status mh_check_place(const char *folder);

/* Refuses the folder of a comparison, and for a new run that of another, of data or of a checkpoint. */
mh_status mh_train_check_folder(const char *run, bool resume);

/* The first weights: random ones, or those of the checkpoint at `path` if not NULL. */
mh_status mh_train_weights(mh_model *model, const mh_recipe *recipe, const char *path);

/* ---- rehearsal.c: what a run would be and take --------------------------------------------------------- */

typedef struct {
    mh_train_facts facts;
    double update_seconds;            /* median of a few of the run's first updates */
    double evaluation_seconds;        /* from one batch */
    double seconds;                   /* of all updates and evaluations */
    int64_t evaluations, checkpoints; /* that are made; that are kept */
    size_t memory_available, disk_available, checkpoint_bytes;
} mh_rehearsal;

/* Makes everything ready as mh_train would for a new run, failing where that would, and times some updates.
 * Where it fails for memory or later, the facts and memory_available are there all the same. */
mh_status mh_train_rehearse(mh_recipe *recipe, const char *init_from, const mh_progress *progress,
                            mh_rehearsal *rehearsal);

/* ---- trainer.c: the loop ------------------------------------------------------------------------------- */

/* Every function may be NULL. */
typedef struct {
    void *context;
    void (*facts)(void *context, const mh_recipe *recipe, const mh_train_facts *facts);
    void (*log)(void *context, const mh_train_log *log);
    void (*step)(void *context, const mh_train_log *log); /* every update, for the progress bar */
    void (*message)(void *context, const char *sentence); /* "resumed after step 40" */
    /* of an evaluation, and what stops it and the run: as in mh_progress */
    void (*progress)(void *context, const char *what, double done, double total, const char *note);
    const volatile int *stop;
} mh_train_watch;

typedef enum { MH_TRAIN_NEW, MH_TRAIN_RESUME } mh_train_mode;

/* Trains as the recipe says, a new run from the weights of the checkpoint `init_from` if not NULL; resolves
 * the recipe. Ends with MH_OK, or with MH_EINTERRUPTED after a clean stop with a checkpoint; an evaluation
 * that was stopped is made again when the run is resumed. */
mh_status mh_train(mh_recipe *recipe, mh_train_mode mode, const char *init_from, const mh_train_watch *watch);

/* ---- arms.c: the models of a comparison ---------------------------------------------------------------- */

#define MH_ARM_NAME 64

typedef struct {
    char name[MH_ARM_NAME]; /* fit for a folder */
    mh_recipe recipe;       /* resolved; seed and run folder are those of the comparison */
    mh_counts params;
    mh_flops flops;        /* of a token */
    size_t memory;         /* mh_train_bytes */
    double update_seconds; /* median; 0 before mh_arms_time */
    double tokens;         /* of an update */
} mh_arm;

/* Reads recipe->compare.models, resolves each model on `data` and matches it as compare.match says. Refuses,
 * by name, what cannot be compared: other data, batches or sequences. The caller frees *arms. */
mh_status mh_arms_read(mh_arm **arms, int *count, const mh_recipe *recipe, const mh_batches *data);

/* What compare.budget says. */
typedef struct {
    enum { MH_BUDGET_STEPS, MH_BUDGET_TOKENS, MH_BUDGET_FLOPS, MH_BUDGET_SECONDS } kind;
    double amount;
} mh_budget;

/* Empty: train.steps. */
mh_status mh_budget_read(mh_budget *budget, const mh_recipe *recipe);

/* Sets train.steps to what the budget buys, at least 1; of seconds, by update_seconds. */
mh_status mh_arm_set_length(mh_arm *arm, const mh_budget *budget);

/* ---- speed.c: how long an update takes ----------------------------------------------------------------- */

/* Sets each arm's update_seconds: the median of updates in short runs that take turns (A B C A B C), because
 * the machine drifts. Kept in the file `path`, and taken from there if it has all arms. */
mh_status mh_arms_time(mh_arm *arms, int count, const mh_batches *data, const char *path,
                       const mh_progress *progress);

/* ---- compare.c: all models with all seeds -------------------------------------------------------------- */

#define MH_SPEED_FILE "speed.json" /* of a comparison, from before its first run: by it one is known */

typedef enum { MH_RUN_WAITING, MH_RUN_FINISHED, MH_RUN_FAILED } mh_run_state;

typedef struct {
    int arm;
    int64_t seed;
    char folder[MH_PATH];
    mh_run_state state;
    char message[2 * MH_PATH]; /* why it failed */
    double *loss;              /* [sets] nats a token at the end */
} mh_compare_run;

/* Text that perplexity is measured on. The first is the validation part, as the runs' evaluations see it. */
typedef struct {
    char name[MH_ARM_NAME];
    char path[MH_PATH]; /* empty for the first */
    char text[17];      /* hash of its text */
} mh_compare_set;

typedef struct {
    mh_recipe recipe;
    char folder[MH_PATH];
    char data[17];  /* identity of the training data */
    char valid[17]; /* of the validation sequences that the runs are evaluated on */
    mh_arm *arm;
    mh_compare_set *set;
    mh_compare_run *run; /* seed by seed, so that a comparison that is stopped has whole pairs */
    int arms, baseline, sets, runs;
    int current;        /* the run that is being trained */
    double done, total; /* seconds of training by update_seconds: of finished runs, and of all */
} mh_comparison;

/* Every function may be NULL. */
typedef struct {
    void *context;
    void (*plan)(void *context, const mh_comparison *comparison);
    void (*step)(void *context, const mh_comparison *comparison, const mh_train_log *log); /* every update */
    void (*log)(void *context, const mh_comparison *comparison, const mh_train_log *log);
    void (*run)(void *context, const mh_comparison *comparison, const mh_compare_run *run); /* at its end */
    /* of timing and of texts: as in mh_progress */
    void (*progress)(void *context, const char *what, double done, double total, const char *note);
    const volatile int *stop;
} mh_compare_watch;

/* Trains every model of recipe->compare with every seed, on the same batches in the same order, in
 * FOLDER/MODEL/seed-N, and writes FOLDER/compare.json and compare.md after each run. With `resume` it goes on
 * where it was stopped or killed; models and seeds may have been added. A run that fails does not keep the
 * others from being trained, and is tried again on resume. *result is the content of compare.json, or NULL
 * where there is none; the caller owns it. */
mh_status mh_compare(const mh_recipe *recipe, bool resume, const mh_compare_watch *watch, json_t **result);

/* ---- results.c: what came out, as numbers and in words ------------------------------------------------- */

enum { MH_COMPARISON_VERSION = 1 }; /* of the format */

/* The content of compare.json (docs/formats.md): what the finished runs say. The caller owns *json. */
mh_status mh_compare_results(const mh_comparison *comparison, json_t **json);

/* compare.md from it. */
mh_status mh_compare_markdown(const json_t *results, mh_text *out);

#endif
