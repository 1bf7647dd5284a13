// Steps of trajectories.

// p' = scale p + kick g, x' = x + drift M^-1 p'. Record: metric, from, to, scale, kick, drift.
KERNEL void glide(GLOBAL real *x, GLOBAL real *p, GLOBAL const real *g, GLOBAL const real *inv_mass,
                  GLOBAL const real *directions, GLOBAL const double *weights, i64 rank, GLOBAL const double *ops,
                  i64 dim, i64 chunk) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 of = whole(op, 0) * dim, from = whole(op, 1) * dim, to = whole(op, 2) * dim;
    double scale = op[3], kick = op[4], drift = op[5];
    GLOBAL const double *mine = weights + GROUP_X * rank;
    FOR_COLUMNS(j) {
        double now = ROUNDED(scale * p[from + j] + kick * g[from + j]);
        double velocity = inv_mass[of + j] * now;
        if (rank > 0) velocity += along(directions, mine, rank, dim, j);
        x[to + j] = (real)(x[from + j] + drift * velocity);
        p[to + j] = (real)now;
    }
}

// Inner products of a span from `start` to `end`, offsets of rows, from the columns of this group. With k the kick and i = 1
// (a leaf), or k half a step and i = 0 (a reach), they are those of (x_l - x_s + k M^-1 (p_s + p_l + i k (g_l - g_s))) / 2k.
FUNCTION void span_sums(GLOBAL const real *x, GLOBAL const real *p, GLOBAL const real *g, GLOBAL const real *inv_mass,
                        i64 start, i64 end, int adjacent, double k, int i, i64 dim, i64 chunk, double *sums) {
    sums[0] = 0.0;
    sums[1] = 0.0;
    FOR_COLUMNS(j) {
        double first = p[start + j], last = p[end + j], m = inv_mass[j], way;
        if (adjacent) {
            way = m * first + m * last;
        } else {
            double sum = first + last;
            if (i) sum += k * ((double)g[end + j] - g[start + j]);
            way = ((double)x[end + j] - x[start + j]) + k * m * sum;
        }
        sums[0] += way * first;
        sums[1] += way * last;
    }
    if (!adjacent) {
        sums[0] /= 2.0 * k;
        sums[1] /= 2.0 * k;
    }
}

// All spans of an operation. A span: the row where it starts, and whether its end is the next point.
FUNCTION void all_spans(GLOBAL const real *x, GLOBAL const real *p, GLOBAL const real *g, GLOBAL const real *inv_mass,
                        GLOBAL const double *spans, i64 first, i64 n, i64 end, double k, int i, i64 rank,
                        GLOBAL double *partials, i64 leaves, i64 stride, i64 dim, i64 chunk, LOCAL double *room) {
    for (i64 s = first; s < first + n; s++) {
        double sums[2];
        i64 start = whole(spans + 2 * s, 0) * dim;
        span_sums(x, p, g, inv_mass, start, end, i && spans[2 * s + 1] != 0.0, k, i, dim, chunk, sums);
        sum_items(room, sums, 2);
        put_partial(partials, leaves + 2 * s, stride, rank, sums[0]);
        put_partial(partials, leaves + 2 * s + 1, stride, rank, sums[1]);
    }
}

// p += kick g, the kinetic energy twice, the spans that end here, and the first half of the step onward.
// Record: metric, row, kick, row onward or -1, drift, first span, number of spans or -1, place of the energy. With -1 the
// momentum stays what it was.
// The sums of the spans come after those of all leaves.
KERNEL void finish_leaf(GLOBAL real *x, GLOBAL real *p, GLOBAL const real *g, GLOBAL const real *inv_mass,
                        GLOBAL const real *directions, GLOBAL const double *weights, i64 rank,
                        GLOBAL const double *ops, GLOBAL const double *spans, GLOBAL double *partials, i64 leaves,
                        i64 stride, i64 dim, i64 chunk) {
    LOCAL_ARRAY(room, 2 * GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 of = whole(op, 0) * dim, row = whole(op, 1) * dim, onward = whole(op, 3) * dim;
    double kick = op[2], drift = op[4], kinetic = 0.0;
    int passing = op[6] < 0.0;
    GLOBAL const double *mine = weights + GROUP_X * rank;
    FOR_COLUMNS(j) {
        double force = kick * g[row + j], m = inv_mass[of + j];
        double now = ROUNDED(p[row + j] + force);
        if (!passing) p[row + j] = (real)now;
        kinetic += m * now * now;
        if (onward >= 0) {
            double next = ROUNDED(now + force);
            double velocity = m * next;
            if (rank > 0) velocity += along(directions, mine, rank, dim, j);
            p[onward + j] = (real)next;
            x[onward + j] = (real)(x[row + j] + drift * velocity);
        }
    }
    sum_items(room, &kinetic, 1);
    put_partial(partials, whole(op, 7), stride, rank, kinetic);
    all_spans(x, p, g, inv_mass + of, spans, whole(op, 5), whole(op, 6), row, kick, 1, rank, partials, leaves, stride,
              dim, chunk, room);
}

// The spans that end at points. Record: metric, row, half, -, -, first span, number of spans.
KERNEL void reach(GLOBAL const real *x, GLOBAL const real *p, GLOBAL const real *inv_mass, i64 rank,
                  GLOBAL const double *ops, GLOBAL const double *spans, GLOBAL double *partials, i64 stride, i64 dim,
                  i64 chunk) {
    LOCAL_ARRAY(room, 2 * GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    all_spans(x, p, p, inv_mass + whole(op, 0) * dim, spans, whole(op, 5), whole(op, 6), whole(op, 1) * dim, op[2], 0,
              rank, partials, 0, stride, dim, chunk, room);
}

// p M^-1 p, p M^-1 g and g M^-1 g. Record: metric, row, and in the last place that of the first sum.
KERNEL void products(GLOBAL const real *p, GLOBAL const real *g, GLOBAL const real *inv_mass, i64 rank,
                     GLOBAL const double *ops, GLOBAL double *partials, i64 stride, i64 dim, i64 chunk) {
    LOCAL_ARRAY(room, 3 * GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 of = whole(op, 0) * dim, row = whole(op, 1) * dim;
    double sums[3] = {0.0, 0.0, 0.0};
    FOR_COLUMNS(j) {
        double m = inv_mass[of + j], momentum = p[row + j], gradient = g[row + j];
        sums[0] += m * momentum * momentum;
        sums[1] += m * momentum * gradient;
        sums[2] += m * gradient * gradient;
    }
    sum_items(room, sums, 3);
    for (int q = 0; q < 3; q++) put_partial(partials, whole(op, 7) + q, stride, rank, sums[q]);
}

// m = M (x - centre) of a diagonal metric. Record: metric, row, row of m.
KERNEL void pull(GLOBAL const real *x, GLOBAL const real *center, GLOBAL const real *mass_sqrt, GLOBAL real *m,
                 i64 same_scale, GLOBAL const double *ops, i64 dim, i64 chunk) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 of = whole(op, 0) * dim, row = whole(op, 1) * dim, to = whole(op, 2) * dim;
    i64 scale = same_scale ? 0 : of;
    FOR_COLUMNS(j) {
        double root = mass_sqrt[scale + j];
        m[to + j] = (real)(root * root * ((double)x[row + j] - center[of + j]));
    }
}

// Half an exact-normal step. Record: metric, from, to, kick, sin, cos, share, row of the scale; `share` of x - centre is
// what the rotation takes away, and with a coupled metric what the kick by the pull gives.
KERNEL void turn(GLOBAL real *x, GLOBAL real *p, GLOBAL const real *g, GLOBAL real *pulls, GLOBAL const real *center,
                 GLOBAL const real *inv_mass, GLOBAL const real *directions, GLOBAL const double *weights, i64 rank,
                 GLOBAL const double *ops, i64 dim, i64 chunk) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 of = whole(op, 0) * dim, from = whole(op, 1) * dim, to = whole(op, 2) * dim, scale = whole(op, 7) * dim;
    double kick = op[3], sin_angle = op[4], cos_angle = op[5], share = op[6];
    GLOBAL const double *mine = weights + GROUP_X * rank;
    FOR_COLUMNS(j) {
        double m = pulls[from + j], force = g[from + j], position = x[from + j];
        double kicked = p[from + j] + kick * (force + m);
        double velocity = inv_mass[scale + j] * (rank > 0 ? p[from + j] + kick * force : kicked);
        if (rank > 0) velocity += along(directions, mine, rank, dim, j);
        x[to + j] = (real)(position + (sin_angle * velocity + share * (position - center[of + j])));
        p[to + j] = (real)(cos_angle * kicked - sin_angle * m);
        pulls[to + j] = (real)(cos_angle * m + sin_angle * kicked);
    }
}

// p += kick (g + m), and twice the kinetic energy of a diagonal metric. Record: metric, row, kick, and in the last place
// that of the energy.
KERNEL void finish_turn(GLOBAL real *p, GLOBAL const real *g, GLOBAL const real *pulls, GLOBAL const real *inv_mass,
                        i64 rank, GLOBAL const double *ops, GLOBAL double *partials, i64 stride, i64 dim, i64 chunk) {
    LOCAL_ARRAY(room, GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 of = whole(op, 0) * dim, row = whole(op, 1) * dim;
    double kick = op[2], kinetic = 0.0;
    FOR_COLUMNS(j) {
        double now = ROUNDED(p[row + j] + kick * ((double)g[row + j] + pulls[row + j]));
        p[row + j] = (real)now;
        kinetic += inv_mass[of + j] * now * now;
    }
    sum_items(room, &kinetic, 1);
    put_partial(partials, whole(op, 7), stride, rank, kinetic);
}

// |z|^2 in the norm of a diagonal M, z = x - centre + M^-1 g. Record: metric, row, -, row of the scales, and in the last
// place that of the sum.
KERNEL void fisher_distance(GLOBAL const real *x, GLOBAL const real *g, GLOBAL const real *center,
                            GLOBAL const real *inv_mass, GLOBAL const real *mass_sqrt, i64 rank,
                            GLOBAL const double *ops, GLOBAL double *partials, i64 stride, i64 dim, i64 chunk) {
    LOCAL_ARRAY(room, GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 of = whole(op, 0) * dim, row = whole(op, 1) * dim, scale = whole(op, 3) * dim;
    double sum = 0.0;
    FOR_COLUMNS(j) {
        double z = ((double)x[row + j] - center[of + j]) + inv_mass[scale + j] * (double)g[row + j];
        double y = mass_sqrt[scale + j] * z;
        sum += y * y;
    }
    sum_items(room, &sum, 1);
    put_partial(partials, whole(op, 7), stride, rank, sum);
}

// Rows from one array to another, whose rows begin `stride` numbers after each other. Record: row there, row here.
KERNEL void move_rows(GLOBAL const real *from, i64 from_stride, GLOBAL real *to, i64 to_stride, GLOBAL const double *ops,
                      i64 dim, i64 chunk) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 source = whole(op, 0) * from_stride, target = whole(op, 1) * to_stride;
    FOR_COLUMNS(j) to[target + j] = from[source + j];
}
