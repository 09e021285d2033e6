/* layer: what an MoE layer costs in time against a dense one of equal FLOPs, and how that grows with tokens
 * and experts. */
#include "bench/bench.h"

#include <string.h>

/* One layer and its activations: the feed-forward half of a model of one block. */
typedef struct {
    mh_model *model;
    mh_ffn_pass pass;
    mh_ffn_back back;
    mh_mat x, y, dx, dy;
    mh_arena memory;
} subject;

static void layout(subject *s, mh_arena *arena, int64_t tokens)
{
    const mh_ffn *ffn = &s->model->blocks[0].ffn;
    mh_ffn_layout(ffn, &s->pass, arena, tokens, MH_BF16);
    mh_ffn_layout_back(ffn, &s->back, arena, tokens, MH_BF16);
    mh_mat *all[] = {&s->x, &s->y, &s->dx, &s->dy};
    for (int i = 0; i < 4; i++)
        *all[i] = mh_take_mat(arena, tokens, ffn->dim, MH_BF16);
}

/* Experts are as wide as the preset makes its own number of them; 0: as many as the preset's. */
static mh_status subject_init(subject *s, const char *preset, const mh_bench_shape *shape, int experts)
{
    mh_config config;
    mh_options_defaults(&mh_config_options, &config);
    snprintf(config.preset, sizeof config.preset, "%s", preset);
    config.dim = shape->in, config.ffn_dim = shape->out;
    config.layers = config.attention_heads = config.moe.every = 1;
    config.vocab = 2;
    config.moe.experts = experts;
    MH_TRY(mh_config_resolve(&config));
    MH_TRY(mh_model_create(&s->model, &config, MH_PRECISION_BF16, true));
    mh_model_init(s->model, 1);
    mh_arena count = {0};
    layout(s, &count, shape->rows);
    MH_TRY(mh_arena_init(&s->memory, count.used, "a layer's activations"));
    layout(s, &s->memory, shape->rows);
    mh_bench_fill(s->x, 0);
    mh_bench_fill(s->dy, 1);
    return MH_OK;
}

static double run_forward(void *context)
{
    subject *s = context;
    double start = mh_seconds();
    mh_ffn_fwd(&s->model->blocks[0].ffn, &s->model->params, s->model->ops, &s->pass, s->y, s->x);
    return mh_seconds() - start;
}

static double run_both(void *context)
{
    subject *s = context;
    double start = mh_seconds();
    mh_ffn_fwd(&s->model->blocks[0].ffn, &s->model->params, s->model->ops, &s->pass, s->y, s->x);
    mh_ffn_bwd(&s->model->blocks[0].ffn, &s->model->params, s->model->ops, &s->pass, &s->back, s->dx, s->dy,
               s->x, 1);
    return mh_seconds() - start;
}

static void subject_release(subject *s)
{
    mh_arena_release(&s->memory);
    mh_model_free(s->model);
}

static mh_contender contender(const char *name, subject *s, bool backward)
{
    mh_flops flops = mh_count_flops(&s->model->config, 1);
    double token = flops.ffn + flops.head_merge + flops.experts + flops.router;
    return (mh_contender){.name = name,
                          .operations = token * (double)s->x.rows * (backward ? 3 : 1),
                          .run = backward ? run_both : run_forward,
                          .context = s};
}

static const char *const kinds[] = {"dense", "smoe-top1", "fine-grained", "mhmoe-h2", "mhmoe-h3"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static mh_status race_layers(mh_bench *bench, subject *all, const mh_bench_shape *shape, bool backward)
{
    char name[64];
    snprintf(name, sizeof name, "%lld tokens d=%lld f=%lld", (long long)shape->rows, (long long)shape->in,
             (long long)shape->out);
    mh_race race = {.benchmark = "layer",
                    .subject = name,
                    .pass = backward ? "both" : "forward",
                    .type = MH_BF16,
                    .seconds = backward ? 20 : 10,
                    .contenders = KINDS,
                    .references = 2};
    for (int i = 0; i < KINDS; i++)
        race.contender[i] = contender(kinds[i], &all[i], backward);
    MH_TRY(mh_race_run(&race, bench));
    for (int i = 0; i < KINDS; i++) {
        mh_bench_line line = mh_race_line(&race, i);
        MH_TRY(bench->tell(bench->context, &line));
    }
    return MH_OK;
}

/* ---- growth -------------------------------------------------------------------------------------------- */

enum { SIZES = 3 };

static mh_spread scaled(mh_spread s, double factor)
{
    return (mh_spread){factor * s.median, factor * s.low, factor * s.high, s.count};
}

/* One layer in three sizes: the time of a token beside that of the first. */
static mh_status race_sizes(mh_bench *bench, const char *subject_name, const char *const name[SIZES],
                            subject all[SIZES], bool backward)
{
    mh_race race = {.benchmark = "layer",
                    .subject = subject_name,
                    .pass = backward ? "both" : "forward",
                    .type = MH_BF16,
                    .seconds = 5,
                    .contenders = SIZES};
    for (int i = 0; i < SIZES; i++)
        race.contender[i] = contender(name[i], &all[i], backward);
    MH_TRY(mh_race_run(&race, bench));
    for (int i = 0; i < SIZES; i++) {
        mh_bench_line line = mh_race_line(&race, i);
        double tokens = (double)all[0].x.rows / (double)all[i].x.rows;
        strcpy(line.figure[line.figures].name, "a token's time/first");
        line.figure[line.figures++].value = scaled(mh_race_time(&race, i, 0), tokens);
        MH_TRY(bench->tell(bench->context, &line));
    }
    return MH_OK;
}

/* A quarter and four times the tokens; or 8 to 128 experts of one width, which changes the FLOPs of the
 * router alone. */
static mh_status grow(mh_bench *bench, const char *preset, const mh_bench_shape *shape, bool experts)
{
    static const int counts[SIZES] = {8, 32, 128};
    subject all[SIZES] = {0};
    char title[64], text[SIZES][32];
    const char *name[SIZES];
    mh_status status = MH_OK;
    int n = snprintf(title, sizeof title, "%s d=%lld f=%lld", preset, (long long)shape->in,
                     (long long)shape->out);
    if (experts)
        snprintf(title + n, sizeof title - (size_t)n, " %lld tokens", (long long)shape->rows);
    for (int i = 0; status == MH_OK && i < SIZES; i++) {
        mh_bench_shape size = *shape;
        if (!experts)
            size.rows = (shape->rows * (1 << 2 * i) + 3) / 4;
        snprintf(text[i], sizeof text[i], "%lld %s", experts ? counts[i] : (long long)size.rows,
                 experts ? "experts" : "tokens");
        name[i] = text[i];
        status = subject_init(&all[i], preset, &size, experts ? counts[i] : 0);
    }
    for (int backward = 0; status == MH_OK && backward < 2; backward++)
        status = race_sizes(bench, title, name, all, backward);
    for (int i = 0; i < SIZES; i++)
        subject_release(&all[i]);
    return status;
}

mh_status mh_bench_layer(mh_bench *bench, const mh_bench_shape *shapes, int count)
{
    static const mh_bench_shape usual[] = {{.rows = 4096, .out = 1024, .in = 384},
                                           {.rows = 4096, .out = 2048, .in = 768}};
    if (shapes == NULL) {
        shapes = usual;
        count = sizeof usual / sizeof *usual;
    }
    for (int i = 0; i < count; i++) {
        subject all[KINDS] = {0};
        mh_status status = MH_OK;
        for (int k = 0; status == MH_OK && k < KINDS; k++)
            status = subject_init(&all[k], kinds[k], &shapes[i], 0);
        for (int backward = 0; status == MH_OK && backward < 2; backward++) {
            mh_progress_report(bench->progress, "layer", 2 * i + backward, 2 * count, NULL);
            status = race_layers(bench, all, &shapes[i], backward);
        }
        for (int k = 0; k < KINDS; k++)
            subject_release(&all[k]);
        MH_TRY(status);
    }
    static const int growing[] = {1, 3}; /* of kinds: SMoE and MH-MoE */
    for (int i = 0; i < 4; i++) {
        mh_progress_report(bench->progress, "growth", i, 4, NULL);
        MH_TRY(grow(bench, kinds[growing[i / 2]], &shapes[0], i % 2));
    }
    return MH_OK;
}
