// What Stan has since 2.36: vectors and matrices that sum to zero, and `jacobian +=`.
transformed data {
  real sd = 1.5;
}
parameters {
  sum_to_zero_vector[4] effect;
  sum_to_zero_matrix[2, 3] table;
  real log_scale;
}
transformed parameters {
  real scale = exp(log_scale);
  jacobian += log_scale;
}
model {
  effect ~ normal(0, sd);
  to_vector(table) ~ std_normal();
  scale ~ exponential(1);
}
