// HostProtocol: the host's side of a channel as a pure state machine. Bytes of the sandbox in, events
// out; no socket, no clock, no handler. Everything the sandbox says is checked here.
//
// States: expects HELLO -> idle <-> in call, idle <-> pinging; any -> failed. One call or ping at a time.
// Accepted from the sandbox:
//   expecting hello   HELLO, once, first
//   in call           LOG and the reply, of this call's id only: END alone; or REPLY_HEAD, BODY..., END
//                     with exactly the bytes the head announced, BODY only within the credit given.
//                     With a stream the length may be unknown, and an END with an error cuts the reply short
//   idle              nothing: a late or second answer is a broken sandbox
//   pinging           PONG alone, once, with the nonce of the ping at hand
// Frames of unknown type are skipped if they say so, and break the protocol otherwise.
// Work: what is no part of an answer (LOG, skipped frames) has a budget of frames and bytes for each call
// and each idle spell, and BODY frames carry a least mean of bytes; beyond it the protocol is broken. One
// sandbox must not buy its shard's time with frames that cost it next to nothing. The small frames that a
// streamed reply may have are handed on together, as far as they came together.
// Credit: for an assembled reply as it is read, for a streamed one as it is taken.
// Memory: one reply (max_reply_bytes) and one envelope; of a streamed one at most a window.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

#include "faaskit/port/channel.h"
#include "wire/frame_decoder.h"

namespace faaskit::wire {

class HostProtocol {
 public:
  enum class Event : std::uint8_t {
    need_input,  // `input` is used up
    hello,       // hello()
    head,        // take_head(): a streamed reply begins
    body,        // take_body(): whole frames of it
    reply,       // take_reply(); idle again
    pong,        // the ping was answered; idle again
    failed,      // error(); final
  };

  explicit HostProtocol(const ChannelLimits& limits);
  ~HostProtocol();

  // Reads on until something happened; what was used is taken off the front of `input`.
  Event receive(std::span<const std::byte>& input);

  const Hello& hello() const { return hello_; }
  ReplyHead take_head();
  Bytes take_body();
  ChannelReply take_reply() { return std::move(reply_); }
  const absl::Status& error() const { return error_; }

  // Checks a call against the limits and begins it. On success head() is its header and envelope, until
  // the next call. kInvalidArgument: a limit is exceeded, nothing happened.
  // REQUIRES: idle().
  absl::Status begin_call(const ChannelCall& call);
  std::span<const std::byte> head() const { return head_; }
  std::uint64_t call_id() const { return call_id_; }
  // While part of the call is still to be sent, any part of an answer breaks the protocol: whoever writes
  // the frames says so. After begin_call() the call counts as sent.
  void set_sending(bool sending) { sending_ = sending; }

  // Begins a ping: its frame is owed like credit, see take_control().
  // REQUIRES: idle().
  void begin_ping();

  bool idle() const { return state_ == State::idle; }
  bool in_call() const { return state_ == State::in_call; }
  bool failed() const { return state_ == State::failed; }

  // So many bytes given out by take_body() were taken: the sandbox may send as many again.
  // REQUIRES: of the call in flight.
  void taken(std::uint64_t bytes);

  // Frames the host owes the sandbox (credit, a ping); to be sent before anything else. Empty most of the
  // time.
  bool has_control() const { return !control_.empty(); }
  std::vector<std::byte> take_control();

  // The peer's end was reported by ECONNRESET: it died with unread bytes in its socket. True if those
  // prove that the call in flight did not begin. Workers dispatch whole calls only, and read in order: so
  // unless something was sent *after* the call, the unread bytes include the call's last one. Having
  // heard anything of the call refutes it. A ping before the call was answered, hence read, and none can
  // be sent in a call. A runtime that acts on what it merely peeked at (MSG_PEEK)
  // breaks the rule this rests on, see docs/protocol.md.
  bool reset_proves_never_began() const { return in_call() && !heard_of_call_ && !sent_after_call_; }

  // What the stream was in the middle of, for the message when it ends: "in a frame", "in a reply".
  std::string_view position() const;

 private:
  enum class State : std::uint8_t { expect_hello, idle, pinging, in_call, failed };
  enum class Reply : std::uint8_t { none, head, last };
  struct Messages;

  // Each returns false after fail().
  bool begin_frame();
  bool take_payload(std::span<const std::byte> piece);
  bool end_frame(Event& event);
  bool on_hello();
  bool on_pong();
  bool on_head();
  bool on_body();
  bool on_end();
  bool take_content_type(std::string type);
  template <typename Pairs>
  bool take_metadata(Pairs& pairs);
  // So many bytes of a reply in several frames have come, or are about to.
  bool check_length(std::uint64_t bytes);
  bool check_credit(std::uint64_t bytes);
  // A frame beside the answer: LOG, or one to be skipped.
  bool on_aside();
  // The budget of the call, or of the idle spell, begins afresh.
  void renew_budget() { aside_frames_ = aside_bytes_ = 0; }
  bool fail(const std::string& what);
  bool unparsable();
  void grant_credit(std::uint64_t consumed);
  Event settle();

  const ChannelLimits limits_;
  FrameDecoder decoder_;
  std::unique_ptr<Messages> messages_;  // reused: a fresh message costs a third more
  State state_ = State::expect_hello;
  bool skipping_ = false;  // the current frame is of unknown type
  absl::Status error_;

  Hello hello_;

  std::uint64_t call_id_ = 0;
  // Counts the pings: it tells a late answer from the one waited for. Guessing it gains a sandbox nothing,
  // its answer is a claim in any case.
  std::uint64_t nonce_ = 0;
  std::vector<std::byte> head_;
  std::vector<std::byte> control_;
  bool heard_of_call_ = false;
  bool sent_after_call_ = false;
  bool sending_ = false;

  ChannelReply reply_;
  Reply reply_state_ = Reply::none;
  bool streams_ = false;         // the call has a stream
  bool streaming_ = false;       // and the reply goes to it
  bool part_whole_ = false;      // reply_.payload is whole frames for the stream
  bool settle_next_ = false;     // END has been read, and its last part is to be handed out first
  bool unknown_length_ = false;  // said the reply's head
  std::uint64_t reply_limit_ = 0;
  std::uint64_t announced_ = 0;  // by the reply's head
  std::uint64_t body_bytes_ = 0;
  std::uint64_t taken_ = 0;
  std::uint64_t granted_ = 0;  // body bytes allowed so far
  std::uint64_t body_frames_ = 0;
  std::uint64_t aside_frames_ = 0;
  std::uint64_t aside_bytes_ = 0;
};

}  // namespace faaskit::wire
