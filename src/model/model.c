/* The decoder: embed; for each block x += attention(norm x), x += ffn(norm x); norm; output layer. Backward
 * is its mirror. */
#include "model/model.h"

static mh_mat live(mh_mat m, const mh_call *call)
{
    return mh_mat_rows(m, 0, call->batch * call->rows);
}

static mh_attention attention_shape(const mh_pass *p, const mh_model *model, const mh_call *call)
{
    return (mh_attention){.batch = call->batch,
                          .rows = call->rows,
                          .capacity = p->shape.capacity,
                          .past = call->past,
                          .heads = (int)model->config.attention_heads,
                          .kv_heads = (int)model->config.kv_heads,
                          .head_dim = (int)mh_config_head_dim(&model->config),
                          .first_key = call->first_key,
                          .scratch = p->scratch};
}

/* One stream of random numbers for each place where something is dropped. */
static uint64_t dropout_stream(const mh_call *call, int64_t layer, int half)
{
    return mh_stream(MH_RANDOM_DROPOUT, call->step, (uint32_t)(2 * layer + half));
}

static void norm_fwd(const mh_model *m, mh_mat y, float *stat, mh_mat x, int weight)
{
    m->ops->norm_fwd(y, stat, x, mh_param_vector(&m->params, weight), m->config.norm,
                     (float)m->config.norm_eps);
}

static void drop(const mh_model *m, mh_mat x, const mh_call *call, int64_t layer, int half)
{
    if (call->train && m->config.dropout > 0)
        m->ops->dropout_fwd(x, (float)m->config.dropout, call->seed, dropout_stream(call, layer, half));
}

static void place(mh_pass *p, const mh_call *call)
{
    for (int64_t n = 0; n < call->batch * call->rows; n++)
        p->position[n] = (int32_t)(call->past + n % call->rows);
}

void mh_forward(mh_pass *p, const mh_model *m, const mh_call *call)
{
    const struct mh_ops *ops = m->ops;
    const mh_params *params = &m->params;
    const mh_attention shape = attention_shape(p, m, call);
    mh_mat branch = live(p->branch, call);

    place(p, call);
    mh_mat x = live(m->config.layers ? p->blocks[0].x : p->x, call);
    ops->embedding_fwd(x, call->token, mh_param_work(params, m->embed));
    drop(m, x, call, m->config.layers, 0);
    for (int64_t i = 0; i < m->config.layers; i++) {
        const mh_block *block = &m->blocks[i];
        mh_block_pass *b = &p->blocks[i];
        mh_mat norm1 = live(b->norm1, call), mid = live(b->mid, call), norm2 = live(b->norm2, call);
        mh_mat next = live(i + 1 < m->config.layers ? p->blocks[i + 1].x : p->x, call);

        norm_fwd(m, norm1, b->stat1, x, block->attn_norm);
        mh_attention_fwd(&block->attention, params, ops, &b->attention, branch, norm1, &shape, p->position,
                         p->rotary);
        drop(m, branch, call, i, 0);
        ops->add(mid, x, branch);

        norm_fwd(m, norm2, b->stat2, mid, block->ffn_norm);
        b->ffn.draw = (mh_draw){call->train, call->seed, call->step, (uint32_t)i};
        mh_ffn_fwd(&block->ffn, params, ops, &b->ffn, branch, norm2);
        if (call->on_plan != NULL && block->ffn.moe.experts)
            call->on_plan(call->context, i, &b->ffn.plan);
        mh_shared_fwd(&block->shared, params, ops, &b->shared, branch, norm2, live(p->shared, call));
        drop(m, branch, call, i, 1);
        ops->add(next, mid, branch);
        x = next;
    }
    norm_fwd(m, live(p->hidden, call), p->stat, x, m->norm);
}

static void norm_bwd(const mh_model *m, mh_mat dx, mh_mat dy, mh_mat x, const float *stat, int weight)
{
    m->ops->norm_bwd(dx, mh_param_grad(&m->params, weight), dy, x, mh_param_vector(&m->params, weight), stat,
                     m->config.norm);
}

/* The gradient of what a half block added: that of the stream, through dropout if there is any. */
static mh_mat branch_gradient(mh_pass *p, const mh_model *m, mh_mat dx, const mh_call *call, int64_t layer,
                              int half)
{
    if (!call->train || m->config.dropout == 0)
        return dx;
    mh_mat dbranch = live(p->dbranch, call);
    m->ops->cast(dbranch, dx);
    m->ops->dropout_bwd(dbranch, (float)m->config.dropout, call->seed, dropout_stream(call, layer, half));
    return dbranch;
}

void mh_backward(mh_pass *p, const mh_model *m, const mh_call *call, double aux_scale)
{
    const struct mh_ops *ops = m->ops;
    const mh_params *params = &m->params;
    const mh_attention shape = attention_shape(p, m, call);
    mh_mat dx = live(p->dx, call), dnorm = live(p->dnorm, call), dhalf = live(p->dhidden, call);

    norm_bwd(m, dx, live(p->dhidden, call), live(p->x, call), p->stat, m->norm);
    for (int64_t i = m->config.layers - 1; i >= 0; i--) {
        const mh_block *block = &m->blocks[i];
        mh_block_pass *b = &p->blocks[i];
        mh_mat x = live(b->x, call), mid = live(b->mid, call);
        mh_ffn_back *ffn_back = block->ffn.moe.experts ? &p->moe_back : &p->dense_back;

        mh_mat dbranch = branch_gradient(p, m, dx, call, i, 1);
        mh_ffn_bwd(&block->ffn, params, ops, &b->ffn, ffn_back, dhalf, dbranch, live(b->norm2, call),
                   aux_scale);
        mh_shared_bwd(&block->shared, params, ops, &b->shared, &p->shared_back, dhalf, dbranch,
                      live(b->norm2, call), dnorm);
        norm_bwd(m, dnorm, dhalf, mid, b->stat2, block->ffn_norm);
        ops->add(dx, dx, dnorm);

        dbranch = branch_gradient(p, m, dx, call, i, 0);
        mh_attention_bwd(&block->attention, params, ops, &b->attention, &p->attention_back, dhalf, dbranch,
                         live(b->norm1, call), &shape, p->position, p->rotary);
        norm_bwd(m, dnorm, dhalf, x, b->stat1, block->attn_norm);
        ops->add(dx, dx, dnorm);
    }
    dx = branch_gradient(p, m, dx, call, m->config.layers, 0);
    ops->embedding_bwd(mh_param_grad(params, m->embed), call->token, dx);
}

void mh_loss(mh_pass *p, const mh_model *m, const mh_call *call, const int32_t *target, float *nll,
             float scale)
{
    bool train = scale > 0;
    m->ops->loss(nll, train ? live(p->dhidden, call) : (mh_mat){0},
                 train ? mh_param_grad(&m->params, m->output) : NULL, live(p->hidden, call),
                 mh_param_linear(&m->params, m->output), target, scale, p->logits, p->dlogits);
}

void mh_logits(mh_pass *p, const mh_model *m, int64_t first, int64_t count, float *logits)
{
    m->ops->linear_fwd(mh_mat_of(logits, count, m->config.vocab, MH_F32),
                       mh_mat_rows(p->hidden, first, count), mh_param_linear(&m->params, m->output), NULL,
                       NULL, 1);
}

mh_ffn_pass *mh_pass_ffn(mh_pass *p, int64_t layer)
{
    return p->blocks[layer].ffn.plan.experts ? &p->blocks[layer].ffn : NULL;
}

mh_auxiliary mh_pass_auxiliary(const mh_pass *p)
{
    mh_auxiliary sum = {0};
    for (int64_t i = 0; i < p->layers; i++) {
        sum.balance += p->blocks[i].ffn.balance;
        sum.z_loss += p->blocks[i].ffn.z_loss;
    }
    return sum;
}

static bool all_finite(mh_mat x)
{
    for (int64_t r = 0; r < x.rows; r++)
        for (int64_t c = 0; c < x.cols; c++) {
            /* bf16 is the upper half of f32: all exponent bits set means infinity or NaN in either */
            unsigned bits = x.type == MH_BF16 ? ((uint16_t *)mh_mat_row(x, r))[c]
                                              : ((uint32_t *)mh_mat_row(x, r))[c] >> 16;
            if ((bits & 0x7f80) == 0x7f80)
                return false;
        }
    return true;
}

int64_t mh_pass_find_nan(const mh_pass *p)
{
    for (int64_t i = 0; i < p->layers; i++)
        if (!all_finite(i + 1 < p->layers ? p->blocks[i + 1].x : p->x))
            return i;
    return -1;
}
