// A regression with a level for each group; the likelihood may be summed in parallel.
functions {
  real partial_sum(array[] real y, int start, int end, vector x, array[] int group, vector level, real slope,
                   real noise) {
    return normal_lpdf(y | level[group[start : end]] + slope * x[start : end], noise);
  }
}
data {
  int<lower=0> N;
  int<lower=0> J;
  array[N] real y;
  vector[N] x;
  array[N] int<lower=1, upper=J> group;
  int<lower=0> grain; // 0: one sum
}
parameters {
  real mean_level;
  real<lower=0> sd_level;
  vector[J] level;
  real slope;
  real<lower=0> noise;
}
model {
  mean_level ~ normal(0, 5);
  sd_level ~ normal(0, 2);
  level ~ normal(mean_level, sd_level);
  slope ~ normal(0, 2);
  noise ~ normal(0, 2);
  if (grain > 0) {
    target += reduce_sum(partial_sum, y, grain, x, group, level, slope, noise);
  } else {
    y ~ normal(level[group] + slope * x, noise);
  }
}
