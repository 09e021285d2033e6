/* The one place where FLOPs are counted: info, plan, the progress line and benchmarks read these. */
#include "model/model.h"

mh_flops mh_count_flops(const mh_config *c, int64_t length)
{
    double d = (double)c->dim, kv = (double)(c->kv_heads * mh_config_head_dim(c));
    double matrices = c->activation == MH_SWIGLU ? 3 : 2;
    double h = (double)c->moe.heads, s = h ? d / h : 0;
    mh_flops f = {0};

    for (int64_t layer = 0; layer < c->layers; layer++) {
        f.attention_projections += 2 * (d * d + 2 * d * kv + d * d);
        f.attention_scores += 2 * 2 * d * ((double)length + 1) / 2;
        if (mh_config_is_moe(c, layer)) {
            f.head_merge += 2 * d * d * (mh_head_linears(&c->moe) + (c->moe.merge == MH_ON));
            f.experts += 2 * h * (double)c->moe.top_k * matrices * s * (double)c->moe.ffn_dim;
            f.shared += 2 * matrices * d * (double)(c->moe.shared_experts * c->moe.shared_ffn_dim);
            f.router += 2 * h * (double)mh_router_of(&c->moe)->products(&c->moe, c->dim / c->moe.heads);
        } else {
            f.ffn += 2 * matrices * d * (double)c->ffn_dim;
        }
    }
    f.output = 2 * d * (double)c->vocab;
    f.forward = f.attention_projections + f.attention_scores + f.ffn + f.head_merge + f.experts + f.shared +
                f.router + f.output;
    f.training = 3 * f.forward;
    return f;
}

mh_counts mh_count_params(const mh_config *c)
{
    mh_params p = {0};
    mh_model shell = {.config = *c};
    mh_model_register(&shell, &p);
    mh_counts n = {.embedding = p.part[MH_PART_EMBEDDING],
                   .attention = p.part[MH_PART_ATTENTION],
                   .ffn = p.part[MH_PART_FFN],
                   .head_merge = p.part[MH_PART_HEAD_MERGE],
                   .experts = p.part[MH_PART_EXPERTS],
                   .shared = p.part[MH_PART_SHARED],
                   .router = p.part[MH_PART_ROUTER],
                   .norms = p.part[MH_PART_NORMS],
                   .output = p.part[MH_PART_OUTPUT]};
    for (int i = 0; i < MH_PARTS; i++)
        n.total += p.part[i];
    int64_t calls = c->moe.heads * c->moe.top_k, unused = c->moe.experts > calls ? c->moe.experts - calls : 0;
    n.active = n.total - (unused ? n.experts / c->moe.experts * unused : 0);
    return n;
}
