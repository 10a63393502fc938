// If these failed, workers and hosts would not understand each other: one side writes by hand, the other
// with Protobuf.
#include "worker/envelope.h"

#include <random>
#include <vector>

#include "catch.hpp"
#include "wire/envelope.pb.h"

namespace faaskit::worker {
namespace {

namespace pb = wire::pb;

class Random {
 public:
  explicit Random(std::uint64_t seed) : rng_(seed) {}
  // All magnitudes alike, so that every length of a varint occurs; zero often.
  std::uint64_t number() { return rng_() % 4 == 0 ? 0 : rng_() >> (rng_() % 64); }
  std::uint32_t small() { return static_cast<std::uint32_t>(number()); }
  std::string bytes() {
    std::string out(rng_() % 3 == 0 ? 0 : rng_() % 300, '\0');
    for (char& c : out) c = static_cast<char>(rng_());
    return out;
  }

 private:
  std::mt19937_64 rng_;
};

constexpr std::uint64_t kSeed = 1515;

}  // namespace

TEST_CASE("what Protobuf writes, the hand reads", "[worker][property]") {
  Random random(kSeed);
  for (int round = 0; round < 2000; ++round) {
    CAPTURE(kSeed, round);
    pb::Call want;
    want.set_token(random.number());
    want.set_invoker(random.number());
    want.set_sequence(random.number());
    want.set_attempt(random.small());
    want.set_timeout_us(random.number());
    want.set_idle_for_us(random.number());
    want.set_trace(random.bytes());
    want.set_content_type(random.bytes());
    want.set_payload_bytes(random.number());
    want.set_max_frame_bytes(random.small());
    want.set_window_bytes(random.number());
    want.set_max_reply_bytes(random.number());
    want.set_streams(random.small() % 2);
    for (std::uint64_t i = random.number() % 4; i > 0; --i) {
      pb::Pair& pair = *want.add_metadata();
      pair.set_name(random.bytes());
      pair.set_value(random.bytes());
    }
    const std::string bytes = want.SerializeAsString();
    CallEnvelope got;
    REQUIRE(decode_call(bytes, got));
    CHECK(got.token == want.token());
    CHECK(got.invoker == want.invoker());
    CHECK(got.sequence == want.sequence());
    CHECK(got.attempt == want.attempt());
    CHECK(got.timeout_us == want.timeout_us());
    CHECK(got.idle_for_us == want.idle_for_us());
    CHECK(got.trace == std::string(want.trace()));
    CHECK(got.content_type == std::string(want.content_type()));
    CHECK(got.payload_bytes == want.payload_bytes());
    CHECK(got.max_frame_bytes == want.max_frame_bytes());
    CHECK(got.window_bytes == want.window_bytes());
    CHECK(got.max_reply_bytes == want.max_reply_bytes());
    CHECK(got.streams == (want.streams() != 0));
    REQUIRE(got.metadata.size() == static_cast<std::size_t>(want.metadata_size()));
    for (int i = 0; i < want.metadata_size(); ++i) {
      CHECK(got.metadata[static_cast<std::size_t>(i)].first == std::string(want.metadata(i).name()));
      CHECK(got.metadata[static_cast<std::size_t>(i)].second == std::string(want.metadata(i).value()));
    }

    pb::Credit credit;
    credit.set_bytes(random.number());
    std::uint64_t value = 1;
    REQUIRE(decode_credit(credit.SerializeAsString(), value));
    CHECK(value == credit.bytes());
  }
}

TEST_CASE("what the hand writes is byte for byte what Protobuf writes", "[worker][property]") {
  Random random(kSeed);
  for (int round = 0; round < 2000; ++round) {
    CAPTURE(kSeed, round);
    std::string out;

    pb::Hello hello;
    const std::uint32_t version = random.small();
    hello.set_min_version(version);
    hello.set_max_version(version);
    hello.set_capabilities(random.number());
    hello.set_runtime("c++");
    hello.set_runtime_us(random.number());
    hello.set_init_us(random.number());
    encode_hello(out, version, hello.capabilities(), "c++", hello.runtime_us(), hello.init_us());
    CHECK(out == hello.SerializeAsString());

    pb::ReplyHead head;
    head.set_content_type(random.bytes());
    head.set_payload_bytes(random.number());
    Metadata metadata;
    for (std::uint64_t i = random.number() % 4; i > 0; --i) {
      metadata.emplace_back(random.bytes(), random.bytes());
    }
    const auto add = [&metadata](auto& message) {
      for (const auto& [name, value] : metadata) {
        pb::Pair& pair = *message.add_metadata();
        pair.set_name(name);
        pair.set_value(value);
      }
    };
    add(head);
    out.clear();
    encode_reply_head(out, std::string(head.content_type()), head.payload_bytes(), metadata);
    CHECK(out == head.SerializeAsString());
    head.set_payload_bytes(0);
    head.set_unknown_length(1);
    out.clear();
    encode_reply_head(out, std::string(head.content_type()), std::nullopt, metadata);
    CHECK(out == head.SerializeAsString());

    pb::End end;
    end.set_status(random.small());
    end.set_message(random.bytes());
    end.set_content_type(random.bytes());
    end.set_run_time_us(random.number());
    add(end);
    out.clear();
    encode_end(out, end.status(), std::string(end.message()), std::string(end.content_type()),
               end.run_time_us(), metadata);
    CHECK(out == end.SerializeAsString());
  }
}

TEST_CASE("the hand refuses what Protobuf refuses, and never reads beyond the end", "[worker][property]") {
  std::mt19937_64 rng(kSeed);
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes(rng() % 24, '\0');
    for (char& c : bytes) c = static_cast<char>(rng());
    // An exact copy on the heap, so that a sanitizer sees a read beyond it.
    const std::vector<char> exact(bytes.begin(), bytes.end());
    CallEnvelope call;
    const bool ours = decode_call({exact.data(), exact.size()}, call);
    CAPTURE(kSeed, round);
    // Groups (wire types 3 and 4) are gone from proto3; the hand refuses them, Protobuf skips them. So
    // only one direction can be asked for.
    if (ours) CHECK(pb::Call().ParseFromString(bytes));
    refused += ours ? 0 : 1;
  }
  CHECK(refused > 0);
}

TEST_CASE("fields of tomorrow are skipped", "[worker]") {
  std::string bytes;
  pb::Call call;
  call.set_token(5);
  bytes = call.SerializeAsString() + std::string(
                                         "\xf8\x01\x07"
                                         "\xfa\x01\x03"
                                         "abc",
                                         9);
  CallEnvelope got;
  REQUIRE(decode_call(bytes, got));
  CHECK(got.token == 5);
}

TEST_CASE("a field of ours with another type is none of ours", "[worker]") {
  pb::Call call;
  call.set_trace("trace");
  call.set_payload_bytes(3);
  // payload_bytes as bytes, content_type and trace as numbers, invoker as a varint.
  const std::string bytes = call.SerializeAsString() + std::string("\x4a\x02zz\x40\x01\x38\x02\x10\x09", 10);
  pb::Call theirs;
  REQUIRE(theirs.ParseFromString(bytes));
  CallEnvelope got;
  REQUIRE(decode_call(bytes, got));
  CHECK(got.payload_bytes == theirs.payload_bytes());
  CHECK(got.trace == "trace");
  CHECK(got.content_type.empty());
  CHECK(got.invoker == 0);
  CHECK(theirs.invoker() == 0);
}

}  // namespace faaskit::worker
