// What an expression throws, as a value: tests compare kind and words in one place.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"

namespace qalof::testing {

struct ThrownError {
  ErrorKind kind = ErrorKind::kInternal;
  std::string message;
};

/// The qalof::Error that action throws. Fails the test where it throws nothing or something else.
template <typename Action>
ThrownError error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  } catch (const std::exception& error) {
    ADD_FAILURE() << "threw something other than qalof::Error: " << error.what();
    return {};
  }
  ADD_FAILURE() << "threw nothing";
  return {};
}

}  // namespace qalof::testing
