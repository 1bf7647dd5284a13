// A normal distribution, with trouble where the data ask for it.
data {
  real reject_above;
  real fatal_above;
  real missing_above;
  int<lower=0, upper=1> print_all;
}
parameters {
  real x;
}
transformed parameters {
  real twice = 2 * x;
}
model {
  if (x > fatal_above) {
    fatal_error("x is far too large: ", x);
  }
  if (x > reject_above) {
    reject("x is too large: ", x);
  }
  if (print_all) {
    print("x = ", x);
  }
  x ~ std_normal();
}
generated quantities {
  // not a positive scale, where x is large
  real drawn = normal_rng(x, x > missing_above ? -1 : 1);
}
