/* gemm by oneDNN 2.6: f32 through dnnl_sgemm; bf16 through mh_gemm_pairs or matmul primitives, whichever is
 * faster, where the processor multiplies bf16 (elsewhere it is widened to f32 first). What neither can do
 * falls back to the portable product. */
#ifdef MHMOE_ONEDNN

#    include "kernel/kernel.h"

#    include <dnnl.h>
#    include <omp.h>
#    include <signal.h>
#    include <stdlib.h>
#    include <string.h>
#    include <threads.h>

enum {
    CACHE = 2048,           /* primitives a thread keeps */
    PROBES = 8,             /* places where one may stand */
    ROWS_PIECE = 256,       /* most rows of a primitive */
    REDUCTION_PIECE = 1024, /* most rows that it sums in a weight gradient */
    PAIRS_REDUCTION = 512,  /* fewer are summed by mh_gemm_pairs: the factor that it reads again stays near */
    AMX_ROWS = 16,          /* AMX has tiles of so many rows: fewer are left to mh_gemm_pairs */
    AMX_REDUCTION = 64      /* a weight gradient of fewer waits for C, with AMX as without */
};

enum { A, B, C, SCRATCHPAD, MEMORIES };

static dnnl_engine_t engine;
static tss_t states;
static once_flag once = ONCE_FLAG_INIT;
static bool panels_pay;

/* What a primitive was made for. Compared as bytes: clear it before filling. */
typedef struct {
    int64_t m, n, k, lda, ldb, ldc; /* of one type all: no gaps between them */
    int64_t transpose_a, transpose_b, panels, add, out;
} shape;

typedef struct {
    shape shape;
    dnnl_primitive_t primitive; /* NULL: free */
    dnnl_memory_t memory[MEMORIES];
    size_t scratchpad;
} entry;

/* Memory that grows. */
typedef struct {
    void *p;
    size_t size;
} buffer;

/* One thread's own: primitives keep data pointers, so threads cannot share them. */
typedef struct {
    dnnl_stream_t stream;
    buffer work; /* a primitive's scratchpad, or widened matrices */
    buffer tile; /* of C, or the factors of a weight gradient as mh_gemm_pairs lays them out */
    entry cache[CACHE];
} state;

static void entry_release(entry *e)
{
    dnnl_primitive_destroy(e->primitive);
    for (int i = 0; i < MEMORIES; i++)
        dnnl_memory_destroy(e->memory[i]);
    memset(e, 0, sizeof *e);
}

/* Called when a thread ends. */
static void state_free(void *pointer)
{
    state *s = pointer;
    for (int i = 0; i < CACHE; i++)
        if (s->cache[i].primitive)
            entry_release(&s->cache[i]);
    dnnl_stream_destroy(s->stream);
    free(s->work.p);
    free(s->tile.p);
    free(s);
}

/* At least `bytes` of `b`, valid until the next call; NULL where there is no memory. It grows a few times in
 * a run's first updates: the rows an expert gets differ. */
static void *buffer_of(buffer *b, size_t bytes)
{
    if (bytes > b->size) {
        free(b->p);
        bytes = bytes > 2 * b->size ? bytes : 2 * b->size;
        b->size = (bytes + MH_ALIGN - 1) / MH_ALIGN * MH_ALIGN;
        b->p = aligned_alloc(MH_ALIGN, b->size);
        if (b->p == NULL)
            b->size = 0;
    }
    return b->p;
}

static bool describe(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols, int64_t ld, bool transpose,
                     mh_type type)
{
    dnnl_dims_t dims = {rows, cols}, strides = {transpose ? 1 : ld, transpose ? ld : 1};
    return dnnl_memory_desc_init_by_strides(desc, 2, dims, type == MH_F32 ? dnnl_f32 : dnnl_bf16, strides) ==
           dnnl_success;
}

/* A right factor in panels. */
static bool describe_panels(dnnl_memory_desc_t *desc, int64_t k, int64_t n)
{
    return dnnl_memory_desc_init_by_tag(desc, 2, (dnnl_dims_t){k, n}, dnnl_bf16, dnnl_BA16a64b2a) ==
           dnnl_success;
}

/* Makes the primitive of `e->shape`. */
static bool entry_create(entry *e)
{
    const shape *p = &e->shape;
    dnnl_memory_desc_t desc[MEMORIES];
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t sum = NULL;
    dnnl_primitive_desc_t made = NULL;
    bool ok = describe(&desc[A], p->m, p->k, p->lda, p->transpose_a, MH_BF16) &&
              (p->panels ? describe_panels(&desc[B], p->k, p->n)
                         : describe(&desc[B], p->k, p->n, p->ldb, p->transpose_b, MH_BF16)) &&
              describe(&desc[C], p->m, p->n, p->ldc, false, (mh_type)p->out) &&
              dnnl_primitive_attr_create(&attr) == dnnl_success &&
              dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success;
    if (ok && p->add)
        ok = dnnl_post_ops_create(&sum) == dnnl_success &&
             dnnl_post_ops_append_sum(sum, 1.0f) == dnnl_success &&
             dnnl_primitive_attr_set_post_ops(attr, sum) == dnnl_success;
    ok = ok && dnnl_matmul_desc_init(&matmul, &desc[A], &desc[B], NULL, &desc[C]) == dnnl_success &&
         dnnl_primitive_desc_create(&made, &matmul, attr, engine, NULL) == dnnl_success &&
         dnnl_primitive_create(&e->primitive, made) == dnnl_success;
    if (ok) {
        desc[SCRATCHPAD] = *dnnl_primitive_desc_query_md(made, dnnl_query_scratchpad_md, 0);
        e->scratchpad = dnnl_memory_desc_get_size(&desc[SCRATCHPAD]);
        /* Whenever oneDNN learns where a blocked matrix lies, it writes zeros where k or n end early: a
         * matrix that ends nowhere early keeps it from writing into what other threads read. */
        if (p->panels)
            ok = describe_panels(&desc[B], desc[B].padded_dims[0], desc[B].padded_dims[1]);
        for (int i = 0; i < MEMORIES; i++)
            ok = ok && dnnl_memory_create(&e->memory[i], &desc[i], engine, DNNL_MEMORY_NONE) == dnnl_success;
    }
    dnnl_primitive_desc_destroy(made);
    dnnl_post_ops_destroy(sum);
    dnnl_primitive_attr_destroy(attr);
    return ok;
}

/* oneDNN makes a primitive for any layout, but those that it has no kernel for run in its reference. Tried
 * with sizes that are multiples of nothing. */
static bool takes_panels(void)
{
    entry e = {.shape = {.m = 3, .n = 103, .k = 41, .lda = 41, .ldc = 103, .panels = true, .out = MH_BF16}};
    const_dnnl_primitive_desc_t made;
    const char *name;
    bool fast = entry_create(&e) && dnnl_primitive_get_primitive_desc(e.primitive, &made) == dnnl_success &&
                dnnl_primitive_desc_query(made, dnnl_query_impl_info_str, 0, (void *)&name) == dnnl_success &&
                strncmp(name, "ref", 3) != 0;
    entry_release(&e);
    return fast;
}

static void start(void)
{
    static const dnnl_cpu_isa_t limit[MH_ISAS] = {
        [MH_ISA_AVX2] = dnnl_cpu_isa_avx2,
        [MH_ISA_AVX512] = dnnl_cpu_isa_avx512_core,
        [MH_ISA_AVX512_BF16] = dnnl_cpu_isa_avx512_core_bf16,
        [MH_ISA_AMX] = dnnl_cpu_isa_avx512_core_amx,
    };
    dnnl_set_max_cpu_isa(limit[mh_isa_now()]);
    if (tss_create(&states, state_free) != thrd_success ||
        dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success)
        engine = NULL;
    /* without AMX mh_gemm_pairs takes them */
    panels_pay = engine != NULL && (mh_isa_now() < MH_ISA_AMX || takes_panels());
}

/* This thread's state, or NULL where there is no memory for it. */
static state *state_now(void)
{
    call_once(&once, start);
    if (engine == NULL)
        return NULL;
    state *s = tss_get(states);
    if (s == NULL && (s = calloc(1, sizeof *s)) != NULL) {
        if (dnnl_stream_create(&s->stream, engine, dnnl_stream_default_flags) != dnnl_success ||
            tss_set(states, s) != thrd_success) {
            state_free(s);
            s = NULL;
        }
    }
    return s;
}

bool mh_gemm_onednn_panels(void)
{
    if (mh_isa_now() < MH_ISA_AVX512_BF16)
        return false;
    call_once(&once, start);
    return panels_pay;
}

/* The primitive of this shape: one of PROBES places that its hash names, the first of which gives way when
 * all are taken. NULL where oneDNN cannot make it. */
static entry *find(state *s, const shape *wanted)
{
    uint64_t place = mh_hash(wanted, sizeof *wanted);
    entry *e = NULL;
    for (uint64_t i = 0; i < PROBES; i++) {
        e = &s->cache[(place + i) % CACHE];
        if (e->primitive == NULL)
            break;
        if (memcmp(&e->shape, wanted, sizeof *wanted) == 0)
            return e;
    }
    if (e->primitive != NULL)
        e = &s->cache[place % CACHE];
    entry_release(e);
    e->shape = *wanted;
    if (entry_create(e))
        return e;
    entry_release(e);
    return NULL;
}

static const void *at(const void *x, mh_type type, int64_t index)
{
    return (const char *)x + (size_t)index * mh_type_size(type);
}

/* A bf16 product by its primitive. */
static bool run(state *s, const mh_product *p)
{
    shape wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.m = p->m, wanted.n = p->n, wanted.k = p->k;
    wanted.lda = p->lda, wanted.ldc = p->ldc;
    wanted.transpose_a = p->transpose_a, wanted.panels = p->panels != NULL;
    if (!wanted.panels)
        wanted.ldb = p->ldb, wanted.transpose_b = p->transpose_b;
    wanted.add = p->add, wanted.out = p->out;
    entry *e = find(s, &wanted);
    void *scratchpad = e && e->scratchpad ? buffer_of(&s->work, e->scratchpad) : NULL;
    if (e == NULL || (e->scratchpad && scratchpad == NULL))
        return false;
    /* the C API takes no const pointer; A and B are only read */
    const void *b = p->panels ? p->panels : p->b;
    void *handle[MEMORIES] = {(void *)(uintptr_t)p->a, (void *)(uintptr_t)b, p->c, scratchpad};
    static const int argument[MEMORIES] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    dnnl_exec_arg_t arguments[MEMORIES];
    for (int i = 0; i < MEMORIES; i++) {
        if (dnnl_memory_set_data_handle(e->memory[i], handle[i]) != dnnl_success)
            return false;
        arguments[i] = (dnnl_exec_arg_t){argument[i], e->memory[i]};
    }
    return dnnl_primitive_execute(e->primitive, s->stream, MEMORIES, arguments) == dnnl_success;
}

static void copy_rows(void *y, int64_t ldy, const void *x, int64_t ldx, int64_t rows, size_t bytes,
                      mh_type type)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy((void *)(uintptr_t)at(y, type, i * ldy), at(x, type, i * ldx), bytes);
}

/* With panels oneDNN 2.6 is fast only where the rows of A and C follow each other without gaps (elsewhere it
 * falls back to its reference, a hundred times slower): a narrower tile of C goes through a buffer. */
static bool run_panels(state *s, const mh_product *p)
{
    size_t row = (size_t)p->n * mh_type_size(p->out);
    mh_product dense = *p;
    if (p->lda != p->k && p->m > 1)
        return false;
    dense.lda = p->k, dense.ldc = p->n;
    if (p->ldc == p->n || p->m == 1)
        return run(s, &dense);
    dense.c = buffer_of(&s->tile, (size_t)p->m * row);
    if (dense.c == NULL)
        return false;
    if (p->add)
        copy_rows(dense.c, p->n, p->c, p->ldc, p->m, row, p->out);
    bool ok = run(s, &dense);
    if (ok)
        copy_rows(p->c, p->ldc, dense.c, p->n, p->m, row, p->out);
    return ok;
}

static void run_pairs(state *s, const mh_product *p)
{
    size_t work = mh_gemm_pairs_bytes(p);
    void *memory = work ? buffer_of(&s->tile, work) : NULL;
    if (work && memory == NULL)
        mh_gemm_portable(p);
    else
        mh_gemm_pairs(p, memory);
}

static void run_primitives(state *s, const mh_product *p)
{
    mh_product plain = *p;
    plain.panels = NULL;
    if (!(p->panels && run_panels(s, p)) && !run(s, &plain))
        mh_gemm_portable(p);
}

/* Does mh_gemm_pairs take these rows? It is the faster one where it can, but for the longest weight
 * gradients; AMX is several times as fast. */
static bool for_pairs(const mh_product *p, mh_isa isa)
{
    bool amx = isa == MH_ISA_AMX;
    if (p->transpose_a)
        return p->k < (amx ? AMX_REDUCTION : PAIRS_REDUCTION);
    return p->panels && (!amx || p->m < AMX_ROWS);
}

/* A piece of the rows after the other; in a weight gradient, of those that are summed. Primitives are made
 * for one shape each and take up to a millisecond to make, but the rows an expert gets differ in every call.
 * So for them rows are cut into whole pieces and falling powers of two, a handful of shapes. */
static void product_bf16(state *s, const mh_product *p, mh_isa isa)
{
    mh_product rest = *p;
    int64_t *rows = p->transpose_a ? &rest.k : &rest.m, whole = p->transpose_a ? REDUCTION_PIECE : ROWS_PIECE;
    while (*rows > 0) {
        mh_product piece = rest;
        int64_t count = *rows;
        bool pairs = for_pairs(&rest, isa);
        if (!pairs)
            count = count >= whole ? whole : (int64_t)1 << (63 - __builtin_clzll((uint64_t)count));
        *(p->transpose_a ? &piece.k : &piece.m) = count;
        (pairs ? run_pairs : run_primitives)(s, &piece);
        *rows -= count;
        rest.a = at(rest.a, MH_BF16, count * p->lda);
        if (p->transpose_a) {
            rest.b = at(rest.b, MH_BF16, count * p->ldb);
            rest.add = true;
        } else {
            rest.c = (void *)(uintptr_t)at(rest.c, p->out, count * p->ldc);
        }
    }
}

/* Inside dnnl_sgemm the stack pointer may point into the heap. A signal handler on this thread's stack would
 * overwrite what lies there, so signals wait, or go to another thread. A single row is multiplied without
 * such tricks, and waiting would cost it as much as the product of a small model. */
static bool product_f32(const mh_product *p)
{
    /* Of this thread's own doing: they cannot wait. */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t all, before;
    if (p->out != MH_F32)
        return false;
    if (p->m > 1) {
        sigfillset(&all);
        for (int i = 0; i < (int)(sizeof faults / sizeof *faults); i++)
            sigdelset(&all, faults[i]);
        pthread_sigmask(SIG_BLOCK, &all, &before);
    }
    dnnl_status_t status =
        dnnl_sgemm(p->transpose_a ? 'T' : 'N', p->transpose_b ? 'T' : 'N', p->m, p->n, p->k, 1.0f, p->a,
                   p->lda, p->b, p->ldb, p->add ? 1.0f : 0.0f, p->c, p->ldc);
    if (p->m > 1)
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status == dnnl_success;
}

/* Copies a bf16 or f32 matrix into f32 rows of `cols`, and back. */
static void widen(float *y, const void *x, mh_type type, int64_t rows, int64_t cols, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++)
        mh_rows_now()->load(y + i * cols, at(x, type, i * ld), type, cols);
}

static void narrow(void *y, mh_type type, const float *x, int64_t rows, int64_t cols, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++)
        mh_rows_now()->store((void *)(uintptr_t)at(y, type, i * ld), type, x + i * cols, cols);
}

/* A bf16 product as one of f32 copies: the same exact products of two 8-bit mantissas, summed in f32. */
static bool product_widened(state *s, const mh_product *p)
{
    int64_t a_rows = p->transpose_a ? p->k : p->m, a_cols = p->transpose_a ? p->m : p->k;
    int64_t b_rows = p->transpose_b ? p->n : p->k, b_cols = p->transpose_b ? p->k : p->n;
    float *a = buffer_of(&s->work, (size_t)(p->m * p->k + p->k * p->n + p->m * p->n) * sizeof(float));
    if (a == NULL)
        return false;
    float *b = a + p->m * p->k, *c = b + p->k * p->n;
    widen(a, p->a, p->in, a_rows, a_cols, p->lda);
    widen(b, p->b, p->in, b_rows, b_cols, p->ldb);
    mh_product wide = *p;
    wide.a = a, wide.lda = a_cols, wide.b = b, wide.ldb = b_cols, wide.in = wide.out = MH_F32;
    if (p->out == MH_F32)
        return product_f32(&wide);
    wide.c = c, wide.ldc = p->n;
    if (p->add)
        widen(c, p->c, p->out, p->m, p->n, p->ldc);
    bool ok = product_f32(&wide);
    if (ok)
        narrow(p->c, p->out, c, p->m, p->n, p->ldc);
    return ok;
}

static bool product(const mh_product *p, mh_isa isa)
{
    state *s = state_now();
    if (s == NULL || p->k == 0)
        return false;
    if (p->in == MH_F32)
        return product_f32(p);
    if (isa < MH_ISA_AVX512_BF16)
        return product_widened(s, p);
    product_bf16(s, p, isa);
    return true;
}

/* oneDNN plans and runs with the threads it may use, and its sums depend on their number: it gets one. */
void mh_gemm_onednn(const mh_product *p, mh_isa isa)
{
    if (p->m == 0 || p->n == 0 || (p->k == 0 && p->add))
        return;
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    if (!product(p, isa))
        mh_gemm_portable(p);
    omp_set_num_threads(threads);
}

#endif
