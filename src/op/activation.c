/* activation: SwiGLU, GELU and ReLU. */
#include "kernel/kernel.h"
#include "op/op.h"

/* y = up * silu(gate), silu(g) = g sigma(g) */
void mh_cpu_swiglu_fwd(mh_mat y, mh_mat gate, mh_mat up)
{
#pragma omp parallel for schedule(static) if (mh_worth(y.rows * y.cols))
    for (int64_t r = 0; r < y.rows; r++) {
        float left[MH_CHUNK], right[MH_CHUNK];
        for (int64_t j = 0; j < y.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, y.cols - j);
            float *piece = mh_room(y, r, j, left);
            mh_rows_now()->swiglu(piece, mh_read(gate, r, j, n, left), mh_read(up, r, j, n, right), n);
            mh_write(y, r, j, n, piece);
        }
    }
}

/* dup = dy silu(g), dgate = dy up s (1 + g (1 - s)) with s = sigma(g) */
void mh_cpu_swiglu_bwd(mh_mat dgate, mh_mat dup, mh_mat dy, mh_mat gate, mh_mat up)
{
#pragma omp parallel for schedule(static) if (mh_worth(dy.rows * dy.cols))
    for (int64_t r = 0; r < dy.rows; r++) {
        float left[MH_CHUNK], right[MH_CHUNK], upstream[MH_CHUNK];
        for (int64_t j = 0; j < dy.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, dy.cols - j);
            float *first = mh_room(dgate, r, j, left), *second = mh_room(dup, r, j, right);
            mh_rows_now()->swiglu_bwd(first, second, mh_read(dy, r, j, n, upstream),
                                      mh_read(gate, r, j, n, left), mh_read(up, r, j, n, right), n);
            mh_write(dgate, r, j, n, first);
            mh_write(dup, r, j, n, second);
        }
    }
}

/* y = up Phi(up), Phi(u) = (1 + erf(u / sqrt 2)) / 2 */
void mh_cpu_gelu_fwd(mh_mat y, mh_mat up)
{
#pragma omp parallel for schedule(static) if (mh_worth(y.rows * y.cols))
    for (int64_t r = 0; r < y.rows; r++) {
        float buffer[MH_CHUNK];
        for (int64_t j = 0; j < y.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, y.cols - j);
            float *piece = mh_room(y, r, j, buffer);
            mh_rows_now()->gelu(piece, mh_read(up, r, j, n, buffer), n);
            mh_write(y, r, j, n, piece);
        }
    }
}

/* dup = dy (Phi(up) + up phi(up)), phi = Phi' */
void mh_cpu_gelu_bwd(mh_mat dup, mh_mat dy, mh_mat up)
{
#pragma omp parallel for schedule(static) if (mh_worth(dy.rows * dy.cols))
    for (int64_t r = 0; r < dy.rows; r++) {
        float left[MH_CHUNK], right[MH_CHUNK];
        for (int64_t j = 0; j < dy.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, dy.cols - j);
            float *piece = mh_room(dup, r, j, left);
            mh_rows_now()->gelu_bwd(piece, mh_read(dy, r, j, n, left), mh_read(up, r, j, n, right), n);
            mh_write(dup, r, j, n, piece);
        }
    }
}

/* y = max(x, 0); NaN stays */
void mh_cpu_relu_fwd(mh_mat y, mh_mat x)
{
#pragma omp parallel for schedule(static) if (mh_worth(y.rows * y.cols))
    for (int64_t r = 0; r < y.rows; r++) {
        float buffer[MH_CHUNK], room[MH_CHUNK];
        for (int64_t j = 0; j < y.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, y.cols - j);
            const float *in = mh_read(x, r, j, n, buffer);
            float *piece = mh_room(y, r, j, room);
            for (int64_t i = 0; i < n; i++)
                piece[i] = in[i] < 0 ? 0 : in[i];
            mh_write(y, r, j, n, piece);
        }
    }
}

/* dx = dy [y > 0] */
void mh_cpu_relu_bwd(mh_mat dx, mh_mat dy, mh_mat y)
{
#pragma omp parallel for schedule(static) if (mh_worth(dy.rows * dy.cols))
    for (int64_t r = 0; r < dy.rows; r++) {
        float left[MH_CHUNK], right[MH_CHUNK], room[MH_CHUNK];
        for (int64_t j = 0; j < dy.cols; j += MH_CHUNK) {
            int64_t n = mh_least(MH_CHUNK, dy.cols - j);
            const float *up = mh_read(dy, r, j, n, left), *out = mh_read(y, r, j, n, right);
            float *piece = mh_room(dx, r, j, room);
            for (int64_t i = 0; i < n; i++)
                piece[i] = out[i] > 0 ? up[i] : 0;
            mh_write(dx, r, j, n, piece);
        }
    }
}
