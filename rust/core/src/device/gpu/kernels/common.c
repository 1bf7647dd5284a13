// What all kernels share.
//
// The compiler is told GROUP, the items of a work group, and `real`, the type of numbers in arrays. Whatever the type,
// arithmetic is in double precision. Nothing is fused or reordered, so that all devices round alike.
//
// A kernel runs over a grid of work groups: operations across, chunks of columns down. Operations that follow each other
// work on the same columns, so what chains share is found in the cache. An operation is a record of RECORD numbers; rows and
// the like are whole numbers in it. `dim` is the length of a row, `chunk` that of a chunk.
//
// A sum has a row of partial sums, one for each chunk and one more for what a coupled metric adds; `gather` adds them up.

#define RECORD 8

// A number as it is kept in an array.
#define ROUNDED(v) ((double)(real)(v))

// Columns of this group: each item takes every GROUP-th.
#define FIRST (GROUP_Y * chunk)
#define LAST (FIRST + chunk < dim ? FIRST + chunk : dim)
#define FOR_COLUMNS(j) for (i64 j = FIRST + ITEM, end_##j = LAST; j < end_##j; j += GROUP)

FUNCTION i64 whole(GLOBAL const double *record, int i) { return (i64)record[i]; }

// Sums of `n` numbers over the items of the group, in a fixed order; all items get them.
FUNCTION void sum_items(LOCAL double *room, double *v, int n) {
    for (int q = 0; q < n; q++) room[q * GROUP + ITEM] = v[q];
    BARRIER();
    for (int width = GROUP / 2; width > 0; width /= 2) {
        if (ITEM < width)
            for (int q = 0; q < n; q++) room[q * GROUP + ITEM] += room[q * GROUP + ITEM + width];
        BARRIER();
    }
    for (int q = 0; q < n; q++) v[q] = room[q * GROUP];
    BARRIER();
}

// Partial sum of this chunk. A diagonal metric (`rank` 0) adds nothing more.
FUNCTION void put_partial(GLOBAL double *partials, i64 sum, i64 stride, i64 rank, double v) {
    if (ITEM == 0) {
        partials[sum * stride + GROUP_Y] = v;
        if (rank == 0 && GROUP_Y == 0) partials[(sum + 1) * stride - 1] = 0.0;
    }
}

// What the directions of a coupled metric add to a velocity: row j of T^T times the weights.
FUNCTION double along(GLOBAL const real *directions, GLOBAL const double *weights, i64 rank, i64 dim, i64 j) {
    double sum = 0.0;
    for (i64 k = 0; k < rank; k++) sum += (double)directions[k * dim + j] * weights[k];
    return sum;
}

// Add up partial sums, one group for each. Those of an operation may go to its row of another table (`width` of them).
KERNEL void gather(GLOBAL const double *partials, i64 stride, GLOBAL const double *ops, i64 width, i64 to_stride,
                   GLOBAL double *to) {
    LOCAL_ARRAY(room, GROUP);
    double sum = 0.0;
    for (i64 i = ITEM; i < stride; i += GROUP) sum += partials[GROUP_X * stride + i];
    sum_items(room, &sum, 1);
    if (ITEM == 0) {
        i64 place = GROUP_X;
        if (width > 0) place = whole(ops + GROUP_X / width * RECORD, 1) * to_stride + GROUP_X % width;
        to[place] = sum;
    }
}
