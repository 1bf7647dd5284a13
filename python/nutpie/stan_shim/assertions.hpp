// A failed assertion of Eigen is an exception of the type that Stan throws for a rejection, not the end of the process.
// Stan Math has a switch for that since 5.0; this covers the versions before. First in every translation unit.
#pragma once
#include <stdexcept>
#define eigen_assert(condition)                                                          \
  do {                                                                                   \
    if (!(condition)) throw std::domain_error("assertion of Eigen failed: " #condition); \
  } while (0)
