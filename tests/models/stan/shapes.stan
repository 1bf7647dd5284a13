// Outputs of all types and shapes. Elements of known variables are numbers that tell their place.
data {
  int<lower=0> N;
  array[N] real y;
  complex c;
  array[2] complex_vector[3] cs;
  tuple(int, vector[2]) pair;
  array[2, N] int table;
  matrix[2, 0] nothing;
}
transformed data {
  // a random number for each seed
  real noise = normal_rng(0, 1);
}
parameters {
  real mu;
  array[2] matrix[2, 3] grid;
  vector[0] empty;
  complex z;
  tuple(real<lower=0>, vector[2]) both;
}
transformed parameters {
  array[2] matrix[2, 3] twice;
  for (i in 1 : 2) {
    twice[i] = 2 * grid[i];
  }
  matrix[0, 3] none;
}
model {
  mu ~ std_normal();
  for (i in 1 : 2) {
    to_vector(grid[i]) ~ std_normal();
  }
  get_real(z) ~ std_normal();
  get_imag(z) ~ std_normal();
  both.1 ~ exponential(1);
  both.2 ~ std_normal();
}
generated quantities {
  real drawn = normal_rng(mu, 1);
  real of_data = noise;
  int whole = 7;
  array[2, 3, 4] real numbered;
  array[2] matrix[3, 4] matrices;
  array[2] complex_matrix[2, 3] complexes;
  complex conjugate = conj(z);
  array[3] complex_vector[0] no_complexes;
  array[2, 0] int no_ints;
  tuple(real, vector[2]) simple = (mu, [1, 2]');
  array[3] tuple(real, array[2] tuple(int, complex)) nested;
  for (i in 1 : 2) {
    for (j in 1 : 3) {
      for (k in 1 : 4) {
        numbered[i, j, k] = 100 * i + 10 * j + k;
        matrices[i][j, k] = 100 * i + 10 * j + k;
      }
    }
    for (j in 1 : 2) {
      for (k in 1 : 3) {
        complexes[i][j, k] = to_complex(100 * i + 10 * j + k, -k);
      }
    }
  }
  for (i in 1 : 3) {
    nested[i].1 = i;
    for (j in 1 : 2) {
      nested[i].2[j].1 = 10 * i + j;
      nested[i].2[j].2 = to_complex(i, j);
    }
  }
}
