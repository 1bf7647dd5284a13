// Included before the code that stanc makes of a program, and the whole of the precompiled header.
#pragma once
#include "assertions.hpp"
#include <stan/model/model_header.hpp>
