/* The parameter registry: what optimizer, checkpoint, clipping and counting loop over. */
#include "kernel/kernel.h"
#include "model/model.h"

#include <assert.h>
#include <string.h>

int64_t mh_param_size(const mh_param *param)
{
    return param->groups * param->rows * param->cols;
}

void mh_param_shape(const mh_param *param, int64_t *shape)
{
    if (param->rank == 3)
        *shape++ = param->groups;
    if (param->rank >= 2)
        *shape++ = param->rank == 3 ? param->rows : param->groups * param->rows;
    *shape = param->cols;
}

int mh_params_add(mh_params *params, const char *prefix, const char *name, mh_param param)
{
    int64_t size = mh_param_size(&param);
    param.offset = params->elements;
    params->elements += (size + 15) / 16 * 16; /* 64 bytes: aligned in f32 */
    params->part[param.part] += size;
    if (param.flags & MH_LINEAR) {
        param.forward = params->forward_bytes;
        param.backward = params->backward_bytes;
        params->forward_bytes += (size_t)param.groups * mh_panels_bytes(param.cols, param.rows);
        params->backward_bytes += (size_t)param.groups * mh_panels_bytes(param.rows, param.cols);
    }
    if (params->list != NULL) {
        assert(params->count < params->capacity);
        snprintf(param.name, sizeof param.name, "%s%s", prefix, name);
        params->list[params->count] = param;
    }
    return params->count++;
}

int mh_params_find(const mh_params *params, const char *name)
{
    for (int i = 0; i < params->count; i++)
        if (strcmp(params->list[i].name, name) == 0)
            return i;
    return -1;
}

mh_mat mh_param_value(const mh_params *params, int index)
{
    const mh_param *p = &params->list[index];
    return mh_mat_of(params->value + p->offset, p->groups * p->rows, p->cols, MH_F32);
}

void mh_params_work_layout(mh_params *params, mh_arena *arena, const mh_params *counted,
                           mh_precision precision, int quant)
{
    params->ternary = quant == MH_QUANT_BITNET158;
    params->work_type = precision == MH_PRECISION_BF16 ? MH_BF16 : MH_F32;
    if (params->ternary || precision == MH_PRECISION_BF16)
        params->work = mh_take(arena, (size_t)counted->elements * mh_type_size(params->work_type));
}

void mh_params_panels_layout(mh_params *params, mh_arena *arena, const mh_params *counted, bool training)
{
    if (params->work_type == MH_BF16 && counted->forward_bytes)
        params->forward = mh_take(arena, counted->forward_bytes);
    if (params->work_type == MH_BF16 && counted->backward_bytes && training)
        params->backward = mh_take(arena, counted->backward_bytes);
}

/* The working copies of `count` elements from `offset` on, as rows of `cols`. */
static mh_mat work_at(const mh_params *params, int64_t offset, int64_t count, int64_t cols)
{
    char *at = (char *)params->work + (size_t)offset * mh_type_size(params->work_type);
    return mh_mat_of(at, count / cols, cols, params->work_type);
}

mh_mat mh_param_work(const mh_params *params, int index)
{
    const mh_param *p = &params->list[index];
    if (params->work == NULL || p->flags & MH_KEEP_F32)
        return mh_param_value(params, index);
    return work_at(params, p->offset, mh_param_size(p), p->cols);
}

mh_linear_weights mh_param_linear(const mh_params *params, int index)
{
    const mh_param *p = &params->list[index];
    mh_linear_weights w = {.w = mh_param_work(params, index)};
    if (p->flags & MH_LINEAR && params->forward)
        w.forward = params->forward + p->forward;
    if (p->flags & MH_LINEAR && params->backward)
        w.backward = params->backward + p->backward;
    return w;
}

float *mh_param_grad(const mh_params *params, int index)
{
    return index < 0 ? NULL : params->grad + params->list[index].offset;
}

const float *mh_param_vector(const mh_params *params, int index)
{
    return index < 0 ? NULL : params->value + params->list[index].offset;
}

void mh_params_refresh(const mh_params *params, const struct mh_ops *ops)
{
    if (params->work == NULL)
        return;
    /* Rows of 1024: cast works by rows, and one row of all parameters would be one thread's. */
    int64_t rest = params->elements % 1024, most = params->elements - rest;
    ops->cast(work_at(params, 0, most, 1024), mh_mat_of(params->value, most / 1024, 1024, MH_F32));
    if (rest)
        ops->cast(work_at(params, most, rest, rest), mh_mat_of(params->value + most, 1, rest, MH_F32));
    for (int i = 0; params->ternary && i < params->count; i++)
        if (params->list[i].flags & MH_TERNARY)
            ops->ternarize(mh_param_work(params, i), mh_param_value(params, i), (int)params->list[i].groups);
    for (int i = 0; i < params->count; i++)
        ops->pack(mh_param_linear(params, i), (int)params->list[i].groups);
}

void mh_params_clear(const mh_params *params)
{
    memset(params->grad, 0, (size_t)params->elements * sizeof *params->grad);
}

void mh_params_init(const mh_params *params, uint64_t seed)
{
    for (int i = 0; i < params->count; i++) {
        const mh_param *p = &params->list[i];
        float *w = params->value + p->offset;
        uint64_t stream = mh_stream(MH_RANDOM_INIT, (uint64_t)i, 0);
        int64_t size = mh_param_size(p);
#pragma omp parallel for schedule(static)
        for (int64_t j = 0; j < size; j++)
            switch (p->init) {
            case MH_INIT_ZERO:
                w[j] = 0;
                break;
            case MH_INIT_ONE:
                w[j] = 1;
                break;
            case MH_INIT_CONSTANT:
                w[j] = (float)p->scale;
                break;
            case MH_INIT_UNIFORM:
                w[j] = (float)(p->scale * (2 * mh_uniform(seed, stream, (uint64_t)j) - 1));
                break;
            case MH_INIT_NORMAL:
                w[j] = (float)(p->scale * mh_normal(seed, stream, (uint64_t)j));
                break;
            }
    }
}

mh_mat mh_linear_input(const struct mh_ops *ops, mh_mat rounded, mh_mat x)
{
    if (rounded.p == NULL)
        return x;
    rounded = mh_mat_rows(rounded, 0, x.rows);
    ops->quantize(rounded, x);
    return rounded;
}

mh_mat mh_linear_input_kept(mh_mat rounded, mh_mat x)
{
    return rounded.p == NULL ? x : mh_mat_rows(rounded, 0, x.rows);
}
