/* The model: configuration, parity, FLOPs, the layer's algebra, gradients of the whole, equal bits for any
 * threads. */
#include "test.h"

#include "model/model.h"

#include <omp.h>
#include <stdlib.h>

enum { VOCAB = 61 };

static mh_config small(void)
{
    mh_config c;
    mh_options_defaults(&mh_config_options, &c);
    c.dim = 32, c.layers = 4, c.attention_heads = 4, c.context = 16, c.ffn_dim = 48, c.vocab = VOCAB;
    return c;
}

static mh_config small_mhmoe(void)
{
    mh_config c = small();
    c.moe.heads = 2, c.moe.experts = 6, c.moe.top_k = 2, c.moe.ffn_dim = 24;
    return c;
}

/* A model on fixed random tokens, with everything a step needs. */
typedef struct {
    mh_model *model;
    mh_pass *pass;
    mh_call call;
    int32_t *token, *target;
    float *nll;
} fixture;

static fixture make(mh_config config, mh_precision precision, int64_t batch, int64_t rows)
{
    fixture f = {0};
    int64_t n = batch * rows;
    OK(mh_config_resolve(&config));
    OK(mh_model_create(&f.model, &config, precision, true));
    mh_model_init(f.model, 7);
    OK(mh_pass_create(&f.pass, f.model, (mh_pass_shape){batch, rows, rows, true}));
    f.token = malloc((size_t)n * sizeof *f.token);
    f.target = malloc((size_t)n * sizeof *f.target);
    f.nll = malloc((size_t)n * sizeof *f.nll);
    for (int64_t i = 0; i < n; i++) {
        f.token[i] = (int32_t)(mh_uniform(1, 2, (uint64_t)i) * VOCAB);
        f.target[i] = (int32_t)(mh_uniform(1, 3, (uint64_t)i) * VOCAB);
    }
    f.call = (mh_call){.token = f.token, .batch = batch, .rows = rows};
    return f;
}

static void unmake(fixture *f)
{
    mh_pass_free(f->pass);
    mh_model_free(f->model);
    free(f->token);
    free(f->target);
    free(f->nll);
}

static double loss_of(fixture *f)
{
    int64_t n = f->call.batch * f->call.rows;
    mh_forward(f->pass, f->model, &f->call);
    mh_loss(f->pass, f->model, &f->call, f->target, f->nll, 0);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)f->nll[i];
    mh_auxiliary aux = mh_pass_auxiliary(f->pass);
    const mh_moe_config *moe = &f->model->config.moe;
    return sum / (double)n + moe->balance_weight * aux.balance + moe->z_weight * aux.z_loss;
}

static void step_of(fixture *f)
{
    memset(f->model->params.grad, 0, (size_t)f->model->params.elements * sizeof(float));
    mh_forward(f->pass, f->model, &f->call);
    mh_loss(f->pass, f->model, &f->call, f->target, f->nll, 1 / (float)(f->call.batch * f->call.rows));
    mh_backward(f->pass, f->model, &f->call, 1);
}

/* ---- configuration ------------------------------------------------------------------------------------- */

static mh_config named(const char *preset, int64_t dim, int64_t ffn_dim)
{
    mh_config c = small();
    snprintf(c.preset, sizeof c.preset, "%s", preset);
    c.dim = dim, c.ffn_dim = ffn_dim, c.attention_heads = 12;
    return c;
}

static void test_presets(void **state)
{
    (void)state;
    static const struct {
        const char *preset;
        int64_t heads, experts, top_k, ffn_dim, shared_experts;
    } want[] = {{"dense", 0, 0, 0, 0, 0},
                {"smoe-top1", 1, 8, 1, 2048, 0},
                {"smoe-top2+shared", 1, 8, 2, 2048, 1},
                {"xmoe", 1, 8, 1, 2048, 0},
                {"fine-grained", 1, 16, 2, 1024, 0},
                {"fine-grained-k8", 1, 64, 8, 256, 0},
                {"mhmoe-h2", 2, 41, 2, 768, 0},
                {"mhmoe-h3+shared+bitnet", 3, 93, 3, 512, 1},
                {"mhmoe-h4", 4, 165, 4, 384, 0},
                {"mhmoe-a", 4, 8, 1, 7936, 0}}; /* 4 (2048 - 64) */
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        mh_config c = named(want[i].preset, 768, 2048), back;
        OK(mh_config_resolve(&c));
        assert_int_equal(c.moe.heads, want[i].heads);
        assert_int_equal(c.moe.experts, want[i].experts);
        assert_int_equal(c.moe.top_k, want[i].top_k);
        assert_int_equal(c.moe.ffn_dim, want[i].ffn_dim);
        assert_int_equal(c.moe.shared_experts, want[i].shared_experts);
        assert_int_equal(c.moe.shared_ffn_dim, want[i].shared_experts ? 2048 : 0);
        assert_int_equal(c.quant, strstr(want[i].preset, "+bitnet") ? MH_QUANT_BITNET158 : MH_QUANT_NONE);
        json_t *json = mh_config_to_json(&c);
        OK(mh_config_from_json(&back, json, "config.json")); /* a resolved one resolves again */
        json_decref(json);
    }
    /* paper A's own widths at beta 15/16 with 8 experts and 63/64 with 32 */
    for (int i = 0; i < 2; i++) {
        mh_config c = named("mhmoe-a", 768, 3072);
        c.activation = MH_GELU, c.moe.beta = i ? 63.0 / 64 : 15.0 / 16, c.moe.baseline_experts = i ? 32 : 8;
        OK(mh_config_resolve(&c));
        assert_int_equal(c.moe.ffn_dim, i ? 12096 : 11520);
        assert_true(c.moe.inner_residual && c.moe.router == MH_ROUTER_XMOE);
    }
    /* every preset that is listed has as many parameters as the baseline where its name says so */
    mh_config base = named("smoe-top1", 768, 2048);
    OK(mh_config_resolve(&base));
    mh_counts n0 = mh_count_params(&base);
    char name[64];
    const char *summary;
    for (int i = 0; mh_preset_at(i, name, &summary); i++) {
        mh_config c = named(name, 768, 2048);
        OK(mh_config_resolve(&c));
        mh_counts n = mh_count_params(&c);
        if (c.moe.experts)
            assert_true(fabs((double)(n.experts + n.head_merge) / (double)n0.experts - 1) < 0.01);
    }
}

/* Names that do not exist, and settings that contradict a name. */
static void test_bad_presets(void **state)
{
    (void)state;
    static const struct {
        const char *preset, *set, *sentence;
    } bad[] = {
        {"mhmoe-x2", NULL, "model.preset \"mhmoe-x2\" is not known, the nearest is mhmoe-h2"},
        {"mhmoe-h", NULL, "the nearest is mhmoe-"},
        {"smoe-top0", NULL, "the nearest is smoe-top1"},
        {"densely", NULL, "the nearest is dense"},
        {"mhmoe-h2+share", NULL, "there is no \"+share\""},
        {"mhmoe-h2+shared+", NULL, "there is no \"+\""},
        {"smoe-top1+shared+bitnet+shared", NULL, "\"+shared\" stands in it twice"},
        {"dense+shared", NULL, "moe.shared_experts 1 stand beside routed ones"},
        {"mhmoe-h2", "moe.heads=3", "model.preset mhmoe-h2 and moe.heads 3 contradict each other"},
        {"smoe-top1", "moe.top_k=2", "model.preset smoe-top1 and moe.top_k 2 contradict each other"},
        {"xmoe", "moe.router=linear", "model.preset xmoe and moe.router linear contradict each other"},
        {"none", "moe.beta=0.5", "moe.beta 0.5 is a setting of model.preset mhmoe-a, but that is none"},
        {"mhmoe-h2", "moe.beta=0.5", "moe.beta 0.5 is a setting of model.preset mhmoe-a"},
        {"fine-grained-k7", NULL, "number of pieces 7 does not divide model.ffn_dim 2048"},
        {"mhmoe-h5", NULL,
         "cuts model.dim 768 into 5 heads, which must be alike; choose a multiple, for example "}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mh_config c = named(bad[i].preset, 768, 2048);
        if (bad[i].set)
            OK(mh_options_assign(&mh_config_options, &c, bad[i].set, "--set"));
        FAILS(MH_EVALUE, bad[i].sentence, mh_config_resolve(&c));
    }
    mh_config c = named("dense", 768, 2048); /* with what a recipe says of experts left out */
    c.moe.experts = 4, c.moe.heads = 3, c.moe.top_k = 5;
    OK(mh_config_resolve(&c));
    assert_int_equal(c.moe.experts, 0);
    c = named("mhmoe-a", 768, 2048);
    c.moe.beta = 0.5, c.moe.ffn_dim = 96;
    FAILS(MH_EVALUE, "moe.beta 0.5 makes experts of width 4096, but moe.ffn_dim is 96",
          mh_config_resolve(&c));
}

static void test_bad_configs(void **state)
{
    (void)state;
    mh_config c = small_mhmoe();
    c.moe.heads = 3;
    FAILS(MH_EVALUE, "nearest that do are 2 and 4", mh_config_resolve(&c));
    c.moe.heads = 33; /* no divisor above */
    FAILS(MH_EVALUE, "the largest that does is 32", mh_config_resolve(&c));
    c = small_mhmoe();
    c.moe.top_k = 7;
    FAILS(MH_EVALUE, "moe.top_k 7 is over moe.experts 6", mh_config_resolve(&c));
    c = small();
    c.attention_heads = 3;
    FAILS(MH_EVALUE, "attention_heads 3", mh_config_resolve(&c));
    c = small();
    c.kv_heads = 3;
    FAILS(MH_EVALUE, "kv_heads 3", mh_config_resolve(&c));
    c = small();
    c.vocab = 0;
    FAILS(MH_EVALUE, "model.vocab", mh_config_resolve(&c));
    static const struct {
        const char *set[2], *sentence;
    } contradictions[] = {
        {{"moe.renormalize=true", "moe.top_k=1"}, "moe.renormalize and moe.top_k 1"},
        {{"moe.second_expert=random", "moe.top_k=3"},
         "moe.second_expert random needs moe.top_k 2, but it is 3"},
        {{"moe.second_expert=sampling", "moe.balance=bias"},
         "moe.second_expert sampling and moe.balance bias"},
        {{"moe.drop=probability"}, "moe.drop probability needs a capacity, but moe.capacity_factor is 0"},
        {{"moe.balance=bias", "moe.balance_weight=0.01"},
         "moe.balance bias has no loss to weigh, but moe.balance_weight is 0.01"},
        {{"moe.balance=none", "moe.balance_weight=0.01"}, "moe.balance none has no loss"},
        {{"moe.bias_rate=0.01"}, "moe.balance gshard has no bias to move, but moe.bias_rate is 0.01"},
        {{"moe.balance=bias", "moe.bias_rate=0.01"}, NULL},
        {{"moe.score=sigmoid"}, "moe.score sigmoid and moe.balance gshard"},
        {{"moe.shared_ffn_dim=64"},
         "moe.shared_ffn_dim 64 is a width of shared experts, but moe.shared_experts is 0"},
        {{"moe.score=sigmoid", "moe.balance=none"}, NULL},
    };
    for (size_t i = 0; i < sizeof contradictions / sizeof *contradictions; i++) {
        c = small_mhmoe();
        for (int k = 0; k < 2 && contradictions[i].set[k]; k++)
            OK(mh_options_assign(&mh_config_options, &c, contradictions[i].set[k], "--set"));
        if (contradictions[i].sentence)
            FAILS(MH_EVALUE, contradictions[i].sentence, mh_config_resolve(&c));
        else
            OK(mh_config_resolve(&c));
    }
    c.moe.z_weight = 0.001;
    FAILS(MH_EVALUE, "moe.score sigmoid and moe.z_weight 0.001", mh_config_resolve(&c));
    c = small();
    c.moe.shared_experts = 1;
    FAILS(MH_EVALUE, "moe.shared_experts 1 stand beside routed ones, but moe.experts is 0",
          mh_config_resolve(&c));
    c = small_mhmoe();
    c.moe.every = 5;
    FAILS(MH_EVALUE, "moe.every 5", mh_config_resolve(&c));
    c = small();
    strcpy(c.preset, "mhmoe-h3"); /* 32 is no multiple of 3 */
    FAILS(MH_EVALUE,
          "model.preset mhmoe-h3 cuts model.dim 32 into 3 heads, which must be alike; choose a multiple, for "
          "example 48",
          mh_config_resolve(&c));
}

static void test_config_json(void **state)
{
    (void)state;
    mh_config c = small_mhmoe(), back;
    OK(mh_config_resolve(&c));
    json_t *json = mh_config_to_json(&c);
    memset(&back, 0, sizeof back);
    OK(mh_config_from_json(&back, json, "config.json"));
    json_t *again = mh_config_to_json(&back);
    assert_true(json_equal(json, again));
    json_object_set_new(json_object_get(json, "moe"), "expert", json_integer(3));
    FAILS(MH_EVALUE, "moe.expert", mh_config_from_json(&back, json, "config.json"));
    json_decref(json);
    json_decref(again);
}

/* ---- parity and FLOPs ---------------------------------------------------------------------------------- */

static void test_parity(void **state)
{
    (void)state;
    mh_parity_baseline b = {
        .dim = 768, .layers = 12, .experts = 8, .ffn_dim = 2048, .top_k = 1, .matrices = 3, .multiple_of = 1};
    static const struct { /* spec section 2 */
        int64_t heads, top_k, ffn_dim;
        double experts;
    } want[] = {{2, 2, 768, 41.33},  {3, 3, 512, 93.00},  {4, 4, 384, 165.33},
                {2, 1, 1536, 20.67}, {3, 1, 1536, 31.00}, {4, 1, 1536, 41.33}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        mh_parity_plan p;
        OK(mh_parity_solve(&b, want[i].heads, want[i].top_k, &p));
        assert_int_equal(p.ffn_dim, want[i].ffn_dim);
        assert_true(fabs(p.exact_experts - want[i].experts) < 0.005); /* printed to two places there */
        assert_int_equal(p.experts, lround(want[i].experts));
        assert_true(p.flops_percent == 0);
    }
    /* two-matrix experts with f = 4d, k = 1: f' = 3d, E' = 4E - 1 for h = 3 (paper B) */
    mh_parity_plan p;
    mh_parity_baseline plain = {
        .dim = 768, .layers = 12, .experts = 8, .ffn_dim = 3072, .top_k = 1, .matrices = 2, .multiple_of = 1};
    OK(mh_parity_solve(&plain, 3, 1, &p));
    assert_int_equal(p.ffn_dim, 2304);
    assert_int_equal(p.experts, 31);

    b.ffn_dim = 400;
    FAILS(MH_EVALUE, "at least 513 works", mh_parity_solve(&b, 2, 0, &p));
    FAILS(MH_EVALUE, "5 does not divide the width 768; the nearest that do are 4 and 6",
          mh_parity_solve(&b, 5, 0, &p));
    /* one head: the fine-grained SMoE of matched granularity */
    b.ffn_dim = 2048;
    OK(mh_parity_solve(&b, 1, 8, &p));
    assert_int_equal(p.experts, 64);
    assert_int_equal(p.ffn_dim, 256);
    assert_true(p.flops_percent == 0 && p.params_percent == 0);
    b.ffn_dim = 1000, b.experts = 1, b.dim = 384, b.multiple_of = 450;
    FAILS(MH_EVALUE, "top-k 2 works", mh_parity_solve(&b, 1, 3, &p));
    /* never a plan that training would refuse */
    mh_parity_baseline wide = {.dim = 1024,
                               .layers = 12,
                               .experts = 8,
                               .ffn_dim = 4096,
                               .top_k = 1,
                               .matrices = 3,
                               .multiple_of = 1};
    OK(mh_parity_solve(&wide, 64, 64, &p));
    FAILS(MH_EVALUE, "at most 64 experts are chosen for a sub-token; top-k 64 works",
          mh_parity_solve(&wide, 64, 65, &p));
    wide.experts = 128;
    FAILS(MH_EVALUE, "experts, more than the 65536 of a layer; top-k ", mh_parity_solve(&wide, 64, 64, &p));
}

/* The plan's percentages agree with what the model counts for the planned layer. */
static void test_parity_counts(void **state)
{
    (void)state;
    for (int count_router = 0; count_router < 2; count_router++) {
        mh_parity_baseline b = {.dim = 192,
                                .layers = 2,
                                .experts = 8,
                                .ffn_dim = 512,
                                .top_k = 1,
                                .matrices = 3,
                                .multiple_of = 1,
                                .count_router = count_router};
        mh_parity_plan p;
        OK(mh_parity_solve(&b, 3, 0, &p));
        mh_config base = small(), ours = small();
        base.dim = ours.dim = 192, base.layers = ours.layers = 1;
        base.moe = (mh_moe_config){.heads = 1, .experts = 8, .top_k = 1, .ffn_dim = 512, .every = 1};
        ours.moe =
            (mh_moe_config){.heads = 3, .experts = p.experts, .top_k = 3, .ffn_dim = p.ffn_dim, .every = 1};
        OK(mh_config_resolve(&base));
        OK(mh_config_resolve(&ours));
        mh_flops f0 = mh_count_flops(&base, 1), f1 = mh_count_flops(&ours, 1);
        mh_counts n0 = mh_count_params(&base), n1 = mh_count_params(&ours);
        double flops0 = f0.experts + (count_router ? f0.router : 0);
        double flops1 = f1.experts + f1.head_merge + (count_router ? f1.router : 0);
        double params0 = (double)(n0.experts + (count_router ? n0.router : 0));
        double params1 = (double)(n1.experts + n1.head_merge - 2 * 192 + (count_router ? n1.router : 0));
        assert_true(fabs(100 * (flops1 / flops0 - 1) - p.flops_percent) < 1e-9);
        assert_true(fabs(100 * (params1 / params0 - 1) - p.params_percent) < 1e-9);
        assert_true(fabs(p.flops_percent) < 1 && fabs(p.params_percent) < 2); /* within rounding of F and E */
    }
}

static double counted;
static const struct mh_ops *real;

static void counting_linear(mh_mat y, mh_mat x, mh_linear_weights w, const float *bias, const int64_t *begin,
                            int groups)
{
    int64_t rows = begin ? begin[groups] : x.rows;
    counted += 2.0 * (double)rows * (double)x.cols * (double)y.cols;
    real->linear_fwd(y, x, w, bias, begin, groups);
}

static void counting_experts(mh_expert_rows r, const mh_experts *e)
{
    int matrices = e->gate.w.p ? 3 : 2;
    counted += 2.0 * matrices * (double)r.in.rows * (double)r.in.cols * (double)r.up.cols;
    real->experts_fwd(r, e);
}

static void counting_attention(mh_mat y, float *lse, mh_mat q, mh_mat k, mh_mat v, const mh_attention *s)
{
    for (int64_t t = 0; t < s->rows; t++) /* q.k and p.v for each visible key */
        counted += 2.0 * 2.0 * (double)(s->batch * s->heads * s->head_dim) * (double)(s->past + t + 1);
    real->attention_fwd(y, lse, q, k, v, s);
}

static void counting_loss(float *nll, mh_mat dx, float *dw, mh_mat x, mh_linear_weights w,
                          const int32_t *target, float scale, mh_mat logits, mh_mat dlogits)
{
    counted += 2.0 * (double)x.rows * (double)x.cols * (double)w.w.rows;
    real->loss(nll, dx, dw, x, w, target, scale, logits, dlogits);
}

static void test_flops_are_those_of_a_forward(void **state)
{
    (void)state;
    mh_config configs[] = {small(), small_mhmoe(), small_mhmoe(), small(), small_mhmoe()};
    configs[0].kv_heads = 2;
    configs[2].moe.router = MH_ROUTER_XMOE_CODE;
    configs[3].activation = MH_GELU, configs[3].moe = (mh_moe_config){.experts = 3, .top_k = 2, .every = 1};
    configs[4].moe.shared_experts = 2, configs[4].moe.router = MH_ROUTER_XMOE;
    configs[3].moe.head = MH_ON + 2;
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        fixture f = make(configs[i], MH_PRECISION_F32, 3, 16);
        struct mh_ops counting = *f.model->ops;
        real = f.model->ops;
        counting.linear_fwd = counting_linear;
        counting.experts_fwd = counting_experts;
        counting.attention_fwd = counting_attention;
        counting.loss = counting_loss;
        f.model->ops = &counting;
        counted = 0;
        loss_of(&f);
        double expected = 3 * 16 * mh_count_flops(&f.model->config, 16).forward;
        if (fabs(counted - expected) > 0.5)
            fail_msg("config %zu: a forward made %.0f operations, counted were %.0f", i, counted, expected);
        unmake(&f);
    }
}

static void test_counts(void **state)
{
    (void)state;
    fixture f = make(small_mhmoe(), MH_PRECISION_F32, 1, 16);
    int64_t total = 0;
    for (int i = 0; i < f.model->params.count; i++)
        total += mh_param_size(&f.model->params.list[i]);
    mh_counts n = mh_count_params(&f.model->config);
    assert_int_equal(n.total, total);
    /* h*k = 4 of 6 experts of two MoE layers, three matrices of 24 x 16 */
    assert_int_equal(n.total - n.active, 2 * 2 * 3 * 24 * 16);
    unmake(&f);
}

/* ---- algebra of the layer ------------------------------------------------------------------------------ */

static float *param(fixture *f, const char *name)
{
    int i = mh_params_find(&f->model->params, name);
    if (i < 0)
        fail_msg("no parameter %s", name);
    return f->model->params.value + f->model->params.list[i].offset;
}

static void copy_param(fixture *to, const char *name, fixture *from, const char *other)
{
    int i = mh_params_find(&to->model->params, name);
    memcpy(param(to, name), param(from, other),
           (size_t)mh_param_size(&to->model->params.list[i]) * sizeof(float));
}

static void copy_shared(fixture *to, fixture *from)
{
    for (int i = 0; i < to->model->params.count; i++) {
        const char *name = to->model->params.list[i].name;
        if (mh_params_find(&from->model->params, name) >= 0)
            copy_param(to, name, from, name);
    }
}

static void identity(float *w, int64_t d)
{
    for (int64_t i = 0; i < d * d; i++)
        w[i] = i / d == i % d;
}

/* Reordered sums of at most some hundred terms. */
static const double algebra = 2e-6;

static void same_output(fixture *a, fixture *b)
{
    loss_of(a);
    loss_of(b);
    CLOSE((float *)a->pass->hidden.p, (float *)b->pass->hidden.p, a->pass->hidden.rows * a->pass->hidden.cols,
          algebra);
}

static void test_one_expert_is_a_dense_layer(void **state)
{
    (void)state;
    mh_config dense = small(), one = small();
    dense.layers = one.layers = 1;
    one.moe.experts = 1, one.moe.every = 1, one.moe.ffn_dim = dense.ffn_dim;
    fixture a = make(dense, MH_PRECISION_F32, 2, 16), b = make(one, MH_PRECISION_F32, 2, 16);
    copy_shared(&b, &a);
    copy_param(&b, "layers.0.moe.experts.gate.weight", &a, "layers.0.ffn.gate.weight");
    copy_param(&b, "layers.0.moe.experts.up.weight", &a, "layers.0.ffn.up.weight");
    copy_param(&b, "layers.0.moe.experts.down.weight", &a, "layers.0.ffn.down.weight");
    same_output(&a, &b);
    unmake(&a);
    unmake(&b);
}

/* Identity head and merge layers change nothing; with one of them off the other may be the identity too. */
static void test_identity_head_and_merge(void **state)
{
    (void)state;
    for (int heads = 1; heads <= 2; heads++)
        for (int sides = 1; sides <= 3; sides++) {
            mh_config plain = small_mhmoe(), with = small_mhmoe();
            plain.moe.heads = with.moe.heads = heads;
            plain.moe.head = plain.moe.merge = MH_OFF;
            with.moe.head = sides & 1 ? MH_ON : MH_OFF;
            with.moe.merge = sides & 2 ? MH_ON : MH_OFF;
            fixture a = make(plain, MH_PRECISION_F32, 2, 16), b = make(with, MH_PRECISION_F32, 2, 16);
            copy_shared(&b, &a);
            for (int layer = 1; layer < 4; layer += 2)
                for (int side = 0; side < 2; side++) {
                    char name[64];
                    if (!(sides >> side & 1))
                        continue;
                    snprintf(name, sizeof name, "layers.%d.moe.%s.weight", layer, side ? "merge" : "head");
                    identity(param(&b, name), 32);
                    snprintf(name, sizeof name, "layers.%d.moe.%s.bias", layer, side ? "merge" : "head");
                    memset(param(&b, name), 0, 32 * sizeof(float));
                }
            same_output(&a, &b);
            unmake(&a);
            unmake(&b);
        }
}

/* All experts alike: routing does not matter, renormalised gates sum to 1, and the layer is a dense layer on
 * sub-tokens. */
static void test_equal_experts_with_renormalised_gates(void **state)
{
    (void)state;
    mh_config many = small_mhmoe(), one = small_mhmoe();
    many.moe.renormalize = 1;
    one.moe.experts = 1, one.moe.top_k = 1;
    fixture a = make(many, MH_PRECISION_F32, 2, 16), b = make(one, MH_PRECISION_F32, 2, 16);
    static const char *const matrix[] = {"gate", "up", "down"};
    for (int i = 0; i < a.model->params.count; i++)
        if (mh_params_find(&b.model->params, a.model->params.list[i].name) >= 0 &&
            !(a.model->params.list[i].flags & MH_EXPERT) && a.model->params.list[i].part != MH_PART_ROUTER)
            copy_param(&b, a.model->params.list[i].name, &a, a.model->params.list[i].name);
    for (int layer = 1; layer < 4; layer += 2)
        for (int i = 0; i < 3; i++) {
            char name[64];
            snprintf(name, sizeof name, "layers.%d.moe.experts.%s.weight", layer, matrix[i]);
            for (int e = 0; e < 6; e++)
                memcpy(param(&a, name) + e * 24 * 16, param(&b, name), 24 * 16 * sizeof(float));
        }
    same_output(&a, &b);
    unmake(&a);
    unmake(&b);
}

/* Paper A's residual: without a merge layer the layer's output grows by exactly the sub-tokens. */
static void test_inner_residual(void **state)
{
    (void)state;
    mh_config plain = small_mhmoe();
    plain.layers = 1, plain.moe.every = 1, plain.moe.merge = MH_OFF;
    mh_config with = plain;
    with.moe.inner_residual = 1;
    fixture a = make(plain, MH_PRECISION_F32, 2, 16), b = make(with, MH_PRECISION_F32, 2, 16);
    loss_of(&a);
    loss_of(&b);
    const float *ya = a.pass->branch.p, *yb = b.pass->branch.p, *head = b.pass->blocks[0].ffn.v.head[0].p;
    float sum[2 * 16 * 32];
    for (int i = 0; i < 2 * 16 * 32; i++)
        sum[i] = ya[i] + head[i];
    CLOSE(yb, sum, 2 * 16 * 32, algebra);
    unmake(&a);
    unmake(&b);
}

/* Two shared experts add what a dense layer of twice their width would. */
static void test_shared_experts(void **state)
{
    (void)state;
    mh_config dense = small(), plain = small_mhmoe();
    dense.layers = plain.layers = plain.moe.every = 1;
    mh_config with = plain;
    with.moe.shared_experts = 2, with.moe.shared_ffn_dim = dense.ffn_dim / 2;
    fixture a = make(dense, MH_PRECISION_F32, 2, 16), b = make(plain, MH_PRECISION_F32, 2, 16),
            c = make(with, MH_PRECISION_F32, 2, 16);
    copy_shared(&a, &c);
    copy_shared(&b, &c);
    static const char *const names[] = {"gate", "up", "down"};
    for (int i = 0; i < 3; i++) {
        char from[64], to[64];
        snprintf(from, sizeof from, "layers.0.moe.shared.%s.weight", names[i]);
        snprintf(to, sizeof to, "layers.0.ffn.%s.weight", names[i]);
        copy_param(&a, to, &c, from);
    }
    loss_of(&a), loss_of(&b), loss_of(&c);
    float sum[2 * 16 * 32];
    for (int i = 0; i < 2 * 16 * 32; i++)
        sum[i] = ((float *)a.pass->branch.p)[i] + ((float *)b.pass->branch.p)[i];
    CLOSE((float *)c.pass->branch.p, sum, 2 * 16 * 32, algebra);
    unmake(&a), unmake(&b), unmake(&c);
}

/* A large factor drops nothing; a small one drops, and dropped rows contribute nothing. */
static void test_capacity_factor(void **state)
{
    (void)state;
    mh_config none = small_mhmoe(), large = small_mhmoe(), tight = small_mhmoe();
    large.moe.capacity_factor = 100;
    tight.moe.capacity_factor = 0.5;
    fixture a = make(none, MH_PRECISION_F32, 2, 16), b = make(large, MH_PRECISION_F32, 2, 16),
            c = make(tight, MH_PRECISION_F32, 2, 16);
    same_output(&a, &b);
    loss_of(&c);
    mh_plan *plan = &mh_pass_ffn(c.pass, 1)->plan;
    assert_true(mh_plan_load(plan).dropped > 0);
    /* ceil(0.5 * 2 * ceil(64/6)) */
    for (int e = 0; e < plan->experts; e++)
        assert_true(plan->begin[e + 1] - plan->begin[e] <= 11);
    unmake(&a);
    unmake(&b);
    unmake(&c);
}

/* ---- gradients ----------------------------------------------------------------------------------------- */

/* Puts half of the units between the head layer's linears well above, half well below ReLU's kink, so that
 * small steps do not cross it. */
static void leave_kinks(fixture *f)
{
    static const char *const names[] = {"layers.1.moe.head.bias", "layers.3.moe.head.bias"};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 32; j++)
            param(f, names[i])[j] = j % 2 ? 3.5f : -3.5f; /* five deviations of the units */
}

/* Directional derivative along a random direction of each tensor (u of the gradient's signs, so that the
 * signal stands above f32 noise), choices held fixed. `sabotage` scales one tensor's gradient. Returns the
 * worst relative error. */
static double gradient_error(mh_config config, int sabotaged, float sabotage)
{
    fixture f = make(config, MH_PRECISION_F32, 2, 16);
    mh_params *p = &f.model->params;
    int32_t *choices[4] = {0};
    f.call.train = true, f.call.seed = 3, f.call.step = 1;
    if (config.moe.head > MH_ON)
        leave_kinks(&f);
    step_of(&f);
    for (int64_t i = 0; i < f.model->config.layers; i++) {
        mh_ffn_pass *ffn = mh_pass_ffn(f.pass, i);
        if (ffn == NULL)
            continue;
        size_t bytes = (size_t)(ffn->plan.rows * ffn->plan.top_k) * sizeof(int32_t);
        choices[i] = malloc(bytes);
        memcpy(choices[i], ffn->plan.choice, bytes);
        ffn->forced = choices[i];
    }
    double worst = 0;
    for (int i = 0; i < p->count; i++) {
        int64_t n = mh_param_size(&p->list[i]), first = p->list[i].offset;
        float *w = p->value + first, *saved = malloc((size_t)n * sizeof *saved);
        const float *g = p->grad + first;
        double analytic = 0, length = 0;
        memcpy(saved, w, (size_t)n * sizeof *saved);
        for (int64_t j = 0; j < n; j++) {
            double u = mh_uniform(5, (uint64_t)i, (uint64_t)j);
            analytic += fabs((double)g[j]) * u;
            length += u * u;
        }
        /* The step moves the tensor by 0.02 in norm: second-order terms cancel, third-order ones stay below
         * 1e-3. */
        double h = 0.02 / sqrt(length), value[2];
        for (int side = 0; side < 2; side++) {
            for (int64_t j = 0; j < n; j++) {
                double u = mh_uniform(5, (uint64_t)i, (uint64_t)j) * (g[j] < 0 ? -1 : 1);
                w[j] = (float)((double)saved[j] + (side ? -h : h) * u);
            }
            value[side] = loss_of(&f);
        }
        memcpy(w, saved, (size_t)n * sizeof *saved);
        free(saved);
        double numeric = (value[0] - value[1]) / (2 * h);
        analytic *= i == sabotaged ? (double)sabotage : 1;
        double error = fabs(numeric - analytic) / (fabs(numeric) + 1e-9);
        if (getenv("VERBOSE"))
            printf("%-40s %10.6f %10.6f %.2e\n", p->list[i].name, analytic, numeric, error);
        worst = error > worst ? error : worst;
    }
    for (int i = 0; i < 4; i++)
        free(choices[i]);
    unmake(&f);
    return worst;
}

/* f32 losses near 4 carry errors of about 1e-7, differences over steps that change them by about 1e-3 or
 * more: 1e-3 relative, with the third order on top. */
static const double gradient_bound = 4e-3;

static void test_model_gradients(void **state)
{
    (void)state;
    enum { VARIANTS = 12 };
    mh_config variants[VARIANTS];
    for (int i = 0; i < VARIANTS; i++)
        variants[i] = i == 0 || i == 5 ? small() : small_mhmoe();
    variants[0].kv_heads = 2, variants[0].tied_embeddings = 0, variants[0].norm = MH_NORM_LAYER;
    variants[2].moe.router = MH_ROUTER_XMOE_CODE, variants[2].moe.balance_weight = 1;
    variants[3].moe.renormalize = 1, variants[3].moe.inner_residual = 1;
    variants[4].moe.head = MH_OFF, variants[4].moe.capacity_factor = 0.75;
    variants[5].activation = MH_GELU, variants[5].bias = 1;
    variants[5].moe.experts = 3, variants[5].moe.merge = MH_ON;
    variants[6].moe.shared_experts = 2;
    variants[7].moe.score = MH_SCORE_SIGMOID, variants[7].moe.balance = MH_BALANCING_BIAS;
    variants[7].moe.renormalize = 1;
    variants[8].moe.router = MH_ROUTER_XMOE, variants[8].moe.z_weight = 0.1, variants[8].moe.jitter = 0.9;
    variants[9].moe.second_expert = MH_SECOND_RANDOM, variants[9].moe.renormalize = 1;
    variants[9].moe.z_weight = 1;
    variants[10].moe.second_expert = MH_SECOND_SAMPLING, variants[10].moe.balance = MH_BALANCING_NONE;
    variants[10].moe.capacity_factor = 0.75;
    variants[11].moe.head = MH_ON + 1, variants[11].moe.merge = MH_OFF;
    for (int i = 0; i < VARIANTS; i++) {
        double error = gradient_error(variants[i], -1, 1);
        if (!(error < gradient_bound))
            fail_msg("variant %d: relative error %.3g of a directional derivative", i, error);
    }
    for (int i = 0; i < 24; i += 5) /* the check must see one per cent in one tensor */
        assert_true(gradient_error(variants[1], i, 1.01f) > gradient_bound);
}

/* ---- determinism --------------------------------------------------------------------------------------- */

static void test_threads_give_equal_bits(void **state)
{
    (void)state;
    int most = omp_get_max_threads();
    mh_config configs[4] = {small_mhmoe(), small_mhmoe(), small_mhmoe(), small_mhmoe()};
    configs[1].moe.router = MH_ROUTER_XMOE, configs[1].moe.second_expert = MH_SECOND_RANDOM;
    configs[1].moe.jitter = 0.1, configs[1].moe.z_weight = 0.1;
    configs[2].moe.score = MH_SCORE_SIGMOID, configs[2].moe.balance = MH_BALANCING_BIAS;
    configs[2].moe.capacity_factor = 1, configs[2].moe.drop = MH_DROP_PROBABILITY;
    configs[3].quant = MH_QUANT_BITNET158, configs[3].moe.shared_experts = 1;
    for (int variant = 0; variant < 8; variant++) {
        mh_precision precision = variant % 2 ? MH_PRECISION_BF16 : MH_PRECISION_F32;
        float *want = NULL;
        size_t bytes = 0;
        for (int threads = 1; threads <= 4; threads *= 2) {
            omp_set_num_threads(threads);
            mh_config c = configs[variant / 2];
            c.context = 64, c.layers = 2;
            fixture f = make(c, precision, 65, 64); /* 4160 tokens, 8320 routed rows */
            f.call.train = true;
            step_of(&f);
            bytes = (size_t)f.model->params.elements * sizeof(float);
            if (want == NULL) {
                want = malloc(bytes);
                memcpy(want, f.model->params.grad, bytes);
            } else if (memcmp(want, f.model->params.grad, bytes) != 0) {
                fail_msg("%d threads give other gradients than 1 in variant %d", threads, variant);
            }
            unmake(&f);
        }
        free(want);
    }
    omp_set_num_threads(most);
}

static void test_bf16_is_near_f32(void **state)
{
    (void)state;
    fixture a = make(small_mhmoe(), MH_PRECISION_F32, 4, 16),
            b = make(small_mhmoe(), MH_PRECISION_BF16, 4, 16);
    double f32 = loss_of(&a), bf16 = loss_of(&b);
    assert_true(f32 != bf16);
    assert_true(fabs(f32 - bf16) < 0.01 * f32); /* 8 bits of mantissa, averaged over 64 tokens */
    unmake(&a);
    unmake(&b);
}

static void test_dropout_only_in_training(void **state)
{
    (void)state;
    mh_config c = small_mhmoe();
    c.dropout = 0.2;
    fixture f = make(c, MH_PRECISION_F32, 2, 16);
    double plain = loss_of(&f);
    assert_true(plain == loss_of(&f));
    f.call.train = true, f.call.seed = 3, f.call.step = 1;
    double first = loss_of(&f), again = loss_of(&f);
    f.call.step = 2;
    assert_true(first == again && first != plain && loss_of(&f) != first);
    unmake(&f);
}

/* Jitter and the second expert's lot fall in training alone, and anew at each step. */
static void test_chance_only_in_training(void **state)
{
    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        mh_config c = small_mhmoe();
        c.moe.jitter = variant == 0 ? 0.5 : 0;
        c.moe.second_expert = variant;
        fixture a = make(small_mhmoe(), MH_PRECISION_F32, 2, 16), f = make(c, MH_PRECISION_F32, 2, 16);
        double plain = loss_of(&f);
        assert_true(plain == loss_of(&a));
        f.call.train = true, f.call.seed = 3, f.call.step = 1;
        double first = loss_of(&f), again = loss_of(&f);
        f.call.step = 2;
        assert_true(first == again && first != plain && loss_of(&f) != first);
        unmake(&a);
        unmake(&f);
    }
}

/* The bias moves towards an even load, chooses, and does not gate. */
static void test_bias_balances(void **state)
{
    (void)state;
    mh_config c = small_mhmoe();
    c.moe.score = MH_SCORE_SIGMOID, c.moe.balance = MH_BALANCING_BIAS, c.moe.bias_rate = 0.01;
    c.layers = 2, c.context = 64;
    fixture f = make(c, MH_PRECISION_F32, 8, 64);
    float *bias = param(&f, "layers.1.moe.router.bias");
    const mh_plan *plan = &mh_pass_ffn(f.pass, 1)->plan;
    double before = 0, after = 0;
    for (int step = 0; step < 100; step++) {
        loss_of(&f);
        after = mh_plan_load(plan).largest;
        before = step == 0 ? after : before;
        int64_t load[6];
        for (int e = 0; e < 6; e++)
            load[e] = plan->begin[e + 1] - plan->begin[e];
        float was[6];
        memcpy(was, bias, sizeof was);
        mh_balance_count(f.pass, f.model);
        mh_balance_update(f.pass, f.model);
        for (int e = 0; e < 6; e++) {
            float step_of_bias = load[e] * 6 > plan->rows * 2   ? -0.01f
                                 : load[e] * 6 < plan->rows * 2 ? 0.01f
                                                                : 0;
            assert_true(fabsf(bias[e] - was[e] - step_of_bias) < 1e-6f);
        }
    }
    assert_true(before > 0.25 && after < 0.2); /* 1/6 is even */
    for (int64_t r = 0; r < plan->rows; r++) {
        const float *prob = mh_mat_row(mh_pass_ffn(f.pass, 1)->v.prob, r);
        for (int k = 0; k < 2; k++)
            assert_true(plan->gate[2 * r + k] == prob[plan->choice[2 * r + k]]);
    }
    unmake(&f);
}

static void test_find_nan(void **state)
{
    (void)state;
    fixture f = make(small_mhmoe(), MH_PRECISION_BF16, 2, 16);
    loss_of(&f);
    assert_int_equal(mh_pass_find_nan(f.pass), -1);
    param(&f, "layers.2.ffn.down.weight")[5] = NAN;
    mh_params_refresh(&f.model->params, f.model->ops);
    loss_of(&f);
    assert_int_equal(mh_pass_find_nan(f.pass), 2);
    unmake(&f);
}

static void test_initialisation(void **state)
{
    (void)state;
    fixture f = make(small_mhmoe(), MH_PRECISION_F32, 1, 16);
    double sum = 0, widest = 0;
    const float *up = param(&f, "layers.1.moe.experts.up.weight"), *embed = param(&f, "embed.weight");
    for (int i = 0; i < 6 * 24 * 16; i++)
        widest = fmax(widest, fabs((double)up[i]));
    assert_true(widest <= 0.25 && widest > 0.24); /* 1/sqrt(16) */
    for (int i = 0; i < VOCAB * 32; i++)
        sum += (double)embed[i] * (double)embed[i];
    assert_true(fabs(sum / VOCAB - 1) < 0.1); /* variance 1/d: rows of norm about 1 */
    assert_memory_not_equal(up, up + 24 * 16, 24 * 16 * sizeof(float));
    assert_true(param(&f, "layers.1.moe.merge.bias")[3] == 0 && param(&f, "norm.weight")[3] == 1);
    unmake(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_presets),
        cmocka_unit_test(test_bad_presets),
        cmocka_unit_test(test_bad_configs),
        cmocka_unit_test(test_config_json),
        cmocka_unit_test(test_parity),
        cmocka_unit_test(test_parity_counts),
        cmocka_unit_test(test_flops_are_those_of_a_forward),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_one_expert_is_a_dense_layer),
        cmocka_unit_test(test_identity_head_and_merge),
        cmocka_unit_test(test_equal_experts_with_renormalised_gates),
        cmocka_unit_test(test_inner_residual),
        cmocka_unit_test(test_shared_experts),
        cmocka_unit_test(test_capacity_factor),
        cmocka_unit_test(test_model_gradients),
        cmocka_unit_test(test_threads_give_equal_bits),
        cmocka_unit_test(test_bf16_is_near_f32),
        cmocka_unit_test(test_dropout_only_in_training),
        cmocka_unit_test(test_chance_only_in_training),
        cmocka_unit_test(test_bias_balances),
        cmocka_unit_test(test_find_nan),
        cmocka_unit_test(test_initialisation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
