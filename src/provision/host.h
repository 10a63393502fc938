// Private: the host of sandboxes, behind LocalHost. What it is made of: calls and its own life (host.cc),
// starts and evictions (host_starts.cc), its talk with the queue (host_queue.cc).
//
// The control thread is shard 0's: starts, evictions, announcements and counts are decided there. A call
// never goes through it.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "faaskit/provision/local_host.h"
#include "provision/hosted_sandbox.h"
#include "support/mutex.h"
#include "support/random.h"

namespace faaskit {

using SandboxPtr = std::shared_ptr<HostedSandbox>;

class Host final : public HostContext, public std::enable_shared_from_this<Host> {
 public:
  Host(HostExecutors host_executors, LocalHostParts host_parts, LocalHostOptions host_options);
  void begin();
  HostId id() const { return id_; }
  const asio::any_io_executor& control() const { return executors.shards[0]; }

  absl::Status deploy(HostedFunction function);
  absl::Status remove(std::string_view function);
  std::vector<SandboxPtr> all() const;
  SandboxPtr find(const SandboxId& id) const;
  void call(HostCall call, asio::any_io_executor home, Handler<HostReply> done);
  void stop(asio::any_io_executor home, Handler<absl::Status> done);
  // REQUIRES: stop() has completed, or no executor runs any more.
  void give_up();

  // -- HostContext
  void became_ready(HostedSandbox& sandbox) override;
  void became_idle(HostedSandbox& sandbox) override;
  void was_reaped(SandboxPtr sandbox, absl::Status error) override;

 private:
  struct HostShard : Shard {
    absl::flat_hash_map<std::uint64_t, SandboxPtr> sandboxes;  // on the shard's thread
  };

  // On the home shard.
  void call_here(HostShard& shard, HostCall call, asio::any_io_executor home, Handler<HostReply> done);
  // The flag that a cancellation raises at once; null: nobody can cancel this call.
  std::shared_ptr<std::atomic<bool>> watch_for_cancel(HostShard& shard, const HostCall& call,
                                                      const Handler<HostReply>& done);
  // As its sandboxes would find it: with its code there.
  absl::Status check(const HostedFunction& function);
  std::shared_ptr<const HostedVersion> find_function(std::string_view name) const;
  bool is_current(const HostedFunction& function) const;
  bool was_removed(const StartRequest& start) const;

  // -- Starts; all on the control thread from here on
  // What starts in vain is ended now, so that its place is free for what is wanted.
  void end_starting(const std::string& function, Version up_to, const char* why);
  void arrived(std::vector<StartRequest> starts);
  void pump();
  void arm_room_timer();
  // Claimed for room, and not made after all.
  void give_back(const std::vector<StartRequest>& starts);
  // nullptr: it is not made here. Unclaimed, it is sent again if it is wanted.
  std::shared_ptr<const HostedVersion> to_make(const StartRequest& start, std::uint64_t bytes);
  std::uint64_t counted_size(const HostedFunction& function) const;
  void begin_start(StartMachine::Next next);
  void report_unknown(const StartRequest& start, const HostedFunction* function);
  struct Claim {
    StartRequest start;
    std::shared_ptr<const HostedVersion> function;
    SandboxId id;
    TimePoint arrived;
    bool needs_room;
  };
  void claim(Claim what);
  void ask_for(Claim what);
  void claimed(Claim what);
  void not_claimed(const Claim& what);
  void create(StartRequest start, std::shared_ptr<const HostedVersion> function, SandboxId id,
              TimePoint arrived);
  // On the blocking executor.
  absl::StatusOr<NewSandbox> make(const HostedSandbox& sandbox, TimePoint arrived);
  // The idle sandbox used least recently makes room, but none that the start would only make again; and only
  // for a start that somebody wants.
  void make_room(const StartMachine::Next& next);
  SandboxPtr least_recently_used(const StartMachine::Next& next) const;
  void evict(const SandboxPtr& victim, const StartRequest& start);
  void account(SandboxPtr sandbox, absl::Status error);
  void report_failed(FunctionHandle function, StartId start, SandboxId id, absl::Status why);
  void report_gone(GoneParams params);

  // -- What the queue asks, and what it is told
  void noticed(const std::vector<HostNotice>& notices);
  void arm_announce();
  struct Gathering {
    std::size_t missing = 0;
    std::vector<AnnouncedSandbox> sandboxes;
  };

  void gather();
  void announce(std::vector<AnnouncedSandbox> sandboxes);
  // The host is the truth about what exists; the queue about what it has promised.
  void reconcile(const std::vector<HeldSandbox>& held);

  // -- The end
  void drain();
  void stopped_if_empty();
  // Once more, a little later: the queue could not be reached.
  void later(absl::AnyInvocable<void()> what);

  const HostId id_;
  std::vector<std::unique_ptr<HostShard>> shards_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> stopped_{false};
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<const HostedVersion>, std::less<>> functions_
      FAASKIT_GUARDED_BY(mutex_);
  std::deque<std::pair<std::string, Version>> removed_ FAASKIT_GUARDED_BY(mutex_);  // the last few
  absl::flat_hash_map<std::uint64_t, SandboxPtr> registry_ FAASKIT_GUARDED_BY(mutex_);

  struct Claimed {
    std::shared_ptr<const HostedVersion> function;
    SandboxId id;
  };

  // On the control thread.
  StartMachine starts_;
  std::mt19937_64 random_{random_id()};
  std::deque<StartId> unknown_;  // reported as such
  std::uint64_t last_number_ = 0;
  std::uint64_t next_shard_ = 0;
  std::uint64_t claims_ = 0;            // under way
  std::map<StartId, Claimed> claimed_;  // for room, which they wait for
  std::unique_ptr<Timer> announce_timer_;
  std::unique_ptr<Timer> room_timer_;
  TimePoint room_timer_at_ = TimePoint::max();
  std::unique_ptr<Watch> start_watch_;
  std::unique_ptr<Watch> notice_watch_;
  std::uint64_t last_repeat_ = 0;
  std::map<std::uint64_t, std::unique_ptr<Timer>> repeats_;
  bool draining_ = false;
  bool seats_disposed_ = false;
  std::vector<std::pair<asio::any_io_executor, Handler<absl::Status>>> stoppers_;
};

}  // namespace faaskit
