// The precision range test of cyclic precision training (Fu et al., ICLR 2021, section 3.3): finds
// the fewest bits at which training still learns (docs/numerics.md, "Schedules").
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "train/options.h"

namespace qalof::train {

/// The lowest width that is probed.
inline constexpr int kFewestBits = 2;

/// A short training from the run's starting values at one width.
struct RangeProbe {
  int bits = 0;
  double first_loss = 0, last_loss = 0;  // means over its first and last steps

  double fall() const { return first_loss - last_loss; }
  /// Both losses are 0 where the training diverged.
  bool diverged() const { return first_loss == 0 && last_loss == 0; }
};

struct RangeTest {
  int min_bits = 0;
  std::vector<RangeProbe> probes;  // --max_bits, then from 2 bits up
};

/// Probes widths for `cpt`; options.widths.min_bits is not read. What a probe learns is discarded,
/// and the same options and examples give the same numbers. Uses observer and should_stop of hooks:
/// Error{kInterrupted} where should_stop returns true. Error{kUsage} where the loss does not fall
/// at max_bits, {kDiverged} where it is not finite there.
RangeTest find_min_bits(const std::shared_ptr<const weights::BaseModel>& base,
                        const TrainOptions& options, const Windows& examples,
                        const TrainHooks& hooks);

}  // namespace qalof::train
