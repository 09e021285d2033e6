/* op: differentiable operations on matrices of rows, forward and backward side by side.
 *
 * Letters: N rows (tokens), S = N*h routed rows, B sequences, T sequence length, D width, H attention heads,
 * E experts, K choices, F hidden width, V vocabulary. x input, y output, dx the gradient of the loss by x.
 * Backward overwrites dx (and every other gradient of an activation) and adds to dw (gradients of weights,
 * always f32). Activations and weights of linears may be f32 or bf16 (all of one product alike); every sum is
 * taken in f32. docs/math.md derives each operation with the same letters. Nothing here can fail or allocate.
 */
#ifndef MH_OP_H
#define MH_OP_H

#include "base/base.h"

/* ---- mat.c: matrices of rows --------------------------------------------------------------------------- */

/* rows x cols elements of `type`, row r starting at element r*ld. A value: copy it, slice it. p NULL: absent.
 */
typedef struct {
    void *p;
    int64_t rows, cols, ld;
    mh_type type;
} mh_mat;

mh_mat mh_mat_of(void *p, int64_t rows, int64_t cols, mh_type type);
mh_mat mh_mat_rows(mh_mat m, int64_t first, int64_t count); /* rows [first, first+count) */
mh_mat mh_mat_cols(mh_mat m, int64_t first, int64_t count); /* columns [first, first+count) */
mh_mat mh_mat_split(mh_mat m, int heads); /* [N, D] -> [N*heads, D/heads]; needs ld == cols */
void *mh_mat_row(mh_mat m, int64_t row);
void *mh_mat_at(mh_mat m, int64_t row, int64_t col);
mh_mat mh_take_mat(mh_arena *arena, int64_t rows, int64_t cols, mh_type type);

/* Working memory for operations that need it: `bytes` for each of `threads`, thread t at base + t*bytes. No
 * more will work on it, though a program may ask OpenMP for more by then. */
typedef struct {
    char *base;
    size_t bytes;
    int threads;
} mh_scratch;

int mh_threads(void); /* the most threads a parallel region will have */

/* ---- linear.c: the weights of a linear layer ----------------------------------------------------------- */

/* w [groups*out, in] as it stands; and where that makes products faster, w^T and w of each group in panels
 * (kernel.h), for forward and for dx, as `pack` laid them out. Either may be NULL. */
typedef struct {
    mh_mat w;
    void *forward, *backward;
} mh_linear_weights;

/* ---- experts.c: the weights and rows of a feed-forward network ----------------------------------------- */

/* By groups, as `linear`: gate and up [groups*F, D], down [groups*D, F]. gate.w.p NULL: GELU instead of
 * SwiGLU. Biases may be NULL. */
typedef struct {
    mh_linear_weights gate, up, down;
    const float *gate_bias, *up_bias, *down_bias;
    const int64_t *begin;
    int groups;
    bool quantize; /* BitNet: act is rounded to 8 bits */
} mh_experts;

/* The gradients of all that, as linear's dw and dbias. */
typedef struct {
    float *gate, *up, *down, *gate_bias, *up_bias, *down_bias;
} mh_expert_grads;

/* in and out [N, D]; gate, up and act [N, F]: values or gradients of them. Without gate it is not used. */
typedef struct {
    mh_mat in, gate, up, act, out;
} mh_expert_rows;

/* ---- plan.c: the dispatch plan ------------------------------------------------------------------------- */

enum { MH_TOP_K_MOST = 64 }; /* choices of a row */

/* A stable counting sort of (row, choice) pairs by expert. Every use of routing is a loop over these arrays.
 * Dispatched row i, in [begin[e], begin[e+1]) for expert e, is a copy of routed row source[i];
 * pair (r, c) was dispatched to row slot[r*K + c], or dropped when that is -1. */
typedef struct {
    int experts, top_k;
    int64_t rows;    /* S */
    int64_t *begin;  /* [E+1]; begin[E] = pairs kept */
    int64_t *fill;   /* [E], work space of the build */
    int32_t *source; /* [S*K], the first begin[E] are in use */
    int32_t *slot;   /* [S*K] */
    int32_t *choice; /* [S*K] experts in falling order of what top_k saw; ~e: see mh_chosen */
    float *gate;     /* [S*K] weight of each choice */
} mh_plan;

/* The expert of a choice. One that is passed over (GShard's random second expert) is written ~e: its gate
 * still has a part in the sum that gates are divided by, but it gets no row. */
static inline int32_t mh_chosen(int32_t choice)
{
    return choice < 0 ? ~choice : choice;
}

/* Who is kept by an expert whose capacity is reached: within the first choices, then the second, and so on,
 * whoever comes first, or has the larger gate. */
typedef enum { MH_DROP_POSITION, MH_DROP_PROBABILITY } mh_drop;

/* Carves a plan for at most `rows` routed rows. */
void mh_plan_layout(mh_plan *plan, mh_arena *arena, int64_t rows, int experts, int top_k);

/* How unevenly the plan loads its experts, from first to last choice and after drops. */
typedef struct {
    double entropy; /* of the shares, divided by ln E: 1 = even; 1 for a single expert */
    double largest; /* the largest share of dispatched rows */
    double dropped; /* share of (row, choice) pairs over capacity or passed over */
} mh_load;

mh_load mh_plan_load(const mh_plan *plan);

/* ---- attention.c: shapes of a call --------------------------------------------------------------------- */

/* Queries of sequence b are rows [b*rows, (b+1)*rows) of q, at positions past .. past+rows-1; its keys are
 * rows [b*capacity, (b+1)*capacity) of k and v, of which the first past+rows are visible (causally). In
 * training past = 0 and capacity = rows. Rows beyond must be finite. Head a of q uses key/value head a /
 * (heads/kv_heads). */
typedef struct {
    int64_t batch, rows, capacity, past;
    int heads, kv_heads, head_dim;
    const int32_t *first_key; /* [batch*rows] first visible key of each query, or NULL for all */
    mh_scratch scratch;       /* at least mh_attention_scratch(...) bytes a thread */
} mh_attention;

size_t mh_attention_scratch(int64_t capacity, int head_dim);

/* ---- the table of operations --------------------------------------------------------------------------- */

typedef enum { MH_NORM_RMS, MH_NORM_LAYER } mh_norm_kind;

/* GShard's second expert: the second best; passed over at random if its gate is small; drawn. */
typedef enum { MH_SECOND_ALL, MH_SECOND_RANDOM, MH_SECOND_SAMPLING } mh_second;

typedef struct {
    double rate, beta1, beta2, eps, decay; /* decay already 0 for parameters that are not decayed */
    int64_t step;                          /* from 1 */
    double grad_scale; /* multiplies every gradient: clipping and averaging in one factor */
} mh_adamw;

/* FWD_BWD(name, forward arguments, backward arguments) makes name_fwd and name_bwd; ONE(name, result,
 * arguments) makes name.
 *
 * linear     y = x w^T + bias by groups: rows [begin[g], begin[g+1]) use w rows [g*out, (g+1)*out) and
 *            bias [g*out, ...). begin NULL: one group of all rows. bias, dbias may be NULL. y may be f32
 *            for bf16 x and w. dx: absent (p NULL), overwritten, or with `add` added to. dw and dbias f32,
 *            added to.
 * experts    act = up * silu(gate) or gelu(up), out = down(act), where gate, up and down are linears of `e`;
 *            all of r but r.in is written. Backward overwrites all of d but d.out.
 * pack       lays w out for `linear`, into w.forward and w.backward where these are not NULL.
 * norm       y = (x - m) r w with m = 0 and r = 1/sqrt(mean(x^2) + eps) (RMSNorm), or m = mean(x) and
 *            r = 1/sqrt(var(x) + eps) (LayerNorm); stat [N,2] keeps (m, r). w f32 [D].
 * rotary     in place on x [N, heads*head_dim], half-split: pairs (i, i + head_dim/2) of each head are
 *            turned by the angle whose cos and sin stand in table [T, head_dim] (cos first half, sin
 *            second) at row position[n]. Backward turns dx back.
 * attention  y = softmax(q k^T / sqrt(head_dim)) v, causal; lse [N*H] keeps the log of each row's sum of
 *            exponentials.
 * swiglu     y = up * silu(gate)
 * gelu       y = up/2 (1 + erf(up/sqrt 2))
 * relu       y = max(x, 0), in place allowed; dx = dy [y > 0].
 * dropout    in place: x_i / (1-rate) where uniform(seed, stream, i) >= rate, else 0. The same call on dx
 *            is its backward.
 * jitter     in place: x_i (1 + range (2 uniform(seed, stream, i) - 1)). The same call on dx is its
 *            backward.
 * embedding  y_n = w[token_n]; dw[token_n] += dy_n. Tokens are valid.
 * softmax    of each row, f32, in place allowed (p = logits); dlogits = p (dp - sum p dp), in place allowed.
 * sigmoid    of each element, f32, in place allowed (p = 1/(1 + exp(-logits))); dlogits = dp p (1 - p).
 * temper     y = x exp(-t), f32, in place allowed; dx = dy exp(-t), *dt -= sum dy y.
 * gates      gate[r,c] = p[r, choice[r,c]], divided by its row's sum if renormalize (never for K = 1).
 * balance    returns aux = E sum_e f_e P_e (GShard), f_e the share of rows whose first choice is e and P_e
 *            the mean of p's column e; backward adds weight*daux/dp to dp.
 * z_loss     returns z = mean over rows of lse^2, lse[r] = log sum exp(logits[r]); backward adds
 *            weight*dz/dlogits, with p the softmax of the logits.
 * dispatch   y[i] = x[source[i]] for i < begin[E]; dx[r] = sum_c dy[slot[r,c]].
 * combine    y[r] = sum_c gate[r,c] x[slot[r,c]] over kept choices; dx[slot] = gate dy[r],
 *            dgate[r,c] = dy[r].x[slot] (0 if dropped).
 * normalize  y_r = x_r / max(|x_r|, eps); stat [N] keeps the divisor. f32; backward in place (dx = dy) too.
 * quantize   y = x rounded by rows to 8 bits; ternarize: y = the f32 matrices w, each rounded to -s, 0, s
 *            (BitNet b1.58). Gradients are straight-through. In place allowed.
 * loss       y = x w^T (never whole), nll[n] = -log softmax(y_n)[target_n]; target -1 is skipped and gives
 *            0. With dx.p set, also dx = scale * d(sum nll)/dx and dw += scale * d(sum nll)/dw. logits: f32
 *            work space of any number of rows >= 1, V columns; dlogits: the same in x's type (only with dx).
 */
#define MH_OPS(FWD_BWD, ONE)                                                                                \
    FWD_BWD(linear,                                                                                         \
            (mh_mat y, mh_mat x, mh_linear_weights w, const float *bias, const int64_t *begin, int groups), \
            (mh_mat dx, bool add, float *dw, float *dbias, mh_mat dy, mh_mat x, mh_linear_weights w,        \
             const int64_t *begin, int groups))                                                             \
    FWD_BWD(experts, (mh_expert_rows r, const mh_experts *e),                                               \
            (mh_expert_rows d, const mh_expert_grads *dw, mh_expert_rows r, const mh_experts *e))           \
    FWD_BWD(                                                                                                \
        norm, (mh_mat y, float *stat, mh_mat x, const float *w, mh_norm_kind kind, float eps),              \
        (mh_mat dx, float *dw, mh_mat dy, mh_mat x, const float *w, const float *stat, mh_norm_kind kind))  \
    FWD_BWD(rotary, (mh_mat x, int head_dim, const int32_t *position, const float *table),                  \
            (mh_mat dx, int head_dim, const int32_t *position, const float *table))                         \
    FWD_BWD(attention, (mh_mat y, float *lse, mh_mat q, mh_mat k, mh_mat v, const mh_attention *shape),     \
            (mh_mat dq, mh_mat dk, mh_mat dv, mh_mat dy, mh_mat y, mh_mat q, mh_mat k, mh_mat v,            \
             const float *lse, const mh_attention *shape))                                                  \
    FWD_BWD(swiglu, (mh_mat y, mh_mat gate, mh_mat up),                                                     \
            (mh_mat dgate, mh_mat dup, mh_mat dy, mh_mat gate, mh_mat up))                                  \
    FWD_BWD(gelu, (mh_mat y, mh_mat up), (mh_mat dup, mh_mat dy, mh_mat up))                                \
    FWD_BWD(relu, (mh_mat y, mh_mat x), (mh_mat dx, mh_mat dy, mh_mat y))                                   \
    FWD_BWD(jitter, (mh_mat x, float range, uint64_t seed, uint64_t stream),                                \
            (mh_mat dx, float range, uint64_t seed, uint64_t stream))                                       \
    FWD_BWD(dropout, (mh_mat x, float rate, uint64_t seed, uint64_t stream),                                \
            (mh_mat dx, float rate, uint64_t seed, uint64_t stream))                                        \
    FWD_BWD(embedding, (mh_mat y, const int32_t *token, mh_mat w),                                          \
            (float *dw, const int32_t *token, mh_mat dy))                                                   \
    FWD_BWD(softmax, (mh_mat p, mh_mat logits), (mh_mat dlogits, mh_mat dp, mh_mat p))                      \
    FWD_BWD(sigmoid, (mh_mat p, mh_mat logits), (mh_mat dlogits, mh_mat dp, mh_mat p))                      \
    FWD_BWD(temper, (mh_mat y, mh_mat x, const float *t),                                                   \
            (mh_mat dx, float *dt, mh_mat dy, mh_mat y, const float *t))                                    \
    FWD_BWD(gates, (float *gate, mh_mat p, const int32_t *choice, int top_k, bool renormalize),             \
            (mh_mat dp, const float *dgate, mh_mat p, const int32_t *choice, int top_k, bool renormalize))  \
    ONE(balance_fwd, float, (mh_mat p, const int32_t *choice, int top_k))                                   \
    ONE(balance_bwd, void, (mh_mat dp, float weight, const int32_t *choice, int top_k))                     \
    ONE(z_loss_fwd, float, (float *lse, mh_mat logits))                                                     \
    ONE(z_loss_bwd, void, (mh_mat dlogits, float weight, mh_mat p, const float *lse))                       \
    FWD_BWD(dispatch, (mh_mat y, mh_mat x, const mh_plan *plan),                                            \
            (mh_mat dx, mh_mat dy, const mh_plan *plan))                                                    \
    FWD_BWD(combine, (mh_mat y, mh_mat x, const mh_plan *plan),                                             \
            (mh_mat dx, float *dgate, mh_mat dy, mh_mat x, const mh_plan *plan))                            \
    FWD_BWD(normalize, (mh_mat y, float *stat, mh_mat x, float eps),                                        \
            (mh_mat dx, mh_mat dy, mh_mat y, const float *stat, float eps))                                 \
    ONE(loss, void,                                                                                         \
        (float *nll, mh_mat dx, float *dw, mh_mat x, mh_linear_weights w, const int32_t *target,            \
         float scale, mh_mat logits, mh_mat dlogits))                                                       \
    /* without derivatives */                                                                               \
    ONE(pack, void, (mh_linear_weights w, int groups))                                                      \
    /* falling p + bias (NULL: 0), ties: lowest index, NaN last; top_k <= E and <= MH_TOP_K_MOST */         \
    ONE(top_k, void, (int32_t * choice, mh_mat p, const float *bias, int top_k))                            \
    /* changes the second of two choices as the policy says */                                              \
    ONE(second_expert, void, (int32_t * choice, mh_mat p, mh_second how, uint64_t seed, uint64_t stream))   \
    /* from plan->choice, and plan->gate to drop by; capacity 0: none */                                    \
    ONE(plan, void, (mh_plan * plan, int64_t rows, int64_t capacity, mh_drop drop))                         \
    ONE(quantize, void, (mh_mat y, mh_mat x))                                                               \
    ONE(ternarize, void, (mh_mat y, mh_mat w, int groups))                                                  \
    ONE(add, void, (mh_mat y, mh_mat a, mh_mat b)) /* y = a + b, types may differ, aliasing allowed */      \
    ONE(cast, void, (mh_mat y, mh_mat x))          /* between f32 and bf16, or a copy */                    \
    ONE(square_sum, double, (const float *x, int64_t n))                                                    \
    ONE(adamw, void, (float *w, float *m, float *v, const float *dw, int64_t n, const mh_adamw *rule))

#define MH_OP_PAIR(name, forward, backward) \
    void(*name##_fwd) forward;              \
    void(*name##_bwd) backward;
#define MH_OP_ONE(name, result, arguments) result(*name) arguments;

struct mh_ops {
    MH_OPS(MH_OP_PAIR, MH_OP_ONE)
};

/* ops.c: the operations of this processor, on the kernels that src/kernel chose. */
const struct mh_ops *mh_cpu_ops(void);

/* ---- shared by the files of op, and of no use elsewhere ------------------------------------------------ */

/* mh_cpu_NAME_fwd, mh_cpu_NAME_bwd and mh_cpu_NAME: the entries of the table. */
#define MH_OP_DECLARE_PAIR(name, forward, backward) \
    void mh_cpu_##name##_fwd forward;               \
    void mh_cpu_##name##_bwd backward;
#define MH_OP_DECLARE_ONE(name, result, arguments) result mh_cpu_##name arguments;
MH_OPS(MH_OP_DECLARE_PAIR, MH_OP_DECLARE_ONE)

/* linear, and its dx alone, with tiles that many threads share where rows are few, or that are as wide as the
 * output, for a caller whose threads have rows of their own; and the weights of one group. */
typedef enum { MH_TILES_SHARED, MH_TILES_WHOLE } mh_tiling;
void mh_linear_fwd(mh_mat y, mh_mat x, mh_linear_weights w, const float *bias, const int64_t *begin,
                   int groups, mh_tiling tiling);
void mh_linear_dx(mh_mat dx, bool add, mh_mat dy, mh_linear_weights w, const int64_t *begin, int groups,
                  mh_tiling tiling);
mh_linear_weights mh_linear_group(mh_linear_weights w, int group, int groups);

/* Operations compute in f32 on pieces of a row, at most MH_CHUNK elements: mh_read gives a piece as f32, in
 * place or widened into `buffer`; mh_room says where to compute a piece, in place or in `buffer`; mh_write
 * stores what stands there. In this order an output may be one of the inputs. */
enum { MH_CHUNK = 1024 };
const float *mh_read(mh_mat x, int64_t row, int64_t col, int64_t n, float *buffer);
float *mh_room(mh_mat y, int64_t row, int64_t col, float *buffer);
void mh_write(mh_mat y, int64_t row, int64_t col, int64_t n, const float *piece);

/* Row `to` of y = row `from` of x. */
void mh_copy_row(mh_mat y, int64_t to, mh_mat x, int64_t from);

/* Whether a loop over so many elements is worth waking other threads for. */
static inline bool mh_worth(int64_t elements)
{
    return elements > 16384;
}

/* The same for products: one token of a small model is made faster by a single thread. */
static inline bool mh_worth_product(int64_t multiply_adds)
{
    return multiply_adds > 1 << 20;
}

#endif
