/* Tests of src/op. Each subject of op_subjects.h goes through the same mill: gradients against differences
 * (and the same with a gradient that is 1 % wrong, which must be noticed), bf16 against f32, and equal bits
 * for 1, 2 and 4 threads with sums over more than 4096 rows. The operations' own algebra follows. */
#include "op_subjects.h"

#include <omp.h>

/* ---- gradients ----------------------------------------------------------------------------------------- */

static double loss_of(const subject *s, job *j)
{
    s->fwd(j);
    double sum = 0;
    for (int64_t i = 0; i < j->dy.rows * j->dy.cols; i++)
        sum += value(j->y[0], i) * value(j->dy, i);
    return sum;
}

/* The loss after a step of `h` from `x` along `u`. */
static double loss_at(const subject *s, job *j, int input, const float *x, const float *u, double h)
{
    float *moved = j->x[input].p;
    int64_t n = j->x[input].rows * j->x[input].cols;
    for (int64_t i = 0; i < n; i++)
        moved[i] = (float)((double)x[i] + h * (double)u[i]);
    double sum = loss_of(s, j);
    memcpy(moved, x, (size_t)n * sizeof *x);
    return sum;
}

/* How far the gradient by one input is from differences of the loss along a random direction, relative. The
 * direction is drawn again while it lies almost across the gradient, where nothing could be compared.
 * Four points make the formula exact to h^4, 1e-8 at h = 0.01; what is left is the rounding of f32 divided by
 * h: 4e-5 at most is seen. */
#define GRADIENT_BOUND 2e-4

static double mismatch(const subject *s, job *j, int input, double sabotage)
{
    int64_t n = j->x[input].rows * j->x[input].cols;
    float *x = malloc((size_t)n * sizeof *x), *u = malloc((size_t)n * sizeof *u);
    memcpy(x, j->x[input].p, (size_t)n * sizeof *x);
    double slope = 0, norm2 = 0;
    for (uint64_t draw = 0; slope * slope <= 0.25 * norm2; draw++) {
        slope = norm2 = 0;
        for (int64_t i = 0; i < n; i++) {
            u[i] = (float)mh_normal(SEED, 1000 + draw, (uint64_t)i);
            double d = value(j->dx[input], i) - (double)(j->added[input] ? BASE : 0);
            slope += d * (double)u[i];
            norm2 += d * d;
        }
        if (norm2 == 0 || draw == 20)
            fail_msg("%s: the gradient by input %d is zero or not a number", s->name, input);
    }
    const double h = 0.01;
    double near = loss_at(s, j, input, x, u, h) - loss_at(s, j, input, x, u, -h);
    double far = loss_at(s, j, input, x, u, 2 * h) - loss_at(s, j, input, x, u, -2 * h);
    double measured = (8 * near - far) / (12 * h);
    free(x);
    free(u);
    return fabs(measured - slope * sabotage) / fabs(measured);
}

static void gradients(void **state)
{
    (void)state;
    for (int i = 0; i < SUBJECTS; i++)
        for (int variant = 0; subjects[i]->bwd && variant < subjects[i]->variants; variant++) {
            const subject *s = subjects[i];
            job j = start(s, variant, MH_F32, false, 0);
            s->fwd(&j);
            s->bwd(&j);
            for (int input = 0; input < j.inputs; input++) {
                double error = mismatch(s, &j, input, 1), spoilt = mismatch(s, &j, input, 1.01);
                if (!(error < GRADIENT_BOUND))
                    fail_msg("%s, variant %d, input %d, seed %d: gradient off by %.3g", s->name, variant,
                             input, SEED, error);
                if (!(spoilt > GRADIENT_BOUND))
                    fail_msg("%s, variant %d, input %d: a gradient 1 %% wrong goes unnoticed", s->name,
                             variant, input);
            }
        }
}

/* Only these may do without a backward. */
static void every_op_has_a_gradient(void **state)
{
    (void)state;
    static const char without[] =
        " pack top_k second_expert plan add cast quantize ternarize square_sum adamw ";
    for (int i = 0; i < SUBJECTS; i++) {
        char word[64];
        snprintf(word, sizeof word, " %s ", subjects[i]->name);
        if (subjects[i]->bwd == NULL && strstr(without, word) == NULL)
            fail_msg("%s has no gradient check", subjects[i]->name);
    }
}

/* ---- bf16 against f32 ---------------------------------------------------------------------------------- */

static double distance(mh_mat a, mh_mat b, double base)
{
    double difference = 0, length = 0;
    for (int64_t i = 0; i < a.rows * a.cols; i++) {
        double x = value(a, i) - base, y = value(b, i) - base;
        difference += (x - y) * (x - y);
        length += y * y;
    }
    return sqrt(difference / length);
}

/* The same inputs in both precisions. A bf16 number has 8 bits, so one rounding costs 2^-9 at most; the
 * operations round their results, and inside attention and loss once more: 2^-8 is two roundings. Experts
 * round between three operations, 2^-7. */
static void half_precision(void **state)
{
    (void)state;
    for (int i = 0; i < SUBJECTS; i++)
        for (int variant = 0; !subjects[i]->f32_only && variant < subjects[i]->variants; variant++) {
            const subject *s = subjects[i];
            job exact = start(s, variant, MH_F32, false, 0), half = start(s, variant, MH_BF16, false, 1);
            s->fwd(&exact);
            s->fwd(&half);
            double error = distance(half.y[0], exact.y[0], 0), bound = s == &experts ? 1.0 / 128 : 1.0 / 256;
            if (!(error <= bound))
                fail_msg("%s, variant %d: bf16 result off by %.3g", s->name, variant, error);
            if (s->bwd) {
                s->bwd(&exact);
                s->bwd(&half);
            }
            for (int k = 0; s->bwd && k < exact.inputs; k++) {
                error = distance(half.dx[k], exact.dx[k], exact.added[k] ? (double)BASE : 0);
                if (!(error <= bound))
                    fail_msg("%s, variant %d, input %d: bf16 gradient off by %.3g", s->name, variant, k,
                             error);
            }
        }
}

/* ---- equal bits for any number of threads -------------------------------------------------------------- */

static void same_bytes(const subject *s, const char *what, int threads, mh_mat a, mh_mat b)
{
    if (memcmp(a.p, b.p, (size_t)(a.rows * a.cols) * mh_type_size(a.type)) != 0)
        fail_msg("%s, %s: %s differs between 1 and %d threads", s->name, mh_type_name(a.type), what, threads);
}

static job run_with(const subject *s, int variant, mh_type type, int threads, int arena)
{
    omp_set_num_threads(threads);
    job j = start(s, variant, type, true, arena);
    s->fwd(&j);
    if (s->bwd)
        s->bwd(&j);
    return j;
}

static void threads(void **state)
{
    (void)state;
    int usual = omp_get_max_threads();
    for (int i = 0; i < SUBJECTS; i++)
        for (mh_type type = MH_F32; type <= (subjects[i]->f32_only ? MH_F32 : MH_BF16); type++)
            for (int variant = 0; variant < subjects[i]->variants; variant++) {
                const subject *s = subjects[i];
                job one = run_with(s, variant, type, 1, 0);
                for (int count = 2; count <= 4; count *= 2) {
                    job many = run_with(s, variant, type, count, 1);
                    for (int k = 0; k < one.outputs; k++)
                        same_bytes(s, "an output", count, one.y[k], many.y[k]);
                    for (int k = 0; s->bwd && k < one.inputs; k++)
                        same_bytes(s, "a gradient", count, one.dx[k], many.dx[k]);
                }
            }
    omp_set_num_threads(usual);
}

/* ---- algebra ------------------------------------------------------------------------------------------- */

/* A job without a subject: memory and numbers for the tests below. */
static job bench(mh_type type)
{
    job j = {.type = type, .memory = arenas[0], .stream = mh_stream(MH_RANDOM_TEST, 1, 0)};
    return j;
}

static void choose_at_random(job *j, int64_t rows, int count, int choices)
{
    mh_plan_layout(&j->plan, &j->memory, rows, count, choices);
    ops->top_k(j->plan.choice, numbers(j, rows, count, MH_F32), NULL, choices);
}

/* Sizes come from recipes and files: 2^48 rows of 2^16 floats must not wrap around to nothing. */
static void matrix_beyond_all_memory(void **state)
{
    (void)state;
    mh_arena count = {0}, arena;
    mh_take_mat(&count, (int64_t)1 << 48, 1 << 16, MH_F32);
    FAILS(MH_EMEMORY, "a matrix need", mh_arena_init(&arena, count.used, "a matrix"));
}

/* Each pair stands at its slot or is dropped, an expert's rows are in order, and nobody is dropped while
 * another of lower priority (choice first, then row) is kept by the same expert. */
static void plan_invariants(void **state)
{
    (void)state;
    enum { ROWS = 300, E = 7, K = 3, CAPACITY = 120 };
    for (int64_t capacity = 0; capacity <= CAPACITY; capacity += CAPACITY) {
        job j = bench(MH_F32);
        choose_at_random(&j, ROWS, E, K);
        mh_plan *p = &j.plan;
        ops->plan(p, ROWS, capacity, MH_DROP_POSITION);
        int64_t kept = 0, wanted[E] = {0};
        for (int c = 0; c < K; c++)
            for (int64_t r = 0; r < ROWS; r++) {
                int32_t e = p->choice[r * K + c], slot = p->slot[r * K + c];
                bool fits = capacity == 0 || wanted[e] < capacity;
                wanted[e]++;
                assert_int_equal(slot >= 0, fits);
                if (!fits)
                    continue;
                kept++;
                assert_in_range(slot, p->begin[e], p->begin[e + 1] - 1);
                assert_int_equal(p->source[slot], r);
            }
        assert_int_equal(p->begin[E], kept);
        assert_int_equal(p->begin[0], 0);
        for (int e = 0; e < E; e++)
            for (int64_t i = p->begin[e] + 1; i < p->begin[e + 1]; i++)
                assert_true(p->source[i - 1] < p->source[i]);
        assert_true(capacity == 0 ? kept == ROWS * K : kept < ROWS * K);
    }
}

/* An expert keeps the largest gates of the first choices, then of the second; a choice that is passed over
 * takes no room. */
static void plan_drops_by_probability(void **state)
{
    (void)state;
    enum { ROWS = 301, E = 5, K = 2, CAPACITY = 70 };
    job j = bench(MH_F32);
    choose_at_random(&j, ROWS, E, K);
    mh_plan *p = &j.plan;
    for (int64_t i = 0; i < ROWS * K; i++)
        p->gate[i] = (float)(int)(mh_uniform(SEED, 3, (uint64_t)i) * 50); /* many are alike */
    for (int64_t r = 0; r < ROWS; r += 4)
        p->choice[r * K + 1] = ~p->choice[r * K + 1];
    ops->plan(p, ROWS, CAPACITY, MH_DROP_PROBABILITY);
    for (int e = 0; e < E; e++)
        assert_true(p->begin[e + 1] - p->begin[e] <= CAPACITY);
    int dropped = 0;
    for (int64_t a = 0; a < ROWS * K; a++) {
        int32_t e = p->choice[a];
        if (e < 0) {
            assert_int_equal(p->slot[a], -1);
            continue;
        }
        if (p->slot[a] >= 0)
            continue;
        dropped++;
        assert_int_equal(p->begin[e + 1] - p->begin[e], CAPACITY);
        for (int64_t b = 0; b < ROWS * K; b++) {
            if (p->choice[b] != e || p->slot[b] < 0)
                continue;
            bool before = b % K < a % K || (b % K == a % K &&
                                            (p->gate[b] > p->gate[a] || (p->gate[b] == p->gate[a] && b < a)));
            assert_true(before);
        }
    }
    assert_true(dropped > 20);
}

static void plan_load(void **state)
{
    (void)state;
    job j = bench(MH_F32);
    mh_plan_layout(&j.plan, &j.memory, 4, 2, 1);
    memcpy(j.plan.choice, (int32_t[]){0, 0, 0, 1}, 4 * sizeof(int32_t));
    ops->plan(&j.plan, 4, 0, MH_DROP_POSITION);
    mh_load load = mh_plan_load(&j.plan);
    assert_true(fabs(load.largest - 0.75) < 1e-12 && load.dropped == 0);
    assert_true(fabs(load.entropy - (0.75 * log2(4 / 3.0) + 0.25 * 2)) < 1e-12);
    ops->plan(&j.plan, 4, 1, MH_DROP_POSITION);
    load = mh_plan_load(&j.plan);
    assert_true(fabs(load.largest - 0.5) < 1e-12 && load.dropped == 0.5 && fabs(load.entropy - 1) < 1e-12);
}

/* Rows sent to K experts that change nothing, and combined with gates 1/K, come back. */
static void dispatch_and_combine_undo_each_other(void **state)
{
    (void)state;
    enum { ROWS = 50, E = 5, K = 2, COLS = 1100 };
    job j = bench(MH_F32);
    choose_at_random(&j, ROWS, E, K);
    ops->plan(&j.plan, ROWS, 0, MH_DROP_POSITION);
    for (int i = 0; i < ROWS * K; i++)
        j.plan.gate[i] = 1.0f / K;
    mh_mat x = numbers(&j, ROWS, COLS, MH_F32), there = filled(&j, ROWS * K, COLS, MH_F32, NAN);
    mh_mat back = filled(&j, ROWS, COLS, MH_F32, NAN);
    ops->dispatch_fwd(there, x, &j.plan);
    ops->combine_fwd(back, there, &j.plan);
    assert_memory_equal(back.p, x.p, ROWS * COLS * sizeof(float)); /* halves are exact */
}

/* A row all of whose choices are dropped gives 0, not what stood there before. */
static void dropped_rows_are_zero(void **state)
{
    (void)state;
    job j = bench(MH_F32);
    mh_plan_layout(&j.plan, &j.memory, 3, 2, 1);
    memset(j.plan.choice, 0, 3 * sizeof(int32_t));
    ops->plan(&j.plan, 3, 1, MH_DROP_POSITION);
    mh_mat x = numbers(&j, 1, 8, MH_F32), y = filled(&j, 3, 8, MH_F32, NAN);
    for (int i = 0; i < 3; i++)
        j.plan.gate[i] = 1;
    ops->combine_fwd(y, x, &j.plan);
    assert_memory_equal(y.p, x.p, 8 * sizeof(float));
    for (int i = 8; i < 24; i++)
        assert_true(value(y, i) == 0);
    float dgate[3];
    mh_mat dx = filled(&j, 1, 8, MH_F32, NAN);
    ops->combine_bwd(dx, dgate, numbers(&j, 3, 8, MH_F32), x, &j.plan);
    assert_true(dgate[0] != 0 && dgate[1] == 0 && dgate[2] == 0);
}

/* A grouped linear is the linears of its groups. */
static void groups_are_separate_linears(void **state)
{
    (void)state;
    enum { ROWS = 700, IN = 40, OUT = 24, GROUPS = 4 };
    static const int64_t begin[GROUPS + 1] = {0, 300, 300, 311, ROWS};
    for (mh_type type = MH_F32; type <= MH_BF16; type++) {
        job j = bench(type);
        mh_mat x = numbers(&j, ROWS, IN, type), w = numbers(&j, GROUPS * OUT, IN, type);
        mh_mat bias = numbers(&j, 1, GROUPS * OUT, MH_F32);
        mh_mat whole = filled(&j, ROWS, OUT, type, NAN), parts = filled(&j, ROWS, OUT, type, NAN);
        ops->linear_fwd(whole, x, (mh_linear_weights){.w = w}, bias.p, begin, GROUPS);
        for (int g = 0; g < GROUPS; g++) {
            int64_t n = begin[g + 1] - begin[g];
            ops->linear_fwd(mh_mat_rows(parts, begin[g], n), mh_mat_rows(x, begin[g], n),
                            (mh_linear_weights){.w = mh_mat_rows(w, g * OUT, OUT)}, (float *)bias.p + g * OUT,
                            NULL, 1);
        }
        assert_memory_equal(whole.p, parts.p, ROWS * OUT * mh_type_size(type));
    }
}

/* Weight gradients of one, several and many tiles, of one matrix and of two groups, against plain sums in
 * double: bf16 products are exact, so all are off by a few roundings of f32. */
static void weight_gradients_by_tiles(void **state)
{
    (void)state;
    enum { ROWS = 7, IN = 1040 };
    static const int64_t outs[] = {1, 15, 144, 513, 1365}, begin[] = {0, 5, ROWS};
    for (mh_type type = MH_F32; type <= MH_BF16; type++)
        for (size_t o = 0; o < sizeof outs / sizeof *outs; o++)
            for (int groups = 1; groups <= 2; groups++) {
                job j = bench(type);
                int64_t out = outs[o];
                mh_mat x = numbers(&j, ROWS, IN, type), dy = numbers(&j, ROWS, out, type);
                mh_mat w = filled(&j, groups * out, IN, type, 0),
                       dw = filled(&j, groups * out, IN, MH_F32, BASE);
                mh_mat dbias = filled(&j, groups, out, MH_F32, BASE);
                ops->linear_bwd((mh_mat){0}, false, dw.p, dbias.p, dy, x, (mh_linear_weights){.w = w},
                                groups > 1 ? begin : NULL, groups);
                for (int64_t i = 0; i < groups * out; i++)
                    for (int64_t c = 0; c <= IN; c += 13) { /* the last one stands for the bias */
                        double want = (double)BASE;
                        for (int64_t r = groups > 1 ? begin[i / out] : 0;
                             r < (groups > 1 ? begin[i / out + 1] : ROWS); r++)
                            want += value(dy, r * out + i % out) * (c < IN ? value(x, r * IN + c) : 1);
                        double got = c < IN ? value(dw, i * IN + c) : value(dbias, i);
                        assert_true(fabs(got - want) < 1e-5);
                    }
            }
}

static mh_expert_rows part_of(mh_expert_rows r, int64_t first, int64_t n)
{
    return (mh_expert_rows){mh_mat_rows(r.in, first, n), mh_mat_rows(r.gate, first, n),
                            mh_mat_rows(r.up, first, n), mh_mat_rows(r.act, first, n),
                            mh_mat_rows(r.out, first, n)};
}

/* Thousands of rows, block by block, against a few hundred at a time: alike but for the order of sums, of
 * which the longest has 4200 terms, each rounded by 2^-24 of it at most. The last rows of variant 0 are other
 * experts'. */
static void experts_by_blocks(void **state)
{
    (void)state;
    enum { PIECE = 500, OTHERS = 9 };
    for (int variant = 0; variant < 2; variant++) {
        job whole = start(&experts, variant, MH_F32, true, 0),
            parts = start(&experts, variant, MH_F32, true, 1);
        fwd_experts(&whole);
        bwd_experts(&whole);
        mh_experts e = experts_of(&parts);
        mh_expert_grads dw = expert_weight_gradients_of(&parts);
        int64_t shared = parts.rows - OTHERS;
        for (int64_t first = 0, n; first < parts.rows; first += n) {
            n = first < shared ? mh_least(PIECE, shared - first) : OTHERS;
            memcpy(parts.begin, first < shared ? (int64_t[]){0, n, n, n, n} : (int64_t[]){0, 0, 0, 1, n},
                   sizeof parts.begin);
            mh_expert_rows r = part_of(expert_rows_of(&parts), first, n);
            ops->experts_fwd(r, &e);
            ops->experts_bwd(part_of(expert_gradients_of(&parts), first, n), &dw, r, &e);
        }
        assert_true(distance(parts.y[0], whole.y[0], 0) < 1e-5);
        for (int i = 0; i < whole.inputs; i++)
            assert_true(distance(parts.dx[i], whole.dx[i], whole.added[i] ? (double)BASE : 0) < 1e-5);
    }
}

/* Queries, keys and values as columns of one matrix; `length` keys in room for `capacity`. */
typedef struct {
    mh_mat q, k, v, y;
    float *lse;
    mh_attention shape;
} attention_case;

static attention_case attend(job *j, int64_t batch, int64_t length, int64_t capacity)
{
    enum { HEADS = 4, KV_HEADS = 2, HEAD = 8 };
    attention_case a = {.shape = {.batch = batch, .rows = length, .capacity = capacity, .heads = HEADS}};
    a.shape.kv_heads = KV_HEADS, a.shape.head_dim = HEAD;
    a.shape.scratch.bytes = mh_attention_scratch(capacity, HEAD);
    a.shape.scratch.threads = mh_threads();
    a.shape.scratch.base = mh_take(&j->memory, a.shape.scratch.bytes * (size_t)mh_threads());
    mh_mat all = numbers(j, batch * capacity, (HEADS + 2 * KV_HEADS) * HEAD, MH_F32);
    a.q = mh_mat_cols(all, 0, HEADS * HEAD);
    a.k = mh_mat_cols(all, HEADS * HEAD, KV_HEADS * HEAD);
    a.v = mh_mat_cols(all, (HEADS + KV_HEADS) * HEAD, KV_HEADS * HEAD);
    a.y = filled(j, batch * length, HEADS * HEAD, MH_F32, NAN);
    a.lse = filled(j, batch * length, HEADS, MH_F32, NAN).p;
    return a;
}

static void run_attention(const attention_case *a)
{
    ops->attention_fwd(a->y, a->lse, a->q, a->k, a->v, &a->shape);
}

/* Against the definition, in double. Weights of softmax are good to a few 1e-7. */
static void attention_by_definition(void **state)
{
    (void)state;
    enum { T = 150 };
    job j = bench(MH_F32);
    attention_case a = attend(&j, 1, T, T);
    run_attention(&a);
    int d = a.shape.head_dim;
    for (int64_t t = 0; t < T; t++)
        for (int h = 0; h < a.shape.heads; h++) {
            double weight[T], sum = 0, want[64] = {0}, error = 0;
            const float *q = (float *)mh_mat_row(a.q, t) + h * d;
            for (int64_t s = 0; s <= t; s++) {
                const float *k = (float *)mh_mat_row(a.k, s) + h / 2 * d;
                double score = 0;
                for (int i = 0; i < d; i++)
                    score += (double)q[i] * (double)k[i];
                sum += weight[s] = exp(score / sqrt(d));
            }
            for (int64_t s = 0; s <= t; s++)
                for (int i = 0; i < d; i++)
                    want[i] += weight[s] / sum * (double)((float *)mh_mat_row(a.v, s))[h / 2 * d + i];
            for (int i = 0; i < d; i++)
                error = fmax(error, fabs(want[i] - (double)((float *)mh_mat_row(a.y, t))[h * d + i]));
            assert_true(error < 3e-6);
            assert_true(fabs((double)a.lse[t * a.shape.heads + h] - log(sum)) < 3e-6);
        }
}

/* Documents kept apart by first_key give what each gives alone. */
static void first_key_separates(void **state)
{
    (void)state;
    enum { T = 200, CUT = 77 };
    job j = bench(MH_F32);
    attention_case a = attend(&j, 1, T, T), part = a;
    int32_t first[T];
    for (int i = 0; i < T; i++)
        first[i] = i < CUT ? 0 : CUT;
    a.shape.first_key = first;
    run_attention(&a);
    part.y = filled(&j, T, a.y.cols, MH_F32, NAN);
    for (int half = 0; half < 2; half++) {
        int64_t from = half ? CUT : 0, n = half ? T - CUT : CUT;
        attention_case b = part;
        b.q = mh_mat_rows(part.q, from, n), b.k = mh_mat_rows(part.k, from, n);
        b.v = mh_mat_rows(part.v, from, n), b.y = mh_mat_rows(part.y, from, n);
        b.shape.rows = b.shape.capacity = n;
        run_attention(&b);
    }
    CLOSE(a.y.p, part.y.p, T * a.y.cols, 1e-6);
}

/* One position at a time, and in blocks, with two sequences and room to spare whose content must not matter.
 */
static void cached_attention_is_the_whole(void **state)
{
    (void)state;
    enum { B = 2, T = 130, ROOM = 170 };
    job j = bench(MH_F32);
    attention_case whole = attend(&j, 1, T, T), cached = attend(&j, B, ROOM, ROOM);
    for (int b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++) {
            mh_copy_row(cached.k, b * ROOM + t, whole.k, t);
            mh_copy_row(cached.v, b * ROOM + t, whole.v, t);
        }
    run_attention(&whole);
    for (int64_t step = 1; step <= 50; step += 49)
        for (int64_t past = 0; past < T; past += step) {
            attention_case now = cached;
            now.shape.past = past, now.shape.rows = mh_least(step, T - past);
            mh_mat q = filled(&j, B * now.shape.rows, whole.q.cols, MH_F32, 0);
            for (int64_t r = 0; r < q.rows; r++)
                mh_copy_row(q, r, whole.q, past + r % now.shape.rows);
            now.q = q;
            run_attention(&now);
            for (int b = 0; b < B; b++)
                CLOSE(mh_mat_row(now.y, b * now.shape.rows), mh_mat_row(whole.y, past),
                      now.shape.rows * whole.y.cols, 1e-6);
        }
}

/* Turning keeps lengths; at position 0 nothing turns; q.k depends on the distance of their positions only. */
static void rotary_turns(void **state)
{
    (void)state;
    job j = {.memory = arenas[0], .rows = 3};
    make_rotary(&j);
    float q[3 * 3 * ROTARY_HEAD], k[3 * 3 * ROTARY_HEAD];
    for (int r = 0; r < 3; r++) { /* the same vectors at three positions */
        memcpy(q + r * 3 * ROTARY_HEAD, j.x[0].p, 3 * ROTARY_HEAD * sizeof(float));
        memcpy(k + r * 3 * ROTARY_HEAD, mh_mat_row(j.x[0], 1), 3 * ROTARY_HEAD * sizeof(float));
    }
    static const int32_t at[3] = {0, 7, 40}, behind[3] = {3, 10, 43};
    ops->rotary_fwd(mh_mat_of(q, 3, 3 * ROTARY_HEAD, MH_F32), ROTARY_HEAD, at, j.table);
    ops->rotary_fwd(mh_mat_of(k, 3, 3 * ROTARY_HEAD, MH_F32), ROTARY_HEAD, behind, j.table);
    assert_memory_equal(q, j.x[0].p, 3 * ROTARY_HEAD * sizeof(float));
    double dot[3] = {0}, length[3] = {0};
    for (int r = 0; r < 3; r++)
        for (int i = 0; i < 3 * ROTARY_HEAD; i++) {
            dot[r] += (double)q[r * 3 * ROTARY_HEAD + i] * (double)k[r * 3 * ROTARY_HEAD + i];
            length[r] += (double)q[r * 3 * ROTARY_HEAD + i] * (double)q[r * 3 * ROTARY_HEAD + i];
        }
    for (int r = 1; r < 3; r++)
        assert_true(fabs(dot[r] - dot[0]) < 1e-4 && fabs(length[r] - length[0]) < 1e-4);
}

static void softmax_rows_sum_to_one(void **state)
{
    (void)state;
    job j = bench(MH_F32);
    mh_mat x = numbers(&j, 40, 33, MH_F32);
    *(float *)mh_mat_at(x, 3, 4) = 1000; /* must not overflow */
    ops->softmax_fwd(x, x);
    for (int64_t r = 0; r < x.rows; r++) {
        double sum = 0;
        for (int64_t c = 0; c < x.cols; c++)
            sum += value(x, r * x.cols + c);
        assert_true(fabs(sum - 1) < 1e-6);
    }
    assert_true(fabs(value(x, 3 * 33 + 4) - 1) < 1e-6);
}

/* Falling, ties to the lowest index, NaN last; among few experts and among more than a vector holds, where
 * most are passed over. */
static void top_k_order(void **state)
{
    (void)state;
    float p[3][5] = {{.1f, .4f, .1f, .4f, .2f}, {.2f, .2f, .2f, .2f, .2f}, {NAN, NAN, .5f, NAN, .7f}};
    int32_t choice[9];
    ops->top_k(choice, mh_mat_of(p, 3, 5, MH_F32), NULL, 3);
    assert_memory_equal(choice, ((int32_t[]){1, 3, 4, 0, 1, 2, 4, 2, 0}), sizeof choice);

    /* NaN behind -infinity, and nothing but NaN */
    float odd[4] = {-INFINITY, NAN, -INFINITY, 1}, none[40];
    ops->top_k(choice, mh_mat_of(odd, 1, 4, MH_F32), NULL, 4);
    assert_memory_equal(choice, ((int32_t[]){3, 0, 2, 1}), 4 * sizeof *choice);
    for (int e = 0; e < 40; e++)
        none[e] = NAN;
    ops->top_k(choice, mh_mat_of(none, 1, 40, MH_F32), NULL, 3);
    assert_memory_equal(choice, ((int32_t[]){0, 1, 2}), 3 * sizeof *choice);

    enum { ALL = 2 * MH_CHUNK + 37 };
    static float many[ALL], bias[ALL];
    for (int e = 0; e < ALL; e++)
        many[e] = (float)((e * 7 + 5) % 31) / 31; /* 30/31 first at e = 8, then every 31 */
    many[40] = NAN, many[MH_CHUNK - 1] = many[ALL - 1] = 2;
    ops->top_k(choice, mh_mat_of(many, 1, ALL, MH_F32), NULL, 4);
    assert_memory_equal(choice, ((int32_t[]){MH_CHUNK - 1, ALL - 1, 8, 39}), 4 * sizeof *choice);
    bias[MH_CHUNK + 1] = 3;
    ops->top_k(choice, mh_mat_of(many, 1, ALL, MH_F32), bias, 4);
    assert_memory_equal(choice, ((int32_t[]){MH_CHUNK + 1, MH_CHUNK - 1, ALL - 1, 8}), 4 * sizeof *choice);
}

/* The bias changes who is chosen. */
static void top_k_with_bias(void **state)
{
    (void)state;
    float p[4] = {.1f, .2f, .3f, .4f}, bias[4] = {.25f, 0, 0, -.3f};
    int32_t choice[2];
    ops->top_k(choice, mh_mat_of(p, 1, 4, MH_F32), bias, 2);
    assert_memory_equal(choice, ((int32_t[]){0, 2}), sizeof choice);
}

/* Random keeps the second with twice its share of the two; sampling draws it in proportion to p. With 40000
 * draws one deviation is 0.25 % at most. */
static void second_experts(void **state)
{
    (void)state;
    enum { ROWS = 40000 };
    job j = bench(MH_F32);
    mh_mat p = mh_take_mat(&j.memory, ROWS, 4, MH_F32);
    int32_t *choice = mh_take(&j.memory, 2 * ROWS * sizeof *choice), count[4] = {0}, kept = 0;
    for (int64_t r = 0; r < ROWS; r++)
        memcpy(mh_mat_row(p, r), ((float[]){.1f, .6f, 0, .3f}), 4 * sizeof(float));
    ops->top_k(choice, p, NULL, 2);
    ops->second_expert(choice, p, MH_SECOND_ALL, SEED, 1);
    assert_memory_equal(choice, ((int32_t[]){1, 3}), 2 * sizeof *choice);
    ops->second_expert(choice, p, MH_SECOND_RANDOM, SEED, 1);
    for (int64_t r = 0; r < ROWS; r++) {
        assert_true(choice[2 * r] == 1 && mh_chosen(choice[2 * r + 1]) == 3);
        kept += choice[2 * r + 1] == 3;
    }
    assert_true(fabs(kept / (double)ROWS - 2 / 3.0) < 0.01);
    ops->top_k(choice, p, NULL, 2);
    ops->second_expert(choice, p, MH_SECOND_SAMPLING, SEED, 1);
    for (int64_t r = 0; r < ROWS; r++)
        count[choice[2 * r + 1]]++;
    assert_true(count[1] == 0 && count[2] == 0);
    assert_true(fabs(count[0] / (double)ROWS - 0.25) < 0.01);
}

/* Uniform within the range, so that the mean stays; range 0 changes nothing. */
static void jitter_range(void **state)
{
    (void)state;
    enum { ROWS = 100, COLS = 301 };
    job j = bench(MH_F32);
    mh_mat x = filled(&j, ROWS, COLS, MH_F32, 2), same = filled(&j, ROWS, COLS, MH_F32, 2);
    ops->jitter_fwd(x, 0.1f, SEED, 3);
    ops->jitter_fwd(same, 0, SEED, 3);
    double sum = 0, least = 2, most = 2;
    for (int64_t i = 0; i < ROWS * COLS; i++) {
        sum += value(x, i);
        least = fmin(least, value(x, i)), most = fmax(most, value(x, i));
        assert_true(value(same, i) == 2);
    }
    assert_true(least >= 1.8 - 1e-6 && least < 1.801 && most <= 2.2 + 1e-6 && most > 2.199);
    assert_true(fabs(sum / (ROWS * COLS) - 2) < 0.004); /* one deviation is 0.0007 */
}

static void gates_renormalised(void **state)
{
    (void)state;
    float p[4] = {.1f, .2f, .3f, .4f}, gate[2];
    int32_t choice[2] = {3, 1};
    mh_mat row = mh_mat_of(p, 1, 4, MH_F32);
    ops->gates_fwd(gate, row, choice, 2, true);
    assert_true(fabsf(gate[0] - 2 / 3.0f) < 1e-6f && fabsf(gate[1] - 1 / 3.0f) < 1e-6f);
    ops->gates_fwd(gate, row, choice, 2, false);
    assert_true(gate[0] == p[3] && gate[1] == p[1]);
    ops->gates_fwd(gate, row, choice, 1, true); /* a single choice never is */
    assert_true(gate[0] == p[3]);
}

/* 1 when rows are spread evenly, E when one expert has them all with certainty. */
static void balance_values(void **state)
{
    (void)state;
    enum { E = 40 };
    static float p[E][E];
    int32_t even[E], one[E] = {0};
    for (int r = 0; r < E; r++) {
        even[r] = r;
        for (int e = 0; e < E; e++)
            p[r][e] = 1.0f / E;
    }
    assert_true(fabsf(ops->balance_fwd(mh_mat_of(p, E, E, MH_F32), even, 1) - 1) < 1e-6f);
    memset(p, 0, sizeof p);
    for (int r = 0; r < E; r++)
        p[r][0] = 1;
    assert_true(fabsf(ops->balance_fwd(mh_mat_of(p, E, E, MH_F32), one, 1) - E) < 1e-5f);
}

/* More experts than stand in one piece, first choices on both sides of its end, against the formula. */
static void balance_of_many_experts(void **state)
{
    (void)state;
    enum { E = MH_CHUNK + 40, ROWS = 8 };
    static const int32_t choice[ROWS] = {3, MH_CHUNK, 3, MH_CHUNK + 39, MH_CHUNK - 1, MH_CHUNK + 39, 0, 3};
    job j = bench(MH_F32);
    mh_mat p = numbers(&j, ROWS, E, MH_F32), dp = filled(&j, ROWS, E, MH_F32, 1);
    double aux = 0, share[E] = {0};
    for (int r = 0; r < ROWS; r++)
        share[choice[r]] += 1.0 / ROWS;
    for (int i = 0; i < ROWS * E; i++)
        aux += E * share[i % E] * value(p, i) / ROWS;
    assert_true(fabs((double)ops->balance_fwd(p, choice, 1) - aux) < 1e-5 * fabs(aux));
    ops->balance_bwd(dp, 0.5f, choice, 1);
    for (int i = 0; i < ROWS * E; i++)
        assert_true(fabs(value(dp, i) - (1 + 0.5 * E * share[i % E] / ROWS)) < 1e-5);
}

/* In bf16 what stands in 0, 1, -128 and 127 steps must come out as it was. Halves go to the even side, and
 * the largest magnitude is 127 steps, whichever sign it has. */
static void quantized_rows(void **state)
{
    (void)state;
    float x[3][5] = {{127, 0.5f, -1.5f, 2.5f, -127}, {0, 0, 0, 0, 0}, {-254, 1, 3, -5, 100}};
    float want[3][5] = {{127, 0, -2, 2, -127}, {0, 0, 0, 0, 0}, {-254, 0, 4, -4, 100}}, y[3][5];
    ops->quantize(mh_mat_of(y, 3, 5, MH_F32), mh_mat_of(x, 3, 5, MH_F32));
    for (int r = 0; r < 3; r++)
        for (int j = 0; j < 5; j++)
            assert_true(y[r][j] == want[r][j]);
    ops->quantize(mh_mat_of(x, 3, 5, MH_F32), mh_mat_of(x, 3, 5, MH_F32)); /* in place */
    assert_memory_equal(x, want, sizeof x);
}

/* Each matrix has the mean of its own magnitudes as its step. Rows are longer than a piece. */
static void ternary_matrices(void **state)
{
    (void)state;
    enum { GROUPS = 3, ROWS = 2, COLS = MH_CHUNK + 7 };
    static float w[GROUPS][ROWS * COLS], y[GROUPS][ROWS * COLS];
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < ROWS * COLS; i++)
            w[g][i] = g == 2 ? 0 : (float)(g + 1) * (i % 2 ? 1.75f : i % 4 ? -0.25f : 0.0f);
    ops->ternarize(mh_mat_of(y, GROUPS * ROWS, COLS, MH_F32), mh_mat_of(w, GROUPS * ROWS, COLS, MH_F32),
                   GROUPS);
    for (int g = 0; g < GROUPS; g++) {
        double mean = 0;
        for (int i = 0; i < ROWS * COLS; i++)
            mean += fabs((double)w[g][i]) / (ROWS * COLS);
        for (int i = 0; i < ROWS * COLS; i++) {
            double t = mean > 0 ? w[g][i] / mean : 0, want = t > 0.5 ? mean : t < -0.5 ? -mean : 0;
            if (!(fabs((double)y[g][i] - want) <= 1e-6 * mean))
                fail_msg("matrix %d, element %d: %g, expected %g", g, i, (double)y[g][i], want);
        }
    }
}

/* Three steps against the formula in double. */
static void adamw_by_definition(void **state)
{
    (void)state;
    enum { N = 40000 };
    job j = bench(MH_F32);
    float *w = numbers(&j, 1, N, MH_F32).p, *m = filled(&j, 1, N, MH_F32, 0).p;
    float *v = filled(&j, 1, N, MH_F32, 0).p, *want = mh_take(&j.memory, N * sizeof *want);
    double *exact = mh_take(&j.memory, 3 * N * sizeof *exact);
    for (int i = 0; i < N; i++)
        exact[3 * i] = (double)w[i], exact[3 * i + 1] = exact[3 * i + 2] = 0;
    mh_adamw rule = {.rate = 1e-2, .beta1 = .9, .beta2 = .95, .eps = 1e-6, .decay = .1, .grad_scale = .5};
    for (rule.step = 1; rule.step <= 3; rule.step++) {
        float *dw = numbers(&j, 1, N, MH_F32).p;
        ops->adamw(w, m, v, dw, N, &rule);
        for (int i = 0; i < N; i++) {
            double *x = exact + 3 * i, g = rule.grad_scale * (double)dw[i];
            x[1] = .9 * x[1] + .1 * g;
            x[2] = .95 * x[2] + .05 * g * g;
            double mean = x[1] / (1 - pow(.9, (double)rule.step)),
                   square = x[2] / (1 - pow(.95, (double)rule.step));
            x[0] -= rule.rate * (mean / (sqrt(square) + rule.eps) + rule.decay * x[0]);
        }
    }
    for (int i = 0; i < N; i++)
        want[i] = (float)exact[3 * i];
    CLOSE(w, want, N, 1e-6);
}

static void sums_of_squares(void **state)
{
    (void)state;
    for (int64_t n = 0; n <= 100000; n = 7 * n + 1) {
        job j = bench(MH_F32);
        float *x = numbers(&j, 1, n, MH_F32).p;
        double want = 0;
        for (int64_t i = 0; i < n; i++)
            want += (double)x[i] * (double)x[i];
        assert_true(fabs(ops->square_sum(x, n) - want) <= 1e-12 * want);
    }
}

/* Every mixture of types, strides wider than the rows, and an output that is an input. */
static void add_and_cast(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 1030 };
    for (int mix = 0; mix < 8; mix++) {
        job j = bench(MH_F32);
        mh_mat a = mh_mat_cols(numbers(&j, ROWS, COLS + 3, mix & 1), 2, COLS);
        mh_mat b = numbers(&j, ROWS, COLS, mix >> 1 & 1), y = filled(&j, ROWS, COLS, mix >> 2, NAN);
        ops->add(y, a, b);
        for (int64_t i = 0; i < ROWS * COLS; i++) {
            double sum = value(a, i) + value(b, i);
            assert_true(fabs(value(y, i) - sum) <= fabs(sum) * (y.type == MH_F32 ? 1e-7 : 1.0 / 256));
        }
        ops->cast(y, a);
        for (int64_t i = 0; i < ROWS * COLS; i++)
            assert_true(value(y, i) == value(a, i)); /* the numbers are bf16 ones */
        ops->add(b, b, b);
        ops->add(a, a, y);
        for (int64_t i = 0; i < ROWS * COLS; i++)
            assert_true(value(a, i) == 2 * value(y, i));
    }
}

/* About the right share is dropped, the rest enlarged, and a wider stride names the same elements. */
static void dropout_shares(void **state)
{
    (void)state;
    enum { ROWS = 100, COLS = 301 };
    job j = bench(MH_F32);
    mh_mat x = filled(&j, ROWS, COLS, MH_F32, 1), wide = filled(&j, ROWS, COLS + 9, MH_F32, 1);
    mh_mat view = mh_mat_cols(wide, 0, COLS), same = filled(&j, ROWS, COLS, MH_F32, 1);
    ops->dropout_fwd(x, 0.25f, SEED, 3);
    ops->dropout_fwd(view, 0.25f, SEED, 3);
    ops->dropout_fwd(same, 0, SEED, 3);
    int dropped = 0;
    for (int64_t i = 0; i < ROWS * COLS; i++) {
        dropped += value(x, i) == 0;
        assert_true(value(x, i) == 0 || fabs(value(x, i) - 4 / 3.0) < 1e-6);
        assert_true(value(view, i) == value(x, i) && value(same, i) == 1);
    }
    /* 30100 draws: one deviation is 0.25 % */
    assert_true(fabs(dropped / (double)(ROWS * COLS) - 0.25) < 0.01);
}

/* Against the definition in double, whatever the size of the work space. */
static void loss_by_definition(void **state)
{
    (void)state;
    enum { ROWS = 23, D = 16, V = 90 };
    job j = bench(MH_F32);
    mh_mat x = numbers(&j, ROWS, D, MH_F32), w = numbers(&j, V, D, MH_F32);
    int32_t *target = indices(&j, ROWS, V);
    target[5] = -1;
    for (int64_t rows = 1; rows <= 40; rows += 13) {
        float nll[ROWS];
        ops->loss(nll, (mh_mat){0}, NULL, x, (mh_linear_weights){.w = w}, target, 0,
                  filled(&j, rows, V, MH_F32, NAN), (mh_mat){0});
        for (int r = 0; r < ROWS; r++) {
            double sum = 0, wanted = 0;
            for (int v = 0; v < V; v++) {
                double logit = 0;
                for (int i = 0; i < D; i++)
                    logit += value(x, r * D + i) * value(w, v * D + i);
                sum += exp(logit);
                wanted = v == target[r] ? logit : wanted;
            }
            double want = target[r] < 0 ? 0 : log(sum) - wanted;
            assert_true(fabs((double)nll[r] - want) < 1e-5);
        }
    }
    *(float *)x.p = NAN;
    float nll[ROWS];
    ops->loss(nll, (mh_mat){0}, NULL, x, (mh_linear_weights){.w = w}, target, 0,
              filled(&j, ROWS, V, MH_F32, 0), (mh_mat){0});
    assert_true(isnan(nll[0]) && !isnan(nll[1]));
}

int main(void)
{
    ops = mh_cpu_ops();
    for (int i = 0; i < 2; i++)
        if (mh_arena_init(&arenas[i], (size_t)64 << 20, "a test") != MH_OK)
            return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_has_a_gradient),
        cmocka_unit_test(gradients),
        cmocka_unit_test(half_precision),
        cmocka_unit_test(threads),
        cmocka_unit_test(matrix_beyond_all_memory),
        cmocka_unit_test(plan_invariants),
        cmocka_unit_test(plan_drops_by_probability),
        cmocka_unit_test(plan_load),
        cmocka_unit_test(dispatch_and_combine_undo_each_other),
        cmocka_unit_test(dropped_rows_are_zero),
        cmocka_unit_test(groups_are_separate_linears),
        cmocka_unit_test(weight_gradients_by_tiles),
        cmocka_unit_test(experts_by_blocks),
        cmocka_unit_test(attention_by_definition),
        cmocka_unit_test(first_key_separates),
        cmocka_unit_test(cached_attention_is_the_whole),
        cmocka_unit_test(rotary_turns),
        cmocka_unit_test(softmax_rows_sum_to_one),
        cmocka_unit_test(top_k_order),
        cmocka_unit_test(top_k_with_bias),
        cmocka_unit_test(second_experts),
        cmocka_unit_test(jitter_range),
        cmocka_unit_test(gates_renormalised),
        cmocka_unit_test(balance_values),
        cmocka_unit_test(balance_of_many_experts),
        cmocka_unit_test(quantized_rows),
        cmocka_unit_test(ternary_matrices),
        cmocka_unit_test(adamw_by_definition),
        cmocka_unit_test(sums_of_squares),
        cmocka_unit_test(add_and_cast),
        cmocka_unit_test(dropout_shares),
        cmocka_unit_test(loss_by_definition),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mh_arena_release(&arenas[0]);
    mh_arena_release(&arenas[1]);
    return failed;
}
