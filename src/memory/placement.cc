#include "faaskit/memory/placement.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <utility>

#include <absl/strings/str_format.h>
#include <boost/asio/strand.hpp>

#include "support/mutex.h"

namespace faaskit::memory {
namespace {

absl::Status nobody_serves(HostId host, const StartId& start) {
  return absl::NotFoundError(absl::StrFormat("push %s: nobody serves host %x", to_string(start), host));
}

// What waits for one host, and whoever serves it. Outlives both, as posts refer to it.
class HostQueue : public std::enable_shared_from_this<HostQueue> {
 public:
  using StartsHandler = StartQueue::StartsHandler;

  struct Server {
    Server(asio::any_io_executor executor, StartsHandler handler)
        : strand(asio::make_strand(std::move(executor))), starts(std::move(handler)) {}
    asio::strand<asio::any_io_executor> strand;
    StartsHandler starts;  // on the strand only
    std::atomic<bool> ended{false};
  };

  absl::Status push(HostId host, StartRequest start, std::size_t max_queued) {
    MutexLock lock(mutex_);
    if (server_ == nullptr) return nobody_serves(host, start.id);
    if (waiting_.size() >= max_queued) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("push %s: %d starts wait for host %x; max_queued is %d", to_string(start.id),
                          waiting_.size(), host, max_queued));
    }
    waiting_.push_back(std::move(start));
    ++load_;
    deliver();
    return absl::OkStatus();
  }

  // True: nobody serves the host, and what it is known by can go. What still waits is in the next repair.
  bool deserted() const {
    MutexLock lock(mutex_);
    return server_ == nullptr;
  }
  // The newest server of a host takes over; what waits goes to it.
  std::shared_ptr<Server> serve(asio::any_io_executor executor, StartsHandler starts) {
    auto server = std::make_shared<Server>(std::move(executor), std::move(starts));
    MutexLock lock(mutex_);
    server_ = server;
    delivering_ = false;
    if (!waiting_.empty()) deliver();
    return server;
  }
  void end(const std::shared_ptr<Server>& server) {
    server->ended.store(true, std::memory_order_release);
    MutexLock lock(mutex_);
    if (server_ == server) server_ = nullptr;
  }

  std::uint64_t load() const {
    MutexLock lock(mutex_);
    return load_;
  }
  void report_load(std::uint64_t load) {
    MutexLock lock(mutex_);
    // What still waits here is not in the host's figure yet.
    load_ = load + waiting_.size();
  }

 private:
  // One post takes along all that is pushed until it runs.
  void deliver() FAASKIT_REQUIRES(mutex_) {
    if (std::exchange(delivering_, true)) return;
    asio::post(server_->strand, [self = shared_from_this(), server = server_] {
      std::vector<StartRequest> batch;
      {
        MutexLock lock(self->mutex_);
        if (self->server_ != server) return;
        self->delivering_ = false;
        batch.assign(std::make_move_iterator(self->waiting_.begin()),
                     std::make_move_iterator(self->waiting_.end()));
        self->waiting_.clear();
      }
      if (!server->ended.load(std::memory_order_acquire)) server->starts(std::move(batch));
    });
  }

  mutable Mutex mutex_;
  std::shared_ptr<Server> server_ FAASKIT_GUARDED_BY(mutex_);
  std::deque<StartRequest> waiting_ FAASKIT_GUARDED_BY(mutex_);
  bool delivering_ FAASKIT_GUARDED_BY(mutex_) = false;
  std::uint64_t load_ FAASKIT_GUARDED_BY(mutex_) = 0;
};

// The hosts that somebody serves. Outlives its start queue as long as one of them is watched.
class Hosts {
 public:
  std::shared_ptr<HostQueue> find(HostId host) const {
    MutexLock lock(mutex_);
    auto known = queues_.find(host);
    return known == queues_.end() ? nullptr : known->second;
  }
  std::pair<std::shared_ptr<HostQueue>, std::shared_ptr<HostQueue::Server>> serve(
      HostId host, asio::any_io_executor executor, StartQueue::StartsHandler starts) {
    MutexLock lock(mutex_);
    std::shared_ptr<HostQueue>& queue = queues_[host];
    if (queue == nullptr) queue = std::make_shared<HostQueue>();
    return {queue, queue->serve(std::move(executor), std::move(starts))};
  }
  void end(HostId host, HostQueue& queue, const std::shared_ptr<HostQueue::Server>& server) {
    MutexLock lock(mutex_);
    queue.end(server);
    auto known = queues_.find(host);
    if (known != queues_.end() && known->second.get() == &queue && queue.deserted()) queues_.erase(known);
  }

 private:
  mutable Mutex mutex_;
  std::map<HostId, std::shared_ptr<HostQueue>> queues_ FAASKIT_GUARDED_BY(mutex_);
};

class ServeWatch final : public Watch {
 public:
  ServeWatch(std::shared_ptr<Hosts> hosts, HostId host, std::shared_ptr<HostQueue> queue,
             std::shared_ptr<HostQueue::Server> server)
      : hosts_(std::move(hosts)), host_(host), queue_(std::move(queue)), server_(std::move(server)) {}
  ~ServeWatch() override { hosts_->end(host_, *queue_, server_); }

 private:
  const std::shared_ptr<Hosts> hosts_;
  const HostId host_;
  const std::shared_ptr<HostQueue> queue_;
  const std::shared_ptr<HostQueue::Server> server_;
};

class MemoryStartQueue final : public StartQueue {
 public:
  MemoryStartQueue(asio::any_io_executor executor, StartQueueOptions options)
      : executor_(std::move(executor)), options_(options) {}

  executor_type get_executor() const override { return executor_; }

  std::unique_ptr<Watch> serve(HostId host, asio::any_io_executor executor, StartsHandler starts) override {
    auto [queue, server] = hosts_->serve(host, std::move(executor), std::move(starts));
    return std::make_unique<ServeWatch>(hosts_, host, std::move(queue), std::move(server));
  }
  std::uint64_t load(HostId host) const override {
    const std::shared_ptr<HostQueue> queue = hosts_->find(host);
    return queue == nullptr ? 0 : queue->load();
  }
  void report_load(HostId host, std::uint64_t load) override {
    if (const std::shared_ptr<HostQueue> queue = hosts_->find(host)) queue->report_load(load);
  }

 private:
  void do_push(PushParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    const std::shared_ptr<HostQueue> queue = hosts_->find(params.host);
    complete(home, std::move(done),
             queue != nullptr ? queue->push(params.host, std::move(params.start), options_.max_queued)
                              : nobody_serves(params.host, params.start.id));
  }

  const asio::any_io_executor executor_;
  const StartQueueOptions options_;
  const std::shared_ptr<Hosts> hosts_ = std::make_shared<Hosts>();
};

class FixedSlotDirectory final : public SlotDirectory {
 public:
  explicit FixedSlotDirectory(std::shared_ptr<const SlotMap> map) : map_(std::move(map)) {}
  std::shared_ptr<const SlotMap> snapshot() const override { return map_; }

 private:
  const std::shared_ptr<const SlotMap> map_;
};

}  // namespace

std::unique_ptr<StartQueue> make_start_queue(asio::any_io_executor executor, StartQueueOptions options) {
  return std::make_unique<MemoryStartQueue>(std::move(executor), options);
}

absl::StatusOr<std::unique_ptr<SlotDirectory>> make_slot_directory(std::vector<HostId> hosts) {
  std::sort(hosts.begin(), hosts.end());
  hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
  if (hosts.empty()) return absl::InvalidArgumentError("make_slot_directory: no hosts; at least 1");
  if (hosts.front() == 0) return absl::InvalidArgumentError("make_slot_directory: host 0 means 'nobody'");
  auto map = std::make_shared<SlotMap>();
  map->epoch = 1;
  // Ranges, as Redis Cluster deals them: with fewer than 16384 hosts nobody has more than one slot above
  // another.
  for (std::size_t slot = 0; slot < kSlotCount; ++slot)
    map->owner[slot] = hosts[slot * hosts.size() / kSlotCount];
  return std::make_unique<FixedSlotDirectory>(std::move(map));
}

}  // namespace faaskit::memory
