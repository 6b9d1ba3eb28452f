// What a user sees on standard error: a line that rewrites itself on a terminal, plain lines
// elsewhere.
#pragma once

#include <cstddef>
#include <memory>

#include "core/progress.h"

namespace qalof::cli {

/// Progress with the time left (progress_display.h), shown also while work is silent: a thread of
/// its own looks at the clock some times a second. quiet silences progress and information, not
/// warnings.
std::unique_ptr<Observer> make_terminal_observer(bool quiet);

/// Columns of the terminal that the descriptor writes to; 0 where it is none.
std::size_t terminal_columns(int descriptor);

}  // namespace qalof::cli
