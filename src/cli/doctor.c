/* mhmoe doctor: what this build and machine offer, and whether they compute what they should. */
#include "cli/cli.h"
#include "kernel/kernel.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

/* ---- what is here -------------------------------------------------------------------------------------- */

static json_t *facts(void)
{
    char name[128];
    mh_processor(name);
    json_t *sets = json_array();
    for (int isa = 0; isa <= (int)mh_isa_best(); isa++)
        mh_json_append(sets, json_string(mh_isa_name((mh_isa)isa)));
#ifdef MHMOE_ONEDNN
    const char *products = mh_isa_now() == MH_ISA_PORTABLE     ? "portable"
                           : mh_isa_now() < MH_ISA_AVX512_BF16 ? "oneDNN"
                                                               : "oneDNN, gemm_pairs";
#else
    const char *products = "portable";
#endif
    return json_pack("{s:s, s:s, s:o, s:s, s:s, s:i, s:i, s:I, s:o}", "version", MHMOE_VERSION, "processor",
                     name, "instruction_sets", sets, "used", mh_isa_name(mh_isa_now()), "products", products,
                     "processors", (int)sysconf(_SC_NPROCESSORS_ONLN), "threads", mh_threads(),
                     "memory_available", (json_int_t)mh_memory_available(), "libraries", cli_libraries());
}

/* ---- self-checks: each returns a relative error -------------------------------------------------------- */

enum { LENGTH = 1000 /* of rows: no multiple of a vector */, ROWS = 18 /* that run_rows fills */ };

static void fill_normal(float *x, int64_t n, uint32_t which)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)mh_normal(1, mh_stream(MH_RANDOM_TEST, 0, which), (uint64_t)i);
}

static double relative_error(const float *a, const float *b, int64_t n)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / norm);
}

/* Runs the row kernels on fixed numbers, each result in a row of its own. */
static void run_rows(const mh_rows *k, float y[ROWS][LENGTH])
{
    static float a[LENGTH], b[LENGTH], c[LENGTH];
    const int64_t n = LENGTH;
    const mh_adamw_factors adamw = {0.5F, 0.9F, 0.95F, 1e-3F, 1, 1e-8F, 0.99F};
    fill_normal(a, n, 0);
    fill_normal(b, n, 1);
    fill_normal(c, n, 2);
    for (int row = 0; row < ROWS; row++)
        memcpy(y[row], c, sizeof c);
    k->add(y[0], a, b, n);
    k->multiply(y[1], a, b, n);
    k->scale(y[2], 0.3F, a, n);
    k->axpy(y[3], 0.3F, a, n);
    k->norm(y[4], a, b, 0.1F, 0.9F, n);
    k->norm_bwd(y[5], a, b, c, 0.1F, 0.9F, 0.2F, 0.3F, n);
    k->rotate(y[6], y[7], a, b, 1, n);
    k->swiglu(y[8], a, b, n);
    k->swiglu_bwd(y[9], y[10], a, b, c, n);
    k->gelu(y[11], a, n);
    k->gelu_bwd(y[12], a, b, n);
    k->multiply(y[13], c, c, n); /* AdamW's mean square is never negative */
    k->adamw(y[14], y[15], y[13], a, &adamw, n);
    float sums[] = {k->exp(y[16], a, 0.5F, 1, n), k->sum(b, n), k->dot(a, b, n), k->squares(a, 0.1F, n),
                    k->max(a, n)};
    memcpy(y[17], sums, sizeof sums);
}

static double check_rows(void)
{
    static float ours[ROWS][LENGTH], portable[ROWS][LENGTH];
    run_rows(mh_rows_now(), ours);
    run_rows(mh_rows_of(MH_ISA_PORTABLE), portable);
    double worst = 0;
    for (int row = 0; row < ROWS; row++)
        worst = fmax(worst, relative_error(ours[row], portable[row], LENGTH));
    return worst;
}

/* With panels where products have use for them. */
static double check_product(mh_product p)
{
    enum { MOST = 200 * 80 };
    static float x[MOST], a[MOST], b[MOST], ours[MOST], portable[MOST]; /* a, b: of p.in */
    static _Alignas(MH_ALIGN) uint16_t panels[256 * 128]; /* at least mh_panels_elements(k, n) */
    fill_normal(x, MOST, 0);
    mh_rows_now()->store(a, p.in, x, p.m * p.k);
    fill_normal(x, MOST, 1);
    mh_rows_now()->store(b, p.in, x, p.k * p.n);
    p.a = a, p.b = b, p.c = ours;
    p.lda = p.transpose_a ? p.m : p.k, p.ldb = p.transpose_b ? p.k : p.n, p.ldc = p.n;
    if (p.in == MH_BF16 && p.transpose_b && mh_panels_bytes(p.k, p.n)) {
        mh_panels_fill(panels, (uint16_t *)b, p.ldb, true, p.k, p.n);
        p.panels = panels;
    }
#pragma omp parallel num_threads(1)
    mh_gemm(&p);
    p.c = portable;
    mh_gemm_portable(&p);
    return relative_error(ours, portable, p.m * p.n);
}

static double check_product_f32(void)
{
    return check_product((mh_product){48, 80, 200, .transpose_b = true, .in = MH_F32, .out = MH_F32});
}
static double check_product_bf16(void)
{
    return check_product((mh_product){70, 80, 200, .transpose_b = true, .in = MH_BF16, .out = MH_F32});
}
static double check_product_plain(void)
{
    return check_product((mh_product){70, 80, 200, .in = MH_BF16, .out = MH_F32});
}
/* Of more rows than one kernel sums. */
static double check_weight_gradient(void)
{
    return check_product((mh_product){20, 25, 600, .transpose_a = true, .in = MH_BF16, .out = MH_F32});
}

static double loss_of(mh_pass *pass, const mh_model *model, const mh_call *call, const int32_t *target,
                      float scale)
{
    float nll[32];
    mh_forward(pass, model, call);
    mh_loss(pass, model, call, target, nll, scale);
    double sum = 0;
    for (int i = 0; i < 32; i++)
        sum += nll[i];
    return sum;
}

/* The gradient of a small MH-MoE model along one random direction, against two forwards. Every expert is
 * chosen, because a choice that flips between the two would break the derivative. */
static mh_status gradient(mh_model *model, mh_pass *pass, double *error)
{
    int32_t token[32], target[32];
    for (int i = 0; i < 32; i++) {
        token[i] = i * 7 % 50;
        target[i] = (i * 7 + 7) % 50;
    }
    const mh_call call = {.token = token, .batch = 2, .rows = 16};
    const mh_params *params = &model->params;
    loss_of(pass, model, &call, target, 1);
    mh_backward(pass, model, &call, 0);

    mh_arena arena;
    size_t bytes = (size_t)params->elements * sizeof(float);
    MH_TRY(mh_arena_init(&arena, bytes, "a copy of the weights"));
    float *weight = memcpy(mh_take(&arena, bytes), params->value, bytes);
    const double h = 3e-4;
    double analytic = 0, loss[2];
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < params->elements; i++) {
            double v = mh_normal(2, mh_stream(MH_RANDOM_TEST, 0, 0), (uint64_t)i);
            analytic += side == 0 ? v * params->grad[i] : 0;
            params->value[i] = (float)(weight[i] + (side == 0 ? h : -h) * v);
        }
        loss[side] = loss_of(pass, model, &call, target, 0);
    }
    mh_arena_release(&arena);
    *error = fabs((loss[0] - loss[1]) / (2 * h) - analytic) / fabs(analytic);
    return MH_OK;
}

static double check_gradient(void)
{
    const char *const sets[] = {
        "model.dim=32",  "model.layers=2", "model.attention_heads=2", "model.vocab=50", "moe.heads=2",
        "moe.experts=4", "moe.top_k=4",    "moe.ffn_dim=24",          "moe.every=2",    "model.context=16"};
    mh_recipe recipe;
    mh_model *model = NULL;
    mh_pass *pass = NULL;
    double error = INFINITY;
    mh_status status = mh_recipe_read(&recipe, NULL, sets, sizeof sets / sizeof *sets);
    if (status == MH_OK)
        status = mh_config_resolve(&recipe.model);
    if (status == MH_OK)
        status = mh_model_create(&model, &recipe.model, MH_PRECISION_F32, true);
    if (status == MH_OK)
        status = mh_pass_create(&pass, model, (mh_pass_shape){2, 16, 16, true});
    if (status == MH_OK) {
        mh_model_init(model, 1);
        status = gradient(model, pass, &error);
    }
    cli_report(status);
    mh_pass_free(pass);
    mh_model_free(model);
    return error;
}

/* Bounds: sums in another order for kernels; for the gradient the rounding of two f32 losses. */
static const struct {
    const char *name;
    double (*run)(void);
    double bound;
} checks[] = {
    {"row kernels against the portable ones", check_rows, 1e-5},
    {"f32 products against the portable ones", check_product_f32, 1e-5},
    {"bf16 products against the portable ones", check_product_bf16, 1e-5},
    {"bf16 products without panels against the portable ones", check_product_plain, 1e-5},
    {"bf16 weight gradients against the portable ones", check_weight_gradient, 1e-5},
    {"gradient of a small model", check_gradient, 5e-3},
};

static json_t *run_checks(bool *passed)
{
    json_t *list = json_array();
    *passed = true;
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        double error = checks[i].run();
        bool ok = error <= checks[i].bound; /* false for NaN too */
        *passed = *passed && ok;
        json_t *value = isfinite(error) ? json_real(error) : json_null();
        mh_json_append(list, json_pack("{s:s, s:o, s:f, s:b}", "name", checks[i].name, "error", value,
                                       "bound", checks[i].bound, "ok", ok));
    }
    return list;
}

/* ---- printing ------------------------------------------------------------------------------------------ */

static void print_text(const json_t *all)
{
    const char *key;
    json_t *value;
    size_t i;
    char number[32];
    printf("mhmoe %s\n", json_string_value(json_object_get(all, "version")));
    printf("processor         %s\n", json_string_value(json_object_get(all, "processor")));
    printf("instruction sets ");
    json_array_foreach(json_object_get(all, "instruction_sets"), i, value)
        printf(" %s", json_string_value(value));
    printf("\nused              %s (MHMOE_ISA steps down)\n",
           json_string_value(json_object_get(all, "used")));
    printf("products by       %s\n", json_string_value(json_object_get(all, "products")));
    printf("threads           %lld of %lld processors (OMP_NUM_THREADS)\n",
           json_integer_value(json_object_get(all, "threads")),
           json_integer_value(json_object_get(all, "processors")));
    printf("memory available  %s\n",
           cli_bytes((double)json_integer_value(json_object_get(all, "memory_available")), number));
    json_object_foreach(json_object_get(all, "libraries"), key, value)
        printf("%-17s %s\n", key, json_string_value(value));
    puts("");
    json_array_foreach(json_object_get(all, "checks"), i, value)
        printf("%-6s %s (relative error %.1e, at most %.0e)\n",
               json_is_true(json_object_get(value, "ok")) ? "ok" : "FAILED",
               json_string_value(json_object_get(value, "name")),
               json_is_null(json_object_get(value, "error"))
                   ? INFINITY
                   : json_real_value(json_object_get(value, "error")),
               json_real_value(json_object_get(value, "bound")));
}

int cli_doctor(int argc, char **argv)
{
    bool json = false, passed;
    const cli_option options[] = {{"json", NULL, "one JSON object", CLI_FLAG, &json, 0, 0, false}};
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "",
        .summary =
            "Shows the processor's features, the kernels chosen and the libraries, and checks that they "
            "compute what they should. Ends with 1 if they do not.",
        .examples = "mhmoe doctor\n"
                    "MHMOE_ISA=avx2 mhmoe doctor --json",
        .options = options,
        .option_count = 1,
    };
    cli_list arguments;
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    json_t *all = facts();
    mh_json_set(all, "checks", run_checks(&passed));
    if (json)
        code = cli_print_json(all);
    else {
        print_text(all);
        json_decref(all);
        code = CLI_OK;
    }
    return passed ? code : CLI_FAILURE;
}
