// Program: a list of system calls for a spare to run (spawner/protocol.h), each with the words an error is
// reported in.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

#include "spawner/protocol.h"

namespace faaskit::process {

class Program {
 public:
  // Implicit from what a system call takes: the programs read like the calls they make.
  // NOLINTBEGIN(google-explicit-constructor,hicpp-explicit-conversions)
  class Arg {
   public:
    Arg(int value) : Arg(static_cast<std::uint64_t>(static_cast<std::int64_t>(value))) {}
    Arg(unsigned value) : Arg(static_cast<std::uint64_t>(value)) {}
    Arg(long value) : Arg(static_cast<std::uint64_t>(value)) {}
    Arg(std::uint64_t value) : kind_(kArgImmediate), value_(value) {}
    Arg(const char* text) : Arg(std::string(text)) {}
    Arg(std::string text) : kind_(kArgData), bytes_(std::move(text)) { bytes_.push_back('\0'); }
    // NOLINTEND(google-explicit-constructor,hicpp-explicit-conversions)

   private:
    friend class Program;
    Arg() = default;
    SpawnerArg kind_ = kArgImmediate;
    std::uint64_t value_ = 0;
    std::string bytes_;
    std::vector<std::string> table_;
  };

  static Arg slot(int index);
  static Arg fd(int descriptor);
  static Arg bytes(std::string_view bytes);
  // A count and the address of so many things, as struct sock_fprog has them.
  template <typename T>
  static Arg block(const std::vector<T>& things) {
    Arg arg =
        bytes(std::string_view(reinterpret_cast<const char*>(things.data()), things.size() * sizeof(T)));
    arg.kind_ = kArgBlock;
    arg.value_ = things.size();
    return arg;
  }
  static Arg table(std::vector<std::string> texts);
  template <typename T>
  static Arg object(const T& value) {
    return bytes(std::string_view(reinterpret_cast<const char*>(&value), sizeof value));
  }

  // `label` completes "set-up of the sandbox: ...".
  Program& call(std::string label, long number, std::vector<Arg> args, int save = -1, int tolerated = 0);

  // The spare has done all of it / closed its end, as execve makes it. `control` is blocking.
  //   kUnavailable       a step failed: its label and errno; or the spare ended
  //   kDeadlineExceeded  no answer in time
  absl::Status run(int control, std::chrono::milliseconds timeout) const;
  absl::Status run_and_become(int control, std::chrono::milliseconds timeout) const;

 private:
  std::uint64_t add_data(std::string_view bytes);
  absl::Status send(int control, std::chrono::milliseconds timeout) const;
  // OK, or the failure reported; `closed` is set if the spare's end is closed.
  absl::Status receive(int control, std::chrono::milliseconds timeout, bool& closed) const;

  std::vector<SpawnerCall> calls_;
  std::vector<std::string> labels_;
  std::string data_;
  std::vector<int> fds_;
};

}  // namespace faaskit::process
