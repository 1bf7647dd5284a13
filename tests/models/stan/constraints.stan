// One parameter for each constraint, and bounds that are parameters.
data {
  int<lower=2> K;
}
parameters {
  real<lower=0> positive;
  real<lower=-1, upper=3> inside;
  real free;
  real<lower=free, upper=free + positive> between;
  real<lower=between> above;
  vector<offset=2, multiplier=5>[2] scaled;
  simplex[K] share;
  array[2] simplex[3] shares;
  ordered[K] rising;
  positive_ordered[3] rising_positive;
  unit_vector[3] direction;
  corr_matrix[3] corr;
  cov_matrix[2] cov;
  cholesky_factor_corr[3] corr_factor;
  cholesky_factor_cov[3, 2] cov_factor;
}
model {
  positive ~ lognormal(0, 1);
  free ~ std_normal();
  between ~ uniform(free, free + positive);
  above - between ~ exponential(1);
  scaled ~ normal(2, 5);
  share ~ dirichlet(linspaced_vector(K, 1, K));
  for (k in 1 : 2) {
    shares[k] ~ dirichlet([2, 3, 4]');
  }
  rising ~ normal(0, 2);
  rising_positive ~ gamma(2, 1);
  corr ~ lkj_corr(2);
  cov ~ wishart(5, identity_matrix(2));
  corr_factor ~ lkj_corr_cholesky(2);
  to_vector(cov_factor) ~ std_normal();
}
