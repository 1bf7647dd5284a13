data {
  int<lower=0> N, T;
  vector[T] age;
  array[N] vector[T] weight;
}
parameters {
  real level, growth;
  real<lower=0> level_sd, growth_sd, noise;
  vector[N] rat_level, rat_growth;
}
transformed parameters {
  real at_birth = level - 22 * growth;
}
model {
  level ~ normal(240, 100);
  growth ~ normal(6, 10);
  level_sd ~ normal(0, 50);
  growth_sd ~ normal(0, 5);
  noise ~ normal(0, 50);
  rat_level ~ normal(level, level_sd);
  rat_growth ~ normal(growth, growth_sd);
  for (n in 1 : N) {
    weight[n] ~ normal(rat_level[n] + rat_growth[n] * age, noise);
  }
}
generated quantities {
  array[N] real at_50 = normal_rng(rat_level + rat_growth * (50 - 22), noise);
}
