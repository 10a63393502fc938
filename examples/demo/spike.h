// The spike: one client of a function that starts slowly becomes twenty. What they feel, with sandboxes
// started on demand, and with as many provisioned.
#pragma once

#include <functional>
#include <vector>

#include "door.h"
#include "report.h"

namespace demo {

class Spike {
 public:
  // `stop`: asked between calls; true ends the scene.
  Spike(Door& door, const Options& options, std::function<bool()> stop)
      : door_(door), options_(options), stop_(std::move(stop)) {}
  // False: not everything went as it must. What went wrong has been printed.
  bool run();
  const std::vector<SpikeRow>& rows() const { return rows_; }

 private:
  bool row(const std::string& name, std::uint32_t provisioned);
  bool step(SpikeRow& row);

  Door& door_;
  const Options& options_;
  const std::function<bool()> stop_;
  std::vector<SpikeRow> rows_;
};

}  // namespace demo
