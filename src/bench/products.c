/* products: linear layers, dense and by experts, forward and each gradient: ours, oneDNN's, the portable
 * version. */
#include "bench/bench.h"

#include <stdlib.h>
#include <string.h>

enum { PORTABLE_ROWS = 32, PORTABLE_ROUNDS = 3 };
#define PORTABLE_MOST 0x1p28 /* operations of a product that the portable version is shown on */

typedef enum { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, PASSES } pass;
static const char *const pass_name[PASSES] = {"forward", "dx", "dw"};
static const char *const loads_name[] = {"even", "skewed", "some empty"};

/* One linear layer, and the same products as its rivals take them: a product for each expert with rows. */
typedef struct {
    mh_bench_shape shape;
    pass pass;
    mh_mat x, y, dx, dy;
    mh_linear_weights w;
    float *dw;
    int64_t *begin; /* [groups+1] */
    mh_product *product;
    mh_packed **packed; /* by oneDNN; [0] is one dense product of all rows, NULL where it lacks one */
    int products;
    mh_arena memory;
} subject;

static void layout(subject *s, mh_arena *arena, mh_type type)
{
    const mh_bench_shape *h = &s->shape;
    s->x = mh_take_mat(arena, h->rows, h->in, type);
    s->w.w = mh_take_mat(arena, h->groups * h->out, h->in, type);
    if (type == MH_BF16 && mh_panels_bytes(h->in, h->out)) {
        s->w.forward = mh_take(arena, (size_t)h->groups * mh_panels_bytes(h->in, h->out));
        s->w.backward = mh_take(arena, (size_t)h->groups * mh_panels_bytes(h->out, h->in));
    }
    s->y = mh_take_mat(arena, h->rows, h->out, type);
    s->dx = mh_take_mat(arena, h->rows, h->in, type);
    s->dy = mh_take_mat(arena, h->rows, h->out, type);
    s->dw = mh_take(arena, (size_t)(h->groups * h->out * h->in) * sizeof *s->dw);
    s->begin = mh_take(arena, (size_t)(h->groups + 1) * sizeof *s->begin);
    s->product = mh_take(arena, (size_t)h->groups * sizeof *s->product);
    s->packed = mh_take(arena, (size_t)(h->groups + 1) * sizeof *s->packed);
}

/* What expert g gets, up to a factor. */
static double weight_of(mh_loads loads, int g)
{
    switch (loads) {
    case MH_LOADS_SKEWED:
        return 1.0 / (g + 1);
    case MH_LOADS_SOME_EMPTY:
        return g % 2 == 0;
    default:
        return 1;
    }
}

static void share_rows(subject *s)
{
    const mh_bench_shape *h = &s->shape;
    double sum = 0, before = 0;
    for (int g = 0; g < h->groups; g++)
        sum += weight_of(h->loads, g);
    for (int g = 0; g < h->groups; g++) {
        before += weight_of(h->loads, g);
        s->begin[g + 1] = (int64_t)((double)h->rows * before / sum + 0.5);
    }
}

static mh_status subject_init(subject *s, const mh_bench_shape *shape, mh_type type)
{
    *s = (subject){.shape = *shape};
    mh_arena count = {0};
    layout(s, &count, type);
    MH_TRY(mh_arena_init(&s->memory, count.used, "a benchmark's matrices"));
    layout(s, &s->memory, type);
    mh_mat random[] = {s->x, s->w.w, s->dy};
    for (uint32_t i = 0; i < 3; i++)
        mh_bench_fill(random[i], i);
    mh_cpu_ops()->pack(s->w, shape->groups);
    share_rows(s);
    return MH_OK;
}

/* What rows [first, first+rows) and the weights of `group` are multiplied to. */
static mh_product product_of(const subject *s, int group, int64_t first, int64_t rows)
{
    int64_t out = s->shape.out, in = s->shape.in;
    const void *w = mh_mat_row(s->w.w, group * out), *x = mh_mat_row(s->x, first),
               *dy = mh_mat_row(s->dy, first);
    mh_product p = {.in = s->x.type, .out = s->x.type};
    switch (s->pass) {
    case FORWARD: /* y = x w^T */
        p.m = rows, p.n = out, p.k = in, p.a = x, p.lda = in, p.b = w, p.ldb = in, p.transpose_b = true;
        p.c = mh_mat_row(s->y, first), p.ldc = out;
        break;
    case INPUT_GRADIENT: /* dx = dy w */
        p.m = rows, p.n = in, p.k = out, p.a = dy, p.lda = out, p.b = w, p.ldb = in;
        p.c = mh_mat_row(s->dx, first), p.ldc = in;
        break;
    default: /* dw += dy^T x */
        p.m = out, p.n = in, p.k = rows, p.a = dy, p.lda = out, p.transpose_a = true, p.b = x, p.ldb = in;
        p.c = s->dw + group * out * in, p.ldc = in, p.add = true, p.out = MH_F32;
    }
    return p;
}

static void release_rivals(subject *s)
{
    for (int i = 0; i <= s->products; i++)
        mh_packed_free(s->packed[i]);
    memset(s->packed, 0, (size_t)(s->shape.groups + 1) * sizeof *s->packed);
}

static void set_pass(subject *s, pass which)
{
    bool pack = which != WEIGHT_GRADIENT; /* which has no weights to pack: both factors are activations */
    mh_product all;
    s->pass = which;
    s->products = 0;
    for (int g = 0; g < s->shape.groups; g++)
        if (s->begin[g + 1] > s->begin[g])
            s->product[s->products++] = product_of(s, g, s->begin[g], s->begin[g + 1] - s->begin[g]);
    all = product_of(s, 0, 0, s->shape.rows);
    s->packed[0] = mh_packed_create(&all, pack);
    for (int i = 0; s->packed[0] != NULL && s->shape.groups > 1 && i < s->products; i++)
        s->packed[i + 1] = mh_packed_create(&s->product[i], pack);
}

static double run_ours(void *context)
{
    const subject *s = context;
    const struct mh_ops *ops = mh_cpu_ops();
    double start = mh_seconds();
    switch (s->pass) {
    case FORWARD:
        ops->linear_fwd(s->y, s->x, s->w, NULL, s->begin, s->shape.groups);
        break;
    case INPUT_GRADIENT:
        /* An x of no columns leaves a weight gradient of no elements: what remains is dx alone. */
        ops->linear_bwd(s->dx, false, s->dw, NULL, s->dy, mh_mat_cols(s->x, 0, 0), s->w, s->begin,
                        s->shape.groups);
        break;
    default:
        ops->linear_bwd((mh_mat){0}, false, s->dw, NULL, s->dy, s->x, s->w, s->begin, s->shape.groups);
    }
    return mh_seconds() - start;
}

static double run_dense(void *context)
{
    const subject *s = context;
    double start = mh_seconds();
    mh_packed_run(s->packed[0]);
    return mh_seconds() - start;
}

static double run_loop(void *context)
{
    const subject *s = context;
    double start = mh_seconds();
    for (int i = 0; i < s->products; i++)
        mh_packed_run(s->packed[i + 1]);
    return mh_seconds() - start;
}

/* Rows [first, first+PORTABLE_ROWS) of C. */
static void portable_rows(const mh_product *product, int64_t first)
{
    mh_product p = *product;
    p.m = mh_least(PORTABLE_ROWS, p.m - first);
    p.a = (const char *)p.a + (size_t)(p.transpose_a ? first : first * p.lda) * mh_type_size(p.in);
    p.c = (char *)p.c + (size_t)(first * p.ldc) * mh_type_size(p.out);
    mh_gemm_portable(&p);
}

static double run_portable(void *context)
{
    const subject *s = context;
    double start = mh_seconds();
    for (int i = 0; i < s->products; i++)
#pragma omp parallel for schedule(dynamic)
        for (int64_t first = 0; first < s->product[i].m; first += PORTABLE_ROWS)
            portable_rows(&s->product[i], first);
    return mh_seconds() - start;
}

/* Each operand is read once and the result written once, and read, too, where it is added to. All of it comes
 * from the smallest memory that holds it together: in training, too, other matrices pass before a matrix is
 * used again. */
static double least_seconds(const mh_bench *bench, const mh_product *products, int count)
{
    double held = 0, moved = 0;
    for (int i = 0; i < count; i++) {
        const mh_product *p = &products[i];
        double result = (double)(p->m * p->n) * (double)mh_type_size(p->out);
        held += (double)((p->m + p->n) * p->k) * (double)mh_type_size(p->in) + result;
        moved += p->add ? result : 0;
    }
    return mh_memory_seconds(bench->memory, held, held + moved);
}

static mh_status tell(mh_bench *bench, const mh_race *race)
{
    for (int i = 0; i < race->contenders; i++) {
        mh_bench_line line = mh_race_line(race, i);
        strcpy(line.figure[line.figures].name, "of roofline");
        line.figure[line.figures++].value = mh_race_roofline(race, i);
        MH_TRY(bench->tell(bench->context, &line));
    }
    return MH_OK;
}

static mh_status race_pass(mh_bench *bench, subject *s, const char *benchmark, pass which)
{
    const mh_bench_shape *h = &s->shape;
    double operations = 2.0 * (double)h->rows * (double)h->out * (double)h->in;
    bool grouped = h->groups > 1;
    char name[64];
    int n = snprintf(name, sizeof name, "%lldx%lldx%lld", (long long)h->rows, (long long)h->out,
                     (long long)h->in);
    if (grouped)
        snprintf(name + n, sizeof name - (size_t)n, "x%d %s", h->groups, loads_name[h->loads]);

    mh_race race = {
        .benchmark = benchmark, .subject = name, .pass = pass_name[which], .type = s->x.type, .seconds = 1};
    set_pass(s, which);
    mh_product all = product_of(s, 0, 0, h->rows);
    double one = least_seconds(bench, &all, 1), each = least_seconds(bench, s->product, s->products);
    if (s->packed[0] != NULL)
        race.contender[race.contenders++] = (mh_contender){"oneDNN", operations, run_dense, s, 0, one};
    if (s->packed[0] != NULL && grouped)
        race.contender[race.contenders++] = (mh_contender){"oneDNN loop", operations, run_loop, s, 0, each};
    race.references = race.contenders;
    race.contender[race.contenders++] = (mh_contender){"mhmoe", operations, run_ours, s, 0, each};
    if (operations <= PORTABLE_MOST)
        race.contender[race.contenders++] =
            (mh_contender){"portable", operations, run_portable, s, PORTABLE_ROUNDS, each};
    mh_status status = mh_race_run(&race, bench);
    release_rivals(s);
    return status == MH_OK ? tell(bench, &race) : status;
}

static mh_status race_all(mh_bench *bench, const char *benchmark, const mh_bench_shape *shapes, int count)
{
    static const mh_type types[] = {MH_BF16, MH_F32};
    int done = 0;
    for (int i = 0; i < count; i++) {
        MH_TRY(mh_memory_measure(bench->memory));
        for (int t = 0; t < 2; t++) {
            subject s;
            MH_TRY(subject_init(&s, &shapes[i], types[t]));
            mh_status status = MH_OK;
            for (pass which = 0; status == MH_OK && which < PASSES; which++) {
                mh_progress_report(bench->progress, benchmark, done++, count * 2 * PASSES, NULL);
                status = race_pass(bench, &s, benchmark, which);
            }
            mh_arena_release(&s.memory);
            MH_TRY(status);
        }
    }
    return MH_OK;
}

mh_status mh_bench_gemm(mh_bench *bench, const mh_bench_shape *shapes, int count)
{
    static const mh_bench_shape usual[] = {
        {16, 1365, 512, 1, 0},   {64, 1024, 256, 1, 0},   {256, 512, 512, 1, 0},    {256, 1365, 512, 1, 0},
        {1024, 2048, 768, 1, 0}, {1024, 768, 2048, 1, 0}, {1024, 3072, 1024, 1, 0}, {4096, 1365, 512, 1, 0},
    };
    return shapes ? race_all(bench, "gemm", shapes, count)
                  : race_all(bench, "gemm", usual, sizeof usual / sizeof *usual);
}

mh_status mh_bench_experts(mh_bench *bench, const mh_bench_shape *shapes, int count)
{
    static const mh_bench_shape usual[] = {
        {2048, 1365, 512, 8, MH_LOADS_EVEN},   {2048, 512, 1365, 8, MH_LOADS_EVEN},
        {2048, 1365, 512, 8, MH_LOADS_SKEWED}, {2048, 1365, 512, 8, MH_LOADS_SOME_EMPTY},
        {8192, 512, 256, 32, MH_LOADS_EVEN},   {4096, 2048, 768, 8, MH_LOADS_EVEN},
        {512, 1365, 512, 8, MH_LOADS_EVEN},    {512, 512, 1365, 8, MH_LOADS_EVEN},
        {2624, 512, 256, 41, MH_LOADS_EVEN},   {128, 1365, 512, 8, MH_LOADS_EVEN},
    };
    return shapes ? race_all(bench, "experts", shapes, count)
                  : race_all(bench, "experts", usual, sizeof usual / sizeof *usual);
}
