#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <absl/strings/str_cat.h>

#include "faaskit/code/checks.h"
#include "support/errno_status.h"
#include "support/random.h"
#include "support/time.h"

namespace faaskit::code {
namespace {

using Clock = std::chrono::steady_clock;

// For the end of what was told to end, and of its groups.
constexpr std::chrono::seconds kEndTimeout{5};

int until(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

// Printable: what a sandbox writes is a stranger's, and goes into answers and logs.
std::string cleaned(std::string text) {
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte >= 0x7f) c = '?';
  }
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

// One look, from the making of its sandbox to the removal of the last trace.
class Look {
 public:
  Look(SandboxFactory& factory, const SyntaxCheckOptions& options, std::unique_ptr<Seat> seat)
      : factory_(factory), options_(options), seat_(std::move(seat)), id_{.host = random_id(), .number = 1} {}
  Look(const Look&) = delete;
  Look& operator=(const Look&) = delete;
  ~Look() {
    (void)seat_->kill();
    if (handles_.pidfd && ended_.empty()) {
      // Where there is no group to kill.
      (void)::syscall(SYS_pidfd_send_signal, handles_.pidfd.get(), SIGKILL, nullptr, 0);
      (void)wait(after(Clock::now(), kEndTimeout));
    }
    if (handles_.pidfd && !ended_.empty()) factory_.released(id_);
    const Clock::time_point deadline = after(Clock::now(), kEndTimeout);
    // What it had forked dies a moment later; nothing tells when.
    while (seat_->remove().code() == absl::StatusCode::kFailedPrecondition && Clock::now() < deadline)
      (void)::poll(nullptr, 0, 2);
  }

  absl::Status run(const FunctionSpec& spec) {
    CreateParams params;
    params.spec = &spec;
    params.purpose = Purpose::check;
    params.id = id_;
    params.seat = seat_.get();
    const Clock::time_point deadline = after(Clock::now(), options_.timeout);
    absl::StatusOr<SandboxHandles> made = factory_.create(params);
    if (!made.ok()) return made.status();
    handles_ = *std::move(made);
    if (!wait(deadline)) {
      return absl::DeadlineExceededError(absl::StrCat("not done after ", options_.timeout.count(), " ms",
                                                      output_.empty() ? "" : ": ", cleaned(output_)));
    }
    if (ended_ == "exited with status 0") return absl::OkStatus();
    if (ended_ == "exited with status 1")
      return absl::InvalidArgumentError(output_.empty() ? "at fault, and nothing said" : cleaned(output_));
    // Trying again would not help it.
    if (seat_->usage().oom_killed) {
      return absl::InvalidArgumentError(absl::StrCat("the runtime ", ended_, ": its memory limit, ",
                                                     spec.limits.memory_bytes,
                                                     " bytes, is too little to read the code"));
    }
    return absl::UnavailableError(
        absl::StrCat("the runtime ", ended_, output_.empty() ? "" : ": ", cleaned(output_)));
  }

 private:
  // Until it has ended and been reaped, or the deadline.
  bool wait(Clock::time_point deadline) {
    while (ended_.empty()) {
      std::array<pollfd, 2> watched{{{.fd = handles_.pidfd.get(), .events = POLLIN, .revents = 0},
                                     {.fd = handles_.output.get(), .events = POLLIN, .revents = 0}}};
      const int ready = ::poll(watched.data(), watched.size(), until(deadline));
      // The output first: what was written before the end counts.
      if (ready > 0 && watched[1].revents != 0) read_output();
      if (ready > 0 && watched[0].revents != 0) ended_ = factory_.reap(handles_.pidfd.get());
      if (ended_.empty() && Clock::now() >= deadline) return false;
    }
    read_output();
    return true;
  }

  void read_output() {
    std::array<char, 4096> chunk;
    // Bounded for each turn: a flood must not keep us from the deadline.
    for (int i = 0; i < 64 && handles_.output; ++i) {
      const ssize_t n = ::read(handles_.output.get(), chunk.data(), chunk.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) return handles_.output.reset();  // else it would be ready for ever
      const std::size_t room = options_.max_output_bytes - output_.size();
      output_.append(chunk.data(), std::min(room, static_cast<std::size_t>(n)));
    }
  }

  SandboxFactory& factory_;
  const SyntaxCheckOptions& options_;
  std::unique_ptr<Seat> seat_;
  SandboxId id_;
  SandboxHandles handles_;
  std::string output_;
  std::string ended_;
};

class SyntaxCheck final : public DeployCheck {
 public:
  SyntaxCheck(SandboxFactory& factory, Freezer& freezer, SyntaxCheckOptions options)
      : factory_(factory), freezer_(freezer), options_(options) {}
  std::string_view name() const override { return "syntax"; }

  absl::Status check(const DeployCandidate& candidate) override {
    if (candidate.spec->runtime == "exec") return absl::OkStatus();
    FunctionSpec spec = *candidate.spec;
    spec.network = Network::none;
    absl::StatusOr<std::unique_ptr<Seat>> seat =
        freezer_.prepare({.name = absl::StrCat("check-", absl::Hex(random_id())), .limits = spec.limits});
    if (!seat.ok()) return seat.status();
    return Look(factory_, options_, *std::move(seat)).run(spec);
  }

 private:
  SandboxFactory& factory_;
  Freezer& freezer_;
  const SyntaxCheckOptions options_;
};

}  // namespace

std::shared_ptr<DeployCheck> make_syntax_check(SandboxFactory& factory, Freezer& freezer,
                                               SyntaxCheckOptions options) {
  return std::make_shared<SyntaxCheck>(factory, freezer, options);
}

}  // namespace faaskit::code
