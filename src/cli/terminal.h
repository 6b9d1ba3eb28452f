// What a user sees on standard error: a line that rewrites itself on a terminal, plain lines
// elsewhere.
#pragma once

#include <memory>

#include "core/progress.h"

namespace qalof::cli {

/// Progress with rate and time left. On a terminal it is redrawn at most ten times a second;
/// elsewhere one plain line at most every ten seconds, no carriage returns. quiet silences progress
/// and information, not warnings.
std::unique_ptr<Observer> make_terminal_observer(bool quiet);

}  // namespace qalof::cli
