/* The operations under test: for each of MH_OPS a `subject` that says how to make its inputs, run it forward
 * and run it backward. Included by op.c alone. */
#ifndef MH_TEST_OP_SUBJECTS_H
#define MH_TEST_OP_SUBJECTS_H

#include "kernel/kernel.h"
#include "op/op.h"
#include "test.h"

enum { SEED = 20241116, INPUTS = 7, OUTPUTS = 4 };

/* ---- a job: one operation with its inputs, outputs and gradients --------------------------------------- */

/* The loss is sum(y * dy). Gradients that are added to start from BASE, which is taken off again; the others
 * start from nonsense that must not survive. */
#define BASE 1.0f

typedef struct {
    mh_arena memory;
    uint64_t stream;
    mh_type type; /* of activations and of weights of linears */
    int variant;
    int64_t rows;
    bool large;
    int inputs, outputs;
    mh_mat x[INPUTS], dx[INPUTS], y[OUTPUTS], dy; /* dy belongs to y[0] */
    bool added[INPUTS];                           /* dx[i] is added to */
    /* what some operations need besides */
    int64_t begin[5];
    int32_t *index;
    float *table;
    mh_plan plan;
    mh_attention attention;
    mh_mat work[2], inner[3];
    void *panels[2];
} job;

typedef struct {
    const char *name;
    int variants;
    bool f32_only;
    void (*make)(job *j);
    void (*fwd)(job *j);
    void (*bwd)(job *j); /* NULL: without derivatives */
} subject;

static const struct mh_ops *ops;

/* A matrix of normal numbers, rounded to bf16 so that both precisions can start from the same ones. */
static mh_mat numbers(job *j, int64_t rows, int64_t cols, mh_type type)
{
    mh_mat m = mh_take_mat(&j->memory, rows, cols, type);
    j->stream++;
    for (int64_t i = 0; i < rows * cols; i++) {
        float x = (float)mh_normal(SEED, j->stream, (uint64_t)i);
        uint16_t half;
        mh_rows_now()->store(&half, MH_BF16, &x, 1);
        mh_rows_now()->load(&x, &half, MH_BF16, 1);
        mh_rows_now()->store(mh_mat_at(m, 0, i), type, &x, 1);
    }
    return m;
}

static mh_mat filled(job *j, int64_t rows, int64_t cols, mh_type type, float value)
{
    mh_mat m = mh_take_mat(&j->memory, rows, cols, type);
    for (int64_t i = 0; i < rows * cols; i++)
        mh_rows_now()->store(mh_mat_at(m, 0, i), type, &value, 1);
    return m;
}

static int32_t *indices(job *j, int64_t n, int below)
{
    int32_t *index = mh_take(&j->memory, (size_t)n * sizeof *index);
    j->stream++;
    for (int64_t i = 0; i < n; i++)
        index[i] = (int32_t)(mh_uniform(SEED, j->stream, (uint64_t)i) * below);
    return index;
}

static mh_mat activation(job *j, int64_t rows, int64_t cols)
{
    int i = j->inputs++;
    j->x[i] = numbers(j, rows, cols, j->type);
    j->dx[i] = filled(j, rows, cols, j->type, 3e30f);
    return j->x[i];
}

/* An input whose gradient is f32 and added to. */
static mh_mat weight(job *j, int64_t rows, int64_t cols, mh_type type)
{
    int i = j->inputs++;
    j->x[i] = numbers(j, rows, cols, type);
    j->dx[i] = filled(j, rows, cols, MH_F32, BASE);
    j->added[i] = true;
    return j->x[i];
}

static void output(job *j, int64_t rows, int64_t cols, mh_type type)
{
    j->y[j->outputs++] = filled(j, rows, cols, type, 0);
    if (j->outputs == 1)
        j->dy = numbers(j, rows, cols, type == MH_I32 ? MH_F32 : type);
}

/* Memory for the two jobs that are compared at a time. It is not cleared in between: what an operation ought
 * to write and does not shows. */
static mh_arena arenas[2];

static job start(const subject *s, int variant, mh_type type, bool large, int arena)
{
    job j = {.variant = variant, .type = type, .large = large, .rows = large ? 4200 : 37};
    j.stream = mh_stream(MH_RANDOM_TEST, 0, 0);
    j.memory = arenas[arena];
    s->make(&j);
    return j;
}

static double value(mh_mat m, int64_t i)
{
    float x;
    mh_rows_now()->load(&x, mh_mat_at(m, i / m.cols, i % m.cols), m.type, 1);
    return (double)x;
}

/* ---- the subjects -------------------------------------------------------------------------------------- */

static void make_linear(job *j)
{
    int64_t in = j->large ? 300 : 21, out = j->large ? 280 : 13, groups = j->variant ? 4 : 1;
    activation(j, j->rows, in);
    weight(j, groups * out, in, j->type);
    weight(j, 1, groups * out, MH_F32);
    if (j->variant) { /* dx is added to as well */
        j->dx[0] = filled(j, j->rows, in, j->type, BASE);
        j->added[0] = true;
    }
    /* one group has all but a few rows, one has none */
    memcpy(j->begin, (int64_t[]){0, j->rows - 9, j->rows - 9, j->rows - 8, j->rows}, sizeof j->begin);
    output(j, j->rows, out, j->type);
    if (j->variant && j->type == MH_BF16 && mh_panels_bytes(in, out)) {
        j->panels[0] = mh_take(&j->memory, (size_t)groups * mh_panels_bytes(in, out));
        j->panels[1] = mh_take(&j->memory, (size_t)groups * mh_panels_bytes(out, in));
    }
}

/* As they are, or by groups and in panels. */
static mh_linear_weights weights_of(job *j)
{
    mh_linear_weights w = {j->x[1], j->panels[0], j->panels[1]};
    ops->pack(w, j->variant ? 4 : 1);
    return w;
}

static void fwd_linear(job *j)
{
    ops->linear_fwd(j->y[0], j->x[0], weights_of(j), j->x[2].p, j->variant ? j->begin : NULL,
                    j->variant ? 4 : 1);
}

static void bwd_linear(job *j)
{
    ops->linear_bwd(j->dx[0], j->variant, j->dx[1].p, j->dx[2].p, j->dy, j->x[0], weights_of(j),
                    j->variant ? j->begin : NULL, j->variant ? 4 : 1);
}

static const subject linear = {"linear", 2, false, make_linear, fwd_linear, bwd_linear};

/* Variant 0: SwiGLU of groups, with biases; 1: GELU of one. Many rows go block by block. */
static void make_experts(job *j)
{
    int64_t dim = j->large ? 70 : 12, width = j->large ? 90 : 9, groups = j->variant ? 1 : 4;
    activation(j, j->rows, dim);
    weight(j, groups * width, dim, j->type);
    weight(j, groups * dim, width, j->type);
    if (j->variant == 0) {
        weight(j, groups * width, dim, j->type);
        weight(j, 1, groups * width, MH_F32);
        weight(j, 1, groups * dim, MH_F32);
        weight(j, 1, groups * width, MH_F32);
    }
    memcpy(j->begin, (int64_t[]){0, j->rows - 9, j->rows - 9, j->rows - 8, j->rows}, sizeof j->begin);
    output(j, j->rows, dim, j->type);
    for (int i = 0; i < 3; i++)
        output(j, j->rows, width, j->type);
    for (int i = 0; i < 3; i++)
        j->inner[i] = filled(j, j->rows, width, j->type, NAN);
}

static mh_experts experts_of(job *j)
{
    mh_experts e = {.up.w = j->x[1], .down.w = j->x[2], .groups = 1};
    if (j->variant == 0) {
        e.gate.w = j->x[3];
        e.up_bias = j->x[4].p, e.down_bias = j->x[5].p, e.gate_bias = j->x[6].p;
        e.begin = j->begin, e.groups = 4;
    }
    return e;
}

static mh_expert_rows expert_rows_of(job *j)
{
    return (mh_expert_rows){.in = j->x[0], .out = j->y[0], .up = j->y[1], .act = j->y[2], .gate = j->y[3]};
}

static void fwd_experts(job *j)
{
    mh_experts e = experts_of(j);
    ops->experts_fwd(expert_rows_of(j), &e);
}

static mh_expert_rows expert_gradients_of(job *j)
{
    return (mh_expert_rows){j->dx[0], j->inner[0], j->inner[1], j->inner[2], j->dy};
}

static mh_expert_grads expert_weight_gradients_of(job *j)
{
    return (mh_expert_grads){j->dx[3].p, j->dx[1].p, j->dx[2].p, j->dx[6].p, j->dx[4].p, j->dx[5].p};
}

static void bwd_experts(job *j)
{
    mh_experts e = experts_of(j);
    mh_expert_grads dw = expert_weight_gradients_of(j);
    ops->experts_bwd(expert_gradients_of(j), &dw, expert_rows_of(j), &e);
}

static const subject experts = {"experts", 2, false, make_experts, fwd_experts, bwd_experts};

static void make_norm(job *j)
{
    /* narrow: the means weigh enough for their gradient to be seen; wide: more than a chunk */
    int64_t cols = j->large ? 96 : j->variant < 2 ? 10 : 1100;
    activation(j, j->rows, cols);
    weight(j, 1, cols, MH_F32);
    output(j, j->rows, cols, j->type);
    output(j, j->rows, 2, MH_F32);
}

static void fwd_norm(job *j)
{
    ops->norm_fwd(j->y[0], j->y[1].p, j->x[0], j->x[1].p, j->variant % 2 ? MH_NORM_LAYER : MH_NORM_RMS,
                  1e-5f);
}

static void bwd_norm(job *j)
{
    ops->norm_bwd(j->dx[0], j->dx[1].p, j->dy, j->x[0], j->x[1].p, j->y[1].p,
                  j->variant % 2 ? MH_NORM_LAYER : MH_NORM_RMS);
}

static const subject norm = {"norm", 4, false, make_norm, fwd_norm, bwd_norm};

enum { ROTARY_HEAD = 12, POSITIONS = 50 };

static void make_rotary(job *j)
{
    activation(j, j->rows, 3 * ROTARY_HEAD);
    output(j, j->rows, 3 * ROTARY_HEAD, j->type);
    j->index = indices(j, j->rows, POSITIONS);
    j->table = mh_take(&j->memory, POSITIONS * ROTARY_HEAD * sizeof(float));
    for (int t = 0; t < POSITIONS; t++)
        for (int i = 0; i < ROTARY_HEAD / 2; i++) {
            double angle = t * pow(10000, -2.0 * i / ROTARY_HEAD);
            j->table[t * ROTARY_HEAD + i] = (float)cos(angle);
            j->table[t * ROTARY_HEAD + ROTARY_HEAD / 2 + i] = (float)sin(angle);
        }
}

static void fwd_rotary(job *j)
{
    ops->cast(j->y[0], j->x[0]);
    ops->rotary_fwd(j->y[0], ROTARY_HEAD, j->index, j->table);
}

static void bwd_rotary(job *j)
{
    ops->cast(j->dx[0], j->dy);
    ops->rotary_bwd(j->dx[0], ROTARY_HEAD, j->index, j->table);
}

static const subject rotary = {"rotary", 1, false, make_rotary, fwd_rotary, bwd_rotary};

/* Variant 0: grouped keys, two sequences; 1: documents whose attention is kept apart by first_key. */
static void make_attention(job *j)
{
    mh_attention *a = &j->attention;
    int64_t length = j->large ? 4200 : 100;
    *a = (mh_attention){.batch = j->large ? 1 : 2,
                        .rows = length,
                        .capacity = length,
                        .heads = j->large ? 2 : 4,
                        .head_dim = 8};
    a->kv_heads = j->variant ? a->heads : 2;
    a->scratch.bytes = mh_attention_scratch(length, a->head_dim);
    a->scratch.threads = 4;
    a->scratch.base = mh_take(&j->memory, a->scratch.bytes * 4);
    int64_t n = a->batch * length;
    activation(j, n, a->heads * a->head_dim);
    activation(j, n, a->kv_heads * a->head_dim);
    activation(j, n, a->kv_heads * a->head_dim);
    output(j, n, a->heads * a->head_dim, j->type);
    output(j, n, a->heads, MH_F32);
    if (j->variant) {
        j->index = indices(j, n, 1);
        for (int64_t i = 0; i < n; i++)
            j->index[i] = (int32_t)(i % length / 23 * 23);
        a->first_key = j->index;
    }
}

static void fwd_attention(job *j)
{
    ops->attention_fwd(j->y[0], j->y[1].p, j->x[0], j->x[1], j->x[2], &j->attention);
}

static void bwd_attention(job *j)
{
    ops->attention_bwd(j->dx[0], j->dx[1], j->dx[2], j->dy, j->y[0], j->x[0], j->x[1], j->x[2], j->y[1].p,
                       &j->attention);
}

static const subject attention = {"attention", 2, false, make_attention, fwd_attention, bwd_attention};

static void make_swiglu(job *j)
{
    int64_t cols = j->large ? 64 : 1050;
    activation(j, j->rows, cols);
    activation(j, j->rows, cols);
    output(j, j->rows, cols, j->type);
}

static void fwd_swiglu(job *j)
{
    ops->swiglu_fwd(j->y[0], j->x[0], j->x[1]);
}
static void bwd_swiglu(job *j)
{
    ops->swiglu_bwd(j->dx[0], j->dx[1], j->dy, j->x[0], j->x[1]);
}

static const subject swiglu = {"swiglu", 1, false, make_swiglu, fwd_swiglu, bwd_swiglu};

static void make_gelu(job *j)
{
    int64_t cols = j->large ? 64 : 1050;
    activation(j, j->rows, cols);
    output(j, j->rows, cols, j->type);
}

static void fwd_gelu(job *j)
{
    ops->gelu_fwd(j->y[0], j->x[0]);
}
static void bwd_gelu(job *j)
{
    ops->gelu_bwd(j->dx[0], j->dy, j->x[0]);
}

static const subject gelu = {"gelu", 1, false, make_gelu, fwd_gelu, bwd_gelu};

/* No element so near 0 that the steps of the check would cross the kink. */
static void make_relu(job *j)
{
    make_gelu(j);
    for (int64_t i = 0; i < j->x[0].rows * j->x[0].cols; i++) {
        float x = (float)value(j->x[0], i), away = x < 0 ? -0.25f : 0.25f;
        if (fabsf(x) < 0.25f)
            mh_rows_now()->store(mh_mat_at(j->x[0], 0, i), j->type, &away, 1);
    }
}

static void fwd_relu(job *j)
{
    ops->relu_fwd(j->y[0], j->x[0]);
}
static void bwd_relu(job *j)
{
    ops->relu_bwd(j->dx[0], j->dy, j->y[0]);
}

static const subject relu = {"relu", 1, false, make_relu, fwd_relu, bwd_relu};

static void fwd_jitter(job *j)
{
    ops->cast(j->y[0], j->x[0]);
    ops->jitter_fwd(j->y[0], 0.3f, SEED, 1);
}

static void bwd_jitter(job *j)
{
    ops->cast(j->dx[0], j->dy);
    ops->jitter_bwd(j->dx[0], 0.3f, SEED, 1);
}

static const subject jitter = {"jitter", 1, false, make_gelu, fwd_jitter, bwd_jitter};

static void fwd_dropout(job *j)
{
    ops->cast(j->y[0], j->x[0]);
    ops->dropout_fwd(j->y[0], 0.3f, SEED, 1);
}

static void bwd_dropout(job *j)
{
    ops->cast(j->dx[0], j->dy);
    ops->dropout_bwd(j->dx[0], 0.3f, SEED, 1);
}

static const subject dropout = {"dropout", 1, false, make_gelu, fwd_dropout, bwd_dropout};

static void make_embedding(job *j)
{
    weight(j, 20, 150, j->type);
    output(j, j->rows, 150, j->type);
    j->index = indices(j, j->rows, 20);
}

static void fwd_embedding(job *j)
{
    ops->embedding_fwd(j->y[0], j->index, j->x[0]);
}
static void bwd_embedding(job *j)
{
    ops->embedding_bwd(j->dx[0].p, j->index, j->dy);
}

static const subject embedding = {"embedding", 1, false, make_embedding, fwd_embedding, bwd_embedding};

static void make_softmax(job *j)
{
    activation(j, j->rows, 40);
    output(j, j->rows, 40, MH_F32);
}

static void fwd_softmax(job *j)
{
    ops->softmax_fwd(j->y[0], j->x[0]);
}
static void bwd_softmax(job *j)
{
    ops->softmax_bwd(j->dx[0], j->dy, j->y[0]);
}

static const subject softmax = {"softmax", 1, true, make_softmax, fwd_softmax, bwd_softmax};

static void fwd_sigmoid(job *j)
{
    ops->sigmoid_fwd(j->y[0], j->x[0]);
}
static void bwd_sigmoid(job *j)
{
    ops->sigmoid_bwd(j->dx[0], j->dy, j->y[0]);
}

static const subject sigmoid = {"sigmoid", 1, true, make_softmax, fwd_sigmoid, bwd_sigmoid};

static void make_temper(job *j)
{
    activation(j, j->rows, 40);
    weight(j, 1, 1, MH_F32);
    output(j, j->rows, 40, MH_F32);
}

static void fwd_temper(job *j)
{
    ops->temper_fwd(j->y[0], j->x[0], j->x[1].p);
}
static void bwd_temper(job *j)
{
    ops->temper_bwd(j->dx[0], j->dx[1].p, j->dy, j->y[0], j->x[1].p);
}

static const subject temper = {"temper", 1, true, make_temper, fwd_temper, bwd_temper};

static void make_z_loss(job *j)
{
    int64_t cols = j->large ? 40 : 4; /* few: the rounding of a large result would hide its differences */
    weight(j, j->rows, cols, MH_F32);
    output(j, 1, 1, MH_F32);
    output(j, j->rows, 1, MH_F32);
    j->work[0] = filled(j, j->rows, cols, MH_F32, 0);
}

static void fwd_z_loss(job *j)
{
    *(float *)j->y[0].p = ops->z_loss_fwd(j->y[1].p, j->x[0]);
}
static void bwd_z_loss(job *j)
{
    ops->softmax_fwd(j->work[0], j->x[0]);
    ops->z_loss_bwd(j->dx[0], *(float *)j->dy.p, j->work[0], j->y[1].p);
}

static const subject z_loss_fwd = {"z_loss", 1, true, make_z_loss, fwd_z_loss, bwd_z_loss};
#define z_loss_bwd z_loss_fwd

enum { EXPERTS = 20, TOP_K = 3 };

/* Probabilities, and choices that stay as they are while the probabilities are varied: no routing tie can be
 * crossed. */
static void make_probabilities(job *j)
{
    mh_mat p = weight(j, j->rows, EXPERTS, MH_F32);
    ops->softmax_fwd(p, p);
    j->index = indices(j, j->rows * TOP_K, 1);
    ops->top_k(j->index, p, NULL, TOP_K);
}

/* Variants from 2 on: some choices are passed over. */
static void make_gates(job *j)
{
    make_probabilities(j);
    for (int64_t r = 0; j->variant >= 2 && r < j->rows; r += 3)
        j->index[r * TOP_K + 1] = ~j->index[r * TOP_K + 1];
    j->added[0] = false;
    output(j, j->rows, TOP_K, MH_F32);
}

static void fwd_gates(job *j)
{
    ops->gates_fwd(j->y[0].p, j->x[0], j->index, TOP_K, j->variant % 2);
}
static void bwd_gates(job *j)
{
    ops->gates_bwd(j->dx[0], j->dy.p, j->x[0], j->index, TOP_K, j->variant % 2);
}

static const subject gates = {"gates", 4, true, make_gates, fwd_gates, bwd_gates};

static void make_balance(job *j)
{
    make_probabilities(j);
    output(j, 1, 1, MH_F32);
}

static void fwd_balance(job *j)
{
    *(float *)j->y[0].p = ops->balance_fwd(j->x[0], j->index, TOP_K);
}
static void bwd_balance(job *j)
{
    ops->balance_bwd(j->dx[0], *(float *)j->dy.p, j->index, TOP_K);
}

static const subject balance_fwd = {"balance", 1, true, make_balance, fwd_balance, bwd_balance};
#define balance_bwd balance_fwd

/* A plan in which some pairs are dropped. */
static void make_plan(job *j)
{
    mh_plan_layout(&j->plan, &j->memory, j->rows, EXPERTS, TOP_K);
    mh_mat p = numbers(j, j->rows, EXPERTS, MH_F32);
    ops->top_k(j->plan.choice, p, NULL, TOP_K);
    ops->plan(&j->plan, j->rows, j->rows * TOP_K / EXPERTS, MH_DROP_POSITION);
}

static void make_dispatch(job *j)
{
    make_plan(j);
    activation(j, j->rows, 30);
    output(j, j->plan.begin[EXPERTS], 30, j->type);
}

static void fwd_dispatch(job *j)
{
    ops->dispatch_fwd(j->y[0], j->x[0], &j->plan);
}
static void bwd_dispatch(job *j)
{
    ops->dispatch_bwd(j->dx[0], j->dy, &j->plan);
}

static const subject dispatch = {"dispatch", 1, false, make_dispatch, fwd_dispatch, bwd_dispatch};

static void make_combine(job *j)
{
    make_plan(j);
    activation(j, j->plan.begin[EXPERTS], 30);
    j->plan.gate = weight(j, j->rows, TOP_K, MH_F32).p;
    j->added[1] = false;
    output(j, j->rows, 30, j->type);
}

static void fwd_combine(job *j)
{
    ops->combine_fwd(j->y[0], j->x[0], &j->plan);
}
static void bwd_combine(job *j)
{
    ops->combine_bwd(j->dx[0], j->dx[1].p, j->dy, j->x[0], &j->plan);
}

static const subject combine = {"combine", 1, false, make_combine, fwd_combine, bwd_combine};

/* Variant 1: every row is shorter than eps. */
static float eps(const job *j)
{
    return j->variant ? 100.0f : 1e-4f;
}

static void make_normalize(job *j)
{
    activation(j, j->rows, 16);
    output(j, j->rows, 16, MH_F32);
    output(j, j->rows, 1, MH_F32);
}

static void fwd_normalize(job *j)
{
    ops->normalize_fwd(j->y[0], j->y[1].p, j->x[0], eps(j));
}
static void bwd_normalize(job *j)
{
    ops->normalize_bwd(j->dx[0], j->dy, j->y[0], j->y[1].p, eps(j));
}

static const subject normalize = {"normalize", 2, true, make_normalize, fwd_normalize, bwd_normalize};

/* Some targets are skipped, and the work space holds fewer rows than there are. */
enum { VOCABULARY = 50 };
static const float loss_scale = 0.25f;

static void make_loss(job *j)
{
    activation(j, j->rows, 24);
    weight(j, VOCABULARY, 24, j->type);
    output(j, j->rows, 1, MH_F32);
    for (int64_t i = 0; i < j->rows; i++)
        *(float *)mh_mat_row(j->dy, i) = loss_scale;
    j->index = indices(j, j->rows, VOCABULARY + 5);
    for (int64_t i = 0; i < j->rows; i++)
        if (j->index[i] >= VOCABULARY)
            j->index[i] = -1;
    j->work[0] = filled(j, j->large ? 1000 : 10, VOCABULARY, MH_F32, 0);
    j->work[1] = filled(j, j->large ? 1000 : 10, VOCABULARY, j->type, 0);
}

static void fwd_loss(job *j)
{
    ops->loss(j->y[0].p, (mh_mat){0}, NULL, j->x[0], (mh_linear_weights){.w = j->x[1]}, j->index, loss_scale,
              j->work[0], (mh_mat){0});
}

static void bwd_loss(job *j)
{
    ops->loss(j->y[0].p, j->dx[0], j->dx[1].p, j->x[0], (mh_linear_weights){.w = j->x[1]}, j->index,
              loss_scale, j->work[0], j->work[1]);
}

static const subject loss = {"loss", 1, false, make_loss, fwd_loss, bwd_loss};

/* Without derivatives: made and run for the comparison of threads; their own tests stand below. */
static void make_top_k(job *j)
{
    activation(j, j->rows, EXPERTS);
    output(j, j->rows, TOP_K, MH_I32);
}

static void fwd_top_k(job *j)
{
    ops->top_k(j->y[0].p, j->x[0], j->variant ? mh_mat_row(j->x[0], 1) : NULL, TOP_K);
}
static const subject top_k = {"top_k", 2, true, make_top_k, fwd_top_k, NULL};

static void make_second_expert(job *j)
{
    activation(j, j->rows, EXPERTS);
    ops->softmax_fwd(j->x[0], j->x[0]);
    output(j, j->rows, 2, MH_I32);
}

static void fwd_second_expert(job *j)
{
    ops->top_k(j->y[0].p, j->x[0], NULL, 2);
    ops->second_expert(j->y[0].p, j->x[0], j->variant ? MH_SECOND_SAMPLING : MH_SECOND_RANDOM, SEED, 1);
}
static const subject second_expert = {"second_expert", 2, true, make_second_expert, fwd_second_expert, NULL};

/* Variant 1: those with the largest gates stay. */
static void make_plan_job(job *j)
{
    make_plan(j);
    memcpy(j->plan.gate, numbers(j, j->rows, TOP_K, MH_F32).p, (size_t)(j->rows * TOP_K) * sizeof(float));
    j->y[j->outputs++] = mh_mat_of(j->plan.slot, j->rows, TOP_K, MH_I32);
}

static void fwd_plan(job *j)
{
    ops->plan(&j->plan, j->rows, j->variant ? j->rows * TOP_K / EXPERTS : 0, MH_DROP_PROBABILITY);
}
static const subject plan = {"plan", 2, true, make_plan_job, fwd_plan, NULL};

/* Three groups; nothing to do where products take weights as they are. */
static void make_pack(job *j)
{
    j->work[0] = numbers(j, 3 * 70, 50, MH_BF16);
    output(j, 3, (int64_t)mh_panels_bytes(50, 70) / 2, MH_BF16);
    output(j, 3, (int64_t)mh_panels_bytes(70, 50) / 2, MH_BF16);
}

static void fwd_pack(job *j)
{
    if (mh_panels_bytes(50, 70))
        ops->pack((mh_linear_weights){j->work[0], j->y[0].p, j->y[1].p}, 3);
}
static const subject pack = {"pack", 1, true, make_pack, fwd_pack, NULL};

static void fwd_add(job *j)
{
    ops->add(j->y[0], j->x[0], j->x[1]);
}
static const subject add = {"add", 1, false, make_swiglu, fwd_add, NULL};

static void fwd_cast(job *j)
{
    ops->cast(j->y[0], j->x[0]);
}
static const subject cast = {"cast", 1, false, make_gelu, fwd_cast, NULL};

/* In f32 alone: what bf16 rounds before may be rounded to the other side here. */
static void fwd_quantize(job *j)
{
    ops->quantize(j->y[0], j->x[0]);
}
static const subject quantize = {"quantize", 1, true, make_gelu, fwd_quantize, NULL};

static void fwd_ternarize(job *j)
{
    ops->ternarize(j->y[0], j->x[0], 1);
}
static const subject ternarize = {"ternarize", 1, true, make_gelu, fwd_ternarize, NULL};

static void make_square_sum(job *j)
{
    activation(j, j->rows, 64);
    output(j, 1, 2, MH_F32);
}

static void fwd_square_sum(job *j)
{
    double sum = ops->square_sum(j->x[0].p, j->rows * 64);
    memcpy(j->y[0].p, &sum, sizeof sum);
}

static const subject square_sum = {"square_sum", 1, true, make_square_sum, fwd_square_sum, NULL};

static void make_adamw(job *j)
{
    activation(j, j->rows, 64);
    for (int i = 0; i < 3; i++)
        output(j, j->rows, 64, MH_F32);
}

static void fwd_adamw(job *j)
{
    mh_adamw rule = {
        .rate = 1e-2, .beta1 = .9, .beta2 = .95, .eps = 1e-6, .decay = .1, .step = 1, .grad_scale = 1};
    ops->adamw(j->y[0].p, j->y[1].p, j->y[2].p, j->x[0].p, j->rows * 64, &rule);
}

static const subject adamw = {"adamw", 1, true, make_adamw, fwd_adamw, NULL};

/* A name of MH_OPS without its subject does not compile. */
#define SUBJECT_PAIR(name, forward, backward) &name,
#define SUBJECT_ONE(name, result, arguments)  &name,
static const subject *const subjects[] = {MH_OPS(SUBJECT_PAIR, SUBJECT_ONE)};
/* operations bear these names */
#undef z_loss_bwd
#undef balance_bwd
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

#endif
