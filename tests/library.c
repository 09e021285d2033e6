/* The public interface to training and to the layer alone: what a program gets is what `mhmoe train` and the
 * model do. */
#include "settings.h"
#include "tiny.h"
#include "train/train.h"

#include <dirent.h>
#include <locale.h>
#include <omp.h>

/* ---- training ------------------------------------------------------------------------------------------ */

enum { STEPS = 6, BATCH = 4, SEQUENCE = 16, NUMBERS = BATCH * SEQUENCE };

static const char *const settings[] = {TINY_SETTINGS,   "model.context=16", "model.bias=true",
                                       "train.steps=6", "train.warmup=2",   "train.log_every=1"};
enum { SETTINGS = sizeof settings / sizeof *settings };

static mh_recipe *recipe_with(const char *change)
{
    mh_recipe *recipe;
    OK(mh_recipe_load(&recipe, NULL));
    for (int i = 0; i < SETTINGS; i++)
        OK(mh_recipe_set(recipe, settings[i]));
    OK(mh_recipe_set(recipe, change));
    return recipe;
}

static mh_trainer *trainer_with(const char *change, const char *weights)
{
    mh_trainer *trainer;
    mh_recipe *recipe = recipe_with(change);
    OK(mh_trainer_create(&trainer, recipe, tiny_tokenizer, weights));
    mh_recipe_free(recipe);
    return trainer;
}

/* Some tokens, each predicting the next. */
typedef struct {
    int32_t token[NUMBERS + 1], target[NUMBERS];
} numbers;

static mh_batch some_batch(numbers *n)
{
    tiny_tokens(n->token, NUMBERS + 1, 5);
    memcpy(n->target, n->token + 1, sizeof n->target);
    return (mh_batch){n->token, n->target, NULL};
}

static void same_file(const char *a_path, const char *b_path)
{
    mh_text a, b;
    OK(mh_file_read(a_path, 1 << 26, &a));
    OK(mh_file_read(b_path, 1 << 26, &b));
    if (a.length != b.length || memcmp(a.data, b.data, a.length) != 0)
        fail_msg("%s and %s differ", a_path, b_path);
    mh_text_release(&a);
    mh_text_release(&b);
}

static void keep_loss(void *context, const mh_train_log *log)
{
    double *loss = context;
    loss[log->step] = log->loss;
}

static void trains_as_a_run_does(void **state)
{
    (void)state;
    mh_build_result built;
    const char *text = tiny_path("text.txt");
    mh_build how = {.tokenizer = tiny_path("tiny.model"),
                    .inputs = &text,
                    .input_count = 1,
                    .output = tiny_path("data"),
                    .valid_fraction = 0.3};
    OK(mh_data_build(&how, NULL, &built));
    char data[MH_PATH + 32], run[MH_PATH + 32];
    snprintf(data, sizeof data, "data.train=%s", tiny_path("data"));
    snprintf(run, sizeof run, "train.run=%s", tiny_path("run"));
    mh_recipe *recipe = recipe_with(data);
    OK(mh_recipe_set(recipe, run));
    mh_recipe of_run = *recipe;
    double loss[STEPS + 1];
    OK(mh_train(&of_run, MH_TRAIN_NEW, NULL, &(mh_train_watch){.context = loss, .log = keep_loss}));

    mh_trainer *trainer;
    mh_batches *batches;
    OK(mh_batches_open(&batches, tiny_path("data"), "train", SEQUENCE, 1, NULL));
    OK(mh_trainer_create(&trainer, recipe, tiny_tokenizer, NULL));
    mh_recipe_free(recipe);
    assert_int_equal(mh_trainer_batch(trainer), BATCH);
    assert_int_equal(mh_trainer_sequence(trainer), SEQUENCE);
    int32_t token[NUMBERS], target[NUMBERS], first_key[NUMBERS];
    mh_batch batch = {token, target, first_key};
    mh_update update;
    for (int step = 0; step < STEPS; step++) {
        assert_int_equal(mh_trainer_steps(trainer), step);
        for (int i = 0; i < BATCH; i++)
            mh_batches_get(batches, step * BATCH + i, token + i * SEQUENCE, target + i * SEQUENCE,
                           first_key + i * SEQUENCE);
        OK(mh_trainer_step(trainer, &batch, &update));
        assert_true(update.loss == loss[step + 1]);
    }
    mh_batches_close(batches);
    FAILS(MH_ESTATE, "all 6 updates", mh_trainer_step(trainer, &batch, &update));

    OK(mh_trainer_save(trainer, tiny_path("saved")));
    same_file(tiny_path("saved/model.safetensors"),
              tiny_path("run/checkpoints/step-000006/model.safetensors"));
    same_file(tiny_path("saved/config.json"), tiny_path("run/checkpoints/step-000006/config.json"));
    same_file(tiny_path("saved/tokenizer.model"), tiny_path("tiny.model"));
    FAILS(MH_ESTATE, "exists already", mh_trainer_save(trainer, tiny_path("saved")));

    /* The trained model predicts, before it is saved and after. */
    mh_model *loaded;
    mh_tokenizer *tokenizer;
    mh_session *now, *later;
    OK(mh_model_load(&loaded, &tokenizer, tiny_path("saved"), MH_PRECISION_F32));
    OK(mh_session_create(&now, mh_trainer_model(trainer)));
    OK(mh_session_create(&later, loaded));
    OK(mh_session_sync(now, token, SEQUENCE));
    OK(mh_session_sync(later, token, SEQUENCE));
    assert_memory_equal(mh_session_logits(now), mh_session_logits(later), TINY_VOCAB * sizeof(float));
    mh_session_free(now);
    mh_session_free(later);
    mh_tokenizer_free(tokenizer);
    mh_model_free(loaded);
    mh_trainer_free(trainer);

    /* Another starts from what was saved: the weights are those, also the biases of the routers. */
    trainer = trainer_with("train.seed=2", tiny_path("saved"));
    OK(mh_trainer_save(trainer, tiny_path("again")));
    same_file(tiny_path("again/model.safetensors"), tiny_path("saved/model.safetensors"));
    mh_trainer_free(trainer);
}

/* A program may speak German, and write 0,001. */
static void numbers_are_read_in_any_locale(void **state)
{
    (void)state;
    char command[MH_PATH + 64];
    snprintf(command, sizeof command, "localedef -i de_DE -f ISO-8859-1 %s >/dev/null 2>&1",
             tiny_path("de_DE"));
    setenv("LOCPATH", tiny_folder, 1);
    if (system(command) != 0 || setlocale(LC_ALL, "de_DE") == NULL) {
        print_message("no locale to test with\n");
        skip();
    }
    mh_trainer *trainer = trainer_with("train.rate=2.5e-3", NULL);
    OK(mh_trainer_save(trainer, tiny_path("german")));
    mh_trainer_free(trainer);
    setlocale(LC_ALL, "C");
    trainer = trainer_with("train.rate=2.5e-3", tiny_path("german"));
    OK(mh_trainer_save(trainer, tiny_path("english")));
    mh_trainer_free(trainer);
    same_file(tiny_path("german/config.json"), tiny_path("english/config.json"));
}

static void batches_are_checked(void **state)
{
    (void)state;
    struct {
        int token, target, first_key;
        const char *sentence;
    } wrong[] = {
        {TINY_VOCAB, 0, 0, "sequence 1, position 2: token 320 with target 0"},
        {-1, 0, 0, "sequence 1, position 2: token -1"},
        {0, TINY_VOCAB, 0, "targets too or -1"},
        {0, -2, 0, "target -2"},
        {0, 0, 3, "position 2: first_key 3; give a position from 0 to its own"},
        {0, 0, -1, "first_key -1"},
    };
    mh_trainer *trainer = trainer_with("train.seed=1", NULL);
    mh_update update;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int32_t token[NUMBERS] = {0}, target[NUMBERS] = {0}, first_key[NUMBERS] = {0};
        token[SEQUENCE + 2] = wrong[i].token;
        target[SEQUENCE + 2] = wrong[i].target;
        first_key[SEQUENCE + 2] = wrong[i].first_key;
        FAILS(MH_EVALUE, wrong[i].sentence,
              mh_trainer_step(trainer, &(mh_batch){token, target, first_key}, &update));
    }
    int32_t none[NUMBERS], token[NUMBERS] = {0};
    memset(none, -1, sizeof none);
    FAILS(MH_EVALUE, "nothing to learn", mh_trainer_step(trainer, &(mh_batch){token, none, NULL}, &update));
    assert_int_equal(mh_trainer_steps(trainer), 0);
    mh_trainer_free(trainer);
    mh_trainer_free(NULL);
}

static void what_cannot_be_made_is_refused(void **state)
{
    (void)state;
    mh_trainer *trainer = (mh_trainer *)1;
    mh_layer *layer = (mh_layer *)1;
    mh_recipe *recipe = recipe_with("moe.heads=3"), *none = recipe;
    FAILS(MH_EVALUE, "moe.heads 3 does not divide",
          mh_trainer_create(&trainer, recipe, tiny_tokenizer, NULL));
    assert_null(trainer);
    FAILS(MH_EVALUE, "moe.heads 3 does not divide", mh_layer_create(&layer, recipe));
    assert_null(layer);
    OK(mh_recipe_set(recipe, "moe.heads=2"));
    FAILS(MH_EVALUE, "model.vocab", mh_trainer_create(&trainer, recipe, NULL, NULL));
    FAILS(MH_EIO, "nowhere", mh_trainer_create(&trainer, recipe, tiny_tokenizer, tiny_path("nowhere")));
    OK(mh_recipe_set(recipe, "model.vocab=100"));
    FAILS(MH_EMISMATCH, "the tokenizer has 320 pieces",
          mh_trainer_create(&trainer, recipe, tiny_tokenizer, NULL));
    FAILS(MH_EVALUE, "moe.experts", mh_recipe_set(recipe, "moe.expert=4"));
    OK(mh_trainer_create(&trainer, recipe, NULL, NULL));
    mh_trainer_free(trainer);
    mh_recipe_free(recipe);
    FAILS(MH_EIO, "nowhere.yaml", mh_recipe_load(&none, tiny_path("nowhere.yaml")));
    assert_null(none);
}

/* Of half the targets each the mean loss is that of all. */
static void targets_may_be_left_out(void **state)
{
    (void)state;
    double loss[3];
    for (int part = 0; part < 3; part++) {
        numbers n;
        mh_update update;
        mh_batch batch = some_batch(&n);
        for (int i = 0; i < NUMBERS; i++)
            if (i % 2 == part)
                n.target[i] = -1;
        mh_recipe *recipe = recipe_with("model.dropout=0");
        OK(mh_recipe_set(recipe, "moe.jitter=0"));
        OK(mh_recipe_set(recipe, "moe.second_expert=all"));
        mh_trainer *trainer;
        OK(mh_trainer_create(&trainer, recipe, tiny_tokenizer, NULL));
        OK(mh_trainer_step(trainer, &batch, &update));
        loss[part] = update.loss;
        mh_trainer_free(trainer);
        mh_recipe_free(recipe);
    }
    assert_true(loss[0] != loss[1]);
    assert_true(fabs((loss[0] + loss[1]) / 2 - loss[2]) < 1e-6 * loss[2]); /* f32 in another order */
}

/* The memory for threads is taken when a trainer is created; more of them must not run over it. */
static void threads_may_become_more(void **state)
{
    (void)state;
    numbers n;
    mh_update few, many;
    mh_batch batch = some_batch(&n);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    mh_trainer *a = trainer_with("train.seed=1", NULL), *b = trainer_with("train.seed=1", NULL);
    OK(mh_trainer_step(a, &batch, &few));
    omp_set_num_threads(8);
    OK(mh_trainer_step(b, &batch, &many));
    omp_set_num_threads(threads);
    assert_memory_equal(&few, &many, sizeof few);
    mh_trainer_free(a);
    mh_trainer_free(b);
}

static void a_failed_update_leaves_nothing(void **state)
{
    (void)state;
    numbers n;
    mh_update want, got;
    mh_batch batch = some_batch(&n);
    mh_trainer *sound = trainer_with("train.seed=1", NULL), *hurt = trainer_with("train.seed=1", NULL);
    const mh_params *params = &mh_trainer_model(hurt)->params;
    mh_param_grad(params, mh_params_find(params, "norm.weight"))[0] = NAN;
    FAILS(MH_ESTATE,
          "step 1: the gradient's norm is not a finite number, first in the gradient of norm.weight",
          mh_trainer_step(hurt, &batch, &got));
    for (int i = 0; i < 2; i++) { /* the second shows what the first did to weights and biases */
        OK(mh_trainer_step(sound, &batch, &want));
        OK(mh_trainer_step(hurt, &batch, &got));
        assert_memory_equal(&got, &want, sizeof got);
    }
    assert_memory_equal(params->value, mh_trainer_model(sound)->params.value,
                        (size_t)params->elements * sizeof(float));
    mh_trainer_free(sound);
    mh_trainer_free(hurt);
}

/* ---- the layer alone ----------------------------------------------------------------------------------- */

/* All of a call's memory, work space that begins anywhere and holds rubbish included. */
typedef struct {
    mh_layer *layer;
    mh_layer_call call;
    float *weights, *x, *dy;
    char *work;
} alone;

static float *floats(int64_t count)
{
    float *p = calloc((size_t)count, sizeof *p);
    assert_non_null(p);
    return p;
}

static alone alone_of(const mh_recipe *recipe, int64_t tokens)
{
    alone a = {0};
    OK(mh_layer_create(&a.layer, recipe));
    int64_t n = tokens * mh_layer_dim(a.layer), all = mh_layer_floats(a.layer);
    size_t bytes = mh_layer_bytes(a.layer, tokens);
    a.weights = floats(all), a.x = floats(n), a.dy = floats(n);
    a.work = malloc(bytes + 1);
    memset(a.work, 0xff, bytes + 1);
    a.call = (mh_layer_call){.tokens = tokens,
                             .weights = a.weights,
                             .x = a.x,
                             .y = floats(n),
                             .dy = a.dy,
                             .dx = floats(n),
                             .gradients = floats(all),
                             .work = a.work + 1};
    return a;
}

static void alone_release(alone *a)
{
    free(a->weights), free(a->x), free(a->dy), free(a->work);
    free(a->call.y), free(a->call.dx), free(a->call.gradients);
    mh_layer_free(a->layer);
}

static const float *tensor(const mh_tensors *file, const char *prefix, const char *name, int64_t count)
{
    char full[128];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const mh_tensor *t = mh_tensors_find(file, full);
    assert_non_null(t);
    assert_int_equal(mh_tensor_elements(t), count);
    return t->data;
}

static int64_t size_of(const mh_weight *weight)
{
    int64_t size = 1;
    for (int i = 0; i < weight->rank; i++)
        size *= weight->shape[i];
    return size;
}

/* Names of settings in the reference vectors, and here. */
static void set_from(mh_recipe *recipe, const mh_tensors *file)
{
    static const char *const keys[][2] = {{"dim", "model.dim"},
                                          {"heads", "moe.heads"},
                                          {"experts", "moe.experts"},
                                          {"top_k", "moe.top_k"},
                                          {"ffn_dim", "moe.ffn_dim"},
                                          {"activation", "model.activation"},
                                          {"aux_weight", "moe.balance_weight"}};
    char text[128];
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        snprintf(text, sizeof text, "%s=%s", keys[i][1], mh_tensors_meta(file, keys[i][0]));
        OK(mh_recipe_set(recipe, text));
    }
    bool bias = strcmp(mh_tensors_meta(file, "bias"), "1") == 0;
    OK(mh_recipe_set(recipe, bias ? "model.bias=true" : "model.bias=false"));
    if (strcmp(mh_tensors_meta(file, "router"), "xmoe") == 0)
        OK(mh_recipe_set(recipe, "moe.router=xmoe-code"));
    if (strcmp(mh_tensors_meta(file, "capacity"), "none") != 0)
        OK(mh_recipe_set(recipe, "moe.capacity_factor=1"));
    if (strcmp(mh_tensors_meta(file, "weight_quant"), "none") != 0)
        OK(mh_recipe_set(recipe, "model.quant=bitnet158"));
}

static void compare_with_vectors(const char *path)
{
    mh_tensors *file;
    mh_recipe *recipe;
    OK(mh_tensors_open(&file, path));
    OK(mh_recipe_load(&recipe, NULL));
    set_from(recipe, file);
    alone a = alone_of(recipe, strtoll(mh_tensors_meta(file, "tokens"), NULL, 10));
    int64_t n = a.call.tokens * mh_layer_dim(a.layer), next = 0;
    memcpy(a.x, tensor(file, "", "x", n), (size_t)n * sizeof(float));
    memcpy(a.dy, tensor(file, "", "dy", n), (size_t)n * sizeof(float));
    mh_weight w;
    for (int i = 0; mh_layer_weight(a.layer, i, &w); i++) {
        assert_true(w.offset >= next && w.offset % 16 == 0);
        next = w.offset + size_of(&w);
        memcpy(a.weights + w.offset, tensor(file, "", w.name, size_of(&w)),
               (size_t)size_of(&w) * sizeof(float));
    }
    assert_true(next <= mh_layer_floats(a.layer));

    /* f32 sums of some thousand terms in another order, as `mhmoe verify` bounds them */
    float weight = strtof(mh_tensors_meta(file, "aux_weight"), NULL);
    float auxiliary = (float)mh_layer_forward(a.layer, &a.call) / weight;
    mh_layer_backward(a.layer, &a.call);
    CLOSE(a.call.y, tensor(file, "expect.", "y", n), n, 1e-5);
    CLOSE(&auxiliary, tensor(file, "expect.", "aux", 1), 1, 1e-5);
    CLOSE(a.call.dx, tensor(file, "expect.", "dx", n), n, 1e-5);
    for (int i = 0; mh_layer_weight(a.layer, i, &w); i++)
        CLOSE(a.call.gradients + w.offset, tensor(file, "expect.d.", w.name, size_of(&w)), size_of(&w), 1e-5);
    alone_release(&a);
    mh_recipe_free(recipe);
    mh_tensors_close(file);
}

static void the_layer_agrees_with_reference_vectors(void **state)
{
    (void)state;
    char path[MH_PATH];
    int files = 0;
    DIR *golden = opendir(TEST_GOLDEN);
    assert_non_null(golden);
    for (const struct dirent *entry; (entry = readdir(golden)) != NULL;)
        if (strncmp(entry->d_name, "layer_", 6) == 0) {
            OK(mh_path_join(path, TEST_GOLDEN, entry->d_name));
            compare_with_vectors(path);
            files++;
        }
    closedir(golden);
    assert_true(files >= 10);
}

static void fill(float *p, int64_t count, uint64_t seed, double scale)
{
    for (int64_t i = 0; i < count; i++)
        p[i] = (float)(scale * mh_normal(seed, mh_stream(MH_RANDOM_TEST, 2, 0), (uint64_t)i));
}

/* All experts are chosen, so that nothing jumps where a number moves a little. */
static alone shared_layer(const char *precision)
{
    static const char *const keys[] = {"model.dim=32",         "moe.heads=2",      "moe.experts=3",
                                       "moe.top_k=3",          "moe.ffn_dim=16",   "moe.shared_experts=2",
                                       "moe.shared_ffn_dim=8", "moe.z_weight=0.1", "moe.balance_weight=0"};
    mh_recipe *recipe;
    OK(mh_recipe_load(&recipe, NULL));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        OK(mh_recipe_set(recipe, keys[i]));
    OK(mh_recipe_set(recipe, precision));
    alone a = alone_of(recipe, 9);
    mh_recipe_free(recipe);
    mh_layer_init(a.layer, a.weights, 1);
    fill(a.x, 9 * 32, 3, 1);
    fill(a.dy, 9 * 32, 4, 1);
    return a;
}

static double loss_of(const alone *a)
{
    double sum = mh_layer_forward(a->layer, &a->call);
    for (int64_t i = 0; i < 9 * 32; i++)
        sum += (double)a->call.y[i] * (double)a->dy[i];
    return sum;
}

/* Along one random direction of all weights and inputs, with shared experts and the z-loss. */
static void the_gradient_is_that_of_the_loss(void **state)
{
    (void)state;
    alone a = shared_layer("train.precision=f32");
    int64_t all = mh_layer_floats(a.layer), n = 9 * 32;
    mh_layer_forward(a.layer, &a.call);
    mh_layer_backward(a.layer, &a.call);
    float *along = floats(all + n);
    fill(along, all + n, 6, 1);
    double slope = 0, loss[2], step = 1e-3;
    mh_weight w;
    for (int i = 0; mh_layer_weight(a.layer, i, &w); i++)
        for (int64_t j = w.offset; j < w.offset + size_of(&w); j++)
            slope += (double)along[j] * (double)a.call.gradients[j];
    for (int64_t j = 0; j < n; j++)
        slope += (double)along[all + j] * (double)a.call.dx[j];
    for (int side = 0; side < 2; side++) {
        float move = (float)(side ? -2 * step : step);
        for (int64_t j = 0; j < all; j++)
            a.weights[j] += move * along[j];
        for (int64_t j = 0; j < n; j++)
            a.x[j] += move * along[all + j];
        loss[side] = loss_of(&a);
    }
    double measured = (loss[0] - loss[1]) / (2 * step);
    if (!(fabs(measured - slope) <= 1e-3 * fabs(slope))) /* f32 differences of a sum of 288 products */
        fail_msg("slope %g, measured %g", slope, measured);
    free(along);
    alone_release(&a);
}

/* bf16 keeps 8 bits, rounded a few times on the way; gradients are added to what is there. */
static void bf16_is_near_and_gradients_add_up(void **state)
{
    (void)state;
    alone a = shared_layer("train.precision=f32"), b = shared_layer("train.precision=bf16");
    int64_t all = mh_layer_floats(a.layer);
    mh_layer_forward(a.layer, &a.call);
    mh_layer_backward(a.layer, &a.call);
    for (int i = 0; i < 2; i++) {
        mh_layer_forward(b.layer, &b.call);
        mh_layer_backward(b.layer, &b.call);
    }
    for (int64_t j = 0; j < all; j++)
        b.call.gradients[j] /= 2;
    CLOSE(b.call.y, a.call.y, 9 * 32, 3e-2);
    CLOSE(b.call.dx, a.call.dx, 9 * 32, 3e-2);
    CLOSE(b.call.gradients, a.call.gradients, all, 3e-2);
    assert_true(relative_error(b.call.y, a.call.y, 9 * 32) > 1e-5); /* it is bf16 */
    alone_release(&a);
    alone_release(&b);
}

static void the_layer_takes_what_its_plan_can_number(void **state)
{
    (void)state;
    alone a = shared_layer("train.precision=f32"); /* 2 heads, 3 choices */
    assert_int_equal(mh_layer_bytes(a.layer, 0), 0);
    assert_int_equal(mh_layer_bytes(a.layer, -1), 0);
    assert_true(mh_layer_bytes(a.layer, INT32_MAX / 6) > mh_layer_bytes(a.layer, 1));
    assert_int_equal(mh_layer_bytes(a.layer, INT32_MAX / 6 + 1), 0);
    assert_int_equal(mh_layer_bytes(a.layer, INT64_MAX), 0);
    alone_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trains_as_a_run_does),
        cmocka_unit_test(numbers_are_read_in_any_locale),
        cmocka_unit_test(batches_are_checked),
        cmocka_unit_test(what_cannot_be_made_is_refused),
        cmocka_unit_test(targets_may_be_left_out),
        cmocka_unit_test(threads_may_become_more),
        cmocka_unit_test(a_failed_update_leaves_nothing),
        cmocka_unit_test(the_layer_agrees_with_reference_vectors),
        cmocka_unit_test(the_gradient_is_that_of_the_loss),
        cmocka_unit_test(bf16_is_near_and_gradients_add_up),
        cmocka_unit_test(the_layer_takes_what_its_plan_can_number),
    };
    return cmocka_run_group_tests(tests, tiny_setup, tiny_teardown);
}
