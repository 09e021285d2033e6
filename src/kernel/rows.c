/* rows: the loops over one row, in plain C. CMake compiles this file once for each instruction set; MH_ROWS
 * is the name of the table that comes out. A `simd` reduction splits a sum into the vector's lanes: the order
 * is the compiler's, but the same in every run. */
#include "kernel/kernel.h"

#include <math.h>
#include <string.h>

extern const mh_rows MH_ROWS;

static inline uint32_t bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void load(float *y, const void *x, mh_type type, int64_t n)
{
    if (type == MH_F32) {
        memmove(y, x, (size_t)n * sizeof *y);
        return;
    }
    const uint16_t *half = x;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = from_bits((uint32_t)half[i] << 16);
}

/* Round to nearest even: adding 0x7fff and the last kept bit carries into the kept half exactly when it must.
 * A NaN would carry into infinity; it keeps its upper half instead, made quiet. */
static void store(void *y, mh_type type, const float *x, int64_t n)
{
    if (type == MH_F32) {
        memmove(y, x, (size_t)n * sizeof *x);
        return;
    }
    uint16_t *half = y;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = bits(x[i]);
        uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16, quiet = u >> 16 | 0x40;
        half[i] = (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
    }
}

static float sum(const float *x, int64_t n)
{
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += x[i];
    return s;
}

static float sum_abs(const float *x, int64_t n)
{
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += fabsf(x[i]);
    return s;
}

static float squares(const float *x, float m, int64_t n)
{
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += (x[i] - m) * (x[i] - m);
    return s;
}

static double squares_wide(const float *x, int64_t n)
{
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += (double)x[i] * (double)x[i];
    return s;
}

static float dot(const float *a, const float *b, int64_t n)
{
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

enum { LANES = 16 }; /* of what is spelt out for the compiler */

/* The lanes are spelt out: clang does not split a maximum, whose order matters where NaN comes in. The last
 * whole lanes may see elements for a second time. */
static float max(const float *x, int64_t n)
{
    float lane[LANES], s = -INFINITY;
    for (int j = 0; j < LANES; j++)
        lane[j] = -INFINITY;
    for (int64_t i = 0; n >= LANES && i < n; i += LANES) {
        const float *piece = x + mh_least(i, n - LANES);
#pragma omp simd
        for (int j = 0; j < LANES; j++)
            lane[j] = piece[j] > lane[j] ? piece[j] : lane[j];
    }
    for (int64_t i = 0; n < LANES && i < n; i++)
        s = x[i] > s ? x[i] : s;
    for (int j = 0; j < LANES; j++)
        s = lane[j] > s ? lane[j] : s;
    return s;
}

/* Magnitudes are in the order of their bits as whole numbers, whose maximum every compiler vectorises. */
static float max_abs(const float *x, int64_t n)
{
    uint32_t m = 0;
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; i++) {
        uint32_t a = bits(x[i]) & 0x7fffffff;
        m = a > m ? a : m;
    }
    return from_bits(m);
}

/* Whole lanes at a time: whether, and only then where. */
static int64_t find(const float *x, float a, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        int any = 0;
#pragma omp simd reduction(| : any)
        for (int j = 0; j < LANES; j++)
            any |= x[i + j] == a;
        if (any)
            break;
    }
    while (i < n && x[i] != a)
        i++;
    return i;
}

/* Adding and taking away 1.5 * 2^23 rounds. The comparisons let NaN pass. */
static void quantize(float *y, const float *x, float a, float low, float high, int64_t n)
{
    const float magic = 12582912.0f;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float t = a * x[i];
        t = t < low ? low : t;
        t = t > high ? high : t;
        y[i] = (t + magic - magic) / a;
    }
}

static void add(float *y, const float *a, const float *b, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void multiply(float *y, const float *a, const float *b, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] * b[i];
}

static void scale(float *y, float a, const float *x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = a * x[i];
}

static void axpy(float *y, float a, const float *x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

/* exp(x) = 2^t e^r with t = round(x / ln 2) and |r| <= ln(2)/2, where Taylor's polynomial of degree 7 is
 * exact to 1e-8. Adding 1.5 * 2^23 rounds t and leaves it in the low bits, so no conversion is needed. The
 * range is cut where 2^t would leave the normal numbers: exp(-1000) is 1e-38. The comparisons let NaN pass.
 */
static inline float exponential(float x)
{
    const float magic = 12582912.0f;
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + magic, t = shifted - magic;
    float r = (x - t * 0.693359375f) + t * 2.12194440e-4f; /* ln 2 in two parts: the first product is exact */
    float e = 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    return e * from_bits((bits(shifted) - bits(magic) + 127) << 23);
}

static float exp_sum(float *y, const float *x, float a, float b, int64_t n)
{
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) {
        y[i] = exponential(a * x[i] - b);
        s += y[i];
    }
    return s;
}

static void softmax_bwd(float *dx, const float *p, const float *dp, float a, float b, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dx[i] = a * p[i] * (dp[i] - b);
}

static void norm(float *y, const float *x, const float *w, float m, float r, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = (x[i] - m) * r * w[i];
}

static void norm_sums(float sums[2], const float *dy, const float *x, const float *w, float m, float r,
                      int64_t n)
{
    float s = 0, t = 0;
#pragma omp simd reduction(+ : s, t)
    for (int64_t i = 0; i < n; i++) {
        s += dy[i] * w[i];
        t += dy[i] * w[i] * ((x[i] - m) * r);
    }
    sums[0] += s;
    sums[1] += t;
}

static void norm_bwd(float *dx, const float *dy, const float *x, const float *w, float m, float r, float a,
                     float b, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dx[i] = r * (dy[i] * w[i] - a - (x[i] - m) * r * b);
}

static void norm_dw(float *dw, const float *dy, const float *x, float m, float r, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dw[i] += dy[i] * ((x[i] - m) * r);
}

static void rotate(float *a, float *b, const float *cos, const float *sin, float turn, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float u = a[i], v = b[i], s = turn * sin[i];
        a[i] = u * cos[i] - v * s;
        b[i] = v * cos[i] + u * s;
    }
}

static void swiglu(float *y, const float *gate, const float *up, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = up[i] * gate[i] / (1.0f + exponential(-gate[i]));
}

static void swiglu_bwd(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                       int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float d = dy[i], g = gate[i], u = up[i], s = 1.0f / (1.0f + exponential(-g));
        dgate[i] = d * u * s * (1.0f + g * (1.0f - s));
        dup[i] = d * g * s;
    }
}

/* Phi(x) = (1 + erf(x/sqrt 2)) / 2, by Abramowitz and Stegun 7.1.26: 1 - erf(z) is a polynomial in
 * 1/(1 + 0.327 z) times exp(-z^2), to 1.5e-7. The exponential comes from the caller: gelu's derivative uses
 * it again. */
static inline float normal_share(float x, float e)
{
    float z = (x < 0 ? -x : x) * 0.707106781f, t = 1.0f / (1.0f + 0.3275911f * z);
    float q = 1.061405429f;
    q = q * t - 1.453152027f;
    q = q * t + 1.421413741f;
    q = q * t - 0.284496736f;
    q = q * t + 0.254829592f;
    float tail = 0.5f * q * t * e;
    return x < 0 ? tail : 1.0f - tail;
}

static void gelu(float *y, const float *up, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = up[i] * normal_share(up[i], exponential(-0.5f * up[i] * up[i]));
}

static void gelu_bwd(float *dup, const float *dy, const float *up, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float x = up[i], e = exponential(-0.5f * x * x);
        dup[i] = dy[i] * (normal_share(x, e) + x * 0.398942280f * e);
    }
}

static void adamw(float *w, float *m, float *v, const float *dw, const mh_adamw_factors *f, int64_t n)
{
    const mh_adamw_factors c = *f; /* a copy: stores to w cannot change it */
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float g = c.grad_scale * dw[i];
        m[i] = c.beta1 * m[i] + (1.0f - c.beta1) * g;
        v[i] = c.beta2 * v[i] + (1.0f - c.beta2) * g * g;
        w[i] = c.keep * w[i] - c.rate * m[i] / (c.root * sqrtf(v[i]) + c.eps);
    }
}

const mh_rows MH_ROWS = {
    .load = load,
    .store = store,
    .sum = sum,
    .sum_abs = sum_abs,
    .squares = squares,
    .squares_wide = squares_wide,
    .dot = dot,
    .max = max,
    .max_abs = max_abs,
    .find = find,
    .quantize = quantize,
    .add = add,
    .multiply = multiply,
    .scale = scale,
    .axpy = axpy,
    .exp = exp_sum,
    .softmax_bwd = softmax_bwd,
    .norm = norm,
    .norm_sums = norm_sums,
    .norm_bwd = norm_bwd,
    .norm_dw = norm_dw,
    .rotate = rotate,
    .swiglu = swiglu,
    .swiglu_bwd = swiglu_bwd,
    .gelu = gelu,
    .gelu_bwd = gelu_bwd,
    .adamw = adamw,
};
