// The hash maps and the line of waiters of a FunctionQueue. Private: its source files share it.
#pragma once

#include <algorithm>
#include <tuple>
#include <vector>

#include <absl/container/btree_map.h>
#include <absl/container/btree_set.h>
#include <absl/container/flat_hash_map.h>

#include "faaskit/core/function_queue.h"

namespace faaskit {

struct FunctionQueue::Tables {
  // By (priority, ticket); the request only tells apart two that bring the same kept ticket.
  struct Before {
    bool operator()(const Waiter* a, const Waiter* b) const {
      return std::tie(a->priority, a->ticket, a->request) < std::tie(b->priority, b->ticket, b->request);
    }
  };
  // Owning. Few per function, and a host's word about one arrives once per call.
  absl::flat_hash_map<SandboxId, Record*> records;
  // Leases granted by acquire() and hand-over, so that a repeated or cancelled request finds its own.
  absl::flat_hash_map<RequestId, Record*> leases;
  absl::btree_set<Waiter*, Before> line;
  absl::flat_hash_map<RequestId, Waiter*> waiters;
  absl::btree_map<std::uint64_t, Start> starts;  // by StartId::number
  // Gone while pinned.
  std::vector<Record*> zombies;

  // In the order of their ids: what is told outside must not depend on how a process hashes.
  template <class Want>
  std::vector<Record*> pick(Want want) const {
    std::vector<Record*> picked;
    for (const auto& [id, record] : records) {
      if (want(*record)) picked.push_back(record);
    }
    std::sort(picked.begin(), picked.end(),
              [](const Record* a, const Record* b) { return a->sandbox.id < b->sandbox.id; });
    return picked;
  }
};

}  // namespace faaskit
