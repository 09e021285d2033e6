/* packed: the rival, oneDNN's matrix product with packed weights. */
#include "bench/bench.h"

#ifdef MHMOE_ONEDNN

#    include <dnnl.h>
#    include <stdlib.h>

enum { A, B, C, OPERANDS };
static const int argument[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};

struct mh_packed {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[OPERANDS];
};

static bool describe(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols, int64_t ld, bool transpose,
                     mh_type type)
{
    dnnl_dims_t dims = {rows, cols}, strides = {transpose ? 1 : ld, transpose ? ld : 1};
    return dnnl_memory_desc_init_by_strides(desc, 2, dims, type == MH_F32 ? dnnl_f32 : dnnl_bf16, strides) ==
           dnnl_success;
}

/* Makes the primitive; desc[B] becomes the layout that it wants. */
static bool plan(mh_packed *packed, dnnl_memory_desc_t desc[OPERANDS], bool pack, bool add)
{
    dnnl_memory_desc_t weights = desc[B];
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t sum = NULL;
    dnnl_primitive_desc_t made = NULL;
    dnnl_data_type_t type = desc[B].data_type;
    bool ok = dnnl_primitive_attr_create(&attr) == dnnl_success;
    if (ok && add)
        ok = dnnl_post_ops_create(&sum) == dnnl_success &&
             dnnl_post_ops_append_sum(sum, 1.0f) == dnnl_success &&
             dnnl_primitive_attr_set_post_ops(attr, sum) == dnnl_success;
    if (ok && pack)
        ok = dnnl_memory_desc_init_by_tag(&weights, 2, desc[B].dims, type, dnnl_format_tag_any) ==
             dnnl_success;
    ok = ok && dnnl_matmul_desc_init(&matmul, &desc[A], &weights, NULL, &desc[C]) == dnnl_success &&
         dnnl_primitive_desc_create(&made, &matmul, attr, packed->engine, NULL) == dnnl_success &&
         dnnl_primitive_create(&packed->primitive, made) == dnnl_success;
    if (ok)
        desc[B] = *dnnl_primitive_desc_query_md(made, dnnl_query_weights_md, 0);
    dnnl_primitive_desc_destroy(made);
    dnnl_post_ops_destroy(sum);
    dnnl_primitive_attr_destroy(attr);
    return ok;
}

/* Copies B from rows into the packed layout. */
static bool bring_in(const mh_packed *packed, const dnnl_memory_desc_t *rows, const void *b)
{
    dnnl_memory_t from = NULL;
    dnnl_primitive_desc_t made = NULL;
    dnnl_primitive_t reorder = NULL;
    const dnnl_memory_desc_t *to;
    bool ok = dnnl_memory_get_memory_desc(packed->memory[B], &to) == dnnl_success &&
              dnnl_memory_create(&from, rows, packed->engine, (void *)(uintptr_t)b) == dnnl_success &&
              dnnl_reorder_primitive_desc_create(&made, rows, packed->engine, to, packed->engine, NULL) ==
                  dnnl_success &&
              dnnl_primitive_create(&reorder, made) == dnnl_success;
    if (ok) {
        dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, packed->memory[B]}};
        ok = dnnl_primitive_execute(reorder, packed->stream, 2, arguments) == dnnl_success;
    }
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(made);
    dnnl_memory_destroy(from);
    return ok;
}

mh_packed *mh_packed_create(const mh_product *p, bool pack)
{
    mh_packed *packed = calloc(1, sizeof *packed);
    dnnl_memory_desc_t desc[OPERANDS], rows;
    bool ok = packed != NULL && describe(&desc[A], p->m, p->k, p->lda, p->transpose_a, p->in) &&
              describe(&desc[B], p->k, p->n, p->ldb, p->transpose_b, p->in) &&
              describe(&desc[C], p->m, p->n, p->ldc, false, p->out) &&
              dnnl_engine_create(&packed->engine, dnnl_cpu, 0) == dnnl_success &&
              dnnl_stream_create(&packed->stream, packed->engine, dnnl_stream_default_flags) == dnnl_success;
    if (ok) {
        /* the C API takes no const pointer; A and B are only read */
        void *handle[OPERANDS] = {(void *)(uintptr_t)p->a, (void *)(uintptr_t)p->b, p->c};
        if (pack)
            handle[B] = DNNL_MEMORY_ALLOCATE;
        rows = desc[B];
        ok = plan(packed, desc, pack, p->add);
        for (int i = 0; ok && i < OPERANDS; i++)
            ok = dnnl_memory_create(&packed->memory[i], &desc[i], packed->engine, handle[i]) == dnnl_success;
    }
    if (ok && pack)
        ok = bring_in(packed, &rows, p->b);
    if (ok)
        return packed;
    mh_packed_free(packed);
    return NULL;
}

void mh_packed_run(const mh_packed *packed)
{
    dnnl_exec_arg_t arguments[OPERANDS];
    for (int i = 0; i < OPERANDS; i++)
        arguments[i] = (dnnl_exec_arg_t){argument[i], packed->memory[i]};
    dnnl_primitive_execute(packed->primitive, packed->stream, OPERANDS, arguments);
    dnnl_stream_wait(packed->stream);
}

void mh_packed_free(mh_packed *packed)
{
    if (packed == NULL)
        return;
    for (int i = 0; i < OPERANDS; i++)
        dnnl_memory_destroy(packed->memory[i]);
    dnnl_primitive_destroy(packed->primitive);
    dnnl_stream_destroy(packed->stream);
    dnnl_engine_destroy(packed->engine);
    free(packed);
}

#else

mh_packed *mh_packed_create(const mh_product *product, bool pack)
{
    (void)product;
    (void)pack;
    return NULL;
}

void mh_packed_run(const mh_packed *packed)
{
    (void)packed;
}

void mh_packed_free(mh_packed *packed)
{
    (void)packed;
}

#endif
