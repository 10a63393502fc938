// LocalHost: the sandboxes of this process. It makes them on request, admits calls to them, freezes and
// thaws them, and destroys what is in doubt.
//
// One owner: only this object writes their freezers and speaks on their channels, each on the thread of
// its home shard.
// Thread safety: every member from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/port/async.h"
#include "faaskit/port/channel.h"
#include "faaskit/port/clock.h"
#include "faaskit/port/code_store.h"
#include "faaskit/port/event_sink.h"
#include "faaskit/port/executors.h"
#include "faaskit/port/freezer.h"
#include "faaskit/port/idle_queue.h"
#include "faaskit/port/log_sink.h"
#include "faaskit/port/sandbox_factory.h"
#include "faaskit/port/sandbox_host.h"
#include "faaskit/port/start_queue.h"
#include "faaskit/provision/lifetime.h"
#include "faaskit/provision/sandbox_machine.h"
#include "faaskit/provision/start_machine.h"

namespace faaskit {

enum class FreezePolicy : std::uint8_t {
  at_once,      // after every call: nothing of a function runs between its calls
  after_grace,  // once it was idle for the grace time: busy sandboxes are spared the cycle
  never,
};

struct LocalHostOptions {
  FreezePolicy freeze = FreezePolicy::after_grace;
  // A freeze and thaw cost about one timer wake-up of the frozen process; under load they cost a quarter
  // to a half of the throughput, so a sandbox in steady use is left alone.
  std::chrono::milliseconds grace{15};
  StartLimits limits{};
  // Seats made and spares parked ahead of time, so that a start finds its cgroups ready. 0: none.
  std::uint32_t parked_seats = 4;
  // Kept of stdout and stderr for the caller, per invocation.
  std::size_t log_tail_bytes = 4096;
  // Passed to the LogSink per invocation; more is counted and dropped.
  std::size_t max_log_bytes = 256 << 10;
  // Passed to the LogSink per sandbox and second, whatever its invocations may write each: short calls that
  // talk must not fill the disk. Counted in whole seconds; more is counted and dropped.
  std::size_t max_log_bytes_per_second = 1 << 20;
  // Measures the peak memory of every call, at the price of a write before it and a read after it: some ten
  // microseconds.
  bool measure_memory = true;
  // How often the host tells the queue what it holds.
  std::chrono::milliseconds announce_period = std::chrono::seconds(5);
};

struct LocalHostParts {
  IdleQueue* idle = nullptr;
  StartQueue* starts = nullptr;
  std::shared_ptr<Freezer> freezer{};
  std::shared_ptr<SandboxFactory> factory{};
  std::shared_ptr<ChannelFactory> channels{};
  std::shared_ptr<Clock> clock{};       // null: the steady clock
  std::shared_ptr<EventSink> events{};  // may be null
  std::shared_ptr<LogSink> logs{};      // may be null
  std::shared_ptr<CodeStore> codes{};   // may be null: then every function names its code_path
};

// A call made to a fresh sandbox before it is offered for the first time, so that lazy initialisation is over
// by then. A failure fails the start.
struct WarmUp {
  Bytes payload{};
  std::string content_type{};
  Metadata metadata{};
  std::chrono::milliseconds timeout = std::chrono::seconds(10);
};

struct HostedFunction {
  FunctionHandle handle{};
  FunctionSpec spec{};
  // From the CodeStore: opened for every start, and kept as long as the sandbox lives. nullopt: the spec's
  // code_path.
  std::optional<CodeId> code{};
  std::vector<WarmUp> warm_up{};  // in order, all before the first offer
  // An idle sandbox is destroyed after this long.
  std::chrono::milliseconds keep_alive = std::chrono::minutes(10);
  Lifetime lifetime{};
};

// One sandbox, as its host sees it.
struct SandboxView {
  SandboxId id{};
  std::string function{};
  Version version = 0;
  HostState state = HostState::starting;
  std::uint64_t generation = 0;  // changes with every change of state
  ShardIndex home_shard = 0;
  pid_t pid = -1;
  std::string cgroup{};
  std::uint64_t uses = 0;
  std::chrono::nanoseconds age{};  // since its start was claimed
};

struct StopParams {};

class FAASKIT_EXPORT LocalHost : public SandboxHost {
 public:
  // REQUIRES: async_stop() has completed, or none of its executors runs any more. In that second case what
  // is left is killed, and waited for up to 2 s; the freezer removes the rest when it goes.
  ~LocalHost() override = default;

  virtual HostId id() const = 0;

  // Makes a function version known; later starts of it use this spec. The caller then defines it in the
  // queue. kInvalidArgument, kNotFound, kFailedPrecondition: what is wrong with the spec, or what it demands
  // and this machine does not provide; or what the CodeStore says of its code, which is opened for the check:
  // this may block. A start of a version unknown here is not made; an event says so. Sandboxes of older
  // versions that are still starting are ended; idle ones are by the queue.
  virtual absl::Status deploy(HostedFunction function) = 0;

  // Forgets a function: no start of it is made any more, those that wait here are dropped, sandboxes that are
  // still starting are ended. Idle sandboxes are ended by the queue's removal. OK if it is not known.
  virtual absl::Status remove(std::string_view function) = 0;

  virtual std::vector<SandboxView> sandboxes() const = 0;
  // What the kernel itself says of one sandbox, together with the host's view before and after the
  // question; nullopt if it is gone or the kernel cannot say. Waits for the sandbox's shard, up to 2 s.
  // REQUIRES: not called on a shard's thread.
  struct KernelCheck {
    SandboxView before{};
    bool frozen = false;
    SandboxView after{};
  };
  virtual std::optional<KernelCheck> check_kernel(SandboxId id) const = 0;

  // Destroys one sandbox, whatever it does. OK once it is asked for. kNotFound.
  virtual absl::Status destroy(SandboxId id) = 0;

  // Takes no more starts and calls, ends everything, and completes when all is reaped and removed.
  // Completion signature: void(absl::Status). Again: completes as the first does.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_stop(Token&& token) {
    return initiate<absl::Status>(static_cast<LocalHost*>(this), &LocalHost::do_stop, StopParams{},
                                  std::forward<Token>(token));
  }

 private:
  virtual void do_stop(StopParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
};

// kInvalidArgument: a missing part, no shards, or an option at fault.
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<LocalHost>> make_local_host(HostExecutors executors,
                                                                          LocalHostParts parts,
                                                                          LocalHostOptions options = {});

}  // namespace faaskit
