// Draft lengths from acceptance and times, and drafts from the text itself.
#include "runtime/drafting.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace qalof::runtime {

std::span<const std::int32_t> look_up(std::span<const std::int32_t> text, std::size_t count) {
  constexpr std::size_t kLongest = 4, kShortest = 2;
  std::size_t best = 0, best_end = 0;
  // `end` is where the tokens that stood before end; the latest wins among equally long runs.
  for (std::size_t end = text.size() - std::min<std::size_t>(text.size(), 1); end > 0; --end) {
    std::size_t run = 0;
    while (run < kLongest && run < end && text[end - 1 - run] == text[text.size() - 1 - run]) ++run;
    if (run <= best) continue;
    best = run;
    best_end = end;
    if (best == kLongest) break;
  }
  if (best < kShortest) return {};
  return text.subspan(best_end, std::min(count, text.size() - best_end));
}

double DraftLengths::Seconds::least() const {
  const std::size_t known = std::min(next_, last_.size());
  return *std::min_element(last_.begin(), last_.begin() + static_cast<std::ptrdiff_t>(known));
}

DraftLengths::DraftLengths(const DraftOptions& options) : options_(options) {
  QALOF_CHECK(options.longest >= 1 && options.longest <= 64, ErrorKind::kUsage,
              "--draft_tokens: found {}, expected 1..64", options.longest);
  passes_.resize(options.longest + 1);
}

// Measured, or on the line through the measured neighbours; a pass takes no less than a shorter
// one.
double DraftLengths::pass_seconds(std::size_t drafted) const {
  if (passes_[drafted].known()) return passes_[drafted].least();
  std::size_t below = drafted, above = drafted;
  while (below > 0 && !passes_[below].known()) --below;
  while (above < passes_.size() && !passes_[above].known()) ++above;
  const double low = passes_[below].least();
  if (above == passes_.size()) {  // on from the last two that are known
    above = below;
    below = 0;
    if (above == 0) return low;
  }
  const double slope = std::max(0.0, passes_[above].least() - passes_[below].least()) /
                       static_cast<double>(above - below);
  return passes_[below].least() + slope * static_cast<double>(drafted - below);
}

std::size_t DraftLengths::choose(Source source, std::size_t most, double* rate) {
  // Of passes that a source is not tried again in, after it did not pay.
  constexpr std::size_t kRest = 24;
  most = std::min(most, options_.longest);
  *rate = 0;
  if (most == 0) return 0;
  if (!options_.adapts) {
    *rate = std::numeric_limits<double>::infinity();
    return most;
  }
  if (!passes_[0].known()) return 0;
  State& state = sources_[source];
  // By one token beyond the lengths that were measured, so that a guess costs little.
  std::size_t measured = 0;
  while (measured < most && passes_[measured].known()) ++measured;
  most = std::min(most, measured);
  // The first two drafts measure.
  const bool measures = state.counts.drafts < 2 || ++state.passes_without > kRest;
  const double match = state.matched / state.compared;
  const double own = state.token.known() ? state.token.least() : 0;
  double expected = 1, power = 1, best = 1 / passes_[0].least();
  std::size_t length = 0;
  for (std::size_t drafted = 1; drafted <= most; ++drafted) {
    power *= match;
    expected += power;
    const double seconds = static_cast<double>(drafted) * own + pass_seconds(drafted);
    if (expected / seconds <= best) continue;
    best = expected / seconds;
    length = drafted;
  }
  *rate = best;
  return length == 0 && measures ? 1 : length;
}

void DraftLengths::record(Source source, std::size_t drafted, std::size_t compared,
                          std::size_t accepted, double seconds) {
  constexpr double kFade = 0.98;  // for each token compared
  State& state = sources_[source];
  ++state.counts.drafts;
  state.counts.tokens += compared;
  state.counts.accepted += accepted;
  state.passes_without = 0;
  for (std::size_t i = 0; i < compared; ++i) {
    state.compared = kFade * state.compared + 1;
    state.matched = kFade * state.matched + (i < accepted ? 1 : 0);
  }
  if (source == kNetwork && drafted > 0) state.token.add(seconds / static_cast<double>(drafted));
}

void DraftLengths::record_pass(std::size_t drafted, double seconds) {
  passes_[drafted].add(seconds);
}

}  // namespace qalof::runtime
