// Private: the envelopes a worker reads and writes (src/wire/envelope.proto), by hand. Linking Protobuf
// would cost every start of a sandbox 1.7 ms instead of 0.55; a test holds the two against each other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "faaskit/worker/worker.h"

namespace faaskit::worker {

struct CallEnvelope {
  std::uint64_t token = 0;
  std::uint64_t invoker = 0;
  std::uint64_t sequence = 0;
  std::uint32_t attempt = 0;
  std::uint64_t timeout_us = 0;
  std::uint64_t idle_for_us = 0;
  std::string_view trace;
  std::string_view content_type;
  std::uint64_t payload_bytes = 0;
  std::uint32_t max_frame_bytes = 0;
  std::uint64_t window_bytes = 0;
  std::uint64_t max_reply_bytes = 0;
  std::vector<std::pair<std::string_view, std::string_view>> metadata{};
  bool streams = false;
};

// Views point into `bytes`. False: not a Protobuf message. Unknown fields are skipped.
bool decode_call(std::string_view bytes, CallEnvelope& call);
bool decode_credit(std::string_view bytes, std::uint64_t& credit);

// Each appends to `out`.
void encode_hello(std::string& out, std::uint32_t version, std::uint64_t capabilities,
                  std::string_view runtime, std::uint64_t runtime_us = 0, std::uint64_t init_us = 0);
// Without `payload_bytes`: of unknown length.
void encode_reply_head(std::string& out, std::string_view content_type,
                       std::optional<std::uint64_t> payload_bytes, const Metadata& metadata = {});
void encode_end(std::string& out, std::uint32_t status, std::string_view message,
                std::string_view content_type, std::uint64_t run_time_us, const Metadata& metadata = {});

}  // namespace faaskit::worker
