// Catch2, version 2 or 3, and what the parts of the IdleQueue contract share. Include idle_queue_contract.h.
#pragma once

#include <chrono>
#include <string>

#if !defined(CATCH_VERSION_MAJOR)
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
#endif

#include "faaskit/testing/queue_stage.h"

namespace faaskit::testing::contract {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Leasing = absl::StatusOr<Lease>;

inline bool says(const absl::Status& status, const std::string& text) {
  return status.ToString().find(text) != std::string::npos;
}

inline FunctionConfig config(std::uint32_t max_sandboxes = 16, StartPolicy policy = StartPolicy::race) {
  FunctionConfig config;
  config.caps.max_sandboxes = max_sandboxes;
  config.policy = policy;
  return config;
}

// A fresh sandbox serves the first waiter: the usual beginning.
inline Lease cold_start(QueueStage& stage, std::uint64_t sequence, std::uint64_t number) {
  auto waiting = stage.acquire(stage.call(sequence));
  REQUIRE(stage.make(stage.next_start(), stage.sandbox(number)).ok());
  return stage.lease(std::move(waiting));
}

}  // namespace faaskit::testing::contract
