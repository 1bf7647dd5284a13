data {
  int<lower=0> N;
  int<lower=2> K;
  array[N] real y;
}
parameters {
  simplex[K] theta1;
  simplex[K] theta2;
  positive_ordered[K] mu;
}
transformed parameters {
  array[K] simplex[K] theta = {theta1, theta2};
}
model {
  mu[1] ~ normal(3, 1);
  mu[2] ~ normal(10, 1);
  // log probability of the observations so far and the present state
  vector[K] state;
  for (k in 1 : K) {
    state[k] = normal_lpdf(y[1] | mu[k], 1);
  }
  for (t in 2 : N) {
    vector[K] before = state;
    for (k in 1 : K) {
      vector[K] paths;
      for (j in 1 : K) {
        paths[j] = before[j] + log(theta[j, k]);
      }
      state[k] = log_sum_exp(paths) + normal_lpdf(y[t] | mu[k], 1);
    }
  }
  target += log_sum_exp(state);
}
