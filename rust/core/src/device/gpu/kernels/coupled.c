// A coupled metric M^-1 = D + T^T C T, T = U S with orthonormal rows of U, D = S^2, C = Lambda - 1. What it makes of momenta
// and gradients, T p and T g, is kept beside them (`along_p`, `along_g`, rows of `stride` numbers).

// The four functions of the eigenvalues: Lambda - 1, Lambda^(-1/2) - 1, Lambda^(-1/2), 1 / Lambda - 1.
#define INV_MASS (values)
#define MOMENTUM (values + rank)
#define ALONG_MOMENTUM (values + 2 * rank)
#define MASS (values + 3 * rank)

// Rows of T that are taken at once.
#define TILE 4

// Partial sums of T v. Record: -, row of the result, row of v.
KERNEL void project(GLOBAL const real *v, GLOBAL const real *directions, i64 rank, GLOBAL const double *ops,
                    GLOBAL double *partials, i64 stride, i64 dim, i64 chunk) {
    LOCAL_ARRAY(room, TILE * GROUP);
    i64 row = whole(ops + GROUP_X * RECORD, 2) * dim;
    for (i64 k = 0; k < rank; k += TILE) {
        double sums[TILE] = {0.0, 0.0, 0.0, 0.0};
        i64 n = rank - k < TILE ? rank - k : TILE;
        FOR_COLUMNS(j) {
            double value = v[row + j];
            for (int q = 0; q < TILE; q++) {
                // A row that is there stands in for those beyond the last.
                i64 direction = q < n ? k + q : k;
                sums[q] += (double)directions[direction * dim + j] * value;
            }
        }
        sum_items(room, sums, TILE);
        if (ITEM == 0)
            for (int q = 0; q < n; q++) partials[(GROUP_X * rank + k + q) * stride + GROUP_Y] = sums[q];
    }
}

// to += T^T weights / D. Record: -, -, row.
KERNEL void spread(GLOBAL real *to, GLOBAL const real *mass_sqrt, GLOBAL const real *directions,
                   GLOBAL const double *weights, i64 rank, GLOBAL const double *ops, i64 dim, i64 chunk) {
    i64 row = whole(ops + GROUP_X * RECORD, 2) * dim;
    GLOBAL const double *mine = weights + GROUP_X * rank;
    FOR_COLUMNS(j) {
        double root = mass_sqrt[j];
        to[row + j] = (real)(to[row + j] + root * root * along(directions, mine, rank, dim, j));
    }
}

// T p' = scale T p + kick T g, and the weights C T p'. Record as of `glide`.
KERNEL void weigh_glide(GLOBAL double *along_p, GLOBAL const double *along_g, i64 stride_p, i64 stride_g,
                        GLOBAL const double *values, i64 rank, GLOBAL const double *ops, GLOBAL double *weights) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 from = whole(op, 1), to = whole(op, 2);
    for (i64 k = ITEM; k < rank; k += GROUP) {
        double now = op[3] * along_p[from * stride_p + k] + op[4] * along_g[from * stride_g + k];
        along_p[to * stride_p + k] = now;
        weights[GROUP_X * rank + k] = INV_MASS[k] * now;
    }
}

// What the directions add to the inner products of spans: with k the kick (0 for a reach) it is
// C T (p_s + p_l + k (g_l - g_s)) times T p at both ends, half of it unless the ends are adjacent.
FUNCTION void weigh_spans(GLOBAL const double *along_p, GLOBAL const double *along_g, i64 stride_p, i64 stride_g,
                          GLOBAL const double *values, i64 rank, GLOBAL const double *spans, i64 first, i64 n, i64 end,
                          double kick, int leaf, GLOBAL double *partials, i64 leaves, i64 stride, LOCAL double *room) {
    for (i64 s = first; s < first + n; s++) {
        i64 start = whole(spans + 2 * s, 0);
        int adjacent = leaf && spans[2 * s + 1] != 0.0;
        double sums[2] = {0.0, 0.0}, k = adjacent ? 0.0 : kick, share = adjacent ? 1.0 : 0.5;
        for (i64 i = ITEM; i < rank; i += GROUP) {
            double first_p = along_p[start * stride_p + i], last_p = along_p[end * stride_p + i];
            double sum = first_p + last_p;
            if (k != 0.0) sum += k * (along_g[end * stride_g + i] - along_g[start * stride_g + i]);
            sums[0] += share * INV_MASS[i] * sum * first_p;
            sums[1] += share * INV_MASS[i] * sum * last_p;
        }
        sum_items(room, sums, 2);
        if (ITEM == 0)
            for (int e = 0; e < 2; e++) partials[(leaves + 2 * s + e + 1) * stride - 1] = sums[e];
    }
}

// T p += kick T g, what the directions add to the sums of a leaf, and the weights of the step onward. Record as of
// `finish_leaf`.
KERNEL void weigh_leaf(GLOBAL double *along_p, GLOBAL const double *along_g, i64 stride_p, i64 stride_g,
                       GLOBAL const double *values, i64 rank, GLOBAL const double *ops, GLOBAL const double *spans,
                       GLOBAL double *weights, GLOBAL double *partials, i64 leaves, i64 stride) {
    LOCAL_ARRAY(room, 2 * GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 row = whole(op, 1), onward = whole(op, 3);
    double kinetic = 0.0;
    for (i64 k = ITEM; k < rank; k += GROUP) {
        double force = op[2] * along_g[row * stride_g + k];
        double now = along_p[row * stride_p + k] + force;
        along_p[row * stride_p + k] = now;
        kinetic += INV_MASS[k] * now * now;
        if (onward >= 0) {
            along_p[onward * stride_p + k] = now + force;
            weights[GROUP_X * rank + k] = INV_MASS[k] * (now + force);
        }
    }
    sum_items(room, &kinetic, 1);
    if (ITEM == 0) partials[(whole(op, 7) + 1) * stride - 1] = kinetic;
    weigh_spans(along_p, along_g, stride_p, stride_g, values, rank, spans, whole(op, 5), whole(op, 6), row, op[2], 1,
                partials, leaves, stride, room);
}

// The same for the ends of spans that are no leaves. Record as of `reach`.
KERNEL void weigh_reach(GLOBAL const double *along_p, i64 stride_p, GLOBAL const double *values, i64 rank,
                        GLOBAL const double *ops, GLOBAL const double *spans, GLOBAL double *partials, i64 stride) {
    LOCAL_ARRAY(room, 2 * GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    weigh_spans(along_p, along_p, stride_p, stride_p, values, rank, spans, whole(op, 5), whole(op, 6), whole(op, 1), 0.0,
                0, partials, 0, stride, room);
}

// What the directions add to p M^-1 p, p M^-1 g and g M^-1 g, the first `n` of them. Record as of `products`.
KERNEL void weigh_products(GLOBAL const double *along_p, GLOBAL const double *along_g, i64 stride_p, i64 stride_g,
                           GLOBAL const double *values, i64 rank, GLOBAL const double *ops, i64 n,
                           GLOBAL double *partials, i64 stride) {
    LOCAL_ARRAY(room, 3 * GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 row = whole(op, 1);
    double sums[3] = {0.0, 0.0, 0.0};
    for (i64 k = ITEM; k < rank; k += GROUP) {
        double p = along_p[row * stride_p + k], c = INV_MASS[k];
        sums[0] += c * p * p;
        if (n > 1) {
            double g = along_g[row * stride_g + k];
            sums[1] += c * p * g;
            sums[2] += c * g * g;
        }
    }
    sum_items(room, sums, 3);
    if (ITEM == 0)
        for (int q = 0; q < n; q++) partials[(whole(op, 7) + q + 1) * stride - 1] = sums[q];
}

// Of standard normal numbers z in the directions: T p = Lambda^(-1/2) z, and the weights of the rest of p.
KERNEL void weigh_momentum(GLOBAL double *along_p, i64 stride_p, GLOBAL const double *values, i64 rank,
                           GLOBAL const double *ops, GLOBAL double *weights) {
    i64 row = whole(ops + GROUP_X * RECORD, 1);
    for (i64 k = ITEM; k < rank; k += GROUP) {
        double z = along_p[row * stride_p + k];
        weights[GROUP_X * rank + k] = MOMENTUM[k] * z;
        along_p[row * stride_p + k] = ALONG_MOMENTUM[k] * z;
    }
}

// Of T D^-1 v, row by row of `found`: the weights of M v, and what the directions add to v M v and g M^-1 g. Record as of
// `fisher_distance`; `distances` says whether the sums are wanted.
KERNEL void weigh_mass(GLOBAL const double *found, i64 found_stride, GLOBAL const double *along_g, i64 stride_g,
                       GLOBAL const double *values, i64 rank, GLOBAL const double *ops, GLOBAL double *weights,
                       i64 distances, GLOBAL double *partials, i64 stride) {
    LOCAL_ARRAY(room, GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    double sum = 0.0;
    for (i64 k = ITEM; k < rank; k += GROUP) {
        double v = found[GROUP_X * found_stride + k], weight = MASS[k] * v;
        weights[GROUP_X * rank + k] = weight;
        if (distances) {
            double g = along_g[whole(op, 1) * stride_g + k];
            sum += v * weight + INV_MASS[k] * g * g;
        }
    }
    sum_items(room, &sum, 1);
    if (distances && ITEM == 0) partials[(whole(op, 7) + 1) * stride - 1] = sum;
}
