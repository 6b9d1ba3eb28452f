// A model of two layers and two key/value heads, as plans see it.
#pragma once

#include "quant/plan.h"

namespace qalof::testing {

/// Linears of 48, 16, 64 and 64 weights in each layer.
inline quant::PlanTarget two_layers() {
  quant::PlanTarget target;
  for (const char* layer : {"h.0.", "h.1."}) {
    for (const char* name : {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}) {
      target.linear_names.push_back(std::string(layer) + name);
    }
    for (const std::size_t weights : {48U, 16U, 64U, 64U}) target.linear_weights.push_back(weights);
  }
  target.num_layers = 2;
  target.num_kv_heads = 2;
  return target;
}

}  // namespace qalof::testing
