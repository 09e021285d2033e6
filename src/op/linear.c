/* linear: y = x w^T + bias, its gradients, and the same by groups of rows that have weights of their own
 * (experts); and how these weights are laid out for it. Work is cut into tiles whose bounds depend on shapes
 * alone, so that any number of threads gives the same bits. */
#include "kernel/kernel.h"
#include "op/op.h"

/* Tiles of an output [rows, width]: large enough that a product runs at full speed (at 4096 rows, 256 columns
 * take 8 % longer than 1024); narrower where there are few rows in all, so that every thread gets some (at
 * 256 rows, they take 0.6 of the time). With panels whole rows are fastest. */
enum { TILE_ROWS = 256, TILE_COLS = 1024, FEW_ROWS = 512, FEW_COLS = 256 };

/* Tiles of a weight gradient sum over all rows. Those of a single matrix are DW_TILES or more: at 512 x 512
 * and 4096 rows, two would take 0.93 of the time of four on two threads, and keep any others waiting. */
enum { DW_ROWS = 512, DW_COLS = 1024, DW_STEP = 16, DW_TILES = 4 };

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* The rows of each group, and of all; without `begin` there is one group. */
typedef struct {
    const int64_t *begin;
    int groups;
    int64_t rows;
} grouping;

static int64_t group_first(grouping g, int group)
{
    return g.begin ? g.begin[group] : 0;
}

static int64_t group_rows(grouping g, int group)
{
    return g.begin ? g.begin[group + 1] - g.begin[group] : g.rows;
}

/* A tile of an output matrix. */
typedef struct {
    int group;
    int64_t row, rows, col, cols;
} tile;

/* Walks forward through the tiles of all groups; `before` tiles belong to groups left behind. */
typedef struct {
    grouping g;
    int64_t width, cols; /* of the output, and of a tile */
    int group;
    int64_t before;
} walker;

static walker walk_over(grouping g, int64_t width, bool panels, mh_tiling tiling)
{
    int64_t cols = panels || tiling == MH_TILES_WHOLE ? width : TILE_COLS;
    bool few = g.rows <= FEW_ROWS && tiling == MH_TILES_SHARED;
    return (walker){.g = g, .width = width, .cols = few ? FEW_COLS : cols};
}

static int64_t group_tiles(const walker *w)
{
    return ceil_div(group_rows(w->g, w->group), TILE_ROWS) * ceil_div(w->width, w->cols);
}

static int64_t all_tiles(walker w)
{
    for (w.group = 0; w.group < w.g.groups; w.group++)
        w.before += group_tiles(&w);
    return w.before;
}

/* Tile `index`, not before the one of the last call. Tiles that share weights follow each other. */
static tile walk_to(walker *w, int64_t index)
{
    int64_t tiles;
    while (index - w->before >= (tiles = group_tiles(w))) {
        w->before += tiles;
        w->group++;
    }
    int64_t rows = group_rows(w->g, w->group), down = ceil_div(rows, TILE_ROWS);
    int64_t i = (index - w->before) % down * TILE_ROWS, j = (index - w->before) / down * w->cols;
    return (tile){w->group, group_first(w->g, w->group) + i, mh_least(TILE_ROWS, rows - i), j,
                  mh_least(w->cols, w->width - j)};
}

/* The panels from column `col` on of a group whose factor is [k, n]. Tiles begin at panels. */
static char *panels_at(void *panels, int group, int64_t k, int64_t n, int64_t col)
{
    if (panels == NULL)
        return NULL;
    return (char *)panels + (size_t)group * mh_panels_bytes(k, n) + mh_panels_bytes(k, col);
}

/* Lays out the factors [k, n] of all groups, stored at w as `transpose` says. */
static void pack(void *panels, mh_mat w, bool transpose, int64_t k, int64_t n, int groups)
{
    int64_t across = ceil_div(n, MH_PANEL), out = w.rows / groups;
    if (panels == NULL)
        return;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < groups * across; i++) {
        int group = (int)(i / across);
        int64_t col = i % across * MH_PANEL;
        const void *from = transpose ? mh_mat_row(w, group * out + col) : mh_mat_at(w, group * out, col);
        mh_panels_fill(panels_at(panels, group, k, n, col), from, w.ld, transpose, k,
                       mh_least(MH_PANEL, n - col));
    }
}

void mh_cpu_pack(mh_linear_weights w, int groups)
{
    int64_t out = w.w.rows / groups, in = w.w.cols;
    pack(w.forward, w.w, true, in, out, groups);
    pack(w.backward, w.w, false, out, in, groups);
}

mh_linear_weights mh_linear_group(mh_linear_weights w, int group, int groups)
{
    int64_t out = w.w.rows / groups, in = w.w.cols;
    return (mh_linear_weights){.w = mh_mat_rows(w.w, group * out, out),
                               .forward = panels_at(w.forward, group, in, out, 0),
                               .backward = panels_at(w.backward, group, out, in, 0)};
}

/* Bias goes in first and the product is added to it: one rounding less than the other way round. */
static void fill_bias(mh_mat y, tile t, const float *bias)
{
    for (int64_t r = 0; r < t.rows; r++)
        mh_rows_now()->store(mh_mat_at(y, t.row + r, t.col), y.type, bias + t.col, t.cols);
}

void mh_linear_fwd(mh_mat y, mh_mat x, mh_linear_weights w, const float *bias, const int64_t *begin,
                   int groups, mh_tiling tiling)
{
    int64_t out = w.w.rows / groups;
    walker walk = walk_over((grouping){begin, groups, x.rows}, out, w.forward != NULL, tiling);
    int64_t tiles = all_tiles(walk);
    bool worth = tiles > 1 && mh_worth_product(x.rows * x.cols * out);
#pragma omp parallel for schedule(monotonic : dynamic) firstprivate(walk) if (worth)
    for (int64_t i = 0; i < tiles; i++) {
        tile t = walk_to(&walk, i);
        if (bias)
            fill_bias(y, t, bias + t.group * out);
        mh_gemm(&(mh_product){.m = t.rows,
                              .n = t.cols,
                              .k = x.cols,
                              .a = mh_mat_row(x, t.row),
                              .lda = x.ld,
                              .b = mh_mat_row(w.w, t.group * out + t.col),
                              .panels = panels_at(w.forward, t.group, x.cols, out, t.col),
                              .ldb = w.w.ld,
                              .transpose_b = true,
                              .c = mh_mat_at(y, t.row, t.col),
                              .ldc = y.ld,
                              .add = bias != NULL,
                              .in = x.type,
                              .out = y.type});
    }
}

void mh_cpu_linear_fwd(mh_mat y, mh_mat x, mh_linear_weights w, const float *bias, const int64_t *begin,
                       int groups)
{
    mh_linear_fwd(y, x, w, bias, begin, groups, MH_TILES_SHARED);
}

void mh_linear_dx(mh_mat dx, bool add, mh_mat dy, mh_linear_weights w, const int64_t *begin, int groups,
                  mh_tiling tiling)
{
    int64_t out = w.w.rows / groups, in = w.w.cols;
    walker walk = walk_over((grouping){begin, groups, dy.rows}, in, w.backward != NULL, tiling);
    int64_t tiles = all_tiles(walk);
    bool worth = tiles > 1 && mh_worth_product(dy.rows * out * in);
#pragma omp parallel for schedule(monotonic : dynamic) firstprivate(walk) if (worth)
    for (int64_t i = 0; i < tiles; i++) {
        tile t = walk_to(&walk, i);
        mh_gemm(&(mh_product){.m = t.rows,
                              .n = t.cols,
                              .k = out,
                              .a = mh_mat_row(dy, t.row),
                              .lda = dy.ld,
                              .b = mh_mat_at(w.w, t.group * out, t.col),
                              .panels = panels_at(w.backward, t.group, out, in, t.col),
                              .ldb = w.w.ld,
                              .c = mh_mat_at(dx, t.row, t.col),
                              .ldc = dx.ld,
                              .add = add,
                              .in = dy.type,
                              .out = dx.type});
    }
}

/* dbias += the sum of dy's rows, in their order */
static void add_rows(float *dbias, mh_mat dy)
{
    float buffer[DW_ROWS];
    for (int64_t r = 0; r < dy.rows; r++)
        mh_rows_now()->add(dbias, dbias, mh_read(dy, r, 0, dy.cols, buffer), dy.cols);
}

/* Shares of `size`, none above `most`: about a power of two of them, so that 2, 4, 8 threads finish together,
 * and about `shares` or more, in steps of AMX's 16 rows. Never 0, by which others divide. */
static int64_t dw_share(int64_t size, int64_t most, int64_t shares)
{
    int64_t tiles = 1;
    while (tiles * most < size || tiles < shares)
        tiles *= 2;
    return mh_multiple(ceil_div(size, tiles), DW_STEP) + (size == 0);
}

/* dw += dy^T x and dbias += sum dy, group by group */
static void linear_dw(float *dw, float *dbias, mh_mat dy, mh_mat x, int64_t out, grouping g)
{
    int64_t high = dw_share(out, DW_ROWS, g.groups == 1 ? DW_TILES : 1), down = ceil_div(out, high);
    int64_t wide = dw_share(x.cols, DW_COLS, 1);
    int64_t across = ceil_div(x.cols, wide);
#pragma omp parallel for schedule(dynamic) if (mh_worth_product(g.rows * out * x.cols))
    for (int64_t t = 0; t < g.groups * down * across; t++) {
        int group = (int)(t / (down * across));
        int64_t i = t / across % down * high, j = t % across * wide;
        int64_t first = group_first(g, group), rows = group_rows(g, group), n = mh_least(high, out - i);
        mh_gemm(&(mh_product){.m = n,
                              .n = mh_least(wide, x.cols - j),
                              .k = rows,
                              .a = mh_mat_at(dy, first, i),
                              .lda = dy.ld,
                              .transpose_a = true,
                              .b = mh_mat_at(x, first, j),
                              .ldb = x.ld,
                              .c = dw + (group * out + i) * x.cols + j,
                              .ldc = x.cols,
                              .add = true,
                              .in = x.type,
                              .out = MH_F32});
        if (dbias && j == 0)
            add_rows(dbias + group * out + i, mh_mat_cols(mh_mat_rows(dy, first, rows), i, n));
    }
}

void mh_cpu_linear_bwd(mh_mat dx, bool add, float *dw, float *dbias, mh_mat dy, mh_mat x, mh_linear_weights w,
                       const int64_t *begin, int groups)
{
    grouping g = {begin, groups, x.rows};
    if (dx.p)
        mh_linear_dx(dx, add, dy, w, begin, groups, MH_TILES_SHARED);
    linear_dw(dw, dbias, dy, x, w.w.rows / groups, g);
}
