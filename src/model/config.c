/* What a model is: the option rows and the checks. */
#include "model/model.h"

#include <math.h>
#include <string.h>

#define MODEL(field)              offsetof(mh_config, field)
#define MOE(field)                offsetof(mh_moe_config, field)

#define CHOICE(VALUE, name, text) "|" text
#define NAME(VALUE, name, text)   text,

const mh_option mh_model_rows[MH_MODEL_ROWS] = {
    {"preset", "none",
     "feed-forward layers by name, such as mhmoe-h3 or smoe-top1+shared ('mhmoe presets' lists them); fills "
     "what is left 0 or auto below and in moe",
     MH_OPTION_STRING, MODEL(preset), 0, 0, NULL, 0},
    {"dim", "256", "width of the residual stream", MH_OPTION_INT, MODEL(dim), 8, 16384, NULL, 0},
    {"layers", "6", "number of blocks", MH_OPTION_INT, MODEL(layers), 1, 512, NULL, 0},
    {"attention_heads", "4", "query heads", MH_OPTION_INT, MODEL(attention_heads), 1, 512, NULL, 0},
    {"kv_heads", "0", "key and value heads (grouped-query attention); 0: as many as query heads",
     MH_OPTION_INT, MODEL(kv_heads), 0, 512, NULL, 0},
    {"context", "256", "longest sequence in tokens", MH_OPTION_INT, MODEL(context), 1, 1 << 20, NULL, 0},
    {"ffn_dim", "0",
     "hidden width of a dense layer and of the baseline of presets; 0: 8/3 dim, to a multiple of 8",
     MH_OPTION_INT, MODEL(ffn_dim), 0, 1 << 20, NULL, 0},
    {"vocab", "0", "number of token ids; 0: the data's tokenizer's", MH_OPTION_INT, MODEL(vocab), 0,
     MH_VOCAB_LIMIT, NULL, 0},
    {"activation", "swiglu", "experts and dense layers: down(up * silu(gate)) or down(gelu(up))",
     MH_OPTION_CHOICE, MODEL(activation), 0, 0, "swiglu|gelu", 0},
    {"bias", "false", "biases in experts and dense layers", MH_OPTION_BOOL, MODEL(bias), 0, 0, NULL, 0},
    {"quant", "none",
     "bitnet158: ternary weights and 8-bit inputs of linears in attention, experts and dense layers",
     MH_OPTION_CHOICE, MODEL(quant), 0, 0, "none|bitnet158", 0},
    {"norm", "rmsnorm", "normalisation before each half block and at the end", MH_OPTION_CHOICE, MODEL(norm),
     0, 0, "rmsnorm|layernorm", 0},
    {"norm_eps", "1e-5", "added to the mean square or variance", MH_OPTION_FLOAT, MODEL(norm_eps), 1e-12, 0.1,
     NULL, 0},
    {"rotary_base", "10000", "base of the rotary embedding's angles", MH_OPTION_FLOAT, MODEL(rotary_base), 1,
     1e9, NULL, 0},
    {"dropout", "0", "share dropped of the embedding and of what each half block adds", MH_OPTION_FLOAT,
     MODEL(dropout), 0, 0.9, NULL, 0},
    {"tied_embeddings", "true", "the output layer uses the embedding matrix", MH_OPTION_BOOL,
     MODEL(tied_embeddings), 0, 0, NULL, 0},
    {"bos", "-1", "token a text starts after; -1: the data's </s>", MH_OPTION_INT, MODEL(bos), -1,
     MH_VOCAB_LIMIT, NULL, 0},
    {"eos", "-1", "token that ends a text; -1: the data's </s>", MH_OPTION_INT, MODEL(eos), -1,
     MH_VOCAB_LIMIT, NULL, 0},
};

const mh_option mh_moe_rows[MH_MOE_ROWS] = {
    {"every", "0", "every n-th layer is MoE (the others dense); 0: 2 where there are experts", MH_OPTION_INT,
     MOE(every), 0, 512, NULL, 0},
    {"heads", "0", "sub-tokens a token is split into; 0: 1, or the preset's", MH_OPTION_INT, MOE(heads), 0,
     1024, NULL, 0},
    {"experts", "0", "number of experts; 0: none (dense), or the preset's", MH_OPTION_INT, MOE(experts), 0,
     MH_EXPERTS_MOST, NULL, 0},
    {"top_k", "0", "experts chosen for each sub-token; 0: as many as heads, or the preset's", MH_OPTION_INT,
     MOE(top_k), 0, MH_TOP_K_MOST, NULL, 0},
    {"ffn_dim", "0", "hidden width of one expert; 0: model.ffn_dim, or the preset's", MH_OPTION_INT,
     MOE(ffn_dim), 0, 1 << 20, NULL, 0},
    {"shared_experts", "0", "experts beside the routed ones that take every token, at full width",
     MH_OPTION_INT, MOE(shared_experts), 0, 64, NULL, 0},
    {"shared_ffn_dim", "0", "hidden width of one shared expert; 0: model.ffn_dim", MH_OPTION_INT,
     MOE(shared_ffn_dim), 0, 1 << 20, NULL, 0},
    {"baseline_experts", "8", "experts of the SMoE top-1 model that presets match", MH_OPTION_INT,
     MOE(baseline_experts), 1, 4096, NULL, 0},
    {"beta", "0",
     "share of heads * model.ffn_dim that mhmoe-a's experts are wide; 0: as many parameters as the baseline",
     MH_OPTION_FLOAT, MOE(beta), 0, 1, NULL, 0},
    {"capacity_factor", "0", "an expert takes at most factor * top_k * ceil(rows/experts) rows; 0: no limit",
     MH_OPTION_FLOAT, MOE(capacity_factor), 0, 1000, NULL, 0},
    {"drop", "position",
     "who stays where capacity is short: those that come first, or those with the largest gates",
     MH_OPTION_CHOICE, MOE(drop), 0, 0, "position|probability", 0},
    {"renormalize", "false", "divide the gates of the chosen experts by their sum (needs a top_k over 1)",
     MH_OPTION_BOOL, MOE(renormalize), 0, 0, NULL, 0},
    {"head", "auto", "linear layer before the split, or 2 or 3 with ReLU between; auto: on where heads > 1",
     MH_OPTION_CHOICE, MOE(head), 0, 0, "auto|off|on|2|3", 0},
    {"merge", "auto", "linear layer after the merge; auto: on where heads > 1", MH_OPTION_CHOICE, MOE(merge),
     0, 0, "auto|off|on", 0},
    {"inner_residual", "false", "add each sub-token to its experts' output before the merge (paper A)",
     MH_OPTION_BOOL, MOE(inner_residual), 0, 0, NULL, 0},
    {"router", "auto",
     "logits by a linear, or by X-MoE's cosines as published (xmoe) or as in the authors' code (xmoe-code); "
     "auto: linear, or the preset's",
     MH_OPTION_CHOICE, MOE(router), 0, 0, "auto" MH_ROUTERS(CHOICE), 0},
    {"score", "softmax", "what the logits become: probabilities, or each by itself a number from 0 to 1",
     MH_OPTION_CHOICE, MOE(score), 0, 0, "softmax|sigmoid", 0},
    {"second_expert", "all",
     "with top_k 2, in training: the second best; passed over at random if its gate is small; drawn (GShard)",
     MH_OPTION_CHOICE, MOE(second_expert), 0, 0, "all|random|sampling", 0},
    {"jitter", "0", "in training the router's input is multiplied by numbers within 1 - jitter to 1 + jitter",
     MH_OPTION_FLOAT, MOE(jitter), 0, 0.9, NULL, 0},
    {"z_weight", "0", "weight of the router's z-loss, which keeps its logits small, summed over MoE layers",
     MH_OPTION_FLOAT, MOE(z_weight), 0, 100, NULL, 0},
    {"balance", "gshard",
     "what keeps the experts' loads alike: GShard's loss; a bias on the choice, moved after each update; "
     "nothing",
     MH_OPTION_CHOICE, MOE(balance), 0, 0, &("" MH_BALANCINGS(CHOICE))[1], 0},
    {"balance_weight", "-1",
     "weight of the balance loss, summed over MoE layers; -1: 0.01 with moe.balance gshard, else 0",
     MH_OPTION_FLOAT, MOE(balance_weight), -1, 100, NULL, 0},
    {"bias_rate", "0.001", "step of the bias of moe.balance bias", MH_OPTION_FLOAT, MOE(bias_rate), 0, 1,
     NULL, 0},
};

static int64_t or_default(int64_t value, int64_t otherwise)
{
    return value ? value : otherwise;
}

mh_status mh_check_divides(const char *whole_name, int64_t whole, const char *part_name, int64_t part)
{
    if (part > 0 && whole % part == 0)
        return MH_OK;
    int64_t below = part < whole ? part : whole, above = part;
    while (whole % below != 0)
        below--;
    while (above < whole && whole % above != 0)
        above++;
    if (above > whole)
        return mh_fail(MH_EVALUE, "%s %lld does not divide %s %lld; the largest that does is %lld", part_name,
                       (long long)part, whole_name, (long long)whole, (long long)whole);
    return mh_fail(MH_EVALUE, "%s %lld does not divide %s %lld; the nearest that do are %lld and %lld",
                   part_name, (long long)part, whole_name, (long long)whole, (long long)below,
                   (long long)above);
}

/* The row's default: whether it was set cannot be seen, for recipes in effect hold every key. */
static const double usual_bias_rate = 0.001;

/* Settings that contradict each other. */
static mh_status check_routing(const mh_moe_config *m)
{
    static const char *const second[] = {"all", "random", "sampling"};
    static const char *const balance[] = {MH_BALANCINGS(NAME)};
    if (m->renormalize && m->top_k == 1)
        return mh_fail(MH_EVALUE, "moe.renormalize and moe.top_k 1 contradict each other: every gate would "
                                  "be 1 and the router cut off from the loss; set one of them otherwise");
    if (m->second_expert != MH_SECOND_ALL && m->top_k != 2)
        return mh_fail(MH_EVALUE,
                       "moe.second_expert %s needs moe.top_k 2, but it is %lld; set one of them otherwise",
                       second[m->second_expert], (long long)m->top_k);
    if (m->second_expert == MH_SECOND_SAMPLING && m->balance == MH_BALANCING_BIAS)
        return mh_fail(MH_EVALUE,
                       "moe.second_expert sampling and moe.balance bias contradict each other: the one draws "
                       "the second expert whatever the other says; set one of them otherwise");
    if (m->drop != MH_DROP_POSITION && m->capacity_factor == 0)
        return mh_fail(MH_EVALUE, "moe.drop probability needs a capacity, but moe.capacity_factor is 0; set "
                                  "it, for example to 1.25");
    if (mh_balancing_of(m)->fwd == NULL && m->balance_weight > 0)
        return mh_fail(MH_EVALUE,
                       "moe.balance %s has no loss to weigh, but moe.balance_weight is %g; set it to 0, or "
                       "moe.balance to gshard",
                       balance[m->balance], m->balance_weight);
    if (m->balance != MH_BALANCING_BIAS && m->bias_rate > 0 && m->bias_rate != usual_bias_rate)
        return mh_fail(MH_EVALUE,
                       "moe.balance %s has no bias to move, but moe.bias_rate is %g; leave that out, or set "
                       "moe.balance to bias",
                       balance[m->balance], m->bias_rate);
    if (m->score == MH_SCORE_SIGMOID && m->balance == MH_BALANCING_GSHARD)
        return mh_fail(MH_EVALUE, "moe.score sigmoid and moe.balance gshard contradict each other: that loss "
                                  "is about probabilities that sum to 1; set moe.balance to bias or none");
    if (m->score == MH_SCORE_SIGMOID && m->z_weight > 0)
        return mh_fail(MH_EVALUE,
                       "moe.score sigmoid and moe.z_weight %g contradict each other: that loss is about the "
                       "sum under a softmax; set moe.z_weight to 0",
                       m->z_weight);
    return MH_OK;
}

static mh_status check_moe(const mh_config *c)
{
    const mh_moe_config *m = &c->moe;
    MH_TRY(mh_check_divides("model.dim", c->dim, "moe.heads", m->heads));
    if (m->top_k > m->experts)
        return mh_fail(MH_EVALUE,
                       "moe.top_k %lld is over moe.experts %lld; choose at most as many as there are",
                       (long long)m->top_k, (long long)m->experts);
    if (m->top_k > MH_TOP_K_MOST)
        return mh_fail(MH_EVALUE,
                       "moe.top_k is as many as moe.heads, %lld, and at most %d experts are chosen for a "
                       "sub-token; set moe.top_k",
                       (long long)m->top_k, MH_TOP_K_MOST);
    if (m->every > c->layers)
        return mh_fail(MH_EVALUE,
                       "moe.every %lld makes none of the %lld layers an MoE layer; use at most model.layers",
                       (long long)m->every, (long long)c->layers);
    if (m->shared_ffn_dim && !m->shared_experts)
        return mh_fail(MH_EVALUE,
                       "moe.shared_ffn_dim %lld is a width of shared experts, but moe.shared_experts is 0; "
                       "set it, or leave the width out",
                       (long long)m->shared_ffn_dim);
    return check_routing(m);
}

static mh_status check_token(const char *key, int64_t token, int64_t vocab)
{
    if (token < vocab)
        return MH_OK;
    return mh_fail(MH_EVALUE, "%s %lld is not below model.vocab %lld; choose a token, or leave it out", key,
                   (long long)token, (long long)vocab);
}

mh_status mh_config_resolve(mh_config *c)
{
    mh_moe_config *m = &c->moe;
    c->ffn_dim = or_default(c->ffn_dim, (c->dim * 8 / 3 + 4) / 8 * 8);
    c->kv_heads = or_default(c->kv_heads, c->attention_heads);
    MH_TRY(mh_preset_apply(c));
    if (m->experts) {
        m->heads = or_default(m->heads, 1);
        m->top_k = or_default(m->top_k, m->heads);
        m->ffn_dim = or_default(m->ffn_dim, c->ffn_dim);
        m->every = or_default(m->every, 2);
        m->router = m->router ? m->router : MH_ROUTER_LINEAR;
        if (m->balance_weight < 0)
            m->balance_weight = m->balance == MH_BALANCING_GSHARD ? 0.01 : 0;
        if (m->shared_experts)
            m->shared_ffn_dim = or_default(m->shared_ffn_dim, c->ffn_dim);
        m->head = m->head == MH_AUTO ? (m->heads > 1 ? MH_ON : MH_OFF) : m->head;
        m->merge = m->merge == MH_AUTO ? (m->heads > 1 ? MH_ON : MH_OFF) : m->merge;
        MH_TRY(check_moe(c));
    } else if (m->shared_experts) {
        return mh_fail(MH_EVALUE,
                       "moe.shared_experts %lld stand beside routed ones, but moe.experts is 0; set it, or "
                       "widen model.ffn_dim",
                       (long long)m->shared_experts);
    }

    if (c->dim % c->attention_heads != 0 || c->dim / c->attention_heads % 2 != 0)
        return mh_fail(MH_EVALUE,
                       "model.attention_heads %lld must divide model.dim %lld into an even width (rotary "
                       "turns pairs); change one of them",
                       (long long)c->attention_heads, (long long)c->dim);
    if (c->attention_heads % c->kv_heads != 0)
        return mh_fail(MH_EVALUE,
                       "model.kv_heads %lld does not divide model.attention_heads %lld; choose a divisor, or "
                       "0 for as many",
                       (long long)c->kv_heads, (long long)c->attention_heads);
    if (c->vocab < 2)
        return mh_fail(MH_EVALUE,
                       "model.vocab is %lld; give the number of token ids, or data with a tokenizer",
                       (long long)c->vocab);
    MH_TRY(check_token("model.bos", c->bos, c->vocab));
    return check_token("model.eos", c->eos, c->vocab);
}

bool mh_config_is_moe(const mh_config *config, int64_t layer)
{
    return config->moe.experts > 0 && (layer + 1) % config->moe.every == 0;
}

const char *mh_config_noncausal(const mh_config *config)
{
    bool limited = config->moe.experts > 0 && config->moe.capacity_factor > 0;
    return limited ? "has a moe.capacity_factor: whether an expert still has room for a token depends on "
                     "later ones and on the batch"
                   : NULL;
}

int64_t mh_config_head_dim(const mh_config *config)
{
    return config->dim / config->attention_heads;
}

static const mh_section sections[] = {
    {"model", "the decoder", mh_model_rows, sizeof mh_model_rows / sizeof *mh_model_rows, 0},
    {"moe", "its feed-forward layers", mh_moe_rows, sizeof mh_moe_rows / sizeof *mh_moe_rows,
     offsetof(mh_config, moe)},
};

const mh_options mh_config_options = {sections, sizeof sections / sizeof *sections};

json_t *mh_config_to_json(const mh_config *config)
{
    return mh_options_to_json(&mh_config_options, config);
}

mh_status mh_config_from_json(mh_config *config, const json_t *json, const char *where)
{
    mh_options_defaults(&mh_config_options, config);
    for (int i = 0; i < mh_config_options.count; i++) {
        const json_t *section = json_object_get(json, sections[i].name);
        if (!json_is_object(section))
            return mh_fail(MH_EFORMAT, "%s: no object \"%s\"; this is not a configuration written by mhmoe",
                           where, sections[i].name);
        MH_TRY(mh_section_from_json(&sections[i], config, section, where));
    }
    mh_status status = mh_config_resolve(config);
    return status == MH_OK ? MH_OK : mh_fail_in(status, "%s", where);
}
