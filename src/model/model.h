/* model: configuration, parameters, the MH-MoE layer, the decoder, its FLOPs and its files. */
#ifndef MH_MODEL_H
#define MH_MODEL_H

#include "data/data.h"
#include "op/op.h"

/* ---- config.c: what a model is ------------------------------------------------------------------------- */

typedef enum { MH_SWIGLU, MH_GELU } mh_activation;
typedef enum { MH_QUANT_NONE, MH_QUANT_BITNET158 } mh_quant;
typedef enum { MH_AUTO, MH_OFF, MH_ON } mh_switch; /* head goes on: MH_ON + 1 and MH_ON + 2 more linears */

/* All routers and all methods of balancing: enumerator, name of its mh_router or mh_balancing, name in
 * recipes. A new one is a file of its own and a line here. */
#define MH_ROUTERS(ROUTER)           \
    ROUTER(LINEAR, linear, "linear") \
    ROUTER(XMOE, xmoe, "xmoe")       \
    ROUTER(XMOE_CODE, xmoe_code, "xmoe-code")
#define MH_BALANCINGS(BALANCING)        \
    BALANCING(GSHARD, gshard, "gshard") \
    BALANCING(BIAS, bias, "bias")       \
    BALANCING(NONE, none, "none")

#define MH_ROUTER_VALUE(VALUE, name, text)    MH_ROUTER_##VALUE,
#define MH_BALANCING_VALUE(VALUE, name, text) MH_BALANCING_##VALUE,
typedef enum { MH_ROUTER_AUTO, MH_ROUTERS(MH_ROUTER_VALUE) } mh_router_kind;
typedef enum { MH_BALANCINGS(MH_BALANCING_VALUE) } mh_balancing_kind;
typedef enum { MH_SCORE_SOFTMAX, MH_SCORE_SIGMOID } mh_score;

/* One feed-forward layer: dense where experts is 0. */
typedef struct {
    int64_t heads, experts, top_k, ffn_dim; /* ffn_dim: hidden width of one expert */
    double capacity_factor;                 /* 0: no capacity, nothing is dropped */
    int drop;                               /* mh_drop */
    int renormalize, head, merge;           /* head, merge: mh_switch; auto is on where heads > 1 */
    int inner_residual, router, score;      /* mh_router_kind, mh_score */
    int second_expert;                      /* mh_second */
    double jitter, z_weight;                /* 0: none */
    int balance;                            /* mh_balancing_kind */
    double balance_weight, bias_rate;
    int64_t shared_experts, shared_ffn_dim; /* always on, beside the routed ones; hidden width of each */
    int64_t every, baseline_experts;        /* every n-th layer; experts of the baseline that presets match */
    double beta;                            /* of preset mhmoe-a; 0: parity */
} mh_moe_config;

typedef struct {
    char preset[MH_OPTION_TEXT]; /* "none", or a name of preset.c with its suffixes */
    int64_t dim, layers, attention_heads, kv_heads, context, ffn_dim, vocab;
    int activation, bias, norm; /* mh_activation; biases in experts and dense FFN; mh_norm_kind */
    int quant;                  /* mh_quant */
    double norm_eps, rotary_base, dropout;
    int tied_embeddings;
    int64_t bos, eos; /* the token a text starts after, and the one that ends it */
    mh_moe_config moe;
} mh_config;

/* The rows of sections "model" (offsets in mh_config) and "moe" (offsets in mh_moe_config). */
enum { MH_MODEL_ROWS = 18, MH_MOE_ROWS = 23 };
extern const mh_option mh_model_rows[MH_MODEL_ROWS], mh_moe_rows[MH_MOE_ROWS];

enum { MH_VOCAB_LIMIT = 1 << 24 };
enum { MH_EXPERTS_MOST = 65536 }; /* of a layer */

/* Both sections, for an mh_config. */
extern const mh_options mh_config_options;

/* Fills what was left to the preset or to auto, and checks everything: a resolved configuration cannot fail
 * later. */
mh_status mh_config_resolve(mh_config *config);

/* Refuses a `part` that does not divide `whole`, naming the nearest that do. */
mh_status mh_check_divides(const char *whole_name, int64_t whole, const char *part_name, int64_t part);

bool mh_config_is_moe(const mh_config *config, int64_t layer); /* from 0: (layer+1) % every == 0 */
int64_t mh_config_head_dim(const mh_config *config);

/* NULL for a causal model; else why a token's output depends on later ones and on the batch, to go on after
 * "the model ". */
const char *mh_config_noncausal(const mh_config *config);

json_t *mh_config_to_json(const mh_config *config);
mh_status mh_config_from_json(mh_config *config, const json_t *json, const char *where); /* resolved */

/* ---- preset.c: feed-forward layers by the papers' names ------------------------------------------------ */

/* Fills what config->preset names, as far as it was left 0 or auto. Refuses an unknown name, and settings
 * that contradict it. config->ffn_dim must be set. */
mh_status mh_preset_apply(mh_config *config);

/* Number i of the presets that are worth listing, or of the suffixes; false past the last. */
bool mh_preset_at(int i, char name[64], const char **summary);
bool mh_preset_suffix_at(int i, char name[64], const char **summary);

/* ---- params.c: the parameter registry ------------------------------------------------------------------ */

enum {
    MH_DECAY = 1,    /* weight decay applies: matrices, not norms and biases */
    MH_EXPERT = 2,   /* belongs to one expert of several */
    MH_TERNARY = 4,  /* a linear that BitNet training quantises */
    MH_KEEP_F32 = 8, /* used in f32 in every precision: norms, biases, routers */
    MH_LINEAR = 16   /* a linear whose weights are laid out for products (mh_linear_weights) */
};

typedef enum {
    MH_PART_EMBEDDING,
    MH_PART_ATTENTION,
    MH_PART_FFN,
    MH_PART_HEAD_MERGE,
    MH_PART_EXPERTS,
    MH_PART_SHARED,
    MH_PART_ROUTER,
    MH_PART_NORMS,
    MH_PART_OUTPUT,
    MH_PARTS
} mh_part;

typedef enum { MH_INIT_ZERO, MH_INIT_ONE, MH_INIT_CONSTANT, MH_INIT_UNIFORM, MH_INIT_NORMAL } mh_init;

typedef struct {
    char name[96];              /* "layers.3.moe.experts.up.weight" */
    int64_t groups, rows, cols; /* groups matrices of rows x cols, stacked */
    int rank;       /* of its shape in files: 1 [cols], 2 [groups*rows, cols], 3 [groups, rows, cols] */
    int64_t offset; /* first element in the flat arrays below, a multiple of 16 */
    size_t forward, backward; /* where its panels begin in those below */
    unsigned flags;
    mh_part part;
    mh_init init;
    double scale; /* the constant, half-width of the uniform, deviation of the normal */
} mh_param;

/* All parameters of a model. The flat arrays make optimizer, clipping and counting single loops. */
typedef struct {
    mh_param *list;
    int count, capacity;
    int64_t elements;       /* length of the flat arrays, gaps of alignment included (they hold 0) */
    float *value;           /* f32 masters */
    float *grad;            /* NULL in inference */
    int64_t part[MH_PARTS]; /* parameters of each part */
    void *work;             /* what products use instead, of type work_type: bf16 copies, or those of a */
    mh_type work_type;      /* BitNet model, whose linears are ternary; NULL where the masters serve */
    bool ternary;
    char *forward, *backward; /* bf16 linears once more, in panels for y = x w^T and for dx = dy w, or NULL */
    size_t forward_bytes, backward_bytes;
} mh_params;

/* Registers `param` as prefix + name; its offset is chosen here. Returns its index. With list NULL it only
 * counts. */
int mh_params_add(mh_params *params, const char *prefix, const char *name, mh_param param);

/* Carves the working copies that products of this precision and mh_quant need, if any, of parameters like
 * `counted`. */
void mh_params_work_layout(mh_params *params, mh_arena *arena, const mh_params *counted,
                           mh_precision precision, int quant);
/* After that, the panels of its linears: for weights that change less often than they are used. */
void mh_params_panels_layout(mh_params *params, mh_arena *arena, const mh_params *counted, bool training);
int64_t mh_param_size(const mh_param *param);
void mh_param_shape(const mh_param *param, int64_t *shape);    /* [rank] numbers */
int mh_params_find(const mh_params *params, const char *name); /* index or -1 */
mh_mat mh_param_value(const mh_params *params, int index);     /* f32 [groups*rows, cols] */
mh_mat mh_param_work(const mh_params *params,
                     int index); /* as used in products: bf16 in a bf16 run, unless MH_KEEP_F32 */
mh_linear_weights mh_param_linear(const mh_params *params, int index); /* the same with its panels */
float *mh_param_grad(const mh_params *params, int index);              /* NULL for index -1 */
const float *mh_param_vector(const mh_params *params, int index); /* a bias or norm, f32; NULL for index -1 */
void mh_params_refresh(const mh_params *params,
                       const struct mh_ops *ops); /* the working copies from the masters */

/* All gradients to zero. */
void mh_params_clear(const mh_params *params);

/* First values by each parameter's rule, each parameter from a stream of its own. */
void mh_params_init(const mh_params *params, uint64_t seed);

/* The input of linears: x, or where the layout has `rounded` (BitNet) x rounded to 8 bits in it. */
mh_mat mh_linear_input(const struct mh_ops *ops, mh_mat rounded, mh_mat x);
/* The same in backward, where it stands there already. */
mh_mat mh_linear_input_kept(mh_mat rounded, mh_mat x);

/* ---- attention.c: the attention half of a block -------------------------------------------------------- */

/* Indices into the registry. */
typedef struct {
    int64_t dim, heads, kv_heads, head_dim;
    int q, k, v, o;
} mh_attention_layer;

void mh_attention_register(mh_attention_layer *layer, mh_params *params, const mh_config *config,
                           const char *prefix);

/* What a forward leaves for backward; k and v are the cache: [batch * capacity, kv_heads * head_dim]. */
typedef struct {
    mh_mat q, k, v, y;
    mh_mat rounded_x, rounded_y; /* BitNet: what the linears take in place of x and y */
    float *lse;                  /* [N * heads] */
} mh_attention_pass;

/* Buffers of a backward, shared by all layers. */
typedef struct {
    mh_mat dq, dk, dv, dy;
} mh_attention_back;

/* out = attention(x) W_o^T. `position` [N] of each row, `rotary` the table of op.h. */
void mh_attention_fwd(const mh_attention_layer *layer, const mh_params *params, const struct mh_ops *ops,
                      mh_attention_pass *pass, mh_mat out, mh_mat x, const mh_attention *shape,
                      const int32_t *position, const float *rotary);
void mh_attention_bwd(const mh_attention_layer *layer, const mh_params *params, const struct mh_ops *ops,
                      mh_attention_pass *pass, mh_attention_back *back, mh_mat dx, mh_mat dout, mh_mat x,
                      const mh_attention *shape, const int32_t *position, const float *rotary);

/* ---- moe.c: one feed-forward layer, dense or MoE ------------------------------------------------------- */

enum { MH_HEAD_LINEARS = 3 }; /* at most */
enum { MH_ROUTER_SLOTS = 5 }; /* parameters and matrices that a router may have for itself */

/* One layer's settings and its indices into the registry, -1 where it has no such parameter; those of head
 * layer and router are as many as these have. */
typedef struct {
    int64_t dim;
    int activation, bias; /* mh_activation */
    int quant;            /* mh_quant */
    bool shared;          /* a dense layer that stands beside an MoE layer */
    mh_moe_config moe;    /* resolved; experts 0: dense, ffn_dim its width */
    int head_weight[MH_HEAD_LINEARS], head_bias[MH_HEAD_LINEARS], merge_weight, merge_bias;
    int router[MH_ROUTER_SLOTS], choice_bias;
    int gate, gate_bias, up, up_bias, down, down_bias;
} mh_ffn;

void mh_ffn_register(mh_ffn *ffn, mh_params *params, const char *prefix);

/* The feed-forward half of a block: an MoE layer and its shared experts, or a dense layer. n shared experts
 * are one dense layer of n times the width; `shared` has width 0 where there are none. */
void mh_ffns_register(mh_ffn *ffn, mh_ffn *shared, mh_params *params, const mh_config *config, bool moe,
                      const char *prefix);

/* The matrices of a layer, as values (v) or as gradients of these (d). */
typedef struct {
    mh_mat head[MH_HEAD_LINEARS]; /* [N, D] output of each linear of the head layer, after its ReLU */
    mh_mat wide;                  /* f32 [S, s] the router's input, where it is not the rows themselves */
    mh_mat router[MH_ROUTER_SLOTS];
    mh_mat prob;                   /* f32 [S, E] */
    mh_mat in, gate, up, act, out; /* dispatched rows: [S*K, s], [S*K, F] three times, [S*K, s] */
    mh_mat combined;               /* [N, D], before the merge layer */
} mh_ffn_mats;

/* Where a forward's random numbers come from; without `train` there are none. */
typedef struct {
    bool train;
    uint64_t seed, step;
    uint32_t layer;
} mh_draw;

/* What one forward leaves for its backward. */
typedef struct {
    mh_ffn_mats v;
    mh_mat rounded; /* BitNet: what the experts take in place of their input [S*K, s] */
    mh_plan plan;
    float *lse;             /* [S], for the z-loss */
    double balance, z_loss; /* losses of this forward */
    int64_t *load;          /* [E] choices of an update, where they are counted: see mh_balance_count */
    mh_draw draw;           /* set before a forward */
    const int32_t *forced;  /* choices to use in place of the router's own, or NULL */
} mh_ffn_pass;

/* Buffers of a backward, shared by all layers of a kind. */
typedef struct {
    mh_ffn_mats d;
    float *gates; /* [S*K] */
} mh_ffn_back;

void mh_ffn_layout(const mh_ffn *ffn, mh_ffn_pass *pass, mh_arena *arena, int64_t rows, mh_type type);
void mh_ffn_layout_back(const mh_ffn *ffn, mh_ffn_back *back, mh_arena *arena, int64_t rows, mh_type type);

/* y = layer(x). The residual is the block's. */
void mh_ffn_fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                mh_mat y, mh_mat x);

/* Gradients of sum(y * dy) + aux_scale * (balance_weight * balance + z_weight * z_loss). */
void mh_ffn_bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                mh_ffn_back *back, mh_mat dx, mh_mat dy, mh_mat x, double aux_scale);

/* y += shared(x) and, after mh_ffn_bwd, dx += its gradient, with room for a matrix like x; nothing where
 * there are no shared experts. */
void mh_shared_fwd(const mh_ffn *shared, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                   mh_mat y, mh_mat x, mh_mat work);
void mh_shared_bwd(const mh_ffn *shared, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                   mh_ffn_back *back, mh_mat dx, mh_mat dy, mh_mat x, mh_mat work);

/* ---- layer.c: one feed-forward layer alone, on a caller's memory --------------------------------------- */

/* mh_layer is public: see mhmoe.h. That of a resolved configuration, dense where it has no experts. */
mh_status mh_layer_of(mh_layer **layer, const mh_config *config, mh_precision precision);

/* ---- head.c, experts.c: parts of an MoE layer ---------------------------------------------------------- */

/* The head layer: mh_head_linears linears with ReLU between. mh_head_out is its output among pass->v, or,
 * with back->d and dx, where the gradient of its output belongs; x itself where there is no linear. */
int mh_head_linears(const mh_moe_config *moe);
void mh_head_add(mh_ffn *ffn, mh_params *params, const char *prefix);
mh_mat mh_head_out(const mh_ffn *ffn, const mh_ffn_mats *mats, mh_mat x);
void mh_head_fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                 mh_mat x);
void mh_head_bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                 mh_ffn_back *back, mh_mat dx, mh_mat x);

/* A square matrix of head or merge layer, uniform within `scale`. */
mh_param mh_square_weight(int64_t dim, double scale);

/* out = experts(in), rows [begin[g], begin[g+1]) by expert g; begin NULL: one expert takes all. */
void mh_experts_fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                    mh_mat out, mh_mat in, const int64_t *begin);
void mh_experts_bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                    mh_ffn_back *back, mh_mat din, mh_mat dout, mh_mat in, const int64_t *begin);

/* ---- router.c, router_*.c, balance.c, balance_*.c: who goes to which expert ---------------------------- */

/* Logits over the experts for each routed row, in f32 whatever the run's precision. A router numbers its
 * parameters (ffn->router) and its matrices (v, or their gradients d) as it likes. */
typedef struct {
    void (*add)(mh_ffn *ffn, mh_params *params, const char *prefix); /* registers its parameters */
    void (*layout)(const mh_ffn *ffn, mh_mat *mats, mh_arena *arena, int64_t rows); /* may be NULL */
    int64_t (*products)(const mh_moe_config *moe, int64_t width); /* multiply-adds of a row */
    void (*fwd)(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_mat *v,
                mh_mat logits, mh_mat rows);
    void (*bwd)(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, const mh_mat *v,
                mh_mat *d, mh_mat drows, bool add, mh_mat dlogits, mh_mat rows);
} mh_router;

/* What keeps the experts' loads alike: a loss, or a step after each update from the number of choices that
 * fell on each expert. All may be NULL. */
typedef struct {
    void (*add)(mh_ffn *ffn, mh_params *params, const char *prefix);
    double (*fwd)(const struct mh_ops *ops, mh_mat prob, const mh_plan *plan);
    void (*bwd)(const struct mh_ops *ops, mh_mat dprob, double weight, const mh_plan *plan);
    void (*update)(const mh_ffn *ffn, const mh_params *params, const int64_t *load);
} mh_balancing;

const mh_router *mh_router_of(const mh_moe_config *moe);
const mh_balancing *mh_balancing_of(const mh_moe_config *moe);

/* A matrix of a router's linear [rows, cols] without bias, initialised like one; add to it. */
mh_param mh_router_weight(int64_t rows, int64_t cols);

/* Fills pass->plan and pass->v.prob from the sub-tokens [S, s]; and from the gradients of the gates
 * (back->gates) and of the auxiliary losses to those of the router and of its input, added to drows. */
void mh_route_fwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                  mh_mat rows);
void mh_route_bwd(const mh_ffn *ffn, const mh_params *params, const struct mh_ops *ops, mh_ffn_pass *pass,
                  mh_ffn_back *back, mh_mat drows, mh_mat rows, double aux_scale);

/* ---- model.c, layout.c: the decoder -------------------------------------------------------------------- */

/* x += attention(norm(x)); x += ffn(norm(x)) + shared(norm(x)). */
typedef struct {
    int attn_norm, ffn_norm;
    mh_attention_layer attention;
    mh_ffn ffn, shared;
} mh_block;

/* A configuration and its parameters. For inference it is immutable once loaded and shared by sessions. */
typedef struct mh_model {
    mh_config config;
    mh_precision precision;
    const struct mh_ops *ops;
    mh_params params;
    mh_block *blocks;        /* [layers] */
    int embed, norm, output; /* registry indices; output == embed when tied */
    mh_arena memory;
    char tokenizer_hash[17]; /* empty where unknown */
} mh_model;

/* `config` must be resolved. With `training`, gradients are allocated too. Parameters are zero until
 * mh_model_init or a load. */
mh_status mh_model_create(mh_model **model, const mh_config *config, mh_precision precision, bool training);
void mh_model_free(mh_model *model);

/* Registers all parameters of model->config in file order; with params->list NULL it only counts (blocks may
 * be NULL then). */
void mh_model_register(mh_model *model, mh_params *params);

/* The initialisation of the authors' code (spec section 1). */
void mh_model_init(mh_model *model, uint64_t seed);

/* The bytes that mh_model_create and mh_pass_create would take. */
size_t mh_model_bytes(const mh_config *config, mh_precision precision, bool training);

/* Activations for calls of up to `rows` positions in each of `batch` sequences, with room for `capacity` keys
 * each. */
typedef struct {
    int64_t batch, rows, capacity;
    bool training; /* keep what backward needs; else layers share their buffers */
} mh_pass_shape;

/* One block's activations: x -> norm1 -> attention -> mid = x + it -> norm2 -> ffn -> next x = mid + it. */
typedef struct {
    mh_mat x, norm1, mid, norm2;
    float *stat1, *stat2;
    mh_attention_pass attention;
    mh_ffn_pass ffn, shared;
} mh_block_pass;

typedef struct {
    mh_pass_shape shape;
    mh_block_pass *blocks;
    mh_mat x, hidden; /* after the last block, and normalised */
    float *stat;
    mh_mat branch; /* what a half block adds to the residual stream */
    mh_mat shared; /* the shared experts' part of it */
    mh_mat logits; /* f32, some rows */
    int32_t *position;
    float *rotary;
    mh_scratch scratch;

    mh_mat dhidden, dx, dnorm, dbranch, dlogits; /* training only */
    mh_attention_back attention_back;
    mh_ffn_back dense_back, moe_back, shared_back;
    int64_t layers;
    mh_arena memory;
} mh_pass;

mh_status mh_pass_create(mh_pass **pass, const mh_model *model, mh_pass_shape shape);
void mh_pass_free(mh_pass *pass);
size_t mh_pass_bytes(const mh_config *config, mh_precision precision, mh_pass_shape shape);

/* One call. rows <= shape.rows; past > 0 continues sequences whose keys are in the pass (inference only). */
typedef struct {
    const int32_t *token;     /* [batch*rows] */
    const int32_t *first_key; /* [batch*rows] or NULL: see mh_attention */
    int64_t batch, rows, past;
    bool train;          /* apply dropout, jitter and chance in routing */
    uint64_t seed, step; /* of these; micro-batches of an update differ in `step` */

    /* Called after each MoE layer, or NULL. In inference the next layer uses the plan's memory. */
    void (*on_plan)(void *context, int64_t layer, const mh_plan *plan);
    void *context; /* of on_plan */
} mh_call;

/* Embedding to final norm. The hidden states stay in the pass. */
void mh_forward(mh_pass *pass, const mh_model *model, const mh_call *call);

/* nll [batch*rows] of targets (-1: skipped, gives 0) after mh_forward. With scale > 0 it also takes scale
 * times the gradient of their sum at the output layer, ready for mh_backward. */
void mh_loss(mh_pass *pass, const mh_model *model, const mh_call *call, const int32_t *target, float *nll,
             float scale);

/* After mh_loss with scale > 0: adds to all gradients, with aux_scale times the weighted balance loss and
 * z-loss of each MoE layer. */
void mh_backward(mh_pass *pass, const mh_model *model, const mh_call *call, double aux_scale);

/* For balancing without a loss. Adds the choices of the last forward to those of this update; and after the
 * update lets the method act on them, and forgets them. Integers: neither threads nor micro-batches matter.
 */
void mh_balance_count(mh_pass *pass, const mh_model *model);
void mh_balance_update(mh_pass *pass, const mh_model *model);
void mh_balance_clear(mh_pass *pass, const mh_model *model); /* forgets them alone */

/* Logits f32 [count, vocab] of rows [first, first+count) of the last forward. */
void mh_logits(mh_pass *pass, const mh_model *model, int64_t first, int64_t count, float *logits);

/* Layer `layer`'s feed-forward pass (its plan, its balance loss), for statistics; NULL for a dense layer. */
mh_ffn_pass *mh_pass_ffn(mh_pass *pass, int64_t layer);

/* Sums of the last forward's losses over its MoE layers, without their weights. */
typedef struct {
    double balance, z_loss;
} mh_auxiliary;

mh_auxiliary mh_pass_auxiliary(const mh_pass *pass);

/* First layer whose output of the last forward holds a NaN or infinity; -1 for the output layer or none. */
int64_t mh_pass_find_nan(const mh_pass *pass);

/* ---- flops.c: the one place where FLOPs are counted ---------------------------------------------------- */

/* Floating-point operations of one token's forward (multiply-adds doubled), over the whole model. Attention
 * is causal over sequences of the given length: a token sees (T+1)/2 keys on average. Backward costs twice
 * forward. */
typedef struct {
    double attention_projections, attention_scores, ffn, head_merge, experts, shared, router, output;
    double forward, training; /* the sum, and three times it */
} mh_flops;

mh_flops mh_count_flops(const mh_config *config, int64_t length);

typedef struct {
    int64_t embedding, attention, ffn, head_merge, experts, shared, router, norms;
    int64_t output;        /* 0 when tied */
    int64_t total, active; /* active: of the experts only k*h calls' worth of one token, at most all */
} mh_counts;

mh_counts mh_count_params(const mh_config *config);

/* ---- parity.c: FLOPs- and parameter-matched layers (paper B; spec section 2) --------------------------- */

typedef struct {
    int64_t dim, layers, experts, ffn_dim, top_k; /* the baseline SMoE: E, f, k0 */
    int64_t every;                                /* MoE every n-th layer */
    int64_t matrices;                             /* of an expert: 3 gated, 2 plain */
    int64_t multiple_of;                          /* of the expert width */
    bool count_router;                            /* --count all */
} mh_parity_baseline;

typedef struct {
    int64_t heads, top_k, ffn_dim, experts;
    double flops_percent, params_percent; /* (ours - baseline) / baseline */
    double exact_ffn_dim, exact_experts;
} mh_parity_plan;

/* Whole-number width and number of experts of an MH-MoE layer (for 1 head: an SMoE layer) with `heads` heads
 * and top_k choices (0: heads) that match the baseline's FLOPs and parameters. Fails naming the constraint
 * and the nearest that works. */
mh_status mh_parity_solve(const mh_parity_baseline *baseline, int64_t heads, int64_t top_k,
                          mh_parity_plan *plan);

/* ---- checkpoint.c: weights, configuration and tokenizer in a folder, in Hugging Face's manner ---------- */

/* Writes config.json, model.safetensors and, if given, tokenizer.model into an existing folder (the caller
 * makes it appear at once). */
mh_status mh_checkpoint_write(const mh_model *model, const mh_tokenizer *tokenizer, const char *folder);

/* Reads a checkpoint folder. tokenizer may be NULL; *tokenizer becomes NULL where the folder has none. Checks
 * shapes, checksum and the tokenizer's hash. */
mh_status mh_checkpoint_read(mh_model **model, mh_tokenizer **tokenizer, const char *folder,
                             mh_precision precision, bool training);

/* The configuration alone. */
mh_status mh_checkpoint_config(mh_config *config, char tokenizer_hash[17], const char *folder);

/* Copies the weights of `folder` into a model of the same shapes (--init-from, --resume). */
mh_status mh_checkpoint_weights(mh_model *model, const char *folder);

/* A checkpoint may also be named by its run folder: then its newest is meant. */
mh_status mh_checkpoint_locate(const char *path, char folder[MH_PATH]);

enum { MH_CHECKPOINT_NAME = 32 };

void mh_checkpoint_name(char name[MH_CHECKPOINT_NAME], int64_t step); /* "step-000120" */

/* The number in ".../step-000120"; -1 for any other name. */
int64_t mh_checkpoint_step(const char *folder);

/* ---- llama2c.c: import of llama2.c's format ------------------------------------------------------------ */

/* Reads a version-0 file (dim, hidden, layers, heads, kv heads, vocabulary, context; f32) and writes a
 * checkpoint folder. llama2.c turns neighbouring pairs; rows of q and k are reordered for our half-split
 * rotary. */
mh_status mh_import_llama2c(const char *file, const char *tokenizer, const char *output);

#endif
