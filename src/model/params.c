/* The parameter registry: what optimizer, checkpoint, clipping and counting loop over. */
#include "model/model.h"

#include <assert.h>
#include <string.h>

int64_t mh_param_size(const mh_param *param)
{
    return param->groups * param->rows * param->cols;
}

int mh_params_add(mh_params *params, const char *prefix, const char *name, mh_param param)
{
    int64_t size = mh_param_size(&param);
    param.offset = params->elements;
    params->elements += (size + 15) / 16 * 16; /* 64 bytes: aligned in f32 */
    params->part[param.part] += size;
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

mh_mat mh_param_work(const mh_params *params, int index)
{
    const mh_param *p = &params->list[index];
    if (params->half == NULL || p->flags & MH_KEEP_F32)
        return mh_param_value(params, index);
    return mh_mat_of(params->half + p->offset, p->groups * p->rows, p->cols, MH_BF16);
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
    if (params->half == NULL)
        return;
    /* Rows of 1024: cast works by rows, and one row of all parameters would be one thread's. */
    int64_t rows = params->elements / 1024, rest = params->elements % 1024;
    ops->cast(mh_mat_of(params->half, rows, 1024, MH_BF16), mh_mat_of(params->value, rows, 1024, MH_F32));
    ops->cast(mh_mat_of(params->half + rows * 1024, 1, rest, MH_BF16),
              mh_mat_of(params->value + rows * 1024, 1, rest, MH_F32));
}
