/* kernel: the inner loops. A portable version of each is the specification; the instruction set of the
 * running processor picks the version that is used. Nothing here starts threads: src/op does. */
#ifndef MH_KERNEL_H
#define MH_KERNEL_H

#include "base/base.h"

/* ---- isa.c: which instruction set is used -------------------------------------------------------------- */

/* Each includes the ones before it. */
typedef enum { MH_ISA_PORTABLE, MH_ISA_AVX2, MH_ISA_AVX512, MH_ISA_AVX512_BF16, MH_ISA_AMX, MH_ISAS } mh_isa;

/* Checks the environment variable MHMOE_ISA and settles the choice. Optional: without it a bad MHMOE_ISA goes
 * unnoticed and the best is used. Fails with MH_EUSAGE at an unknown word. */
mh_status mh_isa_init(void);

mh_isa mh_isa_best(void); /* what processor and system offer */
mh_isa mh_isa_now(void);  /* what is used: the lower of mh_isa_best() and MHMOE_ISA */
const char *mh_isa_name(mh_isa isa);

/* ---- rows.c: loops over one row of f32 ----------------------------------------------------------------- */

/* Factors of one AdamW update that are alike for all elements. */
typedef struct {
    float grad_scale, beta1, beta2, rate, root, eps, keep;
} mh_adamw_factors;

/* n >= 0; an output may be one of the inputs, but must not overlap it otherwise. Sums are taken in vector
 * lanes: their order depends on the instruction set and on nothing else. */
typedef struct {
    void (*load)(float *y, const void *x, mh_type type, int64_t n);  /* from f32 or bf16 */
    void (*store)(void *y, mh_type type, const float *x, int64_t n); /* to f32 or bf16, to nearest even */
    float (*sum)(const float *x, int64_t n);
    float (*sum_abs)(const float *x, int64_t n);          /* sum |x| */
    float (*squares)(const float *x, float m, int64_t n); /* sum (x - m)^2 */
    double (*squares_wide)(const float *x, int64_t n);    /* sum x^2, in double */
    float (*dot)(const float *a, const float *b, int64_t n);
    float (*max)(const float *x, int64_t n);             /* -infinity for n = 0; NaN is passed over */
    float (*max_abs)(const float *x, int64_t n);         /* 0 for n = 0; NaN where there is any */
    int64_t (*find)(const float *x, float a, int64_t n); /* the first i with x_i = a, or n */
    /* y = round(a x) / a, with a x cut to [low, high] and halves rounded to even; |low|, |high| < 2^22 */
    void (*quantize)(float *y, const float *x, float a, float low, float high, int64_t n);
    void (*add)(float *y, const float *a, const float *b, int64_t n);
    void (*multiply)(float *y, const float *a, const float *b, int64_t n);
    void (*scale)(float *y, float a, const float *x, int64_t n);         /* y = a x */
    void (*axpy)(float *y, float a, const float *x, int64_t n);          /* y += a x */
    float (*exp)(float *y, const float *x, float a, float b, int64_t n); /* y = exp(a x - b); returns sum y */
    /* dx = a p (dp - b) */
    void (*softmax_bwd)(float *dx, const float *p, const float *dp, float a, float b, int64_t n);
    /* y = (x - m) r w */
    void (*norm)(float *y, const float *x, const float *w, float m, float r, int64_t n);
    /* sums[0] += sum dy w; sums[1] += sum dy w (x - m) r */
    void (*norm_sums)(float sums[2], const float *dy, const float *x, const float *w, float m, float r,
                      int64_t n);
    /* dx = r (dy w - a - (x - m) r b) */
    void (*norm_bwd)(float *dx, const float *dy, const float *x, const float *w, float m, float r, float a,
                     float b, int64_t n);
    /* dw += dy (x - m) r */
    void (*norm_dw)(float *dw, const float *dy, const float *x, float m, float r, int64_t n);
    /* (a, b) = (a cos - b sin, b cos + a sin), sin multiplied by `turn`: 1 or -1 */
    void (*rotate)(float *a, float *b, const float *cos, const float *sin, float turn, int64_t n);
    void (*swiglu)(float *y, const float *gate, const float *up, int64_t n);
    void (*swiglu_bwd)(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                       int64_t n);
    void (*gelu)(float *y, const float *up, int64_t n);
    void (*gelu_bwd)(float *dup, const float *dy, const float *up, int64_t n);
    /* g = grad_scale dw; m and v their averages; w = keep w - rate m / (root sqrt(v) + eps) */
    void (*adamw)(float *w, float *m, float *v, const float *dw, const mh_adamw_factors *f, int64_t n);
} mh_rows;

/* The kernels in use, and those of one instruction set (NULL where the processor or this build lacks it). */
const mh_rows *mh_rows_now(void);
const mh_rows *mh_rows_of(mh_isa isa);

/* ---- gemm_*.c: one tile of a matrix product ------------------------------------------------------------ */

/* C[m,n] = op(A)[m,k] op(B)[k,n], or added to C. Row-major; element (i,j) of a stored matrix is at i*ld + j.
 * A and B are alike f32 or bf16, C is f32 or bf16, sums are f32. Transposed A has B as it is stored and f32
 * C: this is the weight gradient, whose long k may be summed in pieces. `panels` may hold op(B) as
 * mh_panels_fill left it: faster, by a third where m is small. */
typedef struct {
    int64_t m, n, k;
    const void *a, *b;  /* stored [m,k] and [k,n]; transposed: [k,m] and [n,k] */
    const void *panels; /* op(B) once more, or NULL; not with transposed A */
    void *c;
    int64_t lda, ldb, ldc;
    bool transpose_a, transpose_b, add;
    mh_type in, out; /* of A and B; of C */
} mh_product;

/* Runs on the calling thread alone. */
void mh_gemm(const mh_product *product);

void mh_gemm_portable(const mh_product *product); /* the specification */

/* From MH_ISA_AVX512_BF16 on: a bf16 product that has panels or transposed A. `work` has mh_gemm_pairs_bytes,
 * and may be NULL where these are 0. */
void mh_gemm_pairs(const mh_product *product, void *work);
size_t mh_gemm_pairs_bytes(const mh_product *product);
#ifdef MHMOE_ONEDNN
/* As on `isa`: what oneDNN does on AMX alone can be tried from MH_ISA_AVX512_BF16 on. */
void mh_gemm_onednn(const mh_product *product, mh_isa isa);
bool mh_gemm_onednn_panels(void); /* are bf16 products faster with panels? */
#endif

/* ---- panels.c: the right factor of many products, laid out once ---------------------------------------- */

enum { MH_PANEL = 64 }; /* columns of a panel */

/* Bytes of a bf16 op(B) [k,n] in panels: 0 where products are not faster with them. Panels stand one after
 * the other: the one of column j, a multiple of MH_PANEL, begins mh_panels_bytes(k, j) after the first. */
size_t mh_panels_bytes(int64_t k, int64_t n);
int64_t mh_panels_elements(int64_t k, int64_t n); /* of the same, faster or not */

/* Lays out op(B) [k,n], stored as mh_product says: all of a matrix, or the columns of some of its panels. */
void mh_panels_fill(void *panels, const uint16_t *b, int64_t ldb, bool transpose_b, int64_t k, int64_t n);

/* ---- probe.c: what the processor can do at most -------------------------------------------------------- */

/* A loop of the widest multiply-adds of this machine in `type`, on registers alone; `operations`
 * (multiply-adds count twice) a round. Runs on the calling thread. MHMOE_ISA does not step it down. */
typedef struct {
    const char *name;
    double operations;
    void (*run)(int64_t rounds);
} mh_probe;

const mh_probe *mh_probe_of(mh_type type);

#endif
