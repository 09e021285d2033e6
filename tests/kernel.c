/* Tests of src/kernel. Each instruction set that the processor has gets a run of its own, in a child process:
 * oneDNN's limit can be set only once. The portable kernels are compared with libm and plain loops in double,
 * all others with the portable ones. */
#include "kernel/kernel.h"
#include "test.h"

#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SEED = 7, MOST = 1100, MARGIN = 21, ARRAYS = 4 };

static const int64_t sizes[] = {0,  1,  2,  7,   8,   15,  16,   17,   31,  33,
                                63, 64, 65, 255, 256, 257, 1023, 1024, 1025};

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static float random_value(int64_t index, uint64_t stream)
{
    return (float)mh_normal(SEED, stream, (uint64_t)index);
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

/* Inputs, and outputs with a margin on either side that must stay as it was. */
typedef struct {
    float in[ARRAYS][MOST];
    float out[ARRAYS][MARGIN + MOST + MARGIN];
} buffers;

/* One call of a kernel on n elements: in[] to y[], which point past the margin. */
typedef struct {
    const char *name;
    bool sum;   /* y[0] holds sums over n elements: an order of addition more or less */
    bool exact; /* no rounding is involved, or only one */
    void (*run)(const mh_rows *k, float *y[ARRAYS], float (*in)[MOST], int64_t n);
} kernel_case;

static const float canary = -77.5f; /* a bf16 number as well */

#define CASE(name) static void run_##name(const mh_rows *k, float *y[ARRAYS], float(*in)[MOST], int64_t n)

static float positive(float x)
{
    return x < 0 ? -x : x;
}

CASE(load)
{
    k->load(y[0], in[0], MH_F32, n);
    k->load(y[1], in[1], MH_BF16, n);
}
CASE(store)
{
    k->store(y[0], MH_F32, in[0], n);
    k->store(y[1], MH_BF16, in[1], n);
}
CASE(sum)
{
    if (n)
        y[0][0] = k->sum(in[0], n);
}
CASE(sum_abs)
{
    if (n)
        y[0][0] = k->sum_abs(in[0], n);
}
CASE(squares)
{
    if (n)
        y[0][0] = k->squares(in[0], 0.3f, n);
}
CASE(squares_wide)
{
    if (n)
        y[0][0] = (float)k->squares_wide(in[0], n);
}
CASE(dot)
{
    if (n)
        y[0][0] = k->dot(in[0], in[1], n);
}
CASE(max)
{
    if (n)
        y[0][0] = k->max(in[0], n);
}
CASE(find) /* each element, and one that is not there */
{
    for (int64_t i = 0; i < n; i++)
        y[0][i] = (float)k->find(in[0], in[0][i], n);
    if (n)
        y[1][0] = (float)k->find(in[0], canary, n);
}
CASE(add)
{
    k->add(y[0], in[0], in[1], n);
}
CASE(multiply)
{
    k->multiply(y[0], in[0], in[1], n);
}
CASE(scale)
{
    k->scale(y[0], 0.7f, in[0], n);
}
CASE(axpy)
{
    k->load(y[0], in[0], MH_F32, n);
    k->axpy(y[0], 0.7f, in[1], n);
}
CASE(exp)
{
    float total = k->exp(y[0], in[0], 2, 1, n);
    if (n)
        y[1][0] = total / (float)n;
}
CASE(softmax_bwd)
{
    k->softmax_bwd(y[0], in[0], in[1], 0.7f, 0.2f, n);
}
CASE(norm)
{
    k->norm(y[0], in[0], in[1], 0.3f, 1.2f, n);
}
CASE(norm_sums)
{
    float sums[2] = {1, 2};
    k->norm_sums(sums, in[0], in[1], in[2], 0.3f, 1.2f, n);
    if (n)
        y[0][0] = sums[0], y[1][0] = sums[1];
}
CASE(norm_bwd)
{
    k->norm_bwd(y[0], in[0], in[1], in[2], 0.3f, 1.2f, 0.1f, 0.2f, n);
}
CASE(norm_dw)
{
    k->load(y[0], in[0], MH_F32, n);
    k->norm_dw(y[0], in[1], in[2], 0.3f, 1.2f, n);
}
CASE(rotate)
{
    k->load(y[0], in[0], MH_F32, n);
    k->load(y[1], in[1], MH_F32, n);
    k->rotate(y[0], y[1], in[2], in[3], -1, n);
}
CASE(swiglu)
{
    k->swiglu(y[0], in[0], in[1], n);
}
CASE(swiglu_bwd)
{
    k->swiglu_bwd(y[0], y[1], in[0], in[1], in[2], n);
}
CASE(gelu)
{
    k->gelu(y[0], in[0], n);
}
CASE(gelu_bwd)
{
    k->gelu_bwd(y[0], in[0], in[1], n);
}

CASE(max_abs)
{
    y[0][0] = n ? k->max_abs(in[0], n) : y[0][0];
}
CASE(quantize)
{
    k->quantize(y[0], in[0], 4, -2, 3, n); /* values about 1: many are cut, many are halves */
}

static const mh_adamw_factors factors = {.grad_scale = 0.5f,
                                         .beta1 = 0.9f,
                                         .beta2 = 0.95f,
                                         .rate = 0.01f,
                                         .root = 1.5f,
                                         .eps = 1e-3f,
                                         .keep = 0.99f};

CASE(adamw)
{
    k->load(y[0], in[0], MH_F32, n);
    k->load(y[1], in[1], MH_F32, n);
    for (int64_t i = 0; i < n; i++)
        y[2][i] = positive(in[2][i]);
    k->adamw(y[0], y[1], y[2], in[3], &factors, n);
}

#define ROW(name, sum, exact)         \
    {                                 \
#        name, sum, exact, run_##name \
    }
static const kernel_case cases[] = {
    ROW(load, false, true),         ROW(store, false, true),        ROW(sum, true, false),
    ROW(squares, true, false),      ROW(squares_wide, true, false), ROW(dot, true, false),
    ROW(max, false, true),          ROW(add, false, true),          ROW(multiply, false, true),
    ROW(scale, false, true),        ROW(axpy, false, false),        ROW(exp, false, false),
    ROW(softmax_bwd, false, false), ROW(norm, false, false),        ROW(norm_sums, true, false),
    ROW(norm_bwd, false, false),    ROW(norm_dw, false, false),     ROW(rotate, false, false),
    ROW(swiglu, false, false),      ROW(swiglu_bwd, false, false),  ROW(gelu, false, false),
    ROW(gelu_bwd, false, false),    ROW(adamw, false, false),       ROW(sum_abs, true, false),
    ROW(max_abs, true, true),       ROW(quantize, false, true),     ROW(find, false, true),
};
_Static_assert(COUNT(cases) == sizeof(mh_rows) / sizeof(void (*)(void)), "a kernel without a case");

static void run_case(const kernel_case *c, const mh_rows *k, buffers *b, int64_t n)
{
    float *y[ARRAYS];
    for (int i = 0; i < ARRAYS; i++) {
        for (int j = 0; j < COUNT(b->out[i]); j++)
            b->out[i][j] = canary;
        y[i] = b->out[i] + MARGIN;
    }
    c->run(k, y, b->in, n);
}

static bool near(float a, float b, float bound)
{
    return isnan(a) ? isnan(b) : a == b || positive(a - b) <= bound * (1 + positive(b));
}

/* Sums may differ by a rounding of each term; other kernels by fused multiplication and addition, which
 * rounds once where two operations round twice. Numbers are about 1, at most 40 after exp. */
static void rows_agree(void **state)
{
    (void)state;
    static buffers want, got;
    const mh_rows *portable = mh_rows_of(MH_ISA_PORTABLE), *rows = mh_rows_now();
    for (int i = 0; i < ARRAYS; i++)
        for (int j = 0; j < MOST; j++)
            want.in[i][j] = got.in[i][j] = random_value(j, (uint64_t)i);
    for (int c = 0; c < COUNT(cases); c++)
        for (int s = 0; s < COUNT(sizes); s++) {
            int64_t n = sizes[s];
            run_case(&cases[c], portable, &want, n);
            run_case(&cases[c], rows, &got, n);
            float bound = cases[c].exact ? 0 : 1e-6f * (cases[c].sum ? (float)n : 1);
            for (int i = 0; i < ARRAYS; i++)
                for (int j = 0; j < COUNT(want.out[i]); j++) {
                    float a = got.out[i][j], b = want.out[i][j];
                    bool inside = j >= MARGIN && j < MARGIN + n;
                    if (!(inside ? near(a, b, bound) : a == canary))
                        fail_msg("%s, %s, n = %d, output %d, element %d: %g, expected %g", cases[c].name,
                                 mh_isa_name(mh_isa_now()), (int)n, i, j - MARGIN, (double)a,
                                 inside ? (double)b : (double)canary);
                }
        }
}

/* The first of two largest, wherever they stand; what stands behind the row does not count, nor does NaN. */
static void largest_is_found(void **state)
{
    (void)state;
    const mh_rows *k = mh_rows_now();
    float x[66];
    for (int n = 1; n < COUNT(x); n++) {
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < COUNT(x); j++)
                x[j] = j < n ? 1 : 9;
            x[i] = x[n - 1] = 2;
            assert_true(k->max(x, n) == 2);
            assert_int_equal(k->find(x, 2, n), i);
            assert_int_equal(k->find(x, 9, n), n);
            x[i] = NAN; /* 2 still stands at the end, but for the last i */
            assert_true(k->max(x, n) == (i < n - 1 ? 2 : n > 1 ? 1 : -INFINITY));
        }
        for (int j = 0; j < n; j++)
            x[j] = NAN;
        assert_true(k->max(x, n) == -INFINITY);
        assert_int_equal(k->find(x, NAN, n), n);
    }
}

/* bf16 is the upper half of an f32; halfway cases go to the even neighbour, overflow to infinity, and NaN
 * stays NaN. */
static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    static const struct {
        uint32_t from;
        uint16_t to;
    } known[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
                 {0x3f807fff, 0x3f80}, {0x80000000, 0x8000}, {0x00000001, 0x0000}, {0x00018000, 0x0002},
                 {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x7f800001, 0x7fc0},
                 {0x7fffffff, 0x7fff}, {0xffc12345, 0xffc1}};
    for (int i = 0; i < COUNT(known); i++) {
        float x[40];
        uint16_t y[40];
        for (int j = 0; j < 40; j++)
            memcpy(&x[j], &known[i].from, sizeof x[j]);
        mh_rows_now()->store(y, MH_BF16, x, 40);
        for (int j = 0; j < 40; j++)
            assert_int_equal(y[j], known[i].to);
    }
}

/* Relative to libm in double. exp: a polynomial of 5e-9, its rounding, and that of its argument (up to 88,
 * reduced exactly); the others have an absolute error where their factors cancel. */
static void functions_agree_with_libm(void **state)
{
    (void)state;
    enum { N = 4001 };
    static float x[N], one[N], y[N], z[N];
    const mh_rows *k = mh_rows_now();
    for (int i = 0; i < N; i++) {
        x[i] = -86 + (float)i * (173.0f / N);
        one[i] = 1;
    }
    k->exp(y, x, 1, 0, N);
    for (int i = 0; i < N; i++)
        if (!(fabs((double)y[i] / exp((double)x[i]) - 1) < 3e-7))
            fail_msg("exp(%g) = %g", (double)x[i], (double)y[i]);
    for (int i = 0; i < N; i++)
        x[i] = -12 + (float)i * (24.0f / N);
    k->swiglu(y, x, one, N);
    for (int i = 0; i < N; i++)
        if (!(fabs((double)y[i] - (double)x[i] / (1 + exp(-(double)x[i]))) < 3e-7 * (1 + fabs((double)x[i]))))
            fail_msg("silu(%g) = %g", (double)x[i], (double)y[i]);
    k->gelu(y, x, N);
    k->gelu_bwd(z, one, x, N);
    for (int i = 0; i < N; i++) {
        double u = (double)x[i], share = 0.5 * erfc(-u * M_SQRT1_2),
               density = exp(-u * u / 2) / sqrt(2 * M_PI);
        if (!(fabs((double)y[i] - u * share) < 3e-7 * (1 + fabs(u)) &&
              fabs((double)z[i] - share - u * density) < 1e-6))
            fail_msg("gelu(%g) = %g, derivative %g", u, (double)y[i], (double)z[i]);
    }
}

/* Far outside its range exp stops at numbers that are still finite, and NaN is never lost: training finds it
 * in the loss. */
static void extremes(void **state)
{
    (void)state;
    float x[3] = {-1e30f, 1e30f, NAN}, y[3], up[3] = {1, 1, 1};
    mh_rows_now()->exp(y, x, 1, 0, 3);
    assert_true(y[0] >= 0 && y[0] < 1e-37f && y[1] > 1e38f && isfinite(y[1]) && isnan(y[2]));
    mh_rows_now()->swiglu(y, x, up, 3);
    assert_true(fabsf(y[0]) < 1e-6f && y[1] == 1e30f && isnan(y[2]));
    mh_rows_now()->gelu(y, x, 3);
    assert_true(fabsf(y[0]) < 1e-6f && y[1] == 1e30f && isnan(y[2]));
}

static void adamw_formula(void **state)
{
    (void)state;
    float w = 2, m = 0.5f, v = 0.25f, dw = 3;
    mh_rows_now()->adamw(&w, &m, &v, &dw, &factors, 1);
    double mean = 0.9 * 0.5 + 0.1 * 1.5, square = 0.95 * 0.25 + 0.05 * 1.5 * 1.5;
    assert_true(fabs((double)m - mean) < 1e-6 && fabs((double)v - square) < 1e-6);
    assert_true(fabs((double)w - (0.99 * 2 - 0.01 * mean / (1.5 * sqrt(square) + 1e-3))) < 1e-6);
}

/* ---- products ------------------------------------------------------------------------------------------ */

/* A matrix in memory that may be wider than it: stride = cols + PAD. */
enum { PAD = 5, SPACE = 700 * 700 };

static int64_t stored(mh_type type, void *to, int64_t index, float x)
{
    mh_rows_now()->store((char *)to + (size_t)index * mh_type_size(type), type, &x, 1);
    return index;
}

static float fetch(mh_type type, const void *from, int64_t index)
{
    float x;
    mh_rows_now()->load(&x, (const char *)from + (size_t)index * mh_type_size(type), type, 1);
    return x;
}

static double product_at(const mh_product *p, const float *before, int64_t i, int64_t j)
{
    double sum = p->add ? (double)before[i * p->ldc + j] : 0;
    for (int64_t l = 0; l < p->k; l++)
        sum += (double)fetch(p->in, p->a, p->transpose_a ? l * p->lda + i : i * p->lda + l) *
               (double)fetch(p->in, p->b, p->transpose_b ? j * p->ldb + l : l * p->ldb + j);
    return sum;
}

#ifdef MHMOE_ONEDNN
static void as_on_amx(const mh_product *p)
{
    mh_gemm_onednn(p, MH_ISA_AMX);
}
#endif

/* One product against sums in double. Numbers are about 1, so sums are about sqrt(k): f32 is off by a few
 * roundings of 2^-24 a term; a bf16 result by half of 2^-8 of itself. */
static void check_product(void (*multiply)(const mh_product *), mh_product p, bool packed, int pad_a,
                          int pad_c)
{
    static float a[SPACE], b[SPACE], c[SPACE], before[SPACE];
    static _Alignas(MH_ALIGN) char laid_out[2 * SPACE];
    bool ta = p.transpose_a, tb = p.transpose_b;
    int64_t m = p.m, n = p.n, k = p.k;
    mh_type in = p.in, out = p.out;
    p.a = a, p.b = b, p.c = c;
    p.lda = (ta ? m : k) + pad_a, p.ldb = (tb ? k : n) + PAD, p.ldc = n + pad_c;
    /* what stands between the rows must not be read */
    for (int64_t i = 0; i < (ta ? k : m) * p.lda; i++)
        stored(in, a, i, i % p.lda < p.lda - pad_a ? random_value(i, 100) : NAN);
    for (int64_t i = 0; i < (tb ? n : k) * p.ldb; i++)
        stored(in, b, i, i % p.ldb < p.ldb - PAD ? random_value(i, 101) : NAN);
    if (packed) {
        assert_in_range(mh_panels_bytes(k, n), 0, sizeof laid_out);
        memset(laid_out, 0xff, sizeof laid_out); /* NaN: what ought to be 0 shows */
        mh_panels_fill(laid_out, (uint16_t *)b, p.ldb, tb, k, n);
        p.panels = laid_out;
    }
    /* without `add` C may hold anything, and it must not be read */
    for (int64_t i = 0; i < (m + 1) * p.ldc; i++) {
        bool inside = i / p.ldc < m && i % p.ldc < n;
        stored(out, c, i, !inside ? canary : p.add ? random_value(i, 102) : NAN);
        before[i] = fetch(out, c, i);
    }
    multiply(&p);
    for (int64_t i = 0; i < (m + 1) * p.ldc; i++) {
        int64_t row = i / p.ldc, col = i % p.ldc;
        double got = (double)fetch(out, c, i);
        double want = row < m && col < n ? product_at(&p, before, row, col) : (double)canary;
        double bound = 1e-6 * sqrt((double)k + 1) * 4 + (out == MH_BF16 ? fabs(want) / 256 : 0);
        if (!(row < m && col < n ? fabs(got - want) <= bound : got == want))
            fail_msg("%s %s to %s, m %d, n %d, k %d, transposed %d %d, add %d, panels %d: (%d, %d) is %g, "
                     "expected %g",
                     mh_isa_name(mh_isa_now()), mh_type_name(in), mh_type_name(out), (int)m, (int)n, (int)k,
                     ta, tb, p.add, packed, (int)row, (int)col, got, want);
    }
}

/* The three forms that operations use, with gaps between rows and, as oneDNN takes panels, without. Sums of a
 * weight gradient go in pieces, as do oneDNN's rows: sizes beyond a piece, with all kinds of rest. Of the
 * last panel there are a few columns, half, more than half, or all but one. */
static void check_products(void (*multiply)(const mh_product *))
{
    static const int64_t shapes[][3] = {{1, 1, 1},     {1, 17, 33},  {3, 8, 0},     {2, 3, 5},   {7, 64, 31},
                                        {16, 16, 16},  {33, 65, 17}, {63, 10, 64},  {9, 32, 7},  {9, 33, 35},
                                        {65, 70, 257}, {300, 9, 40}, {5, 130, 600}, {511, 3, 2}, {5, 48, 64},
                                        {6, 127, 33},  {512, 4, 3},  {513, 2, 9}};
    static const mh_type types[][2] = {{MH_F32, MH_F32}, {MH_BF16, MH_BF16}, {MH_BF16, MH_F32}};
    bool panels = mh_panels_bytes(1, 1) > 0;
    if (!panels)
        print_message("panels are of no use to products here, and not tested with them\n");
    for (int s = 0; s < COUNT(shapes); s++)
        for (int t = 0; t < COUNT(types); t++)
            for (int add = 0; add < 2; add++) {
                const int64_t *d = shapes[s];
                mh_product p = {d[0], d[1], d[2], .add = add, .in = types[t][0], .out = types[t][1]};
                for (int transpose = 0; transpose < 2; transpose++) {
                    p.transpose_b = transpose;
                    check_product(multiply, p, false, PAD, PAD);
                    for (int pads = 0; pads < 4 && panels && p.in == MH_BF16; pads++)
                        check_product(multiply, p, true, pads & 1 ? PAD : 0, pads & 2 ? PAD : 0);
                }
                if (p.out == MH_F32) {
                    p.transpose_a = true, p.transpose_b = false;
                    check_product(multiply, p, false, PAD, PAD);
                    p.m = d[1], p.n = d[2], p.k = d[0];
                    check_product(multiply, p, false, PAD, PAD);
                }
            }
    mh_product p = {4, 6, 1024 + 511, .transpose_a = true, .in = MH_BF16, .out = MH_F32};
    check_product(multiply, p, false, PAD, PAD);
    p.add = true;
    check_product(multiply, p, false, PAD, PAD);
}

static void products(void **state)
{
    (void)state;
    check_products(mh_gemm);
#ifdef MHMOE_ONEDNN
    if (mh_isa_now() == MH_ISA_AVX512_BF16)
        check_products(as_on_amx);
#endif
}

/* Outside of parallel regions too a product is one thread's, with one order of sums. */
static void products_run_alone(void **state)
{
    (void)state;
    enum { N = 60, K = 5000 };
    static float a[N * K], b[N * K], c[2][N * N];
    int usual = omp_get_max_threads();
    for (int64_t i = 0; i < N * K; i++)
        a[i] = random_value(i, 100), b[i] = random_value(i, 101);
    for (int i = 0; i < 2; i++) {
        omp_set_num_threads(i ? 4 : 1);
        mh_gemm(&(mh_product){.m = N,
                              .n = N,
                              .k = K,
                              .a = a,
                              .lda = K,
                              .b = b,
                              .ldb = K,
                              .transpose_b = true,
                              .c = c[i],
                              .ldc = N});
        assert_int_equal(omp_get_max_threads(), i ? 4 : 1);
    }
    omp_set_num_threads(usual);
    assert_memory_equal(c[0], c[1], sizeof c[0]);
}

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
    (void)number;
    signals++;
}

/* A caller may have handlers that run on the stack of the thread in hand: profilers do. */
static void products_endure_signals(void **state)
{
    (void)state;
    enum { N = 256, EACH = 20 };
    static float a[N * N], b[N * N], c[2][N * N];
    struct sigaction handle = {.sa_handler = count_signal, .sa_flags = SA_RESTART}, usual;
    assert_int_equal(sigaction(SIGPROF, &handle, &usual), 0);
    for (mh_type type = MH_F32; type <= MH_BF16; type++) {
        mh_product p = {N, N, N, .a = a, .lda = N, .b = b, .ldb = N, .ldc = N, .in = type, .out = MH_F32};
        for (int64_t i = 0; i < N * N; i++) {
            stored(type, a, i, random_value(i, 110));
            stored(type, b, i, random_value(i, 111));
        }
        p.c = c[0];
        mh_gemm(&p);
        p.c = c[1];
        setitimer(ITIMER_PROF, &(struct itimerval){{0, 1000}, {0, 1000}}, NULL);
        for (signals = 0; signals < EACH;) {
            mh_gemm(&p);
            assert_memory_equal(c[0], c[1], sizeof c[0]);
        }
        setitimer(ITIMER_PROF, &(struct itimerval){0}, NULL);
    }
    sigaction(SIGPROF, &usual, NULL);
}

/* ---- the choice ---------------------------------------------------------------------------------------- */

static void the_choice(void **state)
{
    (void)state;
    char word[32];
    snprintf(word, sizeof word, "%s", getenv("MHMOE_ISA"));
    assert_string_equal(mh_isa_name(mh_isa_now()), word);
    assert_ptr_equal(mh_rows_now(), mh_rows_of(mh_isa_now()));
    OK(mh_isa_init());
    setenv("MHMOE_ISA", "sse9", 1);
    FAILS(MH_EUSAGE, "MHMOE_ISA is \"sse9\", which is no instruction set", mh_isa_init());
    setenv("MHMOE_ISA", word, 1);
}

static int run_all(mh_isa isa)
{
    setenv("MHMOE_ISA", mh_isa_name(isa), 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_choice),
        cmocka_unit_test(rows_agree),
        cmocka_unit_test(largest_is_found),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(functions_agree_with_libm),
        cmocka_unit_test(extremes),
        cmocka_unit_test(adamw_formula),
        cmocka_unit_test(products),
        cmocka_unit_test(products_run_alone),
        cmocka_unit_test(products_endure_signals),
    };
    return cmocka_run_group_tests_name(mh_isa_name(isa), tests, NULL, NULL);
}

int main(void)
{
    int failed = 0;
    for (int isa = 0; isa <= (int)mh_isa_best(); isa++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0)
            exit(run_all((mh_isa)isa));
        int result;
        failed += waitpid(child, &result, 0) != child || !WIFEXITED(result) || WEXITSTATUS(result) != 0;
    }
    return failed;
}
