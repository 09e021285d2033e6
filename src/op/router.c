/* router: probabilities, choices, gates and the balance loss; all in f32. */
#include "kernel/kernel.h"
#include "op/op.h"

#include <string.h>

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

/* Keeps the K largest so far in falling order. An equal value goes behind, so the lowest index wins ties; NaN
 * goes behind everything, so that choices are valid whatever the numbers. */
static void choose(int32_t *choice, const float *p, int64_t experts, int top_k)
{
    for (int64_t e = 0; e < experts; e++) {
        int place = (int)mh_least(e, top_k);
        while (place > 0 && p[e] > p[choice[place - 1]]) {
            if (place < top_k)
                choice[place] = choice[place - 1];
            place--;
        }
        if (place < top_k)
            choice[place] = (int32_t)e;
    }
}

void mh_cpu_top_k(int32_t *choice, mh_mat p, int top_k)
{
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int64_t r = 0; r < p.rows; r++)
        choose(choice + r * top_k, mh_mat_row(p, r), p.cols, top_k);
}

/* What the gates of a row are divided by. One choice is never renormalised: a constant gate of 1 would cut
 * the router off from the loss. */
static float divisor(const float *p, const int32_t *choice, int top_k, bool renormalize)
{
    if (!renormalize || top_k == 1)
        return 1;
    float sum = 0;
    for (int c = 0; c < top_k; c++)
        sum += p[choice[c]];
    return sum;
}

/* g_c = p_c / s */
void mh_cpu_gates_fwd(float *gate, mh_mat p, const int32_t *choice, int top_k, bool renormalize)
{
    for (int64_t r = 0; r < p.rows; r++) {
        const float *row = mh_mat_row(p, r);
        float s = divisor(row, choice + r * top_k, top_k, renormalize);
        for (int64_t c = r * top_k; c < (r + 1) * top_k; c++)
            gate[c] = row[choice[c]] / s;
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
                mean += dgate[c] * row[choice[c]] / s;
        for (int64_t c = r * top_k; c < (r + 1) * top_k; c++)
            out[choice[c]] = (dgate[c] - mean) / s;
    }
}

/* Columns of p that one thread counts and sums at a time. */
enum { EXPERTS = 16 };

/* How many rows have expert `first` + e as their first choice. */
static void count_first(int64_t count[EXPERTS], const int32_t *choice, int top_k, int64_t rows, int64_t first)
{
    for (int e = 0; e < EXPERTS; e++)
        count[e] = 0;
    for (int64_t r = 0; r < rows; r++) {
        int64_t e = choice[r * top_k] - first;
        if (e >= 0 && e < EXPERTS)
            count[e]++;
    }
}

/* aux = E sum_e f_e P_e = E/S^2 sum_e count_e sum_r p[r,e]. Strips of experts, every PARTS-th to one partial
 * sum, so that the order is that of the experts alone. */
float mh_cpu_balance_fwd(mh_mat p, const int32_t *choice, int top_k)
{
    enum { PARTS = 64 };
    double part[PARTS] = {0};
#pragma omp parallel for schedule(static) if (mh_worth(p.rows * p.cols))
    for (int i = 0; i < PARTS; i++)
        for (int64_t first = i * EXPERTS; first < p.cols; first += PARTS * EXPERTS) {
            int64_t count[EXPERTS], n = mh_least(EXPERTS, p.cols - first);
            double sum[EXPERTS] = {0};
            count_first(count, choice, top_k, p.rows, first);
            for (int64_t r = 0; r < p.rows; r++) {
                const float *row = mh_mat_at(p, r, first);
                for (int64_t e = 0; e < n; e++)
                    sum[e] += (double)row[e];
            }
            for (int64_t e = 0; e < n; e++)
                part[i] += (double)count[e] * sum[e];
        }
    double total = 0;
    for (int i = 0; i < PARTS; i++)
        total += part[i];
    return (float)(total * (double)p.cols / ((double)p.rows * (double)p.rows));
}

/* dp[r,e] += weight E/S^2 count_e: no gradient through the counts */
void mh_cpu_balance_bwd(mh_mat dp, float weight, const int32_t *choice, int top_k)
{
    double factor = (double)weight * (double)dp.cols / ((double)dp.rows * (double)dp.rows);
#pragma omp parallel for schedule(static) if (mh_worth(dp.rows * dp.cols))
    for (int64_t first = 0; first < dp.cols; first += EXPERTS) {
        int64_t count[EXPERTS], n = mh_least(EXPERTS, dp.cols - first);
        float share[EXPERTS];
        count_first(count, choice, top_k, dp.rows, first);
        for (int64_t e = 0; e < n; e++)
            share[e] = (float)(factor * (double)count[e]);
        for (int64_t r = 0; r < dp.rows; r++) {
            float *row = mh_mat_at(dp, r, first);
            mh_rows_now()->add(row, row, share, n);
        }
    }
}
