/* Reference vectors: the layer or decoder against what the authors' code gave (tests/golden/README.md). */
#include "eval/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bounds on relative errors. f32: what reordering sums of some thousand terms may cost, with room. bf16 keeps
 * 8 bits of mantissa, so each rounding is up to 0.4 %, and a few of them follow each other on the way through
 * a model. */
static const double bound_f32 = 1e-5, bound_bf16 = 3e-2;

/* ---- settings and weights out of the file -------------------------------------------------------------- */

typedef struct {
    const char *meta, *option;
} setting;

static const setting layer_settings[] = {{"dim", "model.dim"},
                                         {"heads", "moe.heads"},
                                         {"experts", "moe.experts"},
                                         {"top_k", "moe.top_k"},
                                         {"ffn_dim", "moe.ffn_dim"},
                                         {"activation", "model.activation"},
                                         {"bias", "model.bias"},
                                         {"router", "moe.router"},
                                         {"aux_weight", "moe.balance_weight"},
                                         {"capacity", "moe.capacity_factor"},
                                         {"renormalize_gates", "moe.renormalize"}};

static const setting decoder_settings[] = {{"dim", "model.dim"},
                                           {"layers", "model.layers"},
                                           {"attention_heads", "model.attention_heads"},
                                           {"ffn_dim", "model.ffn_dim"},
                                           {"vocab", "model.vocab"},
                                           {"moe_every", "moe.every"},
                                           {"heads", "moe.heads"},
                                           {"experts", "moe.experts"},
                                           {"top_k", "moe.top_k"},
                                           {"expert_ffn_dim", "moe.ffn_dim"},
                                           {"activation", "model.activation"},
                                           {"norm", "model.norm"},
                                           {"norm_eps", "model.norm_eps"},
                                           {"rope_base", "model.rotary_base"},
                                           {"tied_embeddings", "model.tied_embeddings"},
                                           {"router", "moe.router"},
                                           {"aux_weight", "moe.balance_weight"},
                                           {"capacity", "moe.capacity_factor"},
                                           {"renormalize_gates", "moe.renormalize"}};

/* Values that the vectors call by another name than our options. */
static const char *translate(const char *option, const char *value)
{
    bool flag = strcmp(option, "model.bias") == 0 || strcmp(option, "model.tied_embeddings") == 0 ||
                strcmp(option, "moe.renormalize") == 0;
    if (flag)
        return strcmp(value, "0") == 0 ? "false" : strcmp(value, "1") == 0 ? "true" : value;
    if (strcmp(value, "xmoe") == 0)
        return "xmoe-code";
    if (strcmp(option, "moe.capacity_factor") == 0)
        return strcmp(value, "none") == 0 ? "0" : strcmp(value, "k*ceil(S/E)") == 0 ? "1" : value;
    return value;
}

static mh_status read_settings(mh_config *config, const mh_tensors *file, const char *path,
                               const setting *settings, int count)
{
    mh_options_defaults(&mh_config_options, config);
    for (int i = 0; i < count; i++) {
        const char *value = mh_tensors_meta(file, settings[i].meta);
        if (value == NULL)
            return mh_fail(MH_EFORMAT, "%s: no \"%s\" in the metadata; is this a reference vector file?",
                           path, settings[i].meta);
        MH_TRY(mh_options_set(&mh_config_options, config, settings[i].option,
                              translate(settings[i].option, value), path));
    }
    const char *weights = mh_tensors_meta(file, "weight_quant"),
               *inputs = mh_tensors_meta(file, "input_quant");
    if (weights != NULL && strcmp(weights, "none") != 0) {
        if (strcmp(weights, "absmean-ternary") != 0 || inputs == NULL ||
            strcmp(inputs, "absmax-per-token-int8") != 0)
            return mh_fail(MH_EVALUE,
                           "%s: weights quantised as \"%s\" with inputs as \"%s\"; only BitNet b1.58's "
                           "absmean-ternary with absmax-per-token-int8 is supported",
                           path, weights, inputs ? inputs : "none");
        config->quant = MH_QUANT_BITNET158;
    }
    const char *rope = mh_tensors_meta(file, "rope_style");
    if (rope != NULL && strcmp(rope, "half-split") != 0)
        return mh_fail(MH_EVALUE, "%s: rotary style \"%s\"; only half-split is supported", path, rope);
    return MH_OK;
}

/* The tensor `name` with exactly this many elements. */
static mh_status need(const mh_tensors *file, const char *path, const char *name, mh_type type,
                      int64_t elements, const void **data)
{
    const mh_tensor *t = mh_tensors_find(file, name);
    if (t == NULL)
        return mh_fail(MH_EFORMAT, "%s: no tensor \"%s\"; write it as docs/formats.md describes", path, name);
    if (t->type != type || mh_tensor_elements(t) != elements)
        return mh_fail(MH_EFORMAT,
                       "%s: tensor \"%s\" has %lld elements of %s, not %lld of %s; write it as "
                       "docs/formats.md describes",
                       path, name, (long long)mh_tensor_elements(t), mh_type_name(t->type),
                       (long long)elements, mh_type_name(type));
    *data = t->data;
    return MH_OK;
}

/* What the metadata ask for must be there before memory is taken for it. */
static mh_status check_size(const mh_tensors *file, const char *path, int64_t params)
{
    int64_t held = 0;
    for (int i = 0; i < mh_tensors_count(file); i++)
        held += mh_tensor_elements(mh_tensors_at(file, i));
    if (params <= held)
        return MH_OK;
    return mh_fail(
        MH_EFORMAT,
        "%s: its metadata ask for %lld parameters, but it holds only %lld numbers; make the two agree", path,
        (long long)params, (long long)held);
}

static mh_status load_weights(const mh_params *params, const mh_tensors *file, const char *path)
{
    for (int i = 0; i < params->count; i++) {
        const void *data = NULL;
        int64_t size = mh_param_size(&params->list[i]);
        MH_TRY(need(file, path, params->list[i].name, MH_F32, size, &data));
        memcpy(params->value + params->list[i].offset, data, (size_t)size * sizeof(float));
    }
    mh_params_refresh(params, mh_cpu_ops());
    return MH_OK;
}

/* ---- comparing ----------------------------------------------------------------------------------------- */

typedef struct {
    const mh_tensors *file;
    const char *path;
    double bound;
    mh_verify_result *result;
} comparison;

/* Compares n numbers with tensor "expect.NAME". */
static mh_status compare(comparison *c, const char *name, const float *got, int64_t n)
{
    char full[128];
    const void *data = NULL;
    snprintf(full, sizeof full, "expect.%s", name);
    MH_TRY(need(c->file, c->path, full, MH_F32, n, &data));
    const float *want = data;
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        difference += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    double error = sqrt(difference) / (norm > 0 ? sqrt(norm) : 1);
    mh_verified *v = &c->result->tensor[c->result->count++];
    snprintf(v->name, sizeof v->name, "%s", name);
    v->error = isnan(error) ? INFINITY : error;
    v->bound = c->bound;
    c->result->passed = c->result->passed && v->error <= v->bound;
    return MH_OK;
}

static mh_status compare_gradients(comparison *c, const mh_params *params)
{
    for (int i = 0; i < params->count; i++) {
        char name[128];
        snprintf(name, sizeof name, "d.%s", params->list[i].name);
        MH_TRY(compare(c, name, params->grad + params->list[i].offset, mh_param_size(&params->list[i])));
    }
    return MH_OK;
}

static void compare_choices(comparison *c, const int32_t *got, const int32_t *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        c->result->flips += got[i] != want[i]; /* NOLINT(*NullDereference): of layers with choices */
    c->result->choices += n;
}

/* Room for one entry for each tensor of the file, of which only some are expectations. */
static mh_status begin_result(mh_verify_result *result, const mh_tensors *file)
{
    *result = (mh_verify_result){.passed = true};
    result->tensor = calloc((size_t)mh_tensors_count(file) + 1, sizeof *result->tensor);
    return result->tensor ? MH_OK : mh_fail(MH_EMEMORY, "the system refused memory for a list of tensors");
}

/* ---- one layer ----------------------------------------------------------------------------------------- */

typedef struct {
    mh_ffn ffn;
    mh_params params;
    mh_ffn_pass pass;
    mh_ffn_back back;
    mh_mat x, y, dx, dy, wide; /* wide: f32, to read results */
    int32_t *natural;
    int64_t tokens, choices;
} layer_run;

/* Measured with a null arena first, then carved. */
static void layer_layout(layer_run *r, mh_arena *arena, const mh_params *counted, mh_precision precision)
{
    mh_type type = precision == MH_PRECISION_BF16 ? MH_BF16 : MH_F32;
    r->params = (mh_params){.capacity = counted->count};
    r->params.list = mh_take(arena, (size_t)counted->count * sizeof *r->params.list);
    r->params.value = mh_take(arena, (size_t)counted->elements * sizeof(float));
    r->params.grad = mh_take(arena, (size_t)counted->elements * sizeof(float));
    mh_params_work_layout(&r->params, arena, counted, precision, r->ffn.quant);
    mh_ffn_layout(&r->ffn, &r->pass, arena, r->tokens, type);
    mh_ffn_layout_back(&r->ffn, &r->back, arena, r->tokens, type);
    mh_mat *io[] = {&r->x, &r->y, &r->dx, &r->dy};
    for (int i = 0; i < 4; i++)
        *io[i] = mh_take_mat(arena, r->tokens, r->ffn.dim, type);
    r->wide = mh_take_mat(arena, r->tokens, r->ffn.dim, MH_F32);
    r->natural = mh_take(arena, (size_t)r->choices * sizeof *r->natural);
}

static mh_status run_layer(layer_run *r, comparison *c, const float *x, const float *dy,
                           mh_precision precision)
{
    const struct mh_ops *ops = mh_cpu_ops();
    const int32_t *topk, *kept;
    MH_TRY(need(c->file, c->path, "expect.topk", MH_I32, r->choices, (const void **)&topk));
    MH_TRY(need(c->file, c->path, "expect.kept", MH_I32, r->choices, (const void **)&kept));
    for (int64_t i = 0; i < r->choices; i++)
        if (topk[i] < 0 || topk[i] >= r->ffn.moe.experts)
            return mh_fail(MH_EFORMAT, "%s: expect.topk names expert %d of %lld; they are numbered from 0",
                           c->path, topk[i], (long long)r->ffn.moe.experts);
    MH_TRY(load_weights(&r->params, c->file, c->path));

    ops->cast(r->x, mh_mat_of((void *)x, r->tokens, r->ffn.dim, MH_F32));
    ops->cast(r->dy, mh_mat_of((void *)dy, r->tokens, r->ffn.dim, MH_F32));
    r->pass.forced = precision == MH_PRECISION_BF16 ? topk : NULL;
    mh_ffn_fwd(&r->ffn, &r->params, ops, &r->pass, r->y, r->x);
    mh_ffn_bwd(&r->ffn, &r->params, ops, &r->pass, &r->back, r->dx, r->dy, r->x, 1);

    ops->top_k(r->natural, r->pass.v.prob, NULL, r->pass.plan.top_k);
    compare_choices(c, r->natural, topk, r->choices);
    c->result->kept = r->choices;
    for (int64_t i = 0; i < r->choices; i++)
        c->result->drops += (r->pass.plan.slot[i] >= 0) != (kept[i] != 0);

    ops->cast(r->wide, r->y);
    MH_TRY(compare(c, "y", r->wide.p, r->tokens * r->ffn.dim));
    MH_TRY(compare(c, "aux", &(float){(float)r->pass.balance}, 1));
    MH_TRY(compare(c, "gates", r->pass.plan.gate, r->choices));
    ops->cast(r->wide, r->dx);
    MH_TRY(compare(c, "dx", r->wide.p, r->tokens * r->ffn.dim));
    return compare_gradients(c, &r->params);
}

static mh_status verify_layer(comparison *c, mh_precision precision)
{
    mh_config config;
    MH_TRY(read_settings(&config, c->file, c->path, layer_settings,
                         sizeof layer_settings / sizeof *layer_settings));
    config.layers = config.attention_heads = config.moe.every = 1;
    config.vocab = 2;
    MH_TRY(mh_config_resolve(&config));

    const mh_tensor *x = mh_tensors_find(c->file, "x");
    const void *dy;
    if (x == NULL || x->type != MH_F32 || mh_tensor_elements(x) == 0 ||
        mh_tensor_elements(x) % config.dim != 0)
        return mh_fail(MH_EFORMAT,
                       "%s: no tensor \"x\" of rows of %lld numbers; write it as docs/formats.md describes",
                       c->path, (long long)config.dim);
    MH_TRY(need(c->file, c->path, "dy", MH_F32, mh_tensor_elements(x), &dy));

    layer_run r = {.ffn = {.dim = config.dim,
                           .activation = config.activation,
                           .bias = config.bias,
                           .quant = config.quant,
                           .moe = config.moe},
                   .tokens = mh_tensor_elements(x) / config.dim};
    r.choices = r.tokens * config.moe.heads * config.moe.top_k;
    mh_params counted = {0};
    mh_arena count = {0}, arena;
    mh_ffn_register(&r.ffn, &counted, "");
    int64_t params = 0;
    for (int i = 0; i < MH_PARTS; i++)
        params += counted.part[i];
    MH_TRY(check_size(c->file, c->path, params));
    layer_layout(&r, &count, &counted, precision);
    MH_TRY(mh_arena_init(&arena, count.used, "a layer"));
    layer_layout(&r, &arena, &counted, precision);
    mh_ffn_register(&r.ffn, &r.params, "");
    mh_status status = run_layer(&r, c, x->data, dy, precision);
    mh_arena_release(&arena);
    return status;
}

/* ---- a decoder ----------------------------------------------------------------------------------------- */

typedef struct {
    mh_model *model;
    mh_pass *pass;
    mh_call call;
    const int32_t *target;
    float *nll;
} decoder_run;

static void end_decoder(decoder_run *r)
{
    mh_pass_free(r->pass);
    mh_model_free(r->model);
}

/* Forward, loss and backward with the file's weights. `choices`, one array a layer, forces what the f32 run
 * chose. */
static mh_status run_decoder(decoder_run *r, const comparison *c, const mh_config *config,
                             mh_precision precision, int32_t *const *choices)
{
    mh_pass_shape shape = {r->call.batch, r->call.rows, r->call.rows, true};
    MH_TRY(mh_model_create(&r->model, config, precision, true));
    MH_TRY(load_weights(&r->model->params, c->file, c->path));
    MH_TRY(mh_pass_create(&r->pass, r->model, shape));
    for (int64_t i = 0; choices != NULL && i < config->layers; i++)
        if (choices[i] != NULL)
            mh_pass_ffn(r->pass, i)->forced = choices[i];
    mh_forward(r->pass, r->model, &r->call);
    mh_loss(r->pass, r->model, &r->call, r->target, r->nll, 1 / (float)(r->call.batch * r->call.rows));
    mh_backward(r->pass, r->model, &r->call, 1);
    return MH_OK;
}

static mh_status compare_decoder(comparison *c, const decoder_run *r, float *logits)
{
    int64_t n = r->call.batch * r->call.rows;
    double sum = 0, aux = mh_pass_auxiliary(r->pass).balance;
    for (int64_t i = 0; i < n; i++)
        sum += (double)r->nll[i];
    double ce = sum / (double)n;
    mh_logits(r->pass, r->model, 0, n, logits);
    MH_TRY(compare(c, "logits", logits, n * r->model->config.vocab));
    MH_TRY(compare(c, "ce", &(float){(float)ce}, 1));
    MH_TRY(compare(c, "aux", &(float){(float)aux}, 1));
    MH_TRY(compare(c, "loss", &(float){(float)(ce + r->model->config.moe.balance_weight * aux)}, 1));
    return compare_gradients(c, &r->model->params);
}

/* The files of decoders hold no choices: those of our own f32 run stand in, which are right if its loss and
 * gradients are. */
static void natural_choices(comparison *c, decoder_run *r, int32_t *const *choices)
{
    for (int64_t i = 0; i < r->model->config.layers; i++) {
        mh_ffn_pass *ffn = mh_pass_ffn(r->pass, i);
        if (ffn == NULL)
            continue;
        r->model->ops->top_k(ffn->plan.choice, ffn->v.prob, NULL, ffn->plan.top_k);
        compare_choices(c, ffn->plan.choice, choices[i], ffn->plan.rows * ffn->plan.top_k);
    }
}

static mh_status decoder_bf16(comparison *c, const decoder_run *reference, const mh_config *config,
                              float *logits)
{
    decoder_run r = *reference;
    int32_t **choices = calloc((size_t)config->layers, sizeof *choices);
    if (choices == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for %lld layers", (long long)config->layers);
    for (int64_t i = 0; i < config->layers; i++)
        choices[i] = mh_pass_ffn(reference->pass, i) ? mh_pass_ffn(reference->pass, i)->plan.choice : NULL;
    r.model = NULL, r.pass = NULL;
    mh_status status = run_decoder(&r, c, config, MH_PRECISION_BF16, choices);
    if (status == MH_OK)
        status = compare_decoder(c, &r, logits);
    if (status == MH_OK)
        natural_choices(c, &r, choices);
    end_decoder(&r);
    free(choices);
    return status;
}

static mh_status verify_decoder(comparison *c, mh_precision precision)
{
    mh_config config;
    MH_TRY(read_settings(&config, c->file, c->path, decoder_settings,
                         sizeof decoder_settings / sizeof *decoder_settings));
    if (config.moe.every == 0)
        config.moe.experts = 0;
    MH_TRY(mh_config_resolve(&config));
    MH_TRY(check_size(c->file, c->path, mh_count_params(&config).total));
    const mh_tensor *tokens = mh_tensors_find(c->file, "tokens");
    if (tokens == NULL || tokens->type != MH_I32 || tokens->rank != 2 || tokens->shape[0] < 1 ||
        tokens->shape[1] < 2)
        return mh_fail(MH_EFORMAT,
                       "%s: no tensor \"tokens\" of shape [B, T+1]; write it as docs/formats.md describes",
                       c->path);
    int64_t batch = tokens->shape[0], rows = tokens->shape[1] - 1, n = batch * rows;
    const int32_t *all = tokens->data;
    for (int64_t i = 0; i < batch * (rows + 1); i++)
        if (all[i] < 0 || all[i] >= config.vocab)
            return mh_fail(MH_EFORMAT, "%s: token %d is not below vocab %lld; make the two agree", c->path,
                           all[i], (long long)config.vocab);

    int32_t *token = malloc((size_t)n * 2 * sizeof *token);
    float *numbers = malloc((size_t)(n + n * config.vocab) * sizeof *numbers);
    decoder_run r = {
        .call = {.token = token, .batch = batch, .rows = rows}, .target = token + n, .nll = numbers};
    mh_status status = MH_OK;
    if (token == NULL || numbers == NULL)
        status = mh_fail(MH_EMEMORY, "%s: the system refused memory for %lld tokens", c->path, (long long)n);
    for (int64_t i = 0; status == MH_OK && i < n; i++) {
        token[i] = all[i / rows * (rows + 1) + i % rows];
        token[n + i] = all[i / rows * (rows + 1) + i % rows + 1];
    }
    if (status == MH_OK)
        status = run_decoder(&r, c, &config, MH_PRECISION_F32, NULL);
    if (status == MH_OK)
        status = precision == MH_PRECISION_F32 ? compare_decoder(c, &r, numbers + n)
                                               : decoder_bf16(c, &r, &config, numbers + n);
    end_decoder(&r);
    free(numbers);
    free(token);
    return status;
}

/* ---- a file -------------------------------------------------------------------------------------------- */

mh_status mh_verify(const char *path, mh_precision precision, mh_verify_result *result)
{
    mh_tensors *file;
    *result = (mh_verify_result){0};
    MH_TRY(mh_tensors_open(&file, path));
    comparison c = {file, path, precision == MH_PRECISION_F32 ? bound_f32 : bound_bf16, result};
    const char *kind = mh_tensors_meta(file, "kind");
    mh_status status = begin_result(result, file);
    if (status == MH_OK && kind != NULL && strcmp(kind, "moe_layer") == 0)
        status = verify_layer(&c, precision);
    else if (status == MH_OK && kind != NULL && strcmp(kind, "decoder_lm") == 0)
        status = verify_decoder(&c, precision);
    else if (status == MH_OK)
        status =
            mh_fail(MH_EFORMAT, "%s: kind \"%s\" in the metadata; expected \"moe_layer\" or \"decoder_lm\"",
                    path, kind ? kind : "");
    /* A choice of its own is an error in f32, and reported apart in bf16. */
    if (result->drops > 0 || (precision == MH_PRECISION_F32 && result->flips > 0))
        result->passed = false;
    mh_tensors_close(file);
    if (status != MH_OK)
        mh_verify_release(result);
    return status;
}

void mh_verify_release(mh_verify_result *result)
{
    free(result->tensor);
    *result = (mh_verify_result){0};
}
