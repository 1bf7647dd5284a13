
// One work group for each chain: the user's function above, and the sum of what its items return. Record: -, row.
KERNEL void DENSITY(GLOBAL const real *x, GLOBAL real *g, GLOBAL const double *ops, GLOBAL const double *data, i64 dim,
                    GLOBAL double *logp) {
    LOCAL_ARRAY(room, 4 * GROUP);
    i64 row = whole(ops + GROUP_X * RECORD, 1) * dim;
    double share = logp_grad(dim, x + row, g + row, data, room);
    BARRIER();
    sum_items(room, &share, 1);
    if (ITEM == 0) logp[GROUP_X] = share;
}
