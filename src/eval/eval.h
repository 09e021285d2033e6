/* eval: measuring a model. */
#ifndef MH_EVAL_H
#define MH_EVAL_H

#include "infer/infer.h"

/* ---- windows.c: texts of any length as batches of the model's context ---------------------------------- */

/* A text longer than the context is read by windows, each `stride` tokens after the one before; each of its
 * tokens counts once, where it has most context. Windows of short texts share a sequence: first_key keeps
 * each from seeing its neighbours, and rotary positions count only as differences. */
typedef struct mh_windows {
    const mh_model *model;
    mh_pass *pass; /* the caller's */
    int64_t stride;
    void (*measure)(struct mh_windows *w); /* called with every full batch */
    void *context;                         /* of measure */
    int32_t text;                          /* the caller's number of the open text */

    int64_t batch, rows;        /* sequences, and positions in each */
    int64_t sequence, used;     /* where the next window goes */
    int32_t *token, *first_key; /* [batch*rows] */
    int32_t *target;            /* [batch*rows] the next token; -1 where this position does not count */
    int32_t *tag;               /* [batch*rows] the `text` of each position */
    float *nll;                 /* [batch*rows] room for losses */
    mh_ids ids;                 /* of the open text, as far as later windows need it */
    int64_t seen;               /* of its predictions that are counted already */
    mh_arena memory;
} mh_windows;

/* The shape of a pass for windows: as many contexts as are worth computing at once. */
mh_pass_shape mh_windows_shape(const mh_model *model);

/* Batches of the pass's shape; the fields before `batch` are set. Release leaves the pass alone. */
mh_status mh_windows_init(mh_windows *w);
void mh_windows_release(mh_windows *w);

/* Adds tokens to the open text, which begins with the model's bos, or ends it, with the model's eos as last
 * target. Texts follow each other in a batch; flush measures the last ones. */
mh_status mh_windows_add(mh_windows *w, const int32_t *id, int64_t count);
mh_status mh_windows_end_text(mh_windows *w);
void mh_windows_flush(mh_windows *w);

/* Empties the batch: token 0 without target where nothing is put. */
void mh_windows_clear(mh_windows *w);

static inline bool mh_windows_new_text(const mh_windows *w)
{
    return w->ids.count == 0;
}

/* ---- perplexity.c -------------------------------------------------------------------------------------- */

typedef struct {
    int64_t documents, tokens, bytes; /* tokens predicted, </s> of each document included; bytes of text */
    double nll;                       /* nats, summed */
    double perplexity;                /* exp(nll / tokens) */
    double bits_per_byte;             /* nll / ln 2 / bytes */
    double seconds;
} mh_perplexity;

/* Every token of every document of `paths` is predicted once. Documents longer than the context are read with
 * a window of the context's length moved by `stride` tokens (0: half the context), each token counted where
 * it has most context. Fails where the model gives NaN; the measures may be infinite. */
mh_status mh_eval_perplexity(const mh_model *model, const mh_tokenizer *tokenizer, const char *const *paths,
                             int count, int64_t stride, const mh_progress *progress, mh_perplexity *result);

/* The same measure over the first `sequences` sequences of a validation set (0: all), as training reports it.
 * bytes come from the set's bytes a token. */
mh_status mh_eval_batches(const mh_model *model, mh_pass *pass, const mh_batches *batches, int64_t sequences,
                          bool mask_documents, const mh_progress *progress, mh_perplexity *result);

/* Refuses a model that gives no text a probability: one without bos, or with another tokenizer. */
mh_status mh_eval_check(const mh_model *model, const mh_tokenizer *tokenizer);

/* ---- task_formats.c: one question out of a record ------------------------------------------------------ */

typedef struct {
    char *context; /* the prompt; the same pointer as choice 0's where these have one */
    char *answer;  /* scored after the context and a space */
    bool correct;
    double score; /* its log-likelihood in nats, by mh_score_choices */
} mh_choice;

/* One question. */
typedef struct {
    int64_t number, line; /* among all questions of the file, from 0; the line it starts at, or 0 */
    mh_choice *choice;
    int count;
    bool truncated; /* a context was cut from the left to fit the model's */
} mh_item;

void mh_item_release(mh_item *item);

typedef struct mh_task mh_task;

enum { MH_RECORD_LINES = 6 }; /* at most */

/* How files hold questions: a record is some lines, which are one JSON value or plain text. Parsing fails
 * with MH_EFORMAT where the record is to blame, and may change the lines; `work` is for building texts. */
typedef struct {
    int lines;          /* 0: the file is one JSON list of records */
    const char *header; /* how the file's first line must begin; or NULL */
    mh_status (*parse_json)(const mh_task *task, const json_t *json, mh_item *item, mh_text *work);
    mh_status (*parse_lines)(const mh_task *task, char *const line[], mh_item *item, mh_text *work);
} mh_item_format;

extern const mh_item_format mh_format_query, mh_format_partial, mh_format_hellaswag, mh_format_rte,
    mh_format_truthfulqa;

/* How a question counts, from 0 to 1. */
typedef struct {
    const char *name;
    double (*of)(const mh_item *item);
} mh_measure;

enum { MH_MEASURES = 2 };

/* A row of the table of tasks. */
struct mh_task {
    const char *name, *file; /* the file's name may have the suffix of a compression besides */
    const mh_item_format *format;
    const char *targets;    /* mh_format_truthfulqa: the key of the answers */
    const char *head, *end; /* mh_format_query: what stands around the question in the file */
    const char *prompt;     /* each {} becomes a field of the question */
    const char *examples;   /* stand before every question, instead of those asked for; or NULL */
    mh_measure measure[MH_MEASURES];
};

/* ---- task_files.c: questions out of files -------------------------------------------------------------- */

typedef struct {
    mh_task task;
    char path[MH_PATH];
    mh_item *item;
    int64_t count, capacity;
    int64_t shots;      /* worked examples before each question */
    int64_t left_out;   /* questions that are malformed, or too long for the model */
    mh_text complaints; /* the first of them, a sentence a line: file, line, why */
} mh_items;

/* Reads the questions of `path` (the first `limit` if that is not 0), without any examples. A malformed one
 * is left out and complained of. */
mh_status mh_items_read(mh_items *items, const mh_task *task, const char *path, int64_t limit);
void mh_items_release(mh_items *items);
void mh_items_remove(mh_items *items, int64_t index);

/* Fails with the first complaint; there must be one. */
mh_status mh_items_refuse(const mh_items *items);

/* Counts a question that is left out for the reason in mh_message(), which gets its place in front. */
mh_status mh_items_complain(mh_items *items, int64_t number, int64_t line);

/* ---- choice.c: log-likelihoods of choices -------------------------------------------------------------- */

/* Fills the scores of all items: of the tokens of " answer" after those of the context, split as the
 * evaluation harness does. What an item's choices have in common is computed once, many items at a time. An
 * answer longer than the model's context leaves the item out. Refuses a model with a capacity factor, whose
 * scores would depend on what else is in the batch. */
mh_status mh_score_choices(const mh_model *model, const mh_tokenizer *tokenizer, mh_items *items,
                           const mh_progress *progress);

/* ---- tasks.c: the table of tasks, and their measures --------------------------------------------------- */

enum { MH_TASKS = 10 };
extern const mh_task mh_tasks[MH_TASKS];

typedef struct {
    const char *data;       /* folder of the tasks' files */
    const char *shots_path; /* file of worked examples, or a folder with one for each task */
    int64_t shots, limit;   /* worked examples before each question; questions at most (0: all) */
} mh_task_options;

/* Loads the questions of `name`, a task of the table or the path of a .jsonl, with their examples: the first
 * `shots` of their file, without the question itself. `name` must outlive them. Fails where no question is
 * left. */
mh_status mh_task_load(mh_items *items, const char *name, const mh_task_options *options);

typedef struct {
    const char *name;
    double mean, error; /* standard error of the mean; NaN for a single item */
} mh_measured;

typedef struct {
    int64_t items, truncated;
    mh_measured measured[MH_MEASURES];
    int measures;
    double seconds;
} mh_task_result;

mh_status mh_task_score(const mh_model *model, const mh_tokenizer *tokenizer, mh_items *items,
                        const mh_progress *progress, mh_task_result *result);

/* Appends a JSON line for each scored item (docs/formats.md). */
mh_status mh_task_log(const mh_items *items, mh_writer *log);

/* ---- verify.c: reference vectors ----------------------------------------------------------------------- */

typedef struct {
    char name[128];
    double error, bound; /* |ours - expected| / |expected| */
} mh_verified;

typedef struct {
    mh_verified *tensor;
    int count;
    int64_t choices, flips; /* routed choices, and how many of the router's own differ from the expected */
    int64_t kept, drops;    /* kept flags compared, and how many differ */
    bool passed;
} mh_verify_result;

/* Runs the layer or decoder of a reference vector file (tests/golden/README.md), forward and backward. In
 * bf16 the expected choices are forced. Fails for a file that is malformed or of a kind not supported; a
 * disagreement is a result, not a failure. */
mh_status mh_verify(const char *path, mh_precision precision, mh_verify_result *result);
void mh_verify_release(mh_verify_result *result);

/* ---- excerpts.c: stretches of text spread evenly over an input, and labels ----------------------------- */

typedef enum { MH_LABEL_NONE, MH_LABEL_FILE, MH_LABEL_FOLDER } mh_label_by;

typedef struct {
    const char *const *inputs;
    int input_count;
    mh_label_by by;

    char **label; /* in order of appearance, without the folders that all have in common */
    int labels, current;
    size_t stretch;           /* bytes of text taken or left out together, to the end of a line */
    int64_t stretches, taken; /* in the whole input, and how many of them are taken */
    double tokens;            /* of the whole input, estimated */
    size_t common;            /* bytes that the labels have lost */
    mh_text key;
} mh_excerpts;

/* Reads the input once, so as to take about `tokens` of it. The fields before `label` are set. */
mh_status mh_excerpts_survey(mh_excerpts *excerpts, const mh_tokenizer *tokenizer, int64_t tokens,
                             const mh_progress *progress);
void mh_excerpts_release(mh_excerpts *excerpts);

/* Sets `current` to the label of a document's name; to 0 without labels. */
mh_status mh_excerpts_label(mh_excerpts *excerpts, const char *name);

/* Whether stretch number `stretch` of the input is taken. */
bool mh_excerpts_takes(const mh_excerpts *excerpts, int64_t stretch);

/* ---- routing.c: what a layer's router chose, as counts ------------------------------------------------- */

/* Tokens of each kind (id, label) and the choices they made. */
typedef struct {
    int64_t count;
    int64_t *seen;   /* [count] */
    int64_t *chosen; /* [count, experts] */
} mh_routed;

typedef struct {
    int64_t layer, heads, experts, top_k;
    mh_routed token, label; /* label.count 0: none */

    int64_t tokens;
    int64_t *load, *head_load; /* [experts], [heads, experts] choices */
    int64_t *together;         /* [experts, experts] tokens that reach both; on the diagonal, that reach it */
    int64_t *distinct;         /* [heads*top_k + 1] tokens by the number of experts they reach */
    int64_t repeats;           /* tokens that were seen before, and of their choices ... */
    int64_t *kept;             /* [heads] ... those made at the last occurrence too */
    int32_t *last;             /* [token.count, heads*top_k] choices at each token's last occurrence */
    int32_t *reached;          /* [heads*top_k] work space */
} mh_routing;

/* Carves the counts; the fields before `tokens`, and the kinds' `count`, are set. */
void mh_routing_layout(mh_routing *routing, mh_arena *arena);

/* Counts a token's choices [heads*top_k]. */
void mh_routing_count(mh_routing *routing, const int32_t *choice, int32_t token, int32_t label);

/* How many experts are in both of two lists of top_k. */
int64_t mh_routing_shared(const int32_t *a, const int32_t *b, int64_t top_k);

/* ---- measures.c: what the counts say ------------------------------------------------------------------- */

/* One of "layers" in docs/formats.md. threshold < 0: half the even share of one choice, 1/(2E). */
json_t *mh_routing_json(const mh_routing *routing, double threshold, const mh_tokenizer *tokenizer,
                        char *const *label);

json_t *mh_rounded(double value);                                 /* to six decimals */
json_t *mh_experts_json(const int32_t *choice, int64_t top_k);    /* [3, 17] */
json_t *mh_token_json(const mh_tokenizer *tokenizer, int32_t id); /* " the", or "<0xE2>" */

/* ---- words.c: the experts of a word in each of its sentences ------------------------------------------- */

enum { MH_WORDS = 16, MH_WORD_BYTES = 64, MH_OCCURRENCES = 32, MH_SENTENCE_BYTES = 400 };

typedef struct {
    int word;
    int32_t label;
    int64_t at; /* number of its last token, which has seen the whole word, among all tokens read */
    char sentence[MH_SENTENCE_BYTES];
    size_t begin, end, length; /* the word is sentence[begin, end) */
} mh_occurrence;

typedef struct {
    char word[MH_WORDS][MH_WORD_BYTES];
    int count;
    int64_t heads, top_k;
    int layers;

    int64_t found[MH_WORDS]; /* in the text read; the first MH_OCCURRENCES of each are kept */
    mh_occurrence *list;     /* in order of `at` */
    int kept;
    int32_t *choice;     /* [kept, layers, heads, top_k] */
    mh_text text, piece; /* work space */
} mh_words;

mh_status mh_words_parse(mh_words *words, const char *list); /* "bank,spring" */
void mh_words_layout(mh_words *words, mh_arena *arena);
void mh_words_release(mh_words *words);

/* Looks for the words, whole and in any case of ASCII letters, in the text of `count` tokens, of which the
 * first is number `first`. */
mh_status mh_words_find(mh_words *words, const mh_tokenizer *tokenizer, const int32_t *id, int64_t count,
                        int64_t first, int32_t label);

/* Keeps the choices of token number `at` in MoE layer `layer` (counted among these), if it ends a word. */
void mh_words_record(mh_words *words, int64_t at, int layer, const int32_t *choice);

/* "words" of docs/formats.md; label NULL: there are none. */
json_t *mh_words_json(const mh_words *words, const mh_routing *routing, char *const *label);

/* ---- analyse.c: the routing of real text --------------------------------------------------------------- */

typedef struct {
    const char *const *checkpoints; /* the last is analysed, the others are compared with it */
    int checkpoint_count;
    const char *const *inputs;
    int input_count;
    mh_label_by label_by;
    double threshold;  /* of activation; < 0: 1/(2E) */
    const char *words; /* "bank,spring", or NULL */
    int64_t tokens;    /* at most so many are read, spread evenly over the input */
    mh_precision precision;
} mh_analysis;

enum { MH_ANALYSIS_VERSION = 1 }; /* of the format */

/* *result: the object that docs/formats.md describes under "Analysis", the same for any number of threads.
 * Memory is bounded by the model and the number of labels, not by the text. */
mh_status mh_analyse(const mh_analysis *analysis, const mh_progress *progress, json_t **result);

#endif
