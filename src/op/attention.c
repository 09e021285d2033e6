/* attention: causal, by heads, with grouped keys and values. Blocks of queries meet all the keys they see;
 * the scores of one block are all that is kept, and backward makes them again from lse. */
#include "kernel/kernel.h"
#include "op/op.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* Queries at once, and the step in which the number of keys grows: few shapes of products. */
enum { BLOCK = 64 };

/* One thread's work space. Scores are [BLOCK, ld]; for bf16, p and ds have copies in that type. */
typedef struct {
    float *p, *ds;          /* f32 [BLOCK, ld] */
    void *p_half, *ds_half; /* bf16 [BLOCK, ld] */
    float *dk, *dv;         /* f32 [capacity, head_dim] */
    int64_t ld;
} space;

static int64_t round_up(int64_t n)
{
    return (n + BLOCK - 1) / BLOCK * BLOCK;
}

static space carve(mh_arena *arena, int64_t capacity, int head_dim)
{
    space s = {.ld = round_up(capacity) + 16}; /* off the powers of two, whose rows compete for cache lines */
    size_t scores = (size_t)(BLOCK * s.ld), keys = (size_t)(capacity * head_dim);
    s.p = mh_take(arena, scores * sizeof(float));
    s.ds = mh_take(arena, scores * sizeof(float));
    s.p_half = mh_take(arena, scores * sizeof(uint16_t));
    s.ds_half = mh_take(arena, scores * sizeof(uint16_t));
    s.dk = mh_take(arena, keys * sizeof(float));
    s.dv = mh_take(arena, keys * sizeof(float));
    return s;
}

size_t mh_attention_scratch(int64_t capacity, int head_dim)
{
    mh_arena count = {0};
    carve(&count, capacity, head_dim);
    return (count.used + MH_ALIGN - 1) / MH_ALIGN * MH_ALIGN; /* those of the next thread follow */
}

static int threads_of(const mh_attention *a)
{
    return mh_threads() < a->scratch.threads ? mh_threads() : a->scratch.threads;
}

/* Whether more threads are worth it, for `products` of queries and keys. */
static bool worth(const mh_attention *a, int products)
{
    return mh_worth_product(products * a->batch * a->rows * a->heads * a->head_dim * (a->past + a->rows));
}

static space my_space(const mh_attention *a)
{
    mh_arena arena = {.base = a->scratch.base + (size_t)omp_get_thread_num() * a->scratch.bytes,
                      .size = a->scratch.bytes};
    return carve(&arena, a->capacity, a->head_dim);
}

/* A block of queries of one head: rows [row, row + n) of q, of which the first is number `first` of its
 * sequence; `keys` is what its last query sees, rounded up. */
typedef struct {
    int64_t sequence, row, n, first, keys;
    int head, kv_head;
} block;

static block block_of(const mh_attention *a, int64_t sequence, int head, int64_t first)
{
    int64_t n = mh_least(BLOCK, a->rows - first);
    return (block){.sequence = sequence,
                   .row = sequence * a->rows + first,
                   .n = n,
                   .first = first,
                   .keys = mh_least(round_up(a->past + first + n), a->capacity),
                   .head = head,
                   .kv_head = head / (a->heads / a->kv_heads)};
}

/* Rows and columns of q (or y, dq, dy), and of k (or v), that belong to a block. */
static mh_mat queries(mh_mat q, const mh_attention *a, block b)
{
    return mh_mat_cols(mh_mat_rows(q, b.row, b.n), (int64_t)b.head * a->head_dim, a->head_dim);
}

static mh_mat keys(mh_mat k, const mh_attention *a, block b)
{
    mh_mat rows = mh_mat_rows(k, b.sequence * a->capacity, b.keys);
    return mh_mat_cols(rows, (int64_t)b.kv_head * a->head_dim, a->head_dim);
}

/* Keys [from, to) that query i of the block sees. */
static int64_t seen_from(const mh_attention *a, block b, int64_t i)
{
    return a->first_key ? a->first_key[b.row + i] : 0;
}

static int64_t seen_to(const mh_attention *a, block b, int64_t i)
{
    return a->past + b.first + i + 1;
}

/* c (+)= op(a) op(b) for whole matrices; transpose_a implies adding. */
static void multiply(mh_mat c, mh_mat a, bool transpose_a, mh_mat b, bool transpose_b)
{
    mh_gemm(&(mh_product){.m = c.rows,
                          .n = c.cols,
                          .k = transpose_a ? a.rows : a.cols,
                          .a = a.p,
                          .lda = a.ld,
                          .transpose_a = transpose_a,
                          .b = b.p,
                          .ldb = b.ld,
                          .transpose_b = transpose_b,
                          .c = c.p,
                          .ldc = c.ld,
                          .add = transpose_a,
                          .in = a.type,
                          .out = c.type});
}

static mh_mat scores(float *p, block b, int64_t ld)
{
    return (mh_mat){p, b.n, b.keys, ld, MH_F32};
}

/* Where scores stand in the type of the products they go into: in place, or as a bf16 copy, which is taken
 * row by row as they come into being, out of the nearest cache. */
static mh_mat in_type(mh_mat p, mh_type type, void *half)
{
    return type == MH_F32 ? p : (mh_mat){half, p.rows, p.cols, p.ld, type};
}

/* Zeroes what query i does not see in its row of scores. */
static void mask(float *row, int64_t from, int64_t to, int64_t end)
{
    memset(row, 0, (size_t)from * sizeof *row);
    memset(row + to, 0, (size_t)(end - to) * sizeof *row);
}

/* y = softmax(scale q k^T) v; lse = log sum exp(scale q k^T) */
static void forward(mh_mat y, float *lse, mh_mat q, mh_mat k, mh_mat v, const mh_attention *a, block b,
                    space s)
{
    const mh_rows *kernel = mh_rows_now();
    float scale = 1.0f / sqrtf((float)a->head_dim);
    mh_mat p = scores(s.p, b, s.ld), weights = in_type(p, v.type, s.p_half);
    multiply(p, queries(q, a, b), false, keys(k, a, b), true);
    for (int64_t i = 0; i < b.n; i++) {
        int64_t from = seen_from(a, b, i), to = seen_to(a, b, i);
        float *row = mh_mat_row(p, i), *seen = row + from;
        float largest = scale * kernel->max(seen, to - from);
        float sum = kernel->exp(seen, seen, scale, largest, to - from);
        kernel->scale(seen, 1.0f / sum, seen, to - from);
        mask(row, from, to, b.keys);
        mh_write(weights, i, 0, b.keys, row);
        lse[(b.row + i) * a->heads + b.head] = largest + logf(sum);
    }
    multiply(queries(y, a, b), weights, false, keys(v, a, b), false);
}

void mh_cpu_attention_fwd(mh_mat y, float *lse, mh_mat q, mh_mat k, mh_mat v, const mh_attention *shape)
{
    int64_t blocks = round_up(shape->rows) / BLOCK;
#pragma omp parallel for schedule(dynamic) num_threads(threads_of(shape)) if (worth(shape, 2))
    for (int64_t i = 0; i < shape->batch * shape->heads * blocks; i++) {
        int64_t sequence = i / blocks / shape->heads;
        int head = (int)(i / blocks % shape->heads);
        block b = block_of(shape, sequence, head, i % blocks * BLOCK);
        forward(y, lse, q, k, v, shape, b, my_space(shape));
    }
}

/* With P from lse, dP = dy v^T and delta = dy.y = sum P dP:
 * dS = scale P (dP - delta), dq = dS k, dk += dS^T q, dv += P^T dy. */
static void backward(mh_mat dq, mh_mat dy, mh_mat y, mh_mat q, mh_mat k, mh_mat v, const float *lse,
                     const mh_attention *a, block b, space s)
{
    const mh_rows *kernel = mh_rows_now();
    float scale = 1.0f / sqrtf((float)a->head_dim);
    mh_mat p = scores(s.p, b, s.ld), ds = scores(s.ds, b, s.ld);
    mh_mat p_in = in_type(p, q.type, s.p_half), ds_in = in_type(ds, q.type, s.ds_half);
    mh_mat upstream = queries(dy, a, b), output = queries(y, a, b);
    multiply(p, queries(q, a, b), false, keys(k, a, b), true);
    multiply(ds, upstream, false, keys(v, a, b), true);
    for (int64_t i = 0; i < b.n; i++) {
        float left[MH_CHUNK], right[MH_CHUNK], delta = 0;
        for (int64_t j = 0; j < a->head_dim; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, a->head_dim - j);
            delta += kernel->dot(mh_read(upstream, i, j, n, left), mh_read(output, i, j, n, right), n);
        }
        int64_t from = seen_from(a, b, i), to = seen_to(a, b, i);
        float *row = mh_mat_row(p, i), *seen = row + from;
        kernel->exp(seen, seen, scale, lse[(b.row + i) * a->heads + b.head], to - from);
        mask(row, from, to, b.keys);
        mh_write(p_in, i, 0, b.keys, row);
        float *drow = mh_mat_row(ds, i);
        kernel->softmax_bwd(drow, row, drow, scale, delta, b.keys);
        mh_write(ds_in, i, 0, b.keys, drow);
    }
    multiply(mh_mat_of(s.dv, b.keys, a->head_dim, MH_F32), p_in, true, upstream, false);
    multiply(mh_mat_of(s.dk, b.keys, a->head_dim, MH_F32), ds_in, true, queries(q, a, b), false);
    multiply(queries(dq, a, b), ds_in, false, keys(k, a, b), false);
}

static void store_sums(mh_mat dk, float *sums)
{
    mh_mat wide = mh_mat_of(sums, dk.rows, dk.cols, MH_F32);
    for (int64_t r = 0; r < dk.rows; r++)
        mh_copy_row(dk, r, wide, r);
}

/* Keys and values get gradients from every query of every head that reads them: one thread does them all. */
void mh_cpu_attention_bwd(mh_mat dq, mh_mat dk, mh_mat dv, mh_mat dy, mh_mat y, mh_mat q, mh_mat k, mh_mat v,
                          const float *lse, const mh_attention *shape)
{
    int group = shape->heads / shape->kv_heads;
#pragma omp parallel for schedule(dynamic) num_threads(threads_of(shape)) if (worth(shape, 5))
    for (int64_t i = 0; i < shape->batch * shape->kv_heads; i++) {
        int64_t sequence = i / shape->kv_heads, kv_head = i % shape->kv_heads;
        space s = my_space(shape);
        size_t bytes = (size_t)(shape->rows * shape->head_dim) * sizeof(float);
        memset(s.dk, 0, bytes);
        memset(s.dv, 0, bytes);
        for (int head = (int)kv_head * group; head < (int)(kv_head + 1) * group; head++)
            for (int64_t first = 0; first < shape->rows; first += BLOCK)
                backward(dq, dy, y, q, k, v, lse, shape, block_of(shape, sequence, head, first), s);
        int64_t row = sequence * shape->rows, col = kv_head * shape->head_dim;
        store_sums(mh_mat_cols(mh_mat_rows(dk, row, shape->rows), col, shape->head_dim), s.dk);
        store_sums(mh_mat_cols(mh_mat_rows(dv, row, shape->rows), col, shape->head_dim), s.dv);
    }
}
