// Random numbers: Philox4x32-10 and Box-Muller, step by step those of rng.rs.

FUNCTION void philox(u32 low, u32 high, u32 *c) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 a_high = HIGH_PRODUCT(c[0], 0xD2511F53u), a_low = c[0] * 0xD2511F53u;
        u32 b_high = HIGH_PRODUCT(c[2], 0xCD9E8D57u), b_low = c[2] * 0xCD9E8D57u;
        c[0] = b_high ^ c[1] ^ low;
        c[1] = b_low;
        c[2] = a_high ^ c[3] ^ high;
        c[3] = a_low;
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
}

// Natural logarithm of a number in [2^-52, 1].
FUNCTION double own_log(double u) {
    u64 bits = BITS_OF_DOUBLE(u);
    double mantissa = DOUBLE_OF_BITS((bits & 0x000FFFFFFFFFFFFFul) | 0x3FF0000000000000ul);
    int big = mantissa > 1.41421356237309514547;
    double m = big ? 0.5 * mantissa : mantissa;
    double exponent = DOUBLE_OF_BITS((bits >> 52) | 0x4330000000000000ul) - (4503599627370496.0 + 1023.0);
    double k = exponent + (big ? 1.0 : 0.0);
    double s = (m - 1.0) / (m + 1.0);
    double z = s * s;
    double series = 2.0 / 19.0;
#pragma unroll
    for (int odd = 17; odd >= 3; odd -= 2) series = series * z + 2.0 / odd;
    return k * 0.693147180559945286227 + (2.0 * s + s * z * series);
}

// cos(2 pi u) and sin(2 pi u) of u in [0, 1).
FUNCTION void own_turn(double u, double *cosine, double *sine) {
    double t = 4.0 * u;
    double rounded = t + 6755399441055744.0;
    u64 quarter = BITS_OF_DOUBLE(rounded);
    double a = (t - (rounded - 6755399441055744.0)) * 1.57079632679489655800;
    double z = a * a, s = 1.0, c = 1.0;
#pragma unroll
    for (int k = 17; k >= 3; k -= 2) s = 1.0 - z * (1.0 / (double)(k * (k - 1))) * s;
#pragma unroll
    for (int k = 18; k >= 2; k -= 2) c = 1.0 - z * (1.0 / (double)(k * (k - 1))) * c;
    s *= a;
    int swap = (quarter & 1) != 0;
    double to_cos = swap ? s : c, to_sin = swap ? c : s;
    *cosine = DOUBLE_OF_BITS(BITS_OF_DOUBLE(to_cos) ^ (((quarter + 1) & 2) << 62));
    *sine = DOUBLE_OF_BITS(BITS_OF_DOUBLE(to_sin) ^ ((quarter & 2) << 62));
}

FUNCTION u64 two_words(u32 high, u32 low) { return (u64)high << 32 | low; }

// [1, 2) from random bits.
FUNCTION double one_to_two(u64 bits) { return DOUBLE_OF_BITS(bits >> 12 | 0x3FF0000000000000ul); }

// p = keep p + share z mass_sqrt, z standard normal, and the sum of z^2, or twice the kinetic energy if something is kept.
// Record: metric, row, lower and upper half of the seed, draw, chain, purpose, keep. The sums are in the order of the
// operations from `first_sum` on.
KERNEL void refresh(GLOBAL real *p, GLOBAL const real *inv_mass, GLOBAL const real *mass_sqrt, i64 rank,
                    GLOBAL const double *ops, GLOBAL const double *places, GLOBAL double *partials, i64 stride, i64 dim,
                    i64 chunk) {
    LOCAL_ARRAY(room, GROUP);
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 scale = whole(op, 0) * dim, row = whole(op, 1) * dim, last = LAST;
    double keep = op[7], share = sqrt(fmax(1.0 - keep * keep, 0.0)), sum = 0.0;
    for (i64 block = FIRST / 2 + ITEM;; block += GROUP) {
        i64 first = block / 8 * 16 + block % 8;
        if (first >= last) break;
        u32 c[4] = {(u32)block, (u32)op[4], (u32)op[5], (u32)op[6]};
        philox((u32)op[2], (u32)op[3], c);
        double radius = sqrt(-2.0 * own_log(2.0 - one_to_two(two_words(c[0], c[1]))));
        double z[2];
        own_turn(one_to_two(two_words(c[2], c[3])) - 1.0, z, z + 1);
        for (int i = 0; i < 2; i++) {
            i64 j = first + 8 * i;
            if (j >= last) break;
            double value = radius * z[i];
            double fresh = value * mass_sqrt[scale + j];
            if (keep != 0.0) {
                double now = ROUNDED(keep * p[row + j] + share * fresh);
                p[row + j] = (real)now;
                sum += inv_mass[scale + j] * now * now;
            } else {
                p[row + j] = (real)fresh;
                sum += value * value;
            }
        }
    }
    sum_items(room, &sum, 1);
    put_partial(partials, (i64)places[GROUP_X], stride, rank, sum);
}

// p = keep p + share q. Record: -, row, row of q, keep.
KERNEL void blend(GLOBAL real *p, GLOBAL const real *q, GLOBAL const double *ops, i64 dim, i64 chunk) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    i64 row = whole(op, 1) * dim, fresh = whole(op, 2) * dim;
    double keep = op[3], share = sqrt(fmax(1.0 - keep * keep, 0.0));
    FOR_COLUMNS(j) p[row + j] = (real)(keep * p[row + j] + share * q[fresh + j]);
}

// The four words at some addresses, for known-answer tests. Record: lower and upper half of the seed, the counter.
KERNEL void words(GLOBAL const double *ops, GLOBAL double *to) {
    GLOBAL const double *op = ops + GROUP_X * RECORD;
    u32 c[4] = {(u32)op[2], (u32)op[3], (u32)op[4], (u32)op[5]};
    philox((u32)op[0], (u32)op[1], c);
    if (ITEM == 0)
        for (int i = 0; i < 4; i++) to[4 * GROUP_X + i] = (double)c[i];
}
