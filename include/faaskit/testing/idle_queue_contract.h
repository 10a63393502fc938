// What "is an IdleQueue" means, as code. Every section is a sentence of the contract in port/idle_queue.h.
//
//     TEST_CASE("my idle queue keeps the IdleQueue contract") {
//       faaskit::testing::check_idle_queue_contract([](const HostExecutors& executors, auto clock) {
//         return make_my_queue(executors.shards.front(), clock);
//       });
//     }
//
// Two shards are there. Each section gets a queue of its own. The suite needs Catch2, version 2 or 3, which
// it includes itself; it waits for nothing but completions and never sleeps.
#pragma once

#include "faaskit/testing/contract/idle_queue_base.h"
#include "faaskit/testing/contract/idle_queue_calls.h"
#include "faaskit/testing/contract/idle_queue_hosts.h"
#include "faaskit/testing/contract/idle_queue_starts.h"
#include "faaskit/testing/contract/idle_queue_versions.h"

namespace faaskit::testing {

inline void check_idle_queue_contract(const MakeIdleQueue& make) {
  const auto on_stage = [&](auto act) {
    QueueStage stage(make);
    act(stage);
    const std::vector<std::string> none;
    CHECK(stage.broken_rules() == none);
  };
  SECTION("acquiring") { on_stage(contract::acquiring); }
  SECTION("starting") { on_stage(contract::starting); }
  SECTION("breaking") { on_stage(contract::breaking); }
  SECTION("settling") { on_stage(contract::settling); }
  SECTION("cancelling") { on_stage(contract::cancelling); }
  SECTION("restarting") { on_stage(contract::restarting); }
  SECTION("deploying") { on_stage(contract::deploying); }
  SECTION("removing") { on_stage(contract::removing); }
  SECTION("provisioning") { on_stage(contract::provisioning); }
  SECTION("hosting") { on_stage(contract::hosting); }
  SECTION("keeping going") { on_stage(contract::keeping_going); }
  SECTION("threads") { contract::hammering(make); }
}

}  // namespace faaskit::testing
