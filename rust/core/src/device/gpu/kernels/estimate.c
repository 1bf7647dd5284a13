// Estimators of diagonal metrics. They have one operation for each chain, too.

#define LEAST_INV_MASS 1e-20
#define LARGEST_INV_MASS 1e20

FUNCTION int is_finite(double v) { return v - v == 0.0; }

FUNCTION double bounded(double v) {
    return v < LEAST_INV_MASS ? LEAST_INV_MASS : v > LARGEST_INV_MASS ? LARGEST_INV_MASS : v;
}

FUNCTION void welford(GLOBAL real *mean, GLOBAL real *ss, double value, double count) {
    if (count <= 1.0) {
        *mean = (real)value;
        *ss = (real)0.0;
        return;
    }
    double before = value - *mean;
    double now = *mean + (1.0 / count) * before;
    *mean = (real)now;
    *ss = (real)(*ss + before * (value - now));
}

// Welford's update. Record: row of the moments, row of the point, number of points.
KERNEL void accumulate(GLOBAL real *mean_x, GLOBAL real *ss_x, GLOBAL real *mean_g, GLOBAL real *ss_g,
                       GLOBAL const real *x, GLOBAL const real *g, GLOBAL const double *ops, i64 dim, i64 chunk) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 row = whole(op, 0) * dim, point = whole(op, 1) * dim;
    FOR_COLUMNS(j) {
        welford(mean_x + row + j, ss_x + row + j, x[point + j], op[2]);
        welford(mean_g + row + j, ss_g + row + j, g[point + j], op[2]);
    }
}

// inv_mass = 1 / |g|, centre = x + inv_mass g. Record: row of the metric, row of the point.
KERNEL void metric_from_gradient(GLOBAL real *inv_mass, GLOBAL real *mass_sqrt, GLOBAL real *center,
                                 GLOBAL const real *x, GLOBAL const real *g, GLOBAL const double *ops, i64 dim,
                                 i64 chunk) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 row = whole(op, 0) * dim, point = whole(op, 1) * dim;
    FOR_COLUMNS(j) {
        double gradient = g[point + j], position = x[point + j];
        int usable = is_finite(gradient) && gradient != 0.0;
        double now = usable ? ROUNDED(1.0 / bounded(fabs(gradient))) : 1.0;
        double middle = position + now * gradient;
        inv_mass[row + j] = (real)now;
        mass_sqrt[row + j] = (real)sqrt(1.0 / now);
        center[row + j] = (real)(is_finite(middle) ? middle : position);
    }
}

// inv_mass = (ss_x / ss_g)^(1/2) of the union of two samples, centre = mean x + inv_mass mean g. Record: row of the metric,
// rows of the samples, weight of the second's sums, weight of the squared difference of the means, share of the second.
KERNEL void fit_fisher_diag(GLOBAL real *inv_mass, GLOBAL real *mass_sqrt, GLOBAL real *center,
                            GLOBAL const real *mean_x, GLOBAL const real *ss_x, GLOBAL const real *mean_g,
                            GLOBAL const real *ss_g, GLOBAL const double *ops, i64 dim, i64 chunk) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 row = whole(op, 0) * dim, first = whole(op, 1) * dim, second = whole(op, 2) * dim;
    double weight = op[3], between = op[4], share = op[5];
    FOR_COLUMNS(j) {
        double dx = (double)mean_x[first + j] - mean_x[second + j];
        double dg = (double)mean_g[first + j] - mean_g[second + j];
        double sum_x = ss_x[first + j] + weight * ss_x[second + j] + between * (dx * dx);
        double sum_g = ss_g[first + j] + weight * ss_g[second + j] + between * (dg * dg);
        double ratio = sum_x / sum_g;
        double now = inv_mass[row + j];
        if (ratio > 0.0 && is_finite(ratio)) {
            now = ROUNDED(bounded(sqrt(ratio)));
            inv_mass[row + j] = (real)now;
            mass_sqrt[row + j] = (real)sqrt(1.0 / now);
        }
        double middle = (mean_x[first + j] + share * (-dx)) + now * (mean_g[first + j] + share * (-dg));
        if (is_finite(middle)) center[row + j] = (real)middle;
    }
}
