// ReplyStream: the receiving end of one reply that is too long, or too slow, to be waited for whole.
//
// A reply that travels as one frame never touches it: it is in the result. Otherwise head() comes first and
// once, then body() for each part, and the end is the result of the call, whose payload is then empty.
// An error result after head() means that the reply is cut short.
//
// Parts are as they came, at most about a window each; small ones that came together are handed on together.
//
// Thread: every member is called on the thread of the sandbox's home shard, one at a time, and must not
// block. Back-pressure: the sandbox may be a window (1 MiB) ahead of what was taken, no more. It waits in its
// write, busy, until the call's deadline.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/functional/any_invocable.h>

#include "faaskit/core/export.h"

namespace faaskit {

// Bytes the caller owns; no text is implied.
using Bytes = std::vector<std::byte>;

// What travels beside a payload, in order; names may repeat. Names that begin with ':' are ours:
//   of a call    ":method", ":path" (with its query), ":subject" (who was authenticated), ":scheme", ":host"
//   of a reply   ":status" (three digits, for whoever answers in HTTP)
// All others are headers as HTTP knows them, in lower case. At most 256 pairs, and
// 32 KiB of names and values together.
using Metadata = std::vector<std::pair<std::string, std::string>>;

struct ReplyHead {
  std::string content_type{};
  Metadata metadata{};
  // Of the whole payload; nullopt: not known before its end.
  std::optional<std::uint64_t> bytes{};
};

class FAASKIT_EXPORT ReplyStream {
 public:
  // Says "taken": the sandbox may send as many bytes again. Once, from any thread. Dropping it without a
  // call means the same.
  using Taken = absl::AnyInvocable<void()>;

  ReplyStream(const ReplyStream&) = delete;
  ReplyStream& operator=(const ReplyStream&) = delete;
  virtual ~ReplyStream() = default;
  virtual void head(ReplyHead head) = 0;
  virtual void body(Bytes part, Taken taken) = 0;

 protected:
  ReplyStream() = default;
};

}  // namespace faaskit
