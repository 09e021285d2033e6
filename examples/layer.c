/* One multi-head mixture-of-experts layer alone, in memory of this program: it learns by gradient descent to
 * mirror each row and to bend it a little. */
#include <mhmoe.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 128, DIM = 16, STEPS = 300 };

static const char *const settings[] = {"model.dim=16", "moe.heads=2", "moe.experts=4", "moe.ffn_dim=32"};

static float x[TOKENS * DIM], y[TOKENS * DIM], wanted[TOKENS * DIM], dx[TOKENS * DIM], dy[TOKENS * DIM];

static void must(mh_status status)
{
    if (status == MH_OK)
        return;
    fprintf(stderr, "%s\n", mh_message());
    exit(1);
}

/* Half the squared distance from what is wanted, a mean over tokens, and its gradient. */
static double compare(void)
{
    double sum = 0;
    for (int i = 0; i < TOKENS * DIM; i++) {
        float difference = y[i] - wanted[i];
        sum += 0.5 * (double)difference * (double)difference / TOKENS;
        dy[i] = difference / TOKENS;
    }
    return sum;
}

int main(void)
{
    mh_recipe *recipe;
    mh_layer *layer;
    must(mh_recipe_load(&recipe, NULL));
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        must(mh_recipe_set(recipe, settings[i]));
    must(mh_layer_create(&layer, recipe));
    mh_recipe_free(recipe);

    /* The layer tells what it needs, the memory is ours. */
    size_t floats = (size_t)mh_layer_floats(layer);
    float *weights = malloc(floats * sizeof *weights), *gradients = calloc(floats, sizeof *gradients);
    void *work = malloc(mh_layer_bytes(layer, TOKENS));
    mh_layer_init(layer, weights, 1);
    mh_weight weight;
    for (int i = 0; mh_layer_weight(layer, i, &weight); i++)
        printf("%-22s at %lld\n", weight.name, (long long)weight.offset);

    for (int i = 0; i < TOKENS * DIM; i++)
        x[i] = (float)rand() / (float)RAND_MAX * 2 - 1;
    for (int i = 0; i < TOKENS * DIM; i++) {
        float mirrored = x[i / DIM * DIM + DIM - 1 - i % DIM];
        wanted[i] = mirrored * (2 - mirrored * mirrored);
    }

    mh_layer_call call = {.tokens = TOKENS,
                          .weights = weights,
                          .x = x,
                          .y = y,
                          .dy = dy,
                          .dx = dx,
                          .gradients = gradients,
                          .work = work};
    for (int step = 0; step <= STEPS; step++) {
        double auxiliary = mh_layer_forward(layer, &call);
        double loss = compare();
        mh_layer_backward(layer, &call);
        if (step % 50 == 0)
            printf("step %3d  loss %.4f  auxiliary %.4f\n", step, loss, auxiliary);
        for (size_t i = 0; i < floats; i++) { /* backward adds: begin anew */
            weights[i] -= 0.1f * gradients[i];
            gradients[i] = 0;
        }
    }
    free(work);
    free(gradients);
    free(weights);
    mh_layer_free(layer);
    return 0;
}
