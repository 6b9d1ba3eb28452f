// Where a hub is, where its files are kept, and how patient a download is: the variables that
// Python's huggingface_hub reads.
#pragma once

#include <string>

namespace qalof::io {

struct HubSettings {
  std::string endpoint = "https://huggingface.co";  // no slash at the end
  std::string cache;                                // directory with models--org--name below it
  std::string token;                                // sent to the endpoint alone; "" = none
  std::string certificates;  // file with certificates to trust; "" = those of the system
  bool offline = false;      // no connection, whatever is missing
  bool symlinks = true;      // in snapshots; else files stand there themselves
  double connect_seconds = 10;
  double silence_seconds = 10;  // without a byte
  double retry_seconds = 0.5;   // before the second try; doubles with each
};

/// The settings of the environment (docs/hub.md). Error{kUsage} for an endpoint that is neither
/// https nor on this machine, and for a token that no header can hold, which is not shown.
HubSettings hub_settings();

}  // namespace qalof::io
