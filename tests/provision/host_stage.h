// A host whose sandboxes are made of nothing but descriptors, on one loop and a clock that stands still: what
// no real kernel does on demand happens here when a test says so.
#pragma once

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "catch.hpp"
#include "faaskit/invoke/invoker.h"
#include "faaskit/memory/idle_queue.h"
#include "faaskit/memory/placement.h"
#include "faaskit/port/idle_queue_wrapper.h"
#include "faaskit/provision/local_host.h"
#include "faaskit/testing/manual_clock.h"

namespace faaskit::testing {

using namespace std::chrono_literals;

// What the parts below do, and what was done to them.
struct Script {
  int fail_freezes = 0;
  int unreadable = 0;        // how often frozen() cannot say
  bool removable = true;     // the groups of the dead
  bool mortal = true;        // what is killed ends at once
  bool die_at_thaw = false;  // the next that is thawed: killed before, while frozen by cgroup v1
  bool watchable = true;     // descriptors that the loop takes
  std::string missing_limits;
  int created = 0;
  int freezes = 0;
  int thaws = 0;
  int seats = 0;
  std::vector<Channel::CallHandler> calls;  // begun, not answered
  std::vector<ChannelCall> sent;            // the same calls, and those that are answered
  int pings = 0;
  bool hold_pings = false;
  std::vector<Channel::PingHandler> held_pings;
  Duration create_time{};  // and of it
  Duration exec_time{};
  Hello hello;
  bool hold_hellos = false;
  std::vector<absl::AnyInvocable<void()>> hellos;  // held
  std::vector<std::string> code_paths;             // what create() and check() were given
  int resets = 0;                                  // of the peak
  SeatUsage usage;
  UniqueFd output;             // of the sandbox made last: what it would write to
  UniqueFd end;                // of the same: written to, it has ended by itself
  std::vector<UniqueFd> ends;  // of all, in the order in which they were made
};

class FakeSeat final : public Seat {
 public:
  explicit FakeSeat(Script& script) : script_(script) { ++script_.seats; }
  ~FakeSeat() override { --script_.seats; }
  int cgroup_v2_fd() const override { return -1; }
  std::string path() const override { return {}; }
  absl::Status adopt(pid_t) override { return absl::OkStatus(); }
  absl::Status set_limits(const ResourceLimits&) override { return absl::OkStatus(); }
  absl::Status freeze() override {
    ++script_.freezes;
    if (script_.fail_freezes > 0) {
      --script_.fail_freezes;
      return absl::UnavailableError("freeze: injected");
    }
    return absl::OkStatus();
  }
  absl::Status thaw() override {
    ++script_.thaws;
    if (std::exchange(script_.die_at_thaw, false)) ::eventfd_write(end.get(), 1);
    return absl::OkStatus();
  }
  std::optional<bool> frozen() override {
    if (script_.unreadable > 0) {
      --script_.unreadable;
      return std::nullopt;
    }
    return true;
  }
  absl::Status kill() override {
    killed = true;
    if (end && script_.mortal) ::eventfd_write(end.get(), 1);
    return absl::OkStatus();
  }
  absl::Status remove() override {
    return script_.removable ? absl::OkStatus() : absl::FailedPreconditionError("somebody lives there");
  }
  void reset_peak() override { ++script_.resets; }
  SeatUsage usage() override { return script_.usage; }

  UniqueFd end;  // written to, it has ended
  bool killed = false;

 private:
  Script& script_;
};

class FakeFreezer final : public Freezer {
 public:
  explicit FakeFreezer(Script& script) : script_(script) {}
  FreezerKind kind() const override { return FreezerKind::cgroup_v2; }
  std::string_view limits_source() const override { return "fake"; }
  std::string missing_limits() const override { return script_.missing_limits; }
  absl::StatusOr<std::unique_ptr<Seat>> prepare(const SeatSpec&) override {
    return std::make_unique<FakeSeat>(script_);
  }

 private:
  Script& script_;
};

class FakeFactory final : public SandboxFactory {
 public:
  FakeFactory(Script& script, std::shared_ptr<ManualClock> clock)
      : script_(script), clock_(std::move(clock)) {}
  Isolation isolation() const override { return Isolation::process; }
  absl::Status check(const FunctionSpec& spec) override {
    script_.code_paths.push_back(spec.code_path);
    return absl::OkStatus();
  }
  absl::Status park(Seat&) override { return absl::OkStatus(); }
  absl::StatusOr<SandboxHandles> create(const CreateParams& params) override {
    ++script_.created;
    script_.code_paths.push_back(params.code_path);
    if (script_.create_time.count() > 0) clock_->advance(script_.create_time);
    FakeSeat& seat = static_cast<FakeSeat&>(*params.seat);
    SandboxHandles handles;
    handles.pid = script_.created;
    handles.channel.reset(::eventfd(0, EFD_NONBLOCK));
    handles.exec_time = script_.exec_time;
    int pipe[2];
    REQUIRE(::pipe2(pipe, O_NONBLOCK | O_CLOEXEC) == 0);
    handles.output.reset(pipe[0]);
    script_.output.reset(pipe[1]);
    if (script_.watchable) {
      handles.pidfd.reset(::eventfd(0, EFD_NONBLOCK));
      seat.end.reset(::dup(handles.pidfd.get()));
      script_.end.reset(::dup(handles.pidfd.get()));
      script_.ends.emplace_back(::dup(handles.pidfd.get()));
    } else {
      handles.pidfd.reset(1 << 24);  // not open
      unwatched_ = &seat;
    }
    return handles;
  }
  std::string reap(int pidfd) override {
    eventfd_t ended = 0;
    const bool killed = unwatched_ != nullptr ? unwatched_->killed : ::eventfd_read(pidfd, &ended) == 0;
    return killed ? "killed by signal 9" : "";
  }
  void released(SandboxId) override {}

 private:
  Script& script_;
  const std::shared_ptr<ManualClock> clock_;
  FakeSeat* unwatched_ = nullptr;
};

class FakeChannel final : public Channel {
 public:
  FakeChannel(Script& script, asio::any_io_executor home) : script_(script), home_(std::move(home)) {}
  void async_hello(HelloHandler done) override {
    auto say = [&script = script_, done = std::move(done)]() mutable { done(script.hello); };
    if (script_.hold_hellos) {
      script_.hellos.emplace_back(std::move(say));
    } else {
      asio::post(home_, std::move(say));
    }
  }
  void on_closed(ClosedHandler) override {}
  std::size_t begin_call(ChannelCall call, CallHandler done) override {
    script_.sent.push_back(std::move(call));
    script_.calls.push_back(std::move(done));
    return 0;
  }
  void ping(PingHandler done) override {
    ++script_.pings;
    if (script_.hold_pings) {
      script_.held_pings.push_back(std::move(done));
    } else {
      asio::post(home_, [done = std::move(done)]() mutable { done(absl::OkStatus()); });
    }
  }
  void close(absl::Status) override { open_ = false; }
  bool is_open() const override { return open_; }

 private:
  Script& script_;
  const asio::any_io_executor home_;
  bool open_ = true;
};

class FakeChannels final : public ChannelFactory {
 public:
  explicit FakeChannels(Script& script) : script_(script) {}
  absl::StatusOr<std::unique_ptr<Channel>> open(UniqueFd, asio::any_io_executor home) override {
    return std::make_unique<FakeChannel>(script_, std::move(home));
  }

 private:
  Script& script_;
};

// Lets a test hold answers back, lose them, and see what is announced.
class SlowQueue final : public IdleQueueWrapper {
 public:
  using IdleQueueWrapper::IdleQueueWrapper;
  bool hold_claims = false;
  bool hold_withdrawals = false;
  int lose_withdrawals = 0;
  int withdrawals = 0;
  std::vector<std::function<void()>> held;  // claims: goes on with it; withdrawals: answers kUnavailable
  std::vector<AnnounceParams> announced;
  std::vector<ClaimParams> claims;

 private:
  void do_claim(ClaimParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    claims.push_back(params);
    if (!hold_claims) return IdleQueueWrapper::do_claim(params, std::move(home), std::move(done));
    auto kept = std::make_shared<Handler<absl::Status>>(std::move(done));
    held.push_back(
        [this, params, home, kept] { IdleQueueWrapper::do_claim(params, home, std::move(*kept)); });
  }
  void do_withdraw(WithdrawParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    ++withdrawals;
    if (hold_withdrawals) {
      auto kept = std::make_shared<Handler<absl::Status>>(std::move(done));
      held.push_back(
          [home, kept] { complete<absl::Status>(home, std::move(*kept), absl::UnavailableError("lost")); });
    } else if (lose_withdrawals > 0) {
      --lose_withdrawals;
      complete<absl::Status>(home, std::move(done), absl::UnavailableError("lost"));
    } else {
      IdleQueueWrapper::do_withdraw(params, std::move(home), std::move(done));
    }
  }
  void do_announce(AnnounceParams params, asio::any_io_executor home,
                   Handler<absl::StatusOr<std::vector<HeldSandbox>>> done) override {
    announced.push_back(params);
    IdleQueueWrapper::do_announce(std::move(params), std::move(home), std::move(done));
  }
};

// Lets a test come between what a host has seen and what it does about it, as another shard's thread may.
class HookedStarts final : public StartQueue {
 public:
  explicit HookedStarts(std::unique_ptr<StartQueue> target) : target_(std::move(target)) {}
  executor_type get_executor() const override { return target_->get_executor(); }
  std::unique_ptr<Watch> serve(HostId host, asio::any_io_executor executor, StartsHandler starts) override {
    return target_->serve(host, std::move(executor), std::move(starts));
  }
  std::uint64_t load(HostId host) const override { return target_->load(host); }
  void report_load(HostId host, std::uint64_t load) override {
    target_->report_load(host, load);
    if (on_load) on_load(load);
  }
  std::function<void(std::uint64_t)> on_load;

 private:
  void do_push(PushParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->async_push(std::move(params), asio::bind_executor(home, std::move(done)));
  }
  const std::unique_ptr<StartQueue> target_;
};

class EventList final : public EventSink {
 public:
  void emit(Event event) override { events_.push_back(std::move(event)); }
  std::vector<Event> of(std::string_view name) const {
    std::vector<Event> found;
    for (const Event& event : events_) {
      if (event.name == name) found.push_back(event);
    }
    return found;
  }

 private:
  std::vector<Event> events_;
};

// Code that is there, or is not; opening it may take its time.
class FakeCodes final : public CodeStore {
 public:
  explicit FakeCodes(std::shared_ptr<ManualClock> clock) : clock_(std::move(clock)) {}
  absl::StatusOr<CodeId> admit(const CodeSource&) override { return absl::UnimplementedError("fake"); }
  absl::StatusOr<std::shared_ptr<CodeLease>> open(const CodeId& id) override {
    if (open_time.count() > 0) clock_->advance(open_time);
    if (!fault.ok()) return fault;
    return std::make_shared<Opened>(*this, "/code/" + id.name);
  }
  absl::Status forget(const CodeId&) override { return absl::OkStatus(); }
  CodeStats stats() const override { return {}; }

  Duration open_time{};
  absl::Status fault;
  int leased = 0;

 private:
  class Opened final : public CodeLease {
   public:
    Opened(FakeCodes& store, std::string path) : store_(store), path_(std::move(path)) { ++store_.leased; }
    ~Opened() override { --store_.leased; }
    const std::string& path() const override { return path_; }

   private:
    FakeCodes& store_;
    const std::string path_;
  };
  const std::shared_ptr<ManualClock> clock_;
};

class LogList final : public LogSink {
 public:
  void write(LogRecord record) override { records.push_back(std::move(record)); }
  // What was written during `request`; of none: what is the sandbox's own.
  std::string of(const RequestId& request) const {
    std::string text;
    for (const LogRecord& record : records) {
      if (record.request == request) text += record.bytes;
    }
    return text;
  }
  std::vector<LogRecord> records;
};

class RecordList final : public RecordSink {
 public:
  void write(const ExecutionRecord& record) override { records.push_back(record); }
  std::vector<ExecutionRecord> records;
};

struct HostStage {
  explicit HostStage(LocalHostOptions options = {}, bool with_codes = true) {
    executors.shards = {io.get_executor()};
    executors.blocking = io.get_executor();
    idle = std::make_shared<SlowQueue>(
        std::shared_ptr<IdleQueue>(memory::make_idle_queue(io.get_executor(), {.clock = clock}).value()));
    starts = std::make_unique<HookedStarts>(memory::make_start_queue(io.get_executor()));
    LocalHostParts parts;
    parts.idle = idle.get();
    parts.starts = starts.get();
    parts.freezer = std::make_shared<FakeFreezer>(script);
    parts.factory = std::make_shared<FakeFactory>(script, clock);
    parts.channels = std::make_shared<FakeChannels>(script);
    parts.clock = clock;
    parts.events = events;
    parts.logs = logs;
    if (with_codes) parts.codes = codes;
    options.parked_seats = 0;
    host = make_local_host(executors, std::move(parts), options).value();
    slots = memory::make_slot_directory({host->id()}).value();
    invoker = make_invoker(executors, {.idle = idle.get(),
                                       .starts = starts.get(),
                                       .slots = slots.get(),
                                       .host = host.get(),
                                       .clock = clock,
                                       .records = records})
                  .value();
    run();
  }
  // The loop does not run any more: what is left is given up with the host.
  ~HostStage() {
    run();
    invoker.reset();
    host.reset();
  }

  void run() {
    do io.restart();
    while (io.poll() > 0);
  }
  void advance(Duration step) {
    run();
    clock->advance(step);
    run();
  }
  // In small steps, so that what one timer brings can arm the next.
  void pass(Duration time, Duration step = 10ms) {
    for (Duration passed{}; passed < time; passed += step) advance(step);
  }

  void deploy(const std::string& name, std::chrono::milliseconds keep_alive = 10min) {
    HostedFunction hosted;
    hosted.keep_alive = keep_alive;
    deploy(name, std::move(hosted));
  }
  void deploy(const std::string& name, HostedFunction hosted) {
    hosted.handle = idle->resolve(name).value();
    hosted.spec.name = name;
    hosted.spec.version = 1;
    REQUIRE(host->deploy(std::move(hosted)).ToString() == "OK");
    idle->async_define({.function = idle->resolve(name).value(), .config = {.version = 1}},
                       [](absl::Status) {});
    run();
  }
  // Its result arrives in `results`.
  void call(const std::string& name, Invocation invocation = {}) {
    invocation.function = idle->resolve(name).value();
    invocation.timeout = 60s;
    invoker->async_invoke(std::move(invocation),
                          asio::bind_executor(io.get_executor(), [this](InvocationResult result) {
                            results.push_back(std::move(result));
                          }));
    run();
  }
  // The call that began first ends so.
  void answer(CallResult result = {}) {
    REQUIRE_FALSE(script.calls.empty());
    Channel::CallHandler done = std::move(script.calls.front());
    script.calls.erase(script.calls.begin());
    done(std::move(result));
    run();
  }
  void call_and_answer(const std::string& name) {
    call(name);
    answer();
    REQUIRE(results.back().ok());
  }
  void write_output(std::string_view text) {
    REQUIRE(::write(script.output.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  QueueStats stats(const std::string& name) const { return idle->stats(idle->resolve(name).value()); }

  Script script;
  asio::io_context io{1};
  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  std::shared_ptr<EventList> events = std::make_shared<EventList>();
  std::shared_ptr<FakeCodes> codes = std::make_shared<FakeCodes>(clock);
  std::shared_ptr<LogList> logs = std::make_shared<LogList>();
  std::shared_ptr<RecordList> records = std::make_shared<RecordList>();
  HostExecutors executors;
  std::shared_ptr<SlowQueue> idle;
  std::unique_ptr<HookedStarts> starts;
  std::unique_ptr<LocalHost> host;
  std::unique_ptr<SlotDirectory> slots;
  std::unique_ptr<Invoker> invoker;
  std::vector<InvocationResult> results;
};

}  // namespace faaskit::testing
