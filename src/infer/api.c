/* What the public interface adds to the library's own functions: loading in one call, and a model's measures.
 */
#include "infer/infer.h"

const char *mh_version(void)
{
    return MHMOE_VERSION;
}

mh_status mh_model_load(mh_model **model, mh_tokenizer **tokenizer, const char *path, mh_precision precision)
{
    char folder[MH_PATH];
    *model = NULL;
    if (tokenizer != NULL)
        *tokenizer = NULL;
    if (precision != MH_PRECISION_F32 && precision != MH_PRECISION_BF16)
        return mh_fail(MH_EVALUE, "%d is no precision; use MH_PRECISION_F32 or MH_PRECISION_BF16",
                       (int)precision);
    MH_TRY(mh_checkpoint_locate(path, folder));
    MH_TRY(mh_checkpoint_read(model, tokenizer, folder, precision, false));
    if (tokenizer == NULL || *tokenizer != NULL)
        return MH_OK;
    mh_model_free(*model);
    *model = NULL;
    return mh_fail(
        MH_EIO,
        "%s: no tokenizer.model in it, so it cannot read or write text; copy the one of its training there",
        folder);
}

int64_t mh_model_vocab(const mh_model *model)
{
    return model->config.vocab;
}

int64_t mh_model_context(const mh_model *model)
{
    return model->config.context;
}

int32_t mh_model_bos(const mh_model *model)
{
    return (int32_t)model->config.bos;
}

int32_t mh_model_eos(const mh_model *model)
{
    return (int32_t)model->config.eos;
}
