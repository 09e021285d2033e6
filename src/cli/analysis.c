/* An analysis of routing (docs/formats.md) as tables. */
#include "cli/cli.h"

#include <math.h>

/* What is printed of longer lists. */
enum { TOKENS = 8, LABELS = 4, LABELS_LISTED = 24, PAIRS = 6, TRACED = 24, SENTENCES = 12 };

static const json_t *at(const json_t *array, size_t i)
{
    return json_array_get(array, i);
}

static const json_t *get(const json_t *object, const char *key)
{
    return json_object_get(object, key);
}

static double real(const json_t *object, const char *key)
{
    return json_number_value(get(object, key));
}

static long long whole(const json_t *object, const char *key)
{
    return json_integer_value(get(object, key));
}

static const char *text(const json_t *object, const char *key)
{
    return json_string_value(get(object, key));
}

/* On one line, with spaces visible as SentencePiece writes them. */
static void print_token(const json_t *token)
{
    for (const char *c = text(token, "text"); *c != '\0'; c++)
        if (*c == ' ')
            fputs("\u2581", stdout);
        else if (*c == '\n')
            fputs("\\n", stdout);
        else if ((unsigned char)*c < ' ' || *c == 0x7f)
            printf("\\x%02x", (unsigned char)*c);
        else
            putchar(*c);
}

/* "threshold  layer 1  layer 3": columns of `width` behind two blanks, aligned left where it is negative. */
static void print_heading(const char *what, const json_t *layers, int width)
{
    fputs(what, stdout);
    for (size_t l = 0; l < json_array_size(layers); l++) {
        char layer[32];
        snprintf(layer, sizeof layer, "layer %lld", whole(at(layers, l), "layer"));
        printf("  %*s", width, layer);
    }
    putchar('\n');
}

/* ---- layers -------------------------------------------------------------------------------------------- */

/* An expert's share of all choices. */
static double load_of(const json_t *layer, size_t expert)
{
    const json_t *heads = get(layer, "load");
    double sum = 0;
    for (size_t j = 0; j < json_array_size(heads); j++)
        sum += json_number_value(at(at(heads, j), expert));
    return sum / (double)json_array_size(heads);
}

static void print_layers(const json_t *layers)
{
    puts("layer  heads  experts  top-k  entropy   largest  smallest   active  corrected  distinct  changed");
    for (size_t l = 0; l < json_array_size(layers); l++) {
        const json_t *layer = at(layers, l), *activation = get(layer, "activation");
        double largest = 0, smallest = 1;
        for (size_t e = 0; e < json_array_size(get(layer, "experts")); e++) {
            largest = fmax(largest, load_of(layer, e));
            smallest = fmin(smallest, load_of(layer, e));
        }
        printf("%5lld %6lld %8zu %6lld %8.3f %7.2f %% %7.2f %% %6.1f %% %8.1f %% %9.2f %6.1f %%\n",
               whole(layer, "layer"), whole(layer, "heads"), json_array_size(get(layer, "experts")),
               whole(layer, "top_k"), real(layer, "entropy"), 100 * largest, 100 * smallest,
               100 * real(activation, "ratio"), 100 * real(activation, "corrected"),
               real(get(layer, "distinct"), "mean"), 100 * real(get(layer, "repeats"), "changed"));
    }
    printf("entropy    of the experts' shares of the choices; 1: all alike\n"
           "largest    share of the choices that one expert gets; smallest likewise\n"
           "active     share of the experts that are chosen more than %g times a token\n"
           "corrected  share of the experts that get more than %g of all choices\n"
           "distinct   experts that the heads of a token reach\n"
           "changed    choices that differ from those at the last occurrence of the same token\n",
           real(get(at(layers, 0), "activation"), "threshold"),
           real(get(at(layers, 0), "activation"), "threshold"));
}

static void print_curves(const json_t *layers)
{
    print_heading("\nthreshold", layers, 17);
    const json_t *curve = get(get(at(layers, 0), "activation"), "curve");
    for (size_t t = 0; t < json_array_size(curve); t++) {
        printf("%9g", real(at(curve, t), "threshold"));
        for (size_t l = 0; l < json_array_size(layers); l++) {
            const json_t *point = at(get(get(at(layers, l), "activation"), "curve"), t);
            printf("  %6.1f %% %6.1f %%", 100 * real(point, "ratio"), 100 * real(point, "corrected"));
        }
        putchar('\n');
    }
    puts("active experts, and corrected, over thresholds");
}

static void print_distinct(const json_t *layers)
{
    print_heading("\nexperts", layers, 9);
    const json_t *first = get(get(at(layers, 0), "distinct"), "histogram");
    for (size_t n = 0; n < json_array_size(first); n++) {
        printf("%7zu", n + 1);
        for (size_t l = 0; l < json_array_size(layers); l++)
            printf("  %7.1f %%",
                   100 * json_number_value(at(get(get(at(layers, l), "distinct"), "histogram"), n)));
        putchar('\n');
    }
    puts("tokens whose heads reach so many distinct experts");
}

/* ---- experts ------------------------------------------------------------------------------------------- */

static void print_expert(const json_t *layer, size_t e)
{
    const json_t *heads = get(layer, "load"), *expert = at(get(layer, "experts"), e);
    const json_t *tokens = get(expert, "tokens"), *labels = get(expert, "labels");
    printf("%6zu %6.2f %%", e, 100 * load_of(layer, e));
    for (size_t j = 0; j < json_array_size(heads); j++)
        printf(" %6.2f %%", 100 * json_number_value(at(at(heads, j), e)));
    putchar(' ');
    for (size_t i = 0; i < json_array_size(tokens) && i < TOKENS; i++) {
        putchar(' ');
        print_token(at(tokens, i));
        printf(" %.1f", real(at(tokens, i), "lift"));
    }
    for (size_t i = 0; i < json_array_size(labels) && i < LABELS; i++)
        printf("%s %s %.1f", i == 0 ? "  |" : ",", text(at(labels, i), "label"), real(at(labels, i), "lift"));
    putchar('\n');
}

static void print_experts(const json_t *layer, bool labels)
{
    printf("\nlayer %lld\nexpert     load", whole(layer, "layer"));
    for (int j = 0; j < whole(layer, "heads"); j++)
        printf("   head %d", j);
    printf("  tokens%s that it takes so many times as often as chance\n", labels ? " | labels" : "");
    for (size_t e = 0; e < json_array_size(get(layer, "experts")); e++)
        print_expert(layer, e);
}

typedef struct {
    size_t a, b;
    double lift, share;
} pair;

/* The pairs that most exceed what independent experts would have in common; ties in order. */
static int strongest_pairs(const json_t *layer, double tokens, pair top[PAIRS])
{
    const json_t *together = get(layer, "coactivation"), *lift = get(layer, "coactivation_lift");
    int n = 0;
    for (size_t a = 0; a < json_array_size(together); a++)
        for (size_t b = a + 1; b < json_array_size(together); b++) {
            pair found = {a, b, json_number_value(at(at(lift, a), b)),
                          json_number_value(at(at(together, a), b)) / tokens};
            int place = n;
            for (; place > 0 && found.lift > top[place - 1].lift; place--)
                if (place < PAIRS)
                    top[place] = top[place - 1];
            if (found.lift > 1 && place < PAIRS) {
                top[place] = found;
                n += n < PAIRS;
            }
        }
    return n;
}

static void print_pairs(const json_t *layers, double tokens)
{
    puts("\nlayer  experts   tokens   lift  pairs that a token's heads reach together more often than by "
         "chance");
    for (size_t l = 0; l < json_array_size(layers); l++) {
        pair top[PAIRS];
        int n = strongest_pairs(at(layers, l), tokens, top);
        for (int i = 0; i < n; i++)
            printf("%5lld %4zu %3zu %6.2f %% %6.2f\n", whole(at(layers, l), "layer"), top[i].a, top[i].b,
                   100 * top[i].share, top[i].lift);
    }
}

static void print_labels(const json_t *labels)
{
    size_t shown = 0, unmet = 0;
    puts("\n   tokens  label");
    for (size_t i = 0; i < json_array_size(labels); i++) {
        long long tokens = whole(at(labels, i), "tokens");
        unmet += tokens == 0;
        if (tokens > 0 && shown++ < LABELS_LISTED)
            printf("%9lld  %s\n", tokens, text(at(labels, i), "label"));
    }
    if (shown > LABELS_LISTED)
        printf("and %zu more\n", shown - LABELS_LISTED);
    if (unmet > 0)
        printf("%zu others give no token to this sample; --tokens N takes more\n", unmet);
}

/* ---- words, passages, checkpoints ---------------------------------------------------------------------- */

/* "3,17 5,9": the experts of each head; heads are lists, or objects with "experts". */
static int format_heads(char out[128], const json_t *heads)
{
    int n = 0;
    out[0] = '\0';
    for (size_t j = 0; j < json_array_size(heads); j++) {
        const json_t *head = at(heads, j), *experts = json_is_array(head) ? head : get(head, "experts");
        for (size_t c = 0; c < json_array_size(experts) && n < 100; c++) {
            const char *gap = c > 0 ? "," : j > 0 ? " " : "";
            n += snprintf(out + n, 128 - (size_t)n, "%s%lld", gap, json_integer_value(at(experts, c)));
        }
    }
    return n;
}

/* Width of a column of such texts. */
static int heads_width(const json_t *lines)
{
    int widest = 7;
    char cell[128];
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *layers = get(at(lines, i), "layers");
        for (size_t l = 0; l < json_array_size(layers); l++) {
            int width = format_heads(cell, get(at(layers, l), "heads"));
            widest = width > widest ? width : widest;
        }
    }
    return widest;
}

/* The experts of each layer of one line of a word or passage. */
static void print_cells(const json_t *line, int width)
{
    const json_t *layers = get(line, "layers");
    char cell[128];
    for (size_t l = 0; l < json_array_size(layers); l++) {
        format_heads(cell, get(at(layers, l), "heads"));
        printf("  %-*s", width, cell);
    }
}

static void print_word(const json_t *word, const json_t *layers)
{
    const json_t *occurrences = get(word, "occurrences");
    int width = heads_width(occurrences);
    printf("\n\"%s\", found %lld times", text(word, "word"), whole(word, "found"));
    if (json_array_size(occurrences) == 0) {
        putchar('\n');
        return;
    }
    puts(": the experts of each head when the model has read it");
    print_heading("", layers, -width);
    for (size_t i = 0; i < json_array_size(occurrences) && i < SENTENCES; i++) {
        const json_t *sentence = at(occurrences, i);
        print_cells(sentence, width);
        printf("  %s[%s]%s\n", text(sentence, "before"), text(sentence, "text"), text(sentence, "after"));
    }
    if (json_array_size(occurrences) < 2)
        return;
    for (size_t l = 0; l < json_array_size(layers); l++)
        printf("  %*.1f %%", width - 2, 100 * real(at(get(word, "layers"), l), "changed"));
    puts("  of the choices differ between two of its sentences");
    for (size_t l = 0; l < json_array_size(layers); l++)
        printf("  %*.1f %%", width - 2, 100 * real(get(at(layers, l), "repeats"), "changed"));
    puts("  between two occurrences of any token");
}

static void print_trace(const json_t *tokens, const json_t *layers)
{
    int width = heads_width(tokens);
    puts("\nexperts of each head, token by token");
    print_heading("", layers, -width);
    for (size_t i = 0; i < json_array_size(tokens) && i < TRACED; i++) {
        print_cells(at(tokens, i), width);
        fputs("  ", stdout);
        print_token(at(tokens, i));
        putchar('\n');
    }
}

static void print_checkpoints(const json_t *checkpoints, const json_t *layers)
{
    print_heading("\nchoices that differ from the last checkpoint's\n     step", layers, 9);
    for (size_t i = 0; i < json_array_size(checkpoints); i++) {
        const json_t *checkpoint = at(checkpoints, i), *changed = get(checkpoint, "changed");
        if (json_is_integer(get(checkpoint, "step")))
            printf("%9lld", whole(checkpoint, "step"));
        else
            printf("%9s", "-");
        for (size_t l = 0; l < json_array_size(changed); l++)
            printf("  %7.1f %%", 100 * json_number_value(at(changed, l)));
        printf("  %s\n", text(checkpoint, "checkpoint"));
    }
}

void cli_print_analysis(const json_t *analysis)
{
    const json_t *layers = get(analysis, "layers"), *labels = get(analysis, "labels");
    const json_t *words = get(analysis, "words"), *checkpoints = get(analysis, "checkpoints");
    bool labelled = json_array_size(labels) > 0;
    printf("checkpoint  %s\ntokens      %lld\n\n", text(analysis, "checkpoint"), whole(analysis, "tokens"));
    print_layers(layers);
    print_curves(layers);
    print_distinct(layers);
    if (labelled)
        print_labels(labels);
    for (size_t l = 0; l < json_array_size(layers); l++)
        print_experts(at(layers, l), labelled);
    print_pairs(layers, real(analysis, "tokens"));
    print_trace(get(get(analysis, "trace"), "tokens"), layers);
    for (size_t i = 0; i < json_array_size(words); i++)
        print_word(at(words, i), layers);
    if (json_array_size(checkpoints) > 0)
        print_checkpoints(checkpoints, layers);
}
