#include "core/finite.h"

#include "core/error.h"

namespace qalof {

void fail_not_finite(double value, std::string_view what, const std::string& where) {
  fail(ErrorKind::kDiverged,
       "{}: {} is {}, expected a finite number; a weight, an adapter or a head holds a number that "
       "is not finite or so large that the network overflows",
       where, what, value);
}

}  // namespace qalof
