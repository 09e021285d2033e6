/* router: probabilities, choices, gates and the auxiliary losses; all in f32. */
#include "kernel/kernel.h"
#include "op/op.h"

#include <math.h>
#include <string.h>

/* Sums over all rows are taken in so many pieces of them, whatever the threads. */
enum { PARTS = 64 };

/* p = exp(l - max l) / sum */
void mh_cpu_softmax_fwd(mh_mat p, mh_mat logits)
{
    const mh_rows *kernel = mh_rows_now();
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++) {
        const float *row = mh_mat_row(logits, r);
        float *out = mh_mat_row(p, r);
        float sum = kernel->exp(out, row, 1, kernel->max(row, p.cols), p.cols);
        kernel->scale(out, 1.0f / sum, out, p.cols);
    }
}

/* dlogits = p (dp - sum p dp) */
void mh_cpu_softmax_bwd(mh_mat dlogits, mh_mat dp, mh_mat p)
{
    const mh_rows *kernel = mh_rows_now();
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++) {
        const float *prob = mh_mat_row(p, r), *up = mh_mat_row(dp, r);
        kernel->softmax_bwd(mh_mat_row(dlogits, r), prob, up, 1, kernel->dot(prob, up, p.cols), p.cols);
    }
}

/* p = 1 / (1 + exp(-l)) */
void mh_cpu_sigmoid_fwd(mh_mat p, mh_mat logits)
{
    const mh_rows *kernel = mh_rows_now();
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++) {
        float *out = mh_mat_row(p, r);
        kernel->exp(out, mh_mat_row(logits, r), -1, 0, p.cols);
        for (int64_t e = 0; e < p.cols; e++)
            out[e] = 1 / (1 + out[e]);
    }
}

/* dl = dp p (1 - p) */
void mh_cpu_sigmoid_bwd(mh_mat dlogits, mh_mat dp, mh_mat p)
{
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++) {
        const float *prob = mh_mat_row(p, r), *up = mh_mat_row(dp, r);
        float *out = mh_mat_row(dlogits, r);
        for (int64_t e = 0; e < p.cols; e++)
            out[e] = up[e] * prob[e] * (1 - prob[e]);
    }
}

/* y = x exp(-t) */
void mh_cpu_temper_fwd(mh_mat y, mh_mat x, const float *t)
{
    float factor = expf(-*t);
#pragma omp parallel for schedule(static) if (mh_worth(x.rows * x.cols))
    for (int64_t r = 0; r < x.rows; r++)
        mh_rows_now()->scale(mh_mat_row(y, r), factor, mh_mat_row(x, r), x.cols);
}

/* dt -= sum dy y, in pieces of rows whose number is fixed; dx = exp(-t) dy */
void mh_cpu_temper_bwd(mh_mat dx, float *dt, mh_mat dy, mh_mat y, const float *t)
{
    const mh_rows *kernel = mh_rows_now();
    double part[PARTS] = {0}, sum = 0;
    float factor = expf(-*t);
    int64_t rows = (y.rows + PARTS - 1) / PARTS;
#pragma omp parallel for schedule(static) if (mh_worth(y.rows * y.cols))
    for (int i = 0; i < PARTS; i++)
        for (int64_t r = i * rows; r < mh_least((i + 1) * rows, y.rows); r++) {
            part[i] += (double)kernel->dot(mh_mat_row(dy, r), mh_mat_row(y, r), y.cols);
            kernel->scale(mh_mat_row(dx, r), factor, mh_mat_row(dy, r), y.cols);
        }
    for (int i = 0; i < PARTS; i++)
        sum += part[i];
    *dt -= (float)sum;
}

/* The K largest so far, in falling order. */
typedef struct {
    int32_t *choice;
    float value[MH_TOP_K_MOST];
    int count, most;
} top;

/* An equal value goes behind, so the lowest index wins ties. */
static void insert(top *t, float value, int32_t expert)
{
    int place = t->count < t->most ? t->count++ : t->most - 1;
    for (; place > 0 && value > t->value[place - 1]; place--) {
        t->value[place] = t->value[place - 1];
        t->choice[place] = t->choice[place - 1];
    }
    t->value[place] = value;
    t->choice[place] = expert;
}

/* Takes the largest of n values, which belong to experts from `first` on, until none is above those taken.
 * One that was taken becomes NaN, which is passed over. */
static void take_largest(top *t, float *value, int64_t first, int64_t n)
{
    const mh_rows *kernel = mh_rows_now();
    for (int taken = 0; taken < mh_least(t->most, n); taken++) {
        float largest = kernel->max(value, n);
        int64_t e = kernel->find(value, largest, n);
        if (e == n || (t->count == t->most && !(largest > t->value[t->most - 1])))
            return;
        insert(t, largest, (int32_t)(first + e));
        value[e] = NAN;
    }
}

/* Where all else is NaN: any that were not taken, so that choices are valid whatever the numbers. */
static void fill_up(top *t)
{
    for (int32_t e = 0; t->count < t->most; e++) {
        int c = 0;
        while (c < t->count && t->choice[c] != e)
            c++;
        if (c == t->count)
            insert(t, -INFINITY, e);
    }
}

void mh_cpu_top_k(int32_t *choice, mh_mat p, const float *bias, int top_k)
{
    const mh_rows *kernel = mh_rows_now();
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++) {
        top t = {.choice = choice + r * top_k, .most = top_k};
        for (int64_t e = 0; e < p.cols; e += MH_CHUNK) {
            float value[MH_CHUNK];
            int64_t n = mh_least(MH_CHUNK, p.cols - e);
            kernel->load(value, mh_mat_at(p, r, e), MH_F32, n);
            if (bias)
                kernel->add(value, value, bias + e, n);
            take_largest(&t, value, e, n);
        }
        fill_up(&t);
    }
}

/* The second expert drawn from the others in proportion to p: the largest of log p + Gumbel noise. */
static int32_t sample_other(const float *p, int64_t experts, int32_t first, uint64_t seed, uint64_t stream,
                            uint64_t index)
{
    int32_t best = first == 0;
    double most = -INFINITY;
    for (int32_t e = 0; e < experts; e++) {
        double noisy = log((double)p[e]) - log(-log(mh_uniform(seed, stream, index + (uint64_t)e)));
        if (e != first && noisy > most) {
            most = noisy;
            best = e;
        }
    }
    return best;
}

/* GShard's policies for two choices. Random: the second is kept if twice its share of both exceeds a uniform
 * number, so always where the two are alike. */
void mh_cpu_second_expert(int32_t *choice, mh_mat p, mh_second policy, uint64_t seed, uint64_t stream)
{
    if (policy == MH_SECOND_ALL)
        return;
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++) {
        const float *row = mh_mat_row(p, r);
        int32_t first = choice[2 * r], *second = &choice[2 * r + 1];
        if (policy == MH_SECOND_SAMPLING)
            *second = sample_other(row, p.cols, first, seed, stream, (uint64_t)(r * p.cols));
        else if (2 * (double)row[*second] / (double)(row[first] + row[*second]) <=
                 mh_uniform(seed, stream, (uint64_t)r))
            *second = ~*second;
    }
}

/* What the gates of a row are divided by. One choice is never renormalised: a constant gate of 1 would cut
 * the router off from the loss. */
static float divisor(const float *p, const int32_t *choice, int top_k, bool renormalize)
{
    if (!renormalize || top_k == 1)
        return 1;
    float sum = 0;
    for (int c = 0; c < top_k; c++)
        sum += p[mh_chosen(choice[c])];
    return sum;
}

/* g_c = p_c / s */
void mh_cpu_gates_fwd(float *gate, mh_mat p, const int32_t *choice, int top_k, bool renormalize)
{
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++) {
        const float *row = mh_mat_row(p, r);
        float s = divisor(row, choice + r * top_k, top_k, renormalize);
        for (int64_t c = r * top_k; c < (r + 1) * top_k; c++)
            gate[c] = row[mh_chosen(choice[c])] / s;
    }
}

/* dp_c = (dg_c - sum_j dg_j g_j) / s where s is a sum of p, else dp_c = dg_c; 0 where not chosen */
void mh_cpu_gates_bwd(mh_mat dp, const float *dgate, mh_mat p, const int32_t *choice, int top_k,
                      bool renormalize)
{
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++) {
        const float *row = mh_mat_row(p, r);
        float *out = mh_mat_row(dp, r), s = divisor(row, choice + r * top_k, top_k, renormalize), mean = 0;
        memset(out, 0, (size_t)dp.cols * sizeof *out);
        if (renormalize && top_k > 1)
            for (int64_t c = r * top_k; c < (r + 1) * top_k; c++)
                mean += dgate[c] * row[mh_chosen(choice[c])] / s;
        for (int64_t c = r * top_k; c < (r + 1) * top_k; c++)
            out[mh_chosen(choice[c])] = (dgate[c] - mean) / s;
    }
}

/* share[e] = factor times the rows whose first choice is expert `first` + e, for e < n <= MH_CHUNK */
static void first_shares(float *share, double factor, const int32_t *choice, int top_k, int64_t rows,
                         int64_t first, int64_t n)
{
    int64_t count[MH_CHUNK] = {0};
    for (int64_t r = 0; r < rows; r++) {
        int64_t e = choice[r * top_k] - first;
        if (e >= 0 && e < n)
            count[e]++;
    }
    for (int64_t e = 0; e < n; e++)
        share[e] = (float)(factor * (double)count[e]);
}

/* aux = E sum_e f_e P_e = E/S sum_r sum_e f_e p[r,e], in pieces of rows whose number is fixed */
float mh_cpu_balance_fwd(mh_mat p, const int32_t *choice, int top_k)
{
    double part[PARTS] = {0}, total = 0, rows = (double)p.rows;
    int64_t high = (p.rows + PARTS - 1) / PARTS;
    for (int64_t first = 0; first < p.cols; first += MH_CHUNK) {
        float share[MH_CHUNK];
        int64_t n = mh_least(MH_CHUNK, p.cols - first);
        first_shares(share, 1 / rows, choice, top_k, p.rows, first, n);
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
        for (int i = 0; i < PARTS; i++)
            for (int64_t r = i * high; r < mh_least((i + 1) * high, p.rows); r++)
                part[i] += (double)mh_rows_now()->dot(mh_mat_at(p, r, first), share, n);
    }
    for (int i = 0; i < PARTS; i++)
        total += part[i];
    return (float)(total * (double)p.cols / rows);
}

/* dp[r,e] += weight E/S f_e: no gradient through f */
void mh_cpu_balance_bwd(mh_mat dp, float weight, const int32_t *choice, int top_k)
{
    double rows = (double)dp.rows, factor = (double)weight * (double)dp.cols / (rows * rows);
    for (int64_t first = 0; first < dp.cols; first += MH_CHUNK) {
        float share[MH_CHUNK];
        int64_t n = mh_least(MH_CHUNK, dp.cols - first);
        first_shares(share, factor, choice, top_k, dp.rows, first, n);
#pragma omp parallel for schedule(static) if (mh_worth(dp.rows * dp.cols))
        for (int64_t r = 0; r < dp.rows; r++) {
            float *row = mh_mat_at(dp, r, first);
            mh_rows_now()->add(row, row, share, n);
        }
    }
}

/* z = mean_r lse_r^2 */
float mh_cpu_z_loss_fwd(float *lse, mh_mat logits)
{
    const mh_rows *kernel = mh_rows_now();
#pragma omp parallel for schedule(static) if (mh_worth(logits.rows * logits.cols))
    for (int64_t r = 0; r < logits.rows; r++) {
        const float *row = mh_mat_row(logits, r);
        float most = kernel->max(row, logits.cols), sum = 0, power[MH_CHUNK];
        for (int64_t e = 0; e < logits.cols; e += MH_CHUNK)
            sum += kernel->exp(power, row + e, 1, most, mh_least(MH_CHUNK, logits.cols - e));
        lse[r] = most + logf(sum);
    }
    return (float)(kernel->squares_wide(lse, logits.rows) / (double)logits.rows);
}

/* dl += weight 2/S lse p */
void mh_cpu_z_loss_bwd(mh_mat dlogits, float weight, mh_mat p, const float *lse)
{
    float factor = 2 * weight / (float)p.rows;
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++)
        mh_rows_now()->axpy(mh_mat_row(dlogits, r), factor * lse[r], mh_mat_row(p, r), p.cols);
}
