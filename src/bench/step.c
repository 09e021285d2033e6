/* step: whole training steps on random tokens, and which part takes their time. */
#include "bench/bench.h"

#include <stdlib.h>
#include <string.h>

mh_bench_training mh_bench_reference(void)
{
    mh_bench_training training = {.micro_batch = 8, .micros = 4};
    mh_config *c = &training.model;
    mh_options_defaults(&mh_config_options, c);
    c->dim = 512, c->layers = 6, c->attention_heads = 8, c->ffn_dim = 1365;
    c->vocab = 16384, c->context = 512;
    return training;
}

/* A model in training. */
typedef struct {
    mh_bench_training training; /* model resolved */
    mh_train_config rule;
    mh_model *model;
    mh_pass *pass;
    mh_optimizer optimizer;
    int32_t *token, *target;
    float *nll;
    double grad_norm; /* of the last step */
    mh_arena memory;
    double part[1 + MH_ROUNDS][MH_TIMES]; /* seconds of the warm-up and of each sample */
    int runs;
} subject;

static void layout(subject *s, mh_arena *arena)
{
    size_t tokens = (size_t)(s->training.micro_batch * s->training.model.context);
    s->token = mh_take(arena, tokens * sizeof *s->token);
    s->target = mh_take(arena, tokens * sizeof *s->target);
    s->nll = mh_take(arena, tokens * sizeof *s->nll);
}

static int64_t tokens_of(const mh_bench_training *t)
{
    return t->micro_batch * t->model.context;
}

static mh_status subject_init(subject *s, const mh_bench_training *training, const char *preset,
                              mh_precision precision)
{
    mh_recipe recipe;
    mh_options_defaults(&mh_recipe_options, &recipe);
    s->rule = recipe.train;
    s->training = *training;
    mh_config *config = &s->training.model;
    snprintf(config->preset, sizeof config->preset, "%s", preset);
    MH_TRY(mh_config_resolve(config));
    MH_TRY(mh_model_create(&s->model, config, precision, true));
    mh_model_init(s->model, 1);
    MH_TRY(mh_optimizer_init(&s->optimizer, s->model));
    mh_pass_shape shape = {.batch = training->micro_batch,
                           .rows = config->context,
                           .capacity = config->context,
                           .training = true};
    MH_TRY(mh_pass_create(&s->pass, s->model, shape));
    mh_arena count = {0};
    layout(s, &count);
    MH_TRY(mh_arena_init(&s->memory, count.used, "a micro-batch"));
    layout(s, &s->memory);
    for (int64_t i = 0; i < tokens_of(training); i++) {
        uint32_t word[4];
        mh_random4(1, mh_stream(MH_RANDOM_TEST, 0, 0), (uint64_t)i, word);
        s->token[i] = (int32_t)(word[0] % (uint32_t)config->vocab);
        s->target[i] = (int32_t)(word[1] % (uint32_t)config->vocab);
    }
    return MH_OK;
}

static void subject_release(subject *s)
{
    mh_arena_release(&s->memory);
    mh_pass_free(s->pass);
    mh_optimizer_release(&s->optimizer);
    mh_model_free(s->model);
}

/* A sample is one micro-batch and its share of an update's optimizer step: so the probe comes between any two
 * micro-batches, and models take turns by the second and not by the minute. */
static double run(void *context)
{
    subject *s = context;
    const mh_bench_training *t = &s->training;
    double *part = s->part[s->runs++];
    mh_call call = {
        .token = s->token, .batch = t->micro_batch, .rows = t->model.context, .train = true, .seed = 1};
    memset(part, 0, sizeof s->part[0]);

    double start = mh_seconds();
    s->model->ops = mh_timed_ops(&s->model->params, part);
    mh_forward(s->pass, s->model, &call);
    mh_loss(s->pass, s->model, &call, s->target, s->nll, 1 / (float)tokens_of(t));
    mh_backward(s->pass, s->model, &call, 1);
    double seconds = mh_seconds() - start;
    part[MH_TIME_REST] = seconds;
    for (int i = 0; i < MH_TIME_OPTIMIZER; i++)
        part[MH_TIME_REST] -= part[i];

    s->model->ops = mh_cpu_ops();
    start = mh_seconds();
    s->grad_norm = mh_optimizer_step(&s->optimizer, s->model, &s->rule);
    part[MH_TIME_OPTIMIZER] = (mh_seconds() - start) / (double)t->micros;
    return seconds + part[MH_TIME_OPTIMIZER];
}

/* The batch and what the first step made of it. */
static mh_status save_batch(const subject *s, const char *folder)
{
    const mh_bench_training *t = &s->training;
    mh_tensor tensor[] = {{"token", MH_I32, 2, {t->micro_batch, t->model.context}, s->token},
                          {"target", MH_I32, 2, {t->micro_batch, t->model.context}, s->target},
                          {"nll", MH_F32, 2, {t->micro_batch, t->model.context}, s->nll}};
    char path[MH_PATH], norm[32];
    MH_TRY(mh_path_join(path, folder, "batch.safetensors"));
    snprintf(norm, sizeof norm, "%.9g", s->grad_norm);
    json_t *meta = json_pack("{s:s}", "grad_norm", norm);
    mh_status status = mh_tensors_write(path, tensor, sizeof tensor / sizeof *tensor, meta);
    json_decref(meta);
    return status;
}

static mh_status save(subject *s, const char *parent, const char *name)
{
    char folder[MH_PATH];
    MH_TRY(mh_path_join(folder, parent, name));
    MH_TRY(mh_make_dirs(folder));
    MH_TRY(mh_checkpoint_write(s->model, NULL, folder));
    run(s);
    s->runs = 0;
    return save_batch(s, folder);
}

static const char *const kinds[] = {"dense", "smoe-top1", "mhmoe-h2"};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* `amount` a second, over the samples that count. */
static mh_spread per_second(const mh_race *race, int contender, double amount)
{
    double value[MH_ROUNDS];
    int count = 0;
    for (int r = 0; r < race->rounds; r++)
        if (mh_race_kept(race, r, contender))
            value[count++] = amount / race->sample[r][contender].seconds;
    return mh_spread_of(value, count);
}

/* What a part took of the time of the samples that count. */
static mh_spread share_of(const mh_race *race, int contender, mh_time_part part)
{
    const subject *s = race->contender[contender].context;
    int count = 0;
    double value[MH_ROUNDS];
    for (int r = 0; r < race->rounds; r++)
        if (mh_race_kept(race, r, contender))
            value[count++] = s->part[1 + r][part] / race->sample[r][contender].seconds;
    return mh_spread_of(value, count);
}

static mh_status tell_models(mh_bench *bench, const mh_race *race, int64_t tokens)
{
    for (int i = 0; i < KINDS; i++) {
        mh_bench_line line = mh_race_line(race, i);
        strcpy(line.figure[line.figures].name, "tokens/s");
        line.figure[line.figures++].value = per_second(race, i, (double)tokens);
        strcpy(line.figure[line.figures].name, "GFLOP/s");
        line.figure[line.figures++].value = per_second(race, i, race->contender[i].operations * 1e-9);
        MH_TRY(bench->tell(bench->context, &line));
    }
    return MH_OK;
}

/* One line a part, one figure a model. */
static mh_status tell_parts(mh_bench *bench, const mh_race *race)
{
    for (mh_time_part part = 0; part < MH_TIMES; part++) {
        mh_bench_line line = mh_race_line(race, 0);
        line.pass = "share of time";
        line.who = mh_time_name(part);
        line.figures = KINDS;
        for (int i = 0; i < KINDS; i++) {
            snprintf(line.figure[i].name, sizeof line.figure->name, "%s", kinds[i]);
            line.figure[i].value = share_of(race, i, part);
        }
        MH_TRY(bench->tell(bench->context, &line));
    }
    return MH_OK;
}

mh_status mh_bench_step(mh_bench *bench, const mh_bench_training *training)
{
    const mh_config *c = &training->model;
    int64_t tokens = tokens_of(training);
    char name[64];
    snprintf(name, sizeof name, "d=%lld layers=%lld T=%lld %lld tokens/update", (long long)c->dim,
             (long long)c->layers, (long long)c->context, (long long)(tokens * training->micros));
    mh_race race = {.benchmark = "step",
                    .subject = name,
                    .pass = "training",
                    .type = bench->precision == MH_PRECISION_BF16 ? MH_BF16 : MH_F32,
                    .seconds = 120,
                    .once = true,
                    .contenders = KINDS,
                    .references = 2};
    subject *all = calloc(KINDS, sizeof *all);
    if (all == NULL)
        return mh_fail(MH_EMEMORY, "no memory for a benchmark");
    mh_progress_report(bench->progress, "step", 0, 1, NULL);
    mh_status status = MH_OK;
    for (int i = 0; status == MH_OK && i < KINDS; i++) {
        status = subject_init(&all[i], training, kinds[i], bench->precision);
        if (status == MH_OK && bench->save != NULL)
            status = save(&all[i], bench->save, kinds[i]);
        double flops = mh_count_flops(&all[i].training.model, c->context).training;
        race.contender[i] = (mh_contender){kinds[i], flops * (double)tokens, run, &all[i], 0, 0};
    }
    if (status == MH_OK)
        status = mh_race_run(&race, bench);
    if (status == MH_OK)
        status = tell_models(bench, &race, tokens);
    if (status == MH_OK)
        status = tell_parts(bench, &race);
    for (int i = 0; i < KINDS; i++)
        subject_release(&all[i]);
    free(all);
    return status;
}
